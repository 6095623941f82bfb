//! The token in hand: taken from a fetch or from another process, put in force, handed to the saver.
//!
//! It promises that no older token takes the place of a newer one: by the fence where both went through a shared
//! store, by the later end else, and in doubt by the later call ([`Stored::is_newer_than`]). What a store has lost is
//! given back under the fence that it had, so that the order outlives the store's memory.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Keeper, Known, STORE_MAX};
use crate::token::cell::Token;
use crate::token::clock::JUMP;
use crate::token::saver::Save;
use crate::token::schedule::{self, Turn};
use crate::token::source::TokenSource;
use crate::token::status::Ending;
use crate::token::store::{Record, Stored, TokenStore};
use crate::token::turns::Permit;
use crate::types::{Generation, UnixSeconds};
use crate::wechat::token_call::{Grant, LIVES_MAX, Mode};

/// A known end moves by less than this from call to call, by rounding and travel time; not worth a write.
const END_MOVES: Duration = Duration::from_secs(10);

/// How often a shared store is given back what it lost, in the last minute. A store that loses it for good, or that
/// processes with different seal keys share, is not written to without end.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    since: Option<Instant>,
    count: u32,
}

const REPAIRS_PER_MINUTE: u32 = 30;

impl<S: TokenSource, T: TokenStore> Keeper<S, T> {
    /// Takes what the store has, if it is alive.
    pub(super) async fn boot(&mut self, permit: Permit) {
        let permit = if permit.is_some() { permit } else { self.shared.common().turns.next().await };
        let loading = self.store.load(&self.shared.account.name, &self.app_id);
        let stored = match timeout(STORE_MAX, loading).await {
            Ok(Ok(stored)) => stored,
            Ok(Err(error)) => {
                warn!(account = %self.shared.account.name, error = %error, "could not load the stored token");
                None
            }
            Err(_) => {
                warn!(account = %self.shared.account.name, "the store took too long to load the token");
                None
            }
        };
        drop(permit);
        let (now, wall) = (Instant::now(), self.shared.clock().read());
        if let Some(stored) = stored.filter(|stored| stored.obtained_at <= wall.plus(JUMP)) {
            // A clock that was set back while we were away must not make a token immortal.
            let left = stored.expires_at.since(wall).min(LIVES_MAX);
            let token = Token {
                access_token: stored.access_token.clone(),
                generation: Generation::NONE.next(),
                obtained_at: stored.obtained_at,
                expires_at: wall.plus(left),
                good_until: now + left,
            };
            if token.is_alive(now, wall) {
                self.fence = stored.fence;
                info!(
                    account = %self.shared.account.name, generation = %token.generation, lives_s = left.as_secs(),
                    fingerprint = %token.access_token.fingerprint(), "took the stored token"
                );
                self.saved = Known::of(&stored, token.generation);
                self.shared.cell.publish(token);
            }
        }
        let next = self.plan(Turn::Loaded);
        self.shared.progress.send_modify(|progress| progress.next = next);
    }

    /// The newest token, alive or not, as a store would have it.
    pub(super) fn in_hand(&self) -> Option<Stored> {
        let (now, wall) = (Instant::now(), self.shared.clock().read());
        self.shared.cell.newest().map(|token| token.stored(self.fence, now, wall))
    }

    /// Puts in force what a fetch brought, then hands it to the saver. Its life counts from when the call was sent, by
    /// both clocks. Also says whether there is anything to save.
    pub(super) fn take(
        &mut self,
        grant: Grant,
        fence: u64,
        mode: Mode,
        (begun, wall): (Instant, UnixSeconds),
    ) -> (Ending, bool) {
        let newest = self.shared.cell.newest();
        let is_same = newest.as_ref().is_some_and(|newest| newest.access_token.is_same(&grant.token));
        let is_stale = self.previous.is_some_and(|previous| previous == grant.token.digest());
        if !is_same && is_stale && self.shared.cell.alive().is_some() {
            return (Ending::Same, false);
        }
        let generation = newest.as_ref().map_or(Generation::NONE, |newest| newest.generation);
        let lives = newest.as_ref().filter(|_| is_same).map_or(grant.lives, |old| {
            let told = old.expires_at.since(old.obtained_at);
            schedule::lives_on(self.shared.account.grant, told, old.left(begun, wall), grant.lives)
        });
        let token = Token {
            access_token: grant.token,
            generation: if is_same { generation } else { generation.next() },
            obtained_at: wall,
            expires_at: wall.plus(lives),
            good_until: begun + lives,
        };
        // The same token again, fetched without a claim, is where it was in a shared store.
        if fence > 0 || !is_same {
            self.fence = fence;
        }
        self.save(&token);
        self.shared.cell.publish(token.clone());
        if is_same {
            return (Ending::Same, true);
        }
        if let Some(old) = newest {
            let left = old.left(Instant::now(), self.shared.clock().read());
            if left > schedule::WINDOW + JUMP && mode == Mode::Normal {
                self.shared.record.notes().counts().invalid_early += 1;
            }
            self.previous = Some(old.access_token.digest());
        }
        info!(
            account = %self.shared.account.name, generation = %token.generation, lives_s = grant.lives.as_secs(),
            fingerprint = %token.access_token.fingerprint(),
            before = self.previous.map(|token| tracing::field::display(token.fingerprint())),
            "renewed the token"
        );
        (Ending::Renewed, true)
    }

    /// Tells the saver, which works beside this loop, unless the store knows as much already.
    fn save(&mut self, token: &Token) {
        let saved = self.saved;
        let moved = saved.expires_at.since(token.expires_at).max(token.expires_at.since(saved.expires_at));
        let is_known =
            saved.generation == token.generation && moved <= END_MOVES && saved.fence == self.fence;
        if !is_known {
            self.hand_to_saver(token);
        }
    }

    /// Gives a shared store what it has lost, or never had.
    fn save_again(&mut self) {
        let Some(token) = self
            .shared
            .cell
            .alive()
            .filter(|_| self.trouble.get_or_insert_default().repairs.may(Instant::now()))
        else {
            return;
        };
        self.hand_to_saver(&token);
    }

    fn hand_to_saver(&mut self, token: &Token) {
        self.saved = Known { generation: token.generation, expires_at: token.expires_at, fence: self.fence };
        if let Some(saves) = &self.saves {
            saves.send_modify(|save| *save = Some(Save { token: token.clone(), fence: self.fence }));
        }
    }

    /// What the news mean for the token in hand; `None` where they change nothing that others wait for.
    pub(super) fn hear(&mut self, record: &Record) -> Option<Ending> {
        match record {
            Record::Gone => {
                self.save_again();
                None
            }
            Record::Found(stored) if self.is_worth_adopting(stored) => Some(self.adopt(stored)),
            Record::Found(stored) => {
                let hand = self.in_hand()?;
                if stored.access_token.is_same(&hand.access_token) {
                    return self.confirm(stored);
                }
                // The store lost our write, or missed it.
                if self.fence == 0 || self.fence > stored.fence {
                    self.save_again();
                }
                None
            }
        }
    }

    /// Whether a token from the store is newer than the one in hand, and alive.
    pub(super) fn is_worth_adopting(&self, stored: &Stored) -> bool {
        stored.is_newer_than(self.in_hand().as_ref()) && self.shared.clock().read() < stored.expires_at
    }

    /// Puts in force what another process fetched.
    pub(super) fn adopt(&mut self, stored: &Stored) -> Ending {
        let newest = self.shared.cell.newest();
        let generation = newest.as_ref().map_or(Generation::NONE, |newest| newest.generation);
        let generation = generation.next();
        let token = self.token_of(stored, generation);
        info!(
            account = %self.shared.account.name, generation = %token.generation,
            fingerprint = %token.access_token.fingerprint(), "took the token that another weigate fetched"
        );
        self.previous = newest.map(|newest| newest.access_token.digest());
        (self.fence, self.saved) = (stored.fence, Known::of(stored, generation));
        self.shared.cell.publish(token);
        self.shared.record.notes().counts().adopted += 1;
        Ending::Renewed
    }

    /// Another process asked WeChat about the token in hand and got it again.
    pub(super) fn confirm(&mut self, stored: &Stored) -> Option<Ending> {
        if stored.fence <= self.fence {
            return None;
        }
        let was_shared = self.fence > 0;
        let generation = self.shared.cell.generation();
        (self.fence, self.saved) = (stored.fence, Known::of(stored, generation));
        self.shared.cell.publish(self.token_of(stored, generation));
        was_shared.then_some(Ending::Same)
    }

    fn token_of(&self, stored: &Stored, generation: Generation) -> Token {
        let (now, wall) = (Instant::now(), self.shared.clock().read());
        let left = stored.expires_at.since(wall).min(LIVES_MAX);
        Token {
            access_token: stored.access_token.clone(),
            generation,
            obtained_at: stored.obtained_at,
            expires_at: wall.plus(left),
            good_until: now + left,
        }
    }
}

// === impl Known ===

impl Known {
    fn of(stored: &Stored, generation: Generation) -> Self {
        Self { generation, expires_at: stored.expires_at, fence: stored.fence }
    }
}

// === impl Repairs ===

impl Repairs {
    /// Whether one more may be made; counts it.
    fn may(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + Duration::from_mins(1)) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count += 1;
        self.count <= REPAIRS_PER_MINUTE
    }
}
