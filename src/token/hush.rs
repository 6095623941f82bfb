//! The paths that are not tried again for a while: WeChat says 40001 to them whatever the token.
//!
//! It promises a bounded memory, and is touched only where an error has already happened.
//!
//! # Why
//!
//! 40001 also means "a path for third-party platforms only", "the wrong kind of account" or "a body that holds
//! `access_token=`" (wechat.md, trap 5). A renewal cures none of these; without a memory each such request would
//! ask for one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Paths by their hash, each with the end of its quiet time. Nothing, for most accounts.
#[derive(Debug, Default)]
#[expect(
    clippy::box_collection,
    reason = "an account without a quiet path, one in a hundred thousand, pays a pointer"
)]
pub(crate) struct Hushed(Mutex<Option<Box<HashMap<u64, Instant>>>>);

/// As long as WeChat's minute limits.
const QUIET: Duration = Duration::from_mins(1);

/// More paths than an account calls; the one that ends first makes room.
const PATHS_MAX: usize = 1024;

// === impl Hushed ===

impl Hushed {
    pub(crate) fn is_quiet(&self, path_hash: u64, now: Instant) -> bool {
        let paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        paths.as_ref().and_then(|paths| paths.get(&path_hash)).is_some_and(|until| now < *until)
    }

    pub(crate) fn hush(&self, path_hash: u64, now: Instant) {
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = paths.get_or_insert_default();
        if paths.len() >= PATHS_MAX && !paths.contains_key(&path_hash) {
            paths.retain(|_, until| now < *until);
            let first = paths.iter().min_by_key(|(_, until)| **until).map(|(path, _)| *path);
            if let Some(first) = first.filter(|_| paths.len() >= PATHS_MAX) {
                paths.remove(&first);
            }
        }
        paths.insert(path_hash, now + QUIET);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map_or(0, |paths| paths.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quiet_for_a_minute() {
        let (hushed, now) = (Hushed::default(), Instant::now());
        assert!(!hushed.is_quiet(7, now));
        hushed.hush(7, now);
        assert!(hushed.is_quiet(7, now + Duration::from_millis(59_999)));
        assert!(!hushed.is_quiet(7, now + QUIET));
        assert!(!hushed.is_quiet(8, now));
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_goes_first() {
        let (hushed, now) = (Hushed::default(), Instant::now());
        for path in 0..5000_u64 {
            hushed.hush(path, now + Duration::from_millis(path));
        }
        assert_eq!(hushed.len(), PATHS_MAX);
        assert!(hushed.is_quiet(4999, now + Duration::from_secs(5)));
        assert!(!hushed.is_quiet(0, now + Duration::from_secs(5)));
    }
}
