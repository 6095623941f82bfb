//! One test binary: a file per promise, in the order of the house.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers may fail as loudly as the test"
)]

mod admin;
mod bad_certificates;
mod bare;
mod bodies;
mod clocks;
mod commands;
mod config;
mod crashes;
mod disks;
mod downloads;
mod faults;
mod fields;
mod forwarding;
mod harness;
mod http2;
mod include;
mod leaked;
mod mtls;
mod once_more;
mod pki;
#[path = "../probes/mod.rs"]
mod probes;
mod publish;
mod raw;
mod redis;
mod reload;
mod restart;
mod rotating;
mod sandbox;
mod scale;
mod sdk;
mod secrets;
mod sent_as_received;
mod stopping;
mod stores;
mod systemd;
mod takeover;
mod tidy;
mod token_life;
mod tools;
mod tricks;
mod wecom;
mod wire;
