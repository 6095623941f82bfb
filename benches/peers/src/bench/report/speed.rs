//! The tables of speed: against the targets, and every subject's figures.

use std::fmt::Write as _;

use super::{Ratio, Report, Sample, cpu, p50, p99, rps};
use crate::Anyhow;
use crate::stats::Spread;
use crate::subject::{Kind, Mode, Wire};

/// A row of the target table (performance.md §0): ratios of CPU per request.
struct Target {
    peer: Kind,
    ours: Wire,
    must: [f64; 2],
    aim: [f64; 2],
}

const TARGETS: [Target; 6] = [
    Target { peer: Kind::Nginx, ours: Wire::TlsH1, must: [0.90, 0.85], aim: [0.75, 0.65] },
    Target { peer: Kind::Nginx, ours: Wire::TlsH2, must: [0.75, 0.70], aim: [0.58, 0.42] },
    Target { peer: Kind::NginxLua, ours: Wire::TlsH1, must: [0.55, 0.50], aim: [0.45, 0.40] },
    Target { peer: Kind::Haproxy, ours: Wire::TlsH1, must: [0.80, 0.85], aim: [0.70, 0.70] },
    Target { peer: Kind::Pingora, ours: Wire::TlsH1, must: [0.80, 0.60], aim: [0.65, 0.45] },
    Target { peer: Kind::Envoy, ours: Wire::TlsH1, must: [0.55, 0.40], aim: [0.45, 0.30] },
];

impl Report {
    pub(super) fn targets(&self, page: &mut String) -> Anyhow<()> {
        page.push_str("\n## Against the targets\n\nCPU per request (user + system), ours over theirs, in the same round; each peer with the upstream protocol that is better for it.\n\n");
        page.push_str("| against | weigate's upstream | connections | ours µs | theirs µs | ratio min | median | max | must | aim | must in µs |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n");
        let mut below = Vec::new();
        for target in &TARGETS {
            for (at, connections) in [64, 256].into_iter().enumerate() {
                let Some(wire) = self.better_wire(target.peer, Mode::Core, connections) else { continue };
                let title = format!("{}, {}", target.peer.title(), wire.title());
                let (must, aim) = (target.must[at], target.aim[at]);
                let Some(row) = self.ratio(
                    Mode::Core,
                    (Kind::Weigate, target.ours),
                    (target.peer, wire),
                    connections,
                    cpu,
                ) else {
                    continue;
                };
                let Ratio { ours, theirs, spread } = row;
                let mark = if spread.median <= must { "" } else { " ✗" };
                let needed = must * theirs;
                if target.ours == Wire::TlsH1 && self.floor(connections).is_some_and(|floor| needed < floor) {
                    below.push(format!("{} at {connections}", target.peer.title()));
                }
                writeln!(
                    page,
                    "| {title} | {} | {connections} | {ours:.1} | {theirs:.1} | {:.2} | **{:.2}**{mark} | {:.2} | {must:.2} | {aim:.2} | {needed:.1} |",
                    target.ours.title(),
                    spread.min,
                    spread.median,
                    spread.max
                )?;
            }
        }
        if let (Some(few), Some(many)) = (self.floor(64), self.floor(256)) {
            writeln!(
                page,
                "\nThe floor: a relay of bytes, which reads nothing in them and encrypts nothing, needs {few:.1} µs at 64 connections and {many:.1} at 256; its core is not full then (util below), so a little less may be possible. A proxy that passes each request on by itself has more to do; only several over HTTP/2 in one segment cost less. Musts below the floor: {}.",
                if below.is_empty() { "none".to_owned() } else { below.join(", ") }
            )?;
        }
        page.push_str("\n| plain upstream, CPU per request | connections | ours µs | theirs µs | ratio min | median | max |\n|---|--:|--:|--:|--:|--:|--:|\n");
        for peer in Kind::ALL.into_iter().filter(|kind| !matches!(kind, Kind::Weigate | Kind::Direct)) {
            for connections in [64, 256] {
                let row = self.ratio(
                    Mode::Core,
                    (Kind::Weigate, Wire::Plain),
                    (peer, Wire::Plain),
                    connections,
                    cpu,
                );
                let Some(Ratio { ours, theirs, spread }) = row else { continue };
                writeln!(
                    page,
                    "| {} | {connections} | {ours:.1} | {theirs:.1} | {:.2} | **{:.2}** | {:.2} |",
                    peer.title(),
                    spread.min,
                    spread.median,
                    spread.max
                )?;
            }
        }
        page.push_str("\n| two workers, beside nginx | weigate's upstream | connections | ours | nginx | ratio min | median | max | must |\n|---|---|--:|--:|--:|--:|--:|--:|--:|\n");
        for wire in [Wire::TlsH1, Wire::TlsH2] {
            for connections in [64, 256] {
                let row = self.ratio(
                    Mode::Shared,
                    (Kind::Weigate, wire),
                    (Kind::Nginx, Wire::TlsH1),
                    connections,
                    rps,
                );
                let Some(Ratio { ours, theirs, spread }) = row else { continue };
                let mark = if spread.median >= 1.2 { "" } else { " ✗" };
                writeln!(
                    page,
                    "| requests per second | {} | {connections} | {ours:.0} | {theirs:.0} | {:.2} | **{:.2}**{mark} | {:.2} | ≥ 1.20, aim 1.40 |",
                    wire.title(),
                    spread.min,
                    spread.median,
                    spread.max
                )?;
            }
        }
        if let Some(Ratio { ours, theirs, spread }) =
            self.ratio(Mode::Shared, (Kind::Weigate, Wire::TlsH1), (Kind::Nginx, Wire::TlsH1), 1, p50)
        {
            let direct = self
                .spread(Kind::Direct, Wire::TlsH1, Mode::Shared, 1, p50)
                .map(|direct| format!(" (no proxy: {:.0})", direct.median))
                .unwrap_or_default();
            let mark = if spread.median <= 1.0 { "" } else { " ✗" };
            writeln!(
                page,
                "| median latency µs{direct} | {} | 1 | {ours:.0} | {theirs:.0} | {:.2} | **{:.2}**{mark} | {:.2} | ≤ 1.00 |",
                Wire::TlsH1.title(),
                spread.min,
                spread.median,
                spread.max
            )?;
        }
        Ok(())
    }

    /// What a relay of bytes costs.
    fn floor(&self, connections: usize) -> Option<f64> {
        Some(self.spread(Kind::Relay, Wire::Plain, Mode::Core, connections, cpu)?.median)
    }

    pub(super) fn table(&self, page: &mut String, title: &str, mode: Mode, wires: &[Wire]) -> Anyhow<()> {
        let mut connections: Vec<usize> = self.samples.iter().map(|sample| sample.connections).collect();
        connections.sort_unstable();
        connections.dedup();
        write!(page, "\n## {title}\n\n| | upstream |")?;
        for count in &connections {
            write!(page, " c{count} µs/request median [min..max] | rps | p50 / p99 ms | util |")?;
        }
        page.push_str(" MiB |\n|---|---|");
        for _ in &connections {
            page.push_str("--:|--:|--:|--:|");
        }
        page.push_str("--:|\n");
        for kind in Kind::ALL {
            for wire in wires {
                let mut row = String::new();
                let mut is_there = false;
                for count in &connections {
                    let spread = |value: fn(&Sample) -> f64| self.spread(kind, *wire, mode, *count, value);
                    let (Some(cpu), Some(rps), Some(p50), Some(p99), Some(util)) = (
                        spread(cpu),
                        spread(rps),
                        spread(p50),
                        spread(p99),
                        spread(|sample| sample.measured.util),
                    ) else {
                        row.push_str(" | | | |");
                        continue;
                    };
                    is_there = true;
                    if kind == Kind::Direct {
                        write!(row, " |")?;
                    } else {
                        write!(row, " **{:.1}** [{:.1}..{:.1}] |", cpu.median, cpu.min, cpu.max)?;
                    }
                    write!(
                        row,
                        " {:.1}k | {:.2} / {:.2} | {:.2} |",
                        rps.median / 1e3,
                        p50.median / 1e3,
                        p99.median / 1e3,
                        util.median
                    )?;
                }
                let memory = self
                    .samples
                    .iter()
                    .filter(|sample| (sample.kind, sample.wire, sample.mode) == (kind, *wire, mode))
                    .map(|sample| sample.memory_kib as f64 / 1024.0);
                if let Some(memory) = Spread::of(memory).filter(|_| is_there) {
                    writeln!(page, "| {} | {} |{row} {:.1} |", kind.title(), wire.title(), memory.median)?;
                }
            }
        }
        Ok(())
    }
}
