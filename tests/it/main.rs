//! One test binary: a file per promise, in the order of the house.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers may fail as loudly as the test"
)]

mod admin;
mod commands;
mod config;
mod faults;
mod forwarding;
mod harness;
mod sandbox;
mod sdk;
mod secrets;
mod stores;
mod tidy;
mod token_life;
