//! The tables of memory, storm, accounts and start.

use std::fmt::Write as _;

use super::{Report, Storm};
use crate::Anyhow;
use crate::stats::Spread;
use crate::subject::Wire;

impl Report {
    pub(super) fn memory(&self, page: &mut String) -> Anyhow<()> {
        let Some(first) = self.idle.first() else { return Ok(()) };
        writeln!(
            page,
            "\n## Resident memory, two workers, {} idle keep-alive connections\n",
            first.connections
        )?;
        page.push_str("| | at start MiB | bytes for each connection, never used | after one request each | after they closed MiB |\n|---|--:|--:|--:|--:|\n");
        for idle in &self.idle {
            let each = |kib: u64| kib.saturating_sub(idle.start_kib) * 1024 / idle.connections as u64;
            writeln!(
                page,
                "| {} | {:.1} | {} | {} | {:.1} |",
                idle.kind.title(),
                idle.start_kib as f64 / 1024.0,
                each(idle.open_kib),
                each(idle.used_kib),
                idle.closed_kib as f64 / 1024.0
            )?;
        }
        page.push_str("\nMust, for weigate: at most 30 MiB at start, at most 6 KB a connection after use (aim 3), given back when they close.\n");
        Ok(())
    }

    pub(super) fn storm_table(&self, page: &mut String) -> Anyhow<()> {
        let Some(first) = self.storms.first() else { return Ok(()) };
        writeln!(page, "\n## The token dies with {} requests in flight\n", first.connections)?;
        page.push_str("Two workers; the origin keeps every answer back for 300 ms, so the least is 300 ms without a storm and 900 ms with one.\n\n");
        page.push_str("| upstream | token | wall ms min / median / max | median answer ms | CPU µs/request | token calls | refused by the origin | dials the origin dropped | failures | peak MiB |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n");
        for wire in [Wire::Plain, Wire::TlsH1, Wire::TlsH2] {
            for token_dies in [false, true] {
                let all: Vec<&Storm> = self
                    .storms
                    .iter()
                    .filter(|storm| storm.wire == wire && storm.token_dies == token_dies)
                    .collect();
                let spread = |value: fn(&Storm) -> f64| Spread::of(all.iter().map(|storm| value(storm)));
                let (Some(wall), Some(p50), Some(cpu), Some(peak)) = (
                    spread(|s| s.wall_ms),
                    spread(|s| s.p50_ms),
                    spread(|s| s.cpu_us),
                    spread(|s| s.peak_kib as f64 / 1024.0),
                ) else {
                    continue;
                };
                let most = |value: fn(&Storm) -> u64| all.iter().map(|storm| value(storm)).max().unwrap_or(0);
                writeln!(
                    page,
                    "| {} | {} | {:.0} / {:.0} / {:.0} | {:.0} | {:.0} | {} | {} | {} | {} | {:.0} |",
                    wire.title(),
                    if token_dies { "dies" } else { "lives" },
                    wall.min,
                    wall.median,
                    wall.max,
                    p50.median,
                    cpu.median,
                    most(|storm| storm.token_calls),
                    most(|storm| storm.refused),
                    most(|storm| storm.listen_drops),
                    most(|storm| storm.bad),
                    peak.max
                )?;
            }
        }
        page.push_str("\nMust: 1 token call, 0 failures, at most 150 MB, within 3 times the wall time of the token that lives.\n");
        Ok(())
    }

    pub(super) fn crowd_table(&self, page: &mut String) -> Anyhow<()> {
        let Some(many) = self.crowds.iter().map(|crowd| crowd.accounts).max() else { return Ok(()) };
        writeln!(page, "\n## {many} accounts and {many} clients\n")?;
        page.push_str("One worker, plain upstream, 64 connections, our own load.\n\n| | CPU µs/request median [min..max] | to one account, min / median / max | MiB | must |\n|---|--:|--:|--:|--:|\n");
        let of = |accounts: usize, is_random: bool| {
            self.crowds.iter().filter(move |crowd| {
                crowd.accounts == accounts && (crowd.is_random == is_random || accounts == 1)
            })
        };
        for (title, accounts, is_random, must) in [
            ("one account", 1, true, ""),
            ("picked at random", many, true, "≤ 1.15"),
            ("each connection keeps its client", many, false, "≤ 1.03"),
        ] {
            let cpu = Spread::of(of(accounts, is_random).map(|crowd| crowd.measured.cpu_us));
            let memory = Spread::of(of(accounts, is_random).map(|crowd| crowd.memory_kib as f64 / 1024.0));
            let ratios = of(accounts, is_random).filter_map(|crowd| {
                let one = of(1, true).find(|one| one.round == crowd.round)?;
                Some(crowd.measured.cpu_us / one.measured.cpu_us)
            });
            let (Some(cpu), Some(memory), Some(ratio)) = (cpu, memory, Spread::of(ratios)) else { continue };
            writeln!(
                page,
                "| {title} | **{:.1}** [{:.1}..{:.1}] | {:.2} / {:.2} / {:.2} | {:.0} | {must} |",
                cpu.median, cpu.min, cpu.max, ratio.min, ratio.median, ratio.max, memory.median
            )?;
        }
        if let Some(ready) = Spread::of(of(many, true).map(|crowd| crowd.ready.as_secs_f64())) {
            writeln!(page, "\nReady {:.1} s after its start, with all tokens in the store.", ready.median)?;
        }
        Ok(())
    }

    pub(super) fn start_line(&self, page: &mut String) -> Anyhow<()> {
        let Some(ready) = Spread::of(self.starts.iter().map(|(ready, _)| ready.as_secs_f64() * 1e3)) else {
            return Ok(());
        };
        let Some(memory) = Spread::of(self.starts.iter().map(|(_, kib)| *kib as f64 / 1024.0)) else {
            return Ok(());
        };
        writeln!(
            page,
            "\n## Start\n\nFrom the start of the process to the first answer through it, TLS upstream, token in the file store, {} starts: {:.1} / **{:.1}** / {:.1} ms (min / median / max; must: 50). {:.1} MiB then (must: 30).",
            self.starts.len(),
            ready.min,
            ready.median,
            ready.max,
            memory.median
        )?;
        Ok(())
    }
}
