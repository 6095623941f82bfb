//! What Redis does in one step: the scripts, in Lua, each a few lines over the two keys of one account.
//!
//! They are sent as text (`EVAL`): under 2 KiB, some dozens a day for each account, and no server has to know them
//! beforehand. Numbers are whole and below 2^53, where Lua's are exact: a fence is Redis's time in microseconds, or
//! one more than the fence before.

/// Time, and what stands under a key: a value of another type, or a fence that no clock explains, is nothing.
const HELPERS: &str = r"
local function time_us()
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2]
end
local function text_of(key)
  local v = redis.pcall('GET', key)
  if type(v) == 'string' then return v end
  return ''
end
local function fence_of(v, now)
  local f = tonumber(string.match(v, '^weigate%-token 1 (%d+) ') or '0')
  if f > now + 86400000000 then return 0 end
  return f
end
local function whole(n) return string.format('%.0f', n) end
";

/// `KEYS` token; answers time in ms, value.
const READ: &str = "
return {math.floor(time_us() / 1000), text_of(KEYS[1])}
";

/// `KEYS` token, lock; `ARGV` the fence in hand, the lock's life in ms.
/// Answers 0, time in ms, value: look at this first · 1, fence: go · 2, ms: someone else fetches.
///
/// A lock that lives longer than ours may, or for ever, is not ours; it gets our time. The fence is above the one in
/// hand too: a master that has lost everything may have a clock that is behind.
const CLAIM: &str = "
local now = time_us()
local v = text_of(KEYS[1])
local f = fence_of(v, now)
local most = tonumber(ARGV[2])
if f > tonumber(ARGV[1]) then return {0, math.floor(now / 1000), v} end
local left = redis.call('PTTL', KEYS[2])
if left ~= -2 then
  if left < 0 or left > most then
    redis.call('PEXPIRE', KEYS[2], most)
    left = most
  end
  return {2, left, ''}
end
local known = tonumber(ARGV[1])
if known > now + 86400000000 then known = 0 end
local fence = math.max(f + 1, known + 1, now)
redis.call('SET', KEYS[2], whole(fence), 'PX', most)
return {1, fence, ''}
";

/// `KEYS` token, lock; `ARGV` fence, value, its end in ms, channel, message, over, what it goes over.
/// Answers 1: written, 2: stands there already, 0: refused.
///
/// With a claim (`over` is 0): refused below the fence that stands there. Without one (`over` is 1): refused unless
/// what stands there is what the writer has seen and judged.
const SAVE: &str = "
local now = time_us()
local v = text_of(KEYS[1])
local f = fence_of(v, now)
local fence = tonumber(ARGV[1])
if ARGV[6] == '1' then
  if v ~= ARGV[7] or fence <= f then return 0 end
elseif fence < f then
  return 0
elseif fence == f then
  if v == ARGV[2] then return 2 end
  return 0
end
redis.call('SET', KEYS[1], ARGV[2])
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
if text_of(KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
";

/// `KEYS` lock; `ARGV` fence, channel, message. Ends our own claim only.
const RELEASE: &str = "
if text_of(KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
";

/// A script, and the command that runs it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Script {
    Read,
    Claim,
    Save,
    Release,
}

// === impl Script ===

impl Script {
    /// `EVAL` with these keys; the arguments are added to what it answers.
    pub(super) fn on(self, keys: &[&str]) -> ::redis::Cmd {
        let body = match self {
            Self::Read => READ,
            Self::Claim => CLAIM,
            Self::Save => SAVE,
            Self::Release => RELEASE,
        };
        let mut command = ::redis::cmd("EVAL");
        command.arg(format!("{HELPERS}{body}")).arg(keys.len());
        for key in keys {
            command.arg(*key);
        }
        command
    }
}
