//! What was measured, and the page it becomes: `speed.rs` and `others.rs` have its tables, `facts.rs` the machine.

mod facts;
mod others;
mod speed;

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use crate::distance::DISTANCE_MAX;
use crate::stats::Spread;
use crate::subject::{Kind, Mode, Wire};
use crate::wrk::{FOREIGN_MAX, Measured};
use crate::{Anyhow, Bench, plot};

/// One subject under one load, once.
pub struct Sample {
    pub kind: Kind,
    pub wire: Wire,
    pub mode: Mode,
    pub connections: usize,
    pub round: usize,
    pub memory_kib: u64,
    pub measured: Measured,
}

pub struct Idle {
    pub kind: Kind,
    pub connections: usize,
    pub start_kib: u64,
    pub open_kib: u64,
    pub used_kib: u64,
    pub closed_kib: u64,
}

pub struct Storm {
    pub wire: Wire,
    pub token_dies: bool,
    pub connections: usize,
    pub wall_ms: f64,
    pub p50_ms: f64,
    pub bad: u64,
    pub token_calls: u64,
    pub refused: u64,
    /// Connections that the origin's queue had no place for: the origin is at fault then, not the proxy.
    pub listen_drops: u64,
    pub cpu_us: f64,
    pub peak_kib: u64,
}

pub struct Crowd {
    pub accounts: usize,
    pub is_random: bool,
    pub round: usize,
    pub memory_kib: u64,
    pub ready: Duration,
    pub measured: Measured,
}

pub struct Report {
    facts: Vec<String>,
    samples: Vec<Sample>,
    idle: Vec<Idle>,
    storms: Vec<Storm>,
    crowds: Vec<Crowd>,
    starts: Vec<(Duration, u64)>,
    faults: Vec<String>,
}

const TLS: [Wire; 2] = [Wire::TlsH1, Wire::TlsH2];

impl Report {
    pub fn new(bench: &Bench) -> Anyhow<Self> {
        Ok(Self {
            facts: facts::of(bench)?,
            samples: Vec::new(),
            idle: Vec::new(),
            storms: Vec::new(),
            crowds: Vec::new(),
            starts: Vec::new(),
            faults: Vec::new(),
        })
    }

    pub fn sample(&mut self, sample: Sample) {
        let Measured { load, cpu_us, util, foreign, distance } = &sample.measured;
        eprintln!(
            "round {} {:9} {:5} {:6} c{:<4} {:6.1} us/request {:7.0} rps p50 {:6.0} us util {util:.2} foreign {foreign:.2} distance {distance:.1}",
            sample.round,
            sample.kind.word(),
            format!("{:?}", sample.wire),
            format!("{:?}", sample.mode),
            sample.connections,
            cpu_us,
            load.requests as f64 / load.seconds,
            load.p50_us,
        );
        self.samples.push(sample);
    }

    pub fn idle(&mut self, idle: Idle) {
        eprintln!(
            "{:9} {} KiB at start, {} with idle connections, {} used, {} closed",
            idle.kind.word(),
            idle.start_kib,
            idle.open_kib,
            idle.used_kib,
            idle.closed_kib
        );
        self.idle.push(idle);
    }

    pub fn storm(&mut self, storm: Storm) {
        eprintln!(
            "{:?} token dies: {}: {:.0} ms, {} bad, {} token calls, {} refused, {} dropped dials, {:.0} us/request, peak {} KiB",
            storm.wire,
            storm.token_dies,
            storm.wall_ms,
            storm.bad,
            storm.token_calls,
            storm.refused,
            storm.listen_drops,
            storm.cpu_us,
            storm.peak_kib
        );
        self.storms.push(storm);
    }

    pub fn crowd(&mut self, crowd: Crowd) {
        eprintln!(
            "round {} {} accounts, random {}: {:.1} us/request, foreign {:.2}, {} KiB, ready after {:?}",
            crowd.round,
            crowd.accounts,
            crowd.is_random,
            crowd.measured.cpu_us,
            crowd.measured.foreign,
            crowd.memory_kib,
            crowd.ready
        );
        self.crowds.push(crowd);
    }

    pub fn start(&mut self, ready: Duration, memory_kib: u64) {
        eprintln!("ready after {ready:?}, {memory_kib} KiB");
        self.starts.push((ready, memory_kib));
    }

    pub fn fault(&mut self, fault: String) {
        eprintln!("FAULT: {fault}");
        self.faults.push(fault);
    }

    /// Writes what there is so far.
    pub fn save(&self, bench: &Bench) -> Anyhow<()> {
        fs::create_dir_all(&bench.options.out)?;
        fs::write(bench.options.out.join("results.md"), self.page(bench)?)?;
        fs::write(bench.options.out.join("results.svg"), plot::svg(&self.bars()))?;
        Ok(fs::write(bench.run.join("samples.csv"), self.csv()?)?)
    }

    /// An error if something could not be measured.
    pub fn verdict(&self) -> Anyhow<()> {
        match self.faults.as_slice() {
            [] => Ok(()),
            faults => Err(format!("not all could be measured:\n{}", faults.join("\n")).into()),
        }
    }

    fn page(&self, bench: &Bench) -> Anyhow<String> {
        let mut page = String::from(
            "<!-- Written by benches/run; changes by hand are lost with the next run. -->\n# What weigate costs, beside other proxies\n\n",
        );
        for fact in &self.facts {
            writeln!(page, "* {fact}")?;
        }
        let seconds = bench.options.seconds;
        let done = self.samples.iter().map(|sample| sample.round).max().unwrap_or(bench.options.rounds);
        writeln!(
            page,
            "* {done} interleaved rounds of {seconds} s for each sample; a fresh process for each subject and round. Ratios are taken within a round. Only ratios mean something on another machine."
        )?;
        let noisy = self.samples.iter().filter(|sample| sample.measured.disturbance() > 1.0).count();
        writeln!(
            page,
            "* {noisy} of {} samples were kept although other processes used more than {FOREIGN_MAX} core meanwhile, or the two cores were far from each other (over {DISTANCE_MAX} times as long for a word as at best).",
            self.samples.len()
        )?;
        page.push_str("\nnginx, HAProxy, Pingora and Envoy append a fixed token and pass the reply on. weigate and nginx + Lua also look at every reply and send a request once more when WeChat says that the token is invalid; weigate also authenticates the client, judges the path and counts for its metrics.\n");
        if !self.samples.is_empty() {
            page.push_str("\n![CPU per request](results.svg)\n");
            self.targets(&mut page)?;
            self.table(&mut page, "One worker on one core, TLS to the origin", Mode::Core, &TLS)?;
            self.table(&mut page, "One worker on one core, plain to the origin", Mode::Core, &[Wire::Plain])?;
            self.table(
                &mut page,
                "Two workers on two cores that load and origin share, TLS to the origin",
                Mode::Shared,
                &TLS,
            )?;
        }
        self.memory(&mut page)?;
        self.storm_table(&mut page)?;
        self.crowd_table(&mut page)?;
        self.start_line(&mut page)?;
        if !self.faults.is_empty() {
            page.push_str("\n## Could not be measured\n\n");
            for fault in &self.faults {
                writeln!(page, "* {}", fault.replace('\n', " "))?;
            }
        }
        Ok(page)
    }

    fn bars(&self) -> Vec<plot::Bar> {
        let pairs =
            Kind::ALL.into_iter().filter(|kind| kind.injects()).flat_map(|kind| TLS.map(|wire| (kind, wire)));
        let bar = |(kind, wire): (Kind, Wire)| {
            let value = |connections| {
                self.spread(kind, wire, Mode::Core, connections, cpu)
                    .map(|spread| (spread.min, spread.median, spread.max))
            };
            Some(plot::Bar {
                title: format!("{} ({})", kind.title(), wire.title()),
                is_ours: kind == Kind::Weigate,
                few: value(64)?,
                many: value(256)?,
            })
        };
        pairs.filter_map(bar).collect()
    }

    fn csv(&self) -> Anyhow<String> {
        let mut text = String::from(
            "round,subject,wire,mode,connections,cpu_us,rps,p50_us,p99_us,util,foreign,distance,memory_kib\n",
        );
        for sample in &self.samples {
            let Sample { kind, wire, mode, connections, round, memory_kib, measured } = sample;
            writeln!(
                text,
                "{round},{},{wire:?},{mode:?},{connections},{:.3},{:.0},{:.1},{:.1},{:.3},{:.3},{:.3},{memory_kib}",
                kind.word(),
                measured.cpu_us,
                rps(sample),
                p50(sample),
                p99(sample),
                measured.util,
                measured.foreign,
                measured.distance
            )?;
        }
        Ok(text)
    }

    fn of(&self, kind: Kind, wire: Wire, mode: Mode, connections: usize) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |sample| {
            (sample.kind, sample.wire, sample.mode, sample.connections) == (kind, wire, mode, connections)
        })
    }

    fn spread(
        &self,
        kind: Kind,
        wire: Wire,
        mode: Mode,
        connections: usize,
        value: fn(&Sample) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.of(kind, wire, mode, connections).map(value))
    }

    /// The TLS upstream protocol with which `kind` needs less CPU.
    fn better_wire(&self, kind: Kind, mode: Mode, connections: usize) -> Option<Wire> {
        let median =
            |wire: &Wire| self.spread(kind, *wire, mode, connections, cpu).map(|spread| spread.median);
        let measured = TLS.into_iter().filter_map(|wire| Some((wire, median(&wire)?)));
        measured.min_by(|one, other| one.1.total_cmp(&other.1)).map(|(wire, _)| wire)
    }

    /// `ours` over `theirs`, round by round.
    fn ratio(
        &self,
        mode: Mode,
        ours: (Kind, Wire),
        theirs: (Kind, Wire),
        connections: usize,
        value: fn(&Sample) -> f64,
    ) -> Option<Ratio> {
        let ratios = self.of(ours.0, ours.1, mode, connections).filter_map(|our| {
            let their =
                self.of(theirs.0, theirs.1, mode, connections).find(|their| their.round == our.round)?;
            Some(value(our) / value(their))
        });
        Some(Ratio {
            spread: Spread::of(ratios)?,
            ours: self.spread(ours.0, ours.1, mode, connections, value)?.median,
            theirs: self.spread(theirs.0, theirs.1, mode, connections, value)?.median,
        })
    }
}

struct Ratio {
    ours: f64,
    theirs: f64,
    spread: Spread,
}

fn cpu(sample: &Sample) -> f64 {
    sample.measured.cpu_us
}

fn rps(sample: &Sample) -> f64 {
    sample.measured.load.requests as f64 / sample.measured.load.seconds
}

fn p50(sample: &Sample) -> f64 {
    sample.measured.load.p50_us
}

fn p99(sample: &Sample) -> f64 {
    sample.measured.load.p99_us
}
