//! One test binary.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail as loudly as the test")]

mod stores;
mod token_life;
