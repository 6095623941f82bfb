//! When to try next: a pure function of what is in hand and how the last attempt ended.
//!
//! It promises that two attempts are at least [`FLOOR`] apart, that an account in good health costs at most 14 calls
//! a day, and that no reply, however often it comes, makes a loop. It knows no clock: `now` comes in, as do the
//! random share of every wait and the account's place among those that were started together.
//!
//! # Why at the window, and not before
//!
//! In normal mode WeChat hands out the same token until its last 300 s and a new one then, and keeps both good for
//! those 300 s (`developers.weixin.qq.com/doc/channels/API/leagueheadsupplier/getStableAccessToken.html`, read
//! 2026-11-22). A try at "70 % of its life" brings the same token; one that asks until it changes makes thousands of
//! calls a day (3 614, simulated) where 13 do. WeChat's other advice, a call every five minutes, would notice a
//! token that died early without a request that fails first, at 300 calls a day; asks do that here.
//!
//! # Why `/cgi-bin/token` differs
//!
//! Every call brings a new token; the one before is good for up to five minutes more, the one before that is dead at once
//! (`developers.weixin.qq.com/doc/oplatform/developers/dev/AccessToken.html`, wechat.md §1). So a call is made in the last
//! five minutes and never to look; an ask costs one, and asks in a row (less than ten minutes apart) are heard at a
//! doubling distance: an account that another system renews too would otherwise use up the 2000 calls a day of both.
//! Two minutes at most are 720 a day.
//!
//! # Why `WeCom` differs
//!
//! `gettoken` hands out the same token as long as it lives, and promises no new one before (wechat.md §9). So one call in
//! the last five minutes notices early what would keep the next token away (an address that is no longer trusted, a
//! secret that was reset), and the next comes when the token has reached its end.
//!
//! # Why a place, and no dice
//!
//! Accounts that were started together have their windows at one time, and may use a minute of it. With a new random
//! share each time they drift apart by the root of the number of renewals; with the same one each time, by the number
//! itself: a day later ten thousand accounts come at 28 a second at most instead of 91 (simulated).
//!
//! # Why two caps
//!
//! With a live token a keeper can wait half a minute between tries. With none, every second is a refused request:
//! one cap of 60 s left an account without a token 72 s after the source was back (simulated).

use std::time::Duration;

use tokio::time::Instant;

use crate::types::GrantKind;
use crate::wechat::token_call::Pace;

#[cfg(test)]
mod tests;

/// The end of an attempt and the start of the next are at least this far apart, whoever asks.
pub const FLOOR: Duration = Duration::from_secs(2);

/// WeChat hands out a new token only in the last five minutes of the old one's life, and keeps both good for that
/// long (`getStableAccessToken.html`, read 2026-11-22).
pub const WINDOW: Duration = Duration::from_mins(5);

/// Within the window, while WeChat still hands out the old token.
const WINDOW_STEP: Duration = Duration::from_secs(15);

/// Accounts and replicas that were started together drift apart by this each time: the least and the greatest wait
/// after the window has opened. The least also covers a call's own time, which our clock counts against the token.
const JITTER: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));

/// `WeCom` counts a token's life in whole seconds: asked sooner after its end, it would hand out the old one once more.
const WECOM_AFTER_END: Duration = Duration::from_secs(1);

/// Backoff after a transient fault: its first span, doubled every time, and its caps.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX_LIVE: Duration = Duration::from_secs(30);
const BACKOFF_MAX_NONE: Duration = Duration::from_secs(5);

/// Asks that brought the same token again are answered at this distance, doubled every time up to the cap: an API
/// path that says 40001 whatever the token costs about one call a minute.
const SAME: Duration = Duration::from_secs(2);
const SAME_MAX: Duration = Duration::from_mins(1);

/// The same where each of them brought a new token, and ended one that was in use.
const ROTATION: Duration = Duration::from_secs(2);
const ROTATION_MAX: Duration = Duration::from_mins(2);

/// A token that lasted this long ends the row: nobody fights for it. Seven quick calls and this are no more in a day
/// than one call every two minutes.
const ROW_ENDS: Duration = Duration::from_mins(10);

/// `/cgi-bin/token` may hand out the old token for a moment while it makes a new one (`AccessToken.html`).
const LAGGING_STEP: Duration = Duration::from_mins(1);

/// A wait that WeChat's errcode prescribes is lengthened by up to this share of itself, never shortened.
const AFTER_SHARE: f64 = 0.05;

/// How the last attempt ended, as far as the schedule cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// No attempt yet; the store had a live token, or none.
    Loaded,
    /// It brought a different token.
    Renewed,
    /// It brought the token in hand.
    Same,
    /// It brought none, and the next may follow at this pace.
    Failed(Pace),
}

/// What is known when an attempt has ended.
#[derive(Debug, Clone, Copy)]
pub struct Situation {
    /// How the account gets its tokens.
    pub kind: GrantKind,
    /// The time.
    pub now: Instant,
    /// The end of the live token in hand; `None` where there is none.
    pub good_until: Option<Instant>,
    /// How the last attempt ended.
    pub turn: Turn,
    /// Failures in a row, the last one included.
    pub failures: u32,
    /// Asks in a row for this generation that brought it again, the last one included. Where each call brings a new
    /// token: asks in a row that cost one.
    pub sames: u32,
    /// A random number, 0 up to 1; anything else is taken as 0 or 1.
    pub jitter: f64,
    /// The same, drawn once for each account.
    pub place: f64,
}

/// When the next attempt starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next {
    /// Then, if nobody asks.
    pub at: Instant,
    /// An ask may hasten it to this, never before.
    pub not_before: Instant,
}

/// When to try next.
pub fn next_try(situation: &Situation) -> Next {
    let Situation { kind, now, good_until, turn, failures, sames, jitter, place } = *situation;
    let (jitter, place) = (jitter.clamp(0.0, 1.0), place.clamp(0.0, 1.0));
    match (turn, good_until) {
        (Turn::Loaded, None) => Next { at: now, not_before: now },
        (Turn::Loaded, Some(end)) => Next { at: window(now, end, place).max(now), not_before: now },
        (Turn::Renewed, Some(end)) => {
            let apart = if kind.rotates() { rotation_distance(sames) } else { FLOOR };
            let at = window(now, end, place).max(now + WINDOW_STEP.max(apart));
            Next { at, not_before: now + apart }
        }
        (Turn::Same, Some(end)) => {
            let at = match kind {
                _ if end > now + WINDOW => window(now, end, place).max(now + WINDOW_STEP),
                GrantKind::StableToken => now + WINDOW_STEP,
                GrantKind::Token => now + LAGGING_STEP,
                GrantKind::Wecom => (end + WECOM_AFTER_END).max(now + FLOOR),
            };
            Next { at, not_before: now + same_distance(sames) }
        }
        (Turn::Failed(Pace::After(span)), _) => {
            kept(now + span.max(FLOOR) + span.mul_f64(AFTER_SHARE * jitter))
        }
        (Turn::Failed(Pace::Backoff), Some(end)) => {
            let calm = now + FLOOR.max(backoff(failures, BACKOFF_MAX_LIVE, jitter));
            // A long wait ends where the token does; from there on the short cap holds.
            let urgent = now + FLOOR.max(backoff(failures, BACKOFF_MAX_NONE, jitter));
            kept(calm.min(end.max(urgent)))
        }
        // A token that was dead when it arrived is as good as none.
        (Turn::Failed(Pace::Backoff) | Turn::Renewed | Turn::Same, None) => {
            kept(now + FLOOR.max(backoff(failures, BACKOFF_MAX_NONE, jitter)))
        }
    }
}

/// How long a token lives that was handed out once more: `told` at the call before, `left` of that now, `granted` now.
///
/// Older pages of `WeCom` have it that such a call prolongs the token, newer ones say nothing (wechat.md §9). So the end
/// that was told first holds until it has come, and a token that is handed out after its end is believed when that has
/// happened twice: the first time may be a matter of a second.
pub fn lives_on(kind: GrantKind, told: Duration, left: Duration, granted: Duration) -> Duration {
    match kind {
        GrantKind::Wecom if !left.is_zero() => granted.min(left),
        GrantKind::Wecom if !told.is_zero() => Duration::ZERO,
        GrantKind::StableToken | GrantKind::Token | GrantKind::Wecom => granted,
    }
}

/// A failing source keeps its distance, whoever asks.
fn kept(at: Instant) -> Next {
    Next { at, not_before: at }
}

/// When the platform is ready to hand out another token than the one that is good until `end`.
fn window(now: Instant, end: Instant, place: f64) -> Instant {
    let lives = end.saturating_duration_since(now);
    let (least, most) = JITTER;
    if lives < WINDOW {
        // Less than WeChat promises for a token it has just handed out: no window to wait for.
        return now + lives / 2;
    }
    now + lives.saturating_sub(WINDOW) + least + most.saturating_sub(least).mul_f64(place)
}

/// Full jitter: anything from nothing to the doubled span ("Exponential backoff and jitter", AWS architecture blog).
fn backoff(failures: u32, cap: Duration, jitter: f64) -> Duration {
    doubled(BACKOFF, failures.saturating_sub(1), cap).mul_f64(jitter)
}

/// Renewals in a row that were asked for, each of which ended a token: one more, after the last token lasted so long.
pub fn paid_in_a_row(before: u32, lasted: Duration) -> u32 {
    if lasted < ROW_ENDS { before.saturating_add(1) } else { 1 }
}

/// How long after the `sames`-th fruitless ask the next is heard.
fn same_distance(sames: u32) -> Duration {
    doubled(SAME, sames.saturating_sub(1), SAME_MAX)
}

/// How long after the `paid`-th renewal in a row that was asked for the next may follow.
fn rotation_distance(paid: u32) -> Duration {
    doubled(ROTATION, paid.saturating_sub(1), ROTATION_MAX).max(FLOOR)
}

fn doubled(first: Duration, times: u32, cap: Duration) -> Duration {
    let factor = 1_u32.checked_shl(times.min(16)).unwrap_or(u32::MAX);
    first.saturating_mul(factor).min(cap)
}
