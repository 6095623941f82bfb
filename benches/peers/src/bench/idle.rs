//! Resident memory: at start, with thousands of idle connections, after one request on each, after they have closed.

use std::thread::sleep;
use std::time::Duration;

use crate::load::Loader;
use crate::origin::Origin;
use crate::report::{Idle, Report};
use crate::subject::{Cpus, Kind, Mode, Wire};
use crate::{Anyhow, Bench, proc};

/// Time for a subject to come to rest.
const REST: Duration = Duration::from_millis(1500);

pub fn run(bench: &Bench, report: &mut Report) -> Anyhow<()> {
    for kind in Kind::ALL {
        if !kind.injects() || !bench.wants(kind) {
            continue;
        }
        match one(bench, kind) {
            Ok(idle) => report.idle(idle),
            Err(error) => report.fault(format!("idle connections of {}: {error}", kind.word())),
        }
    }
    Ok(())
}

fn one(bench: &Bench, kind: Kind) -> Anyhow<Idle> {
    let origin = Origin::start(bench, Cpus::All)?;
    let subject = kind.start(Wire::TlsH1, Mode::Shared, &origin, bench)?;
    let memory = || {
        sleep(REST);
        proc::memory_kib(&subject.pids)
    };
    let connections = bench.options.idle_connections;
    let start_kib = memory();
    let arguments = ["idle".to_owned(), subject.port.to_string(), connections.to_string()];
    let mut loader = Loader::start(Cpus::All, &arguments)?;
    loader.said()?;
    let open_kib = memory();
    loader.go_on()?;
    let said = loader.said()?;
    if said["bad"].as_u64() != Some(0) {
        return Err(format!("bad answers: {said}").into());
    }
    let used_kib = memory();
    loader.go_on()?;
    loader.said()?;
    let closed_kib = memory();
    loader.go_on()?;
    loader.end()?;
    Ok(Idle { kind, connections, start_kib, open_kib, used_kib, closed_kib })
}
