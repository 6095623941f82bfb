//! From the start of the process to the first request served, with a token in the file store.

use std::fs;
use std::time::{Duration, Instant};

use crate::origin::Origin;
use crate::report::Report;
use crate::subject::{self, Cpus, Kind, Mode, Running, Wire};
use crate::{Anyhow, Bench, http, proc};

/// Starts for each run of the benchmark: they are short.
const STARTS: usize = 11;

pub fn run(bench: &Bench, report: &mut Report) -> Anyhow<()> {
    if !bench.wants(Kind::Weigate) {
        return Ok(());
    }
    let origin = Origin::start(bench, Cpus::All)?;
    let dir = bench.run.join("start");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    for start in 0..=STARTS {
        let port = subject::free_port()?;
        let config = subject::weigate_config(&dir, port, Wire::TlsH1, Mode::Shared, &origin, bench)?;
        let started = Instant::now();
        let running = Running::spawn(subject::weigate_command(&config, Cpus::All, bench)?, port, &dir)?;
        http::wait_until_good(port, weigate_bench::TARGET, Duration::from_secs(10))?;
        let ready = started.elapsed();
        // The first one fills the store.
        if start > 0 {
            report.start(ready, proc::memory_kib(&running.pids));
        } else {
            std::thread::sleep(Duration::from_millis(200));
        }
        drop(running);
    }
    let calls = origin.control("/-/state")?.token_calls;
    if calls == 1 { Ok(()) } else { Err(format!("{calls} token calls: the store was not warm").into()) }
}
