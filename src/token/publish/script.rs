//! What Redis does with one key in one step.
//!
//! ```text
//! what stands there                                          what is done
//! nothing · no string · nothing that a token could be        written
//! no end · a later end than a token can have                 written
//! our value, with our end                                    left alone
//! our value, with another end                                written, for the end
//! a value that we put there before this one                  written
//! another token that ends no later than ours                 written
//! another token that ends later than ours                    left alone: it is newer
//! ```
//!
//! # Why the end says which token is newer
//!
//! WeChat counts every token's life from its making, 7200 s (wechat.md §1, §2), so the one made later ends later. A
//! token that was revoked looks as if it lived longer only to whoever has the same one; the tokens that this weigate
//! had before are therefore replaced whatever their end. So a replica that lags behind, with a token that another has
//! replaced, changes nothing, and the one that knows of the newer token does.
//!
//! # Why no clock is asked
//!
//! Both ends are counted from now, in milliseconds, one by Redis and the other by us: nobody's wall clock matters.

use std::time::Duration;

use super::format::Target;
use crate::types::AccessToken;
use crate::wechat::token_call::LIVES_MAX;

/// `KEYS` the key; `ARGV` value, ms it lives, the most ms a token lives, a pattern, then hashes of what may be replaced.
/// Answers what was done, and the hash of what stands there then: 0 ours stood there · 1 written · 2 a newer one.
///
/// Ends of the same token differ by a second from replica to replica.
const PUT: &str = "
local v = redis.pcall('GET', KEYS[1])
local left = redis.call('PTTL', KEYS[1])
local lives = tonumber(ARGV[2])
if type(v) == 'string' and left > 0 and left <= tonumber(ARGV[3]) then
  if v == ARGV[1] then
    if left <= lives + 1500 and left >= lives - 10000 then return {0, redis.sha1hex(v)} end
  elseif left > lives and string.find(v, ARGV[4]) then
    local hash, known = redis.sha1hex(v), false
    for i = 5, #ARGV do known = known or ARGV[i] == hash end
    if not known then return {2, hash} end
  end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', lives)
return {1, redis.sha1hex(ARGV[1])}
";

/// A token's life, and some room for the clocks of those who wrote it.
const LEFT_MAX: Duration = LIVES_MAX.saturating_add(Duration::from_secs(30));

/// The script on a key, for a token that lives so long.
pub(super) fn put(target: &Target, token: &AccessToken, lives: Duration, ours: &[String]) -> ::redis::Cmd {
    let mut put = ::redis::cmd("EVAL");
    put.arg(PUT).arg(1).arg(target.key.as_str()).arg(target.value(token).as_str());
    put.arg(millis(lives)).arg(millis(LEFT_MAX)).arg(target.pattern()).arg(ours);
    put
}

/// How many milliseconds a key lives; below 0 where it is not there, or has no end.
pub(super) fn look(key: &str) -> ::redis::Cmd {
    let mut look = ::redis::cmd("PTTL");
    look.arg(key);
    look
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
