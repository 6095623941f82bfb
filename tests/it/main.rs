//! One test binary.

mod config;
mod forwarding;
mod harness;
