//! A request's way, from the client's connection to WeChat and back.
//!
//! ```text
//! accept/          a connection: a place (room.rs), its own task, a handshake under a time limit
//!   vitals/        how it is doing; the worker's sweep ends what is slow or idle, without a timer for each
//!   tcp.rs         the socket below, as below the upstream's connections; outbox.rs: what they say, said together
//! handle.rs        a request; exchange.rs holds its head, and notes about it      ┐ never fails:
//!   carry                                                                        │ every path ends
//!     1 head.rs          the head is one that can be served    | Refusal         │ in a response and
//!     2 route.rs         path                     -> Target    | Refusal         │ one log event
//!       local.rs         an SDK's own token call is answered here                │
//!     3 authenticate.rs  target, head             -> Caller    | Refusal  ┐      │
//!     4 clients/rate.rs  caller, now              -> permit    | Refusal  │route │
//!     5 route.rs         target, caller           -> Route     | Refusal  ┘      │
//!     6 body.rs          incoming body            -> RequestBody (Held, Streaming) | Refusal
//!     7 token/           account, deadline        -> Token     | Refusal         │
//!     8 forward.rs       head, body, token        -> Response  | Refusal         │
//!     9 inspect.rs       Response                 -> Pass | TokenInvalid         │
//!    10 token/, forward  once more, if Held and the token is newer               │
//! respond.rs       Refusal -> Response (one table); reply fields scrubbed        ┘
//! ```
//!
//! # Rules
//!
//! * Once more is not a loop: the second reply goes to the client, whatever it says.
//! * A reply is never held: at most its first kilobyte is looked at before it streams.
//! * Everything here may be dropped at any await, since a client may hang up. (One that speaks HTTP/1 is only missed
//!   when its reply is written: it may close its side and still want the answer.) Counts go up and down by guard.
//! * The upstream's authority is a constant of the configuration; a request contributes path and query only.
//!
//! # Why threads of their own
//!
//! A worker is one thread with a single-threaded runtime, a listener (`SO_REUSEPORT`) and upstream connections of its
//! own, so nothing on the way locks, is handed over or is counted across cores. What is shared is read-only
//! ([`Snapshot`]) or the token's cell.

mod accept;
mod authenticate;
mod body;
mod certificate;
mod exchange;
mod forward;
mod handle;
mod head;
pub mod headers;
mod inspect;
mod local;
mod outbox;
mod refusal;
mod respond;
mod room;
mod route;
mod snapshot;
mod tcp;
pub mod upstream;
mod vitals;
pub mod worker;

pub use refusal::Refusal;
pub use room::Room;
pub use snapshot::{Snapshot, Tls};

#[cfg(test)]
mod tests {
    /// hyper keeps a request's future in a box, with a word beside it: 1536 bytes, a size that jemalloc has.
    const REQUEST_BYTES_MAX: usize = 1528;

    fn future_bytes<A, B, F: Future>(_of: fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_request_on_its_way_is_small_since_ten_thousand_may_wait_for_a_token() {
        let bytes = future_bytes(super::handle::handle);
        assert!(bytes <= REQUEST_BYTES_MAX, "{bytes}");
    }
}
