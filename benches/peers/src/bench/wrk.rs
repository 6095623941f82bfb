//! wrk, and one sample with it.

use std::time::{Duration, Instant};

use serde_json::Value;
use weigate_bench::{FIELDS, client_key};

use crate::distance::{self, DISTANCE_MAX};
use crate::origin::Origin;
use crate::proc::Cpu;
use crate::subject::{Kind, Mode, Running, Wire};
use crate::{Anyhow, Bench, proc};

/// What one run of wrk said.
#[derive(Debug, Clone)]
pub struct Load {
    pub requests: u64,
    pub seconds: f64,
    pub p50_us: f64,
    pub p99_us: f64,
}

/// A run of wrk and what it cost.
#[derive(Debug, Clone)]
pub struct Measured {
    pub load: Load,
    /// CPU of the subject for each request.
    pub cpu_us: f64,
    /// Cores that the subject used.
    pub util: f64,
    /// Cores that others used.
    pub foreign: f64,
    /// How far the cores were from each other when this ended, beside the least.
    pub distance: f64,
}

impl Measured {
    /// How much disturbed this was; up to 1 is little.
    pub fn disturbance(&self) -> f64 {
        (self.foreign / FOREIGN_MAX).max(self.distance / DISTANCE_MAX)
    }
}

/// Others may use this much of the machine before a sample is taken again.
pub const FOREIGN_MAX: f64 = 0.12;

/// Loads a subject once.
pub fn load(
    bench: &Bench,
    port: u16,
    wire: Wire,
    kind: Kind,
    mode: Mode,
    connections: usize,
    seconds: u64,
) -> Anyhow<Load> {
    let mut command = mode.load_cpus().command("wrk".as_ref());
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s"), "-s"]);
    command.arg(bench.conf.join("wrk.lua"));
    command.args([
        "-H",
        "Host: api.weixin.qq.com",
        "-H",
        &format!("Authorization: Bearer {}", client_key(0)),
    ]);
    for (name, value) in FIELDS {
        command.args(["-H", &format!("{name}: {value}")]);
    }
    let scheme = if kind == Kind::Direct && wire != Wire::Plain { "https" } else { "http" };
    command.arg(format!("{scheme}://127.0.0.1:{port}{}", kind.target()));
    let output = command.output().map_err(|error| format!("wrk: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with('{')).ok_or_else(|| format!("wrk said: {text}"))?;
    let said: Value = serde_json::from_str(line)?;
    for kind in ["connect", "read", "write", "status", "timeout"] {
        if said[kind].as_u64() != Some(0) {
            return Err(format!("wrk counts {kind} errors: {line}").into());
        }
    }
    let number = |name: &str| said[name].as_f64().ok_or_else(|| format!("wrk does not say {name}"));
    Ok(Load {
        requests: said["requests"].as_u64().filter(|requests| *requests > 0).ok_or("wrk got no answer")?,
        seconds: number("duration_us")? / 1e6,
        p50_us: number("p50_us")?,
        p99_us: number("p99_us")?,
    })
}

/// Runs `work` on a quiet machine and counts what it cost; again where others disturbed it.
pub fn measured(
    bench: &Bench,
    running: &Running,
    origin: &Origin,
    mut work: impl FnMut() -> Anyhow<Load>,
) -> Anyhow<Measured> {
    let mut best: Option<Measured> = None;
    for _ in 0..=bench.options.repeats {
        proc::wait_for_quiet(Duration::from_secs(bench.options.quiet_wait_s));
        let counts = origin.control("/-/state")?;
        let before = (Cpu::of(&running.pids), Cpu::of(&[origin.pid()]), proc::own_cpu_ns(), proc::busy_ns());
        let started = Instant::now();
        let load = work()?;
        let wall = started.elapsed();
        let subject = before.0.since_ns(&running.pids);
        let ours = subject + before.1.since_ns(&[origin.pid()]) + (proc::own_cpu_ns() - before.2);
        let foreign = (proc::busy_ns() - before.3).saturating_sub(ours);
        let after = origin.control("/-/state")?;
        if after.missing > counts.missing
            || after.dead > counts.dead
            || after.good - counts.good < load.requests
        {
            return Err(format!("the origin saw other requests than it should: {counts:?}, {after:?}").into());
        }
        let measured = Measured {
            cpu_us: subject as f64 / 1e3 / load.requests as f64,
            util: proc::cores(subject, Duration::from_secs_f64(load.seconds)),
            foreign: proc::cores(foreign, wall),
            distance: distance::now()?,
            load,
        };
        let is_quiet = measured.disturbance() <= 1.0;
        if best.as_ref().is_none_or(|best| measured.disturbance() < best.disturbance()) {
            best = Some(measured);
        }
        if is_quiet {
            break;
        }
    }
    best.ok_or_else(|| "no sample".into())
}
