//! Requests per second, latency and CPU per request, of every subject.

use std::thread;
use std::time::Duration;

use crate::origin::Origin;
use crate::report::{Report, Sample};
use crate::subject::{Kind, Mode, Wire};
use crate::{Anyhow, Bench, proc, wrk};

/// What is compared with each other within a minute or two.
const BLOCKS: [(Mode, &[Wire]); 3] = [
    (Mode::Core, &[Wire::TlsH1, Wire::TlsH2]),
    (Mode::Core, &[Wire::Plain]),
    (Mode::Shared, &[Wire::TlsH1, Wire::TlsH2]),
];

pub fn run(bench: &Bench, report: &mut Report) -> Anyhow<()> {
    let mut blocks = Vec::new();
    for (mode, wires) in BLOCKS {
        let all = Kind::ALL.into_iter().filter(|kind| bench.wants(*kind));
        let pairs = all.flat_map(|kind| wires.iter().map(move |wire| (kind, *wire)));
        blocks.push((mode, pairs.filter(|(kind, wire)| kind.speaks(*wire, bench)).collect::<Vec<_>>()));
    }
    for round in 1..=bench.options.rounds {
        for (mode, pairs) in &mut blocks {
            fastrand::shuffle(pairs);
            for (kind, wire) in pairs.iter() {
                // Once more: a port that was taken in between is no reason to lose an hour.
                let taken = one(bench, report, *kind, *wire, *mode, round);
                if let Err(first) = taken {
                    eprintln!("{} {wire:?} {mode:?}: {first}; once more", kind.word());
                    if let Err(error) = one(bench, report, *kind, *wire, *mode, round) {
                        report.fault(format!("{} {wire:?} {mode:?}, round {round}: {error}", kind.word()));
                    }
                }
            }
        }
        report.save(bench)?;
    }
    Ok(())
}

fn one(bench: &Bench, report: &mut Report, kind: Kind, wire: Wire, mode: Mode, round: usize) -> Anyhow<()> {
    let origin = Origin::start(bench, mode.load_cpus())?;
    let subject = kind.start(wire, mode, &origin, bench)?;
    let most = bench.options.connections.iter().copied().max().unwrap_or(1);
    let load = |connections, seconds| wrk::load(bench, subject.port, wire, kind, mode, connections, seconds);

    // While it warms up, so that reading does not disturb a sample.
    let warm_up = Duration::from_secs(bench.options.warm_up_s);
    let memory_kib = thread::scope(|scope| {
        let memory = scope.spawn(|| {
            thread::sleep(warm_up * 4 / 5);
            proc::memory_kib(&subject.pids)
        });
        load(most, bench.options.warm_up_s)?;
        memory.join().map_err(|_| "reading memory panicked".into()).and_then(Anyhow::Ok)
    })?;
    for &connections in &bench.options.connections {
        let measured = wrk::measured(bench, &subject, &origin, || load(connections, bench.options.seconds))?;
        report.sample(Sample { kind, wire, mode, connections, round, memory_kib, measured });
    }
    Ok(())
}
