//! The first words on a new connection: ours, and the other side's settings.
//!
//! # Why
//!
//! Until its settings are here it is not known how many requests the other side takes at one time. A crowd that has
//! waited for this connection would be sent at once, and most of it turned away by a server that takes few. So a
//! connection is handed out only when it has spoken: a round trip later, once for thousands of requests.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use h2::PingPong;
use h2::client::{Builder, SendRequest};
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::wire::Wire;
use super::{
    CONNECTION_WINDOW_BYTES, Mux, RESET_MEMORY, STREAM_WINDOW_BYTES, STREAMS_MAX, UPLOAD_AHEAD_BYTES,
};
use crate::proxy::upstream::ConnectError;
use crate::proxy::upstream::head::HEAD_BYTES_MAX;
use crate::proxy::upstream::socket::Socket;

/// A connection that both sides have said hello on; its task runs.
pub(in crate::proxy::upstream) struct Greeted {
    pub(super) handle: SendRequest<Bytes>,
    pub(super) ping: Option<PingPong>,
    pub(super) signs: Rc<Signs>,
    pub(super) task: AbortHandle,
}

/// What a connection's task lets others know.
#[derive(Default)]
pub(super) struct Signs {
    /// Bytes came since this was last taken.
    pub(super) heard: Cell<bool>,
    /// Whose connection it is, once it is somebody's.
    pub(super) owner: RefCell<Weak<Mux>>,
    has_ended: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

// === impl Greeted ===

/// Says hello, leaves the connection to a task of its own, and waits for the other side's first words, `patience` at
/// most.
pub(in crate::proxy::upstream) async fn greet(
    socket: Socket,
    patience: Duration,
) -> Result<Greeted, ConnectError> {
    let signs = Rc::new(Signs::default());
    let wire = Wire::new(socket, Rc::clone(&signs)).ok_or(ConnectError::Tls)?;
    let greeting = async {
        let (handle, mut connection) = settings().handshake(wire).await.map_err(|_| ConnectError::Closed)?;
        let ping = connection.ping_pong();
        let told = Rc::clone(&signs);
        let task = tokio::task::spawn_local(async move {
            // Each request learns of the end by itself; what an error says beyond that may be the other side's text.
            drop(connection.await);
            told.ended();
        });
        let task = task.abort_handle();
        signs.first_words().await?;
        Ok(Greeted { handle, ping, signs: Rc::clone(&signs), task })
    };
    timeout(patience, greeting).await.unwrap_or(Err(ConnectError::Timeout))
}

fn settings() -> Builder {
    let mut settings = Builder::new();
    settings
        .enable_push(false)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(UPLOAD_AHEAD_BYTES)
        // A stream that was given up is remembered for a while, since the other side may not know yet.
        .max_concurrent_reset_streams(STREAMS_MAX)
        .reset_stream_duration(RESET_MEMORY);
    settings
}

// === impl Signs ===

impl Signs {
    pub(super) fn bytes_came(&self) {
        if !self.heard.replace(true) {
            self.wake();
        }
    }

    async fn first_words(&self) -> Result<(), ConnectError> {
        poll_fn(|cx| {
            if self.has_ended.get() {
                return Poll::Ready(Err(ConnectError::Closed));
            }
            if self.heard.get() {
                return Poll::Ready(Ok(()));
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn ended(&self) {
        self.has_ended.set(true);
        self.wake();
        let owner = self.owner.borrow().upgrade();
        if let Some(mux) = owner {
            mux.ended();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}
