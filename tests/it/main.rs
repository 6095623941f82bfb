//! One test binary.

mod config;
