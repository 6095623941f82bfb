//! The harness: starts an origin and one subject at a time, loads it, and counts the CPU that each request cost.
//!
//! `benches/run` is the command; its `--help` says what there is to choose. The method is that of performance.md §1:
//!
//! * mode *core*: the subject has one worker and CPU 0 for itself, origin and load share CPU 1. Mode *shared*: two
//!   workers, nothing is pinned. CPU per request is the sum of `/proc/PID/task/*/schedstat` (nanoseconds, not ticks)
//!   over the subject's processes, divided by the requests that were answered.
//! * A round measures every subject once, in an order of its own, each with a fresh origin and a fresh process, warmed
//!   up with the largest number of connections. Ratios are taken within a round, from samples of the same minute.
//! * A sample waits for a quiet machine, and is taken again, twice at most, where others used more than 0.12 core
//!   meanwhile, or the two cores were far from each other (`distance.rs`). What stays noisy is counted.
//! * A subject is measured only after a request through it has brought the right body, and another has shown at the
//!   origin the very token that should go in; a sample counts only where the origin saw a good token in every request.
//! * The least that can be: a relay of bytes between two plain sockets (`relay/main.rs`), which reads nothing in them.
//!   What a target asks for below that is out of reach for whatever passes each request on by itself.
//!
//! When a subject does not fill its core (column `util` below 0.95), load and origin are what limits it: its CPU is then
//! an upper bound and its requests per second a lower one.

mod accounts;
mod distance;
mod hold;
mod http;
mod idle;
mod load;
mod options;
mod origin;
mod plot;
mod proc;
mod report;
mod speed;
mod start;
mod stats;
mod storm;
mod subject;
mod wrk;

use std::path::PathBuf;

use options::{Experiment, Options};
use subject::Kind;

type Anyhow<T> = Result<T, Box<dyn std::error::Error>>;

/// Where everything is.
pub struct Bench {
    pub options: Options,
    /// Configurations of the peers.
    pub conf: PathBuf,
    /// Certificates, generated configurations, stores.
    pub run: PathBuf,
    pub origin_binary: PathBuf,
    pub weigate: PathBuf,
    pub pingora: PathBuf,
    pub relay: PathBuf,
    pub envoy: PathBuf,
}

fn main() -> Anyhow<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "load") {
        return load::main(&arguments.split_off(1));
    }
    if arguments.first().is_some_and(|first| first == "hold") {
        return hold::main(&arguments.split_off(1));
    }
    let bench = Bench::new(Options::parse(&arguments)?)?;
    if bench.options.quiet_wait_s > 0 {
        distance::calibrate()?;
    }
    let mut report = report::Report::new(&bench)?;
    for experiment in bench.options.experiments.clone() {
        eprintln!("== {experiment:?}");
        let done = match experiment {
            Experiment::Speed => speed::run(&bench, &mut report),
            Experiment::Idle => idle::run(&bench, &mut report),
            Experiment::Storm => storm::run(&bench, &mut report),
            Experiment::Accounts => accounts::run(&bench, &mut report),
            Experiment::Start => start::run(&bench, &mut report),
        };
        if let Err(error) = done {
            report.fault(format!("{experiment:?}: {error}"));
        }
        report.save(&bench)?;
    }
    report.verdict()
}

impl Bench {
    fn new(options: Options) -> Anyhow<Self> {
        let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let release = here.join("target/release");
        let bench = Self {
            conf: here.join("conf"),
            run: here.join("target/run"),
            origin_binary: release.join("origin"),
            weigate: options.weigate.clone().unwrap_or_else(|| here.join("../../target/release/weigate")),
            pingora: release.join("pingora-peer"),
            relay: release.join("relay"),
            envoy: here.join("target/envoy/envoy/_bin/envoy"),
            options,
        };
        std::fs::create_dir_all(&bench.run)?;
        origin::write_certificates(&bench.run)?;
        Ok(bench)
    }

    /// Whether a subject was asked for.
    pub fn wants(&self, kind: Kind) -> bool {
        let only = &self.options.only;
        (only.is_empty() || only.contains(&kind)) && !self.options.skip.contains(&kind)
    }
}
