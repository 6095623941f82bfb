//! What the origin knows, and how it judges a request.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use memchr::memmem;
use weigate_bench::{GENERATION_DIGITS, TOKEN_CHARS, good_body, token};

/// The state that both threads share.
pub struct World {
    pub good_body: String,
    generation: AtomicU32,
    delay_ms: AtomicU64,
    good: AtomicU64,
    missing: AtomicU64,
    dead: AtomicU64,
    token_calls: AtomicU64,
}

/// What a request gets.
pub enum Answer {
    /// The user's information.
    Good,
    /// Any other JSON.
    Json(String),
}

impl World {
    pub fn new() -> Self {
        Self {
            good_body: good_body(),
            generation: AtomicU32::new(0),
            delay_ms: AtomicU64::new(0),
            good: AtomicU64::new(0),
            missing: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            token_calls: AtomicU64::new(0),
        }
    }

    /// How long an answer is kept back.
    pub fn delay_ms(&self, target: &[u8]) -> u64 {
        if target.starts_with(b"/-/") { 0 } else { self.delay_ms.load(Relaxed) }
    }

    /// Judges a request. `target` is its path and query.
    pub fn answer(&self, target: &[u8], body: &[u8]) -> Answer {
        if target.starts_with(b"/-/") {
            return Answer::Json(self.control(target));
        }
        if target.starts_with(b"/cgi-bin/stable_token") {
            return Answer::Json(self.token_call(body));
        }
        let Some(at) = memmem::find(target, b"access_token=") else {
            self.missing.fetch_add(1, Relaxed);
            return Answer::Json(error(41001, "access_token missing"));
        };
        let rest = &target[at + b"access_token=".len()..];
        let end = memchr::memchr(b'&', rest).unwrap_or(rest.len());
        let generation: Option<u32> = std::str::from_utf8(&rest[..end.min(GENERATION_DIGITS)])
            .ok()
            .and_then(|digits| digits.parse().ok());
        match generation {
            Some(generation) if end == TOKEN_CHARS && generation == self.generation.load(Relaxed) => {
                self.good.fetch_add(1, Relaxed);
                if target.starts_with(b"/cgi-bin/bench/echo") {
                    return Answer::Json(format!(
                        r#"{{"token":"{}"}}"#,
                        String::from_utf8_lossy(&rest[..end])
                    ));
                }
                Answer::Good
            }
            Some(generation) if end == TOKEN_CHARS && generation < self.generation.load(Relaxed) => {
                self.dead.fetch_add(1, Relaxed);
                Answer::Json(error(42001, "access_token expired"))
            }
            _ => {
                self.missing.fetch_add(1, Relaxed);
                Answer::Json(error(40014, "invalid access_token"))
            }
        }
    }

    fn token_call(&self, body: &[u8]) -> String {
        self.token_calls.fetch_add(1, Relaxed);
        let app_id = memmem::find(body, b"\"appid\":\"")
            .and_then(|at| body.get(at + 9..))
            .and_then(|rest| rest.get(..memchr::memchr(b'"', rest)?))
            .map(String::from_utf8_lossy)
            .unwrap_or_default();
        format!(r#"{{"access_token":"{}","expires_in":7200}}"#, token(&app_id, self.generation.load(Relaxed)))
    }

    /// The harness's own calls: `/-/state`, `/-/kill` (every token dies), `/-/delay/300` (ms).
    fn control(&self, target: &[u8]) -> String {
        if target == b"/-/kill" {
            self.generation.fetch_add(1, Relaxed);
        }
        if let Some(ms) = target.strip_prefix(b"/-/delay/") {
            let ms = std::str::from_utf8(ms).ok().and_then(|ms| ms.parse().ok()).unwrap_or(0);
            self.delay_ms.store(ms, Relaxed);
        }
        format!(
            r#"{{"generation":{},"good":{},"missing":{},"dead":{},"token_calls":{}}}"#,
            self.generation.load(Relaxed),
            self.good.load(Relaxed),
            self.missing.load(Relaxed),
            self.dead.load(Relaxed),
            self.token_calls.load(Relaxed),
        )
    }
}

fn error(code: i32, text: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!(r#"{{"errcode":{code},"errmsg":"{text} rid: {now:08x}-2f7a1c3e-5b8d9f01"}}"#)
}
