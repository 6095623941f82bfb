//! Thousands of requests are on their way when the token dies: every one of them is refused, one renewal serves them
//! all. Measured against the same burst with a token that lives.
//!
//! The origin keeps each answer back for 300 ms, so that all are in flight at once; a calm burst takes that long at
//! least, and a storm three times as long: the refusal, the token call, the second try.

use std::thread::sleep;
use std::time::Duration;

use crate::load::Loader;
use crate::origin::Origin;
use crate::report::{Report, Storm};
use crate::subject::{Cpus, Kind, Mode, Wire};
use crate::{Anyhow, Bench, proc};

const DELAY_MS: u64 = 300;

/// weigate makes no two token calls within 2 s, and it made one at its start.
const CALLS_APART: Duration = Duration::from_millis(2500);

pub fn run(bench: &Bench, report: &mut Report) -> Anyhow<()> {
    if !bench.wants(Kind::Weigate) {
        return Ok(());
    }
    for round in 1..=bench.options.rounds {
        for wire in [Wire::Plain, Wire::TlsH1, Wire::TlsH2] {
            if !Kind::Weigate.speaks(wire, bench) {
                continue;
            }
            for token_dies in [false, true] {
                let storm = one(bench, wire, token_dies)
                    .map_err(|error| format!("{wire:?}, round {round}: {error}"))?;
                report.storm(storm);
            }
        }
    }
    Ok(())
}

fn one(bench: &Bench, wire: Wire, token_dies: bool) -> Anyhow<Storm> {
    let origin = Origin::start(bench, Cpus::All)?;
    let subject = Kind::Weigate.start(wire, Mode::Shared, &origin, bench)?;
    let connections = bench.options.idle_connections;
    sleep(CALLS_APART);
    // Before the connections are made, which do not wait for ever.
    proc::wait_for_quiet(Duration::from_secs(bench.options.quiet_wait_s));
    let arguments = ["burst".to_owned(), subject.port.to_string(), connections.to_string()];
    let mut loader = Loader::start(Cpus::All, &arguments)?;
    loader.said()?;
    origin.control(&format!("/-/delay/{DELAY_MS}"))?;
    let before = origin.control(if token_dies { "/-/kill" } else { "/-/state" })?;
    let drops_before = proc::listen_drops();
    let cpu = proc::Cpu::of(&subject.pids);
    loader.go_on()?;
    let said = loader.said()?;
    let after = origin.control("/-/state")?;
    let storm = Storm {
        wire,
        token_dies,
        connections,
        wall_ms: said["wall_ms"].as_f64().ok_or("no wall_ms")?,
        p50_ms: said["p50_ms"].as_f64().ok_or("no p50_ms")?,
        bad: said["bad"].as_u64().ok_or("no bad")?,
        token_calls: after.token_calls - before.token_calls,
        listen_drops: proc::listen_drops() - drops_before,
        refused: after.dead - before.dead,
        cpu_us: cpu.since_ns(&subject.pids) as f64 / 1e3 / connections as f64,
        peak_kib: proc::peak_kib(&subject.pids),
    };
    loader.go_on()?;
    loader.end()?;
    Ok(storm)
}
