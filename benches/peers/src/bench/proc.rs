//! What `/proc` says about processes and the machine.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::distance;

/// The kernel's unit in `/proc/stat` (`USER_HZ`), the same on every Linux that matters here.
const TICK_NS: u64 = 10_000_000;

/// `root` and everything below it.
pub fn tree(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if let Some(parent) =
            stat_fields(&format!("/proc/{pid}/stat")).and_then(|fields| fields.get(1)?.parse::<u32>().ok())
        {
            parents.push((pid, parent));
        }
    }
    let mut all = vec![root];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        all.extend(parents.iter().filter(|(pid, of)| *of == parent && *pid != root).map(|(pid, _)| *pid));
        at += 1;
    }
    all
}

/// CPU that each living thread of some processes has used, in nanoseconds.
pub struct Cpu(HashMap<PathBuf, u64>);

impl Cpu {
    pub fn of(pids: &[u32]) -> Self {
        Self(by_thread(pids))
    }

    /// What was used since, by threads that live now: one that has ended takes what it used with it.
    pub fn since_ns(&self, pids: &[u32]) -> u64 {
        let before = |thread| self.0.get(thread).copied().unwrap_or(0);
        by_thread(pids).iter().map(|(thread, used)| used.saturating_sub(before(thread))).sum()
    }
}

fn by_thread(pids: &[u32]) -> HashMap<PathBuf, u64> {
    let tasks =
        pids.iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten());
    let used = |path: &Path| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    tasks.map(|task| task.path()).filter_map(|path| used(&path).map(|used| (path, used))).collect()
}

/// CPU that this process and its children that have ended have used.
pub fn own_cpu_ns() -> u64 {
    let Some(fields) = stat_fields("/proc/self/stat") else { return 0 };
    // utime, stime, cutime, cstime: fields 14 to 17, counted from 1 before the name.
    fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>() * TICK_NS
}

/// CPU that the whole machine has used, stolen time included.
pub fn busy_ns() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user nice system idle iowait irq softirq steal
    [0, 1, 2, 5, 6, 7].iter().filter_map(|at| fields.get(*at)).sum::<u64>() * TICK_NS
}

/// Proportional resident memory of `pids`; plain resident memory where only the owner may know.
pub fn memory_kib(pids: &[u32]) -> u64 {
    pids.iter()
        .map(|pid| {
            field_kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
                .unwrap_or_else(|| field_kib(&format!("/proc/{pid}/status"), "VmRSS:").unwrap_or(0))
        })
        .sum()
}

/// The most that `pids` have ever had resident.
pub fn peak_kib(pids: &[u32]) -> u64 {
    pids.iter().filter_map(|pid| field_kib(&format!("/proc/{pid}/status"), "VmHWM:")).sum()
}

/// SYNs and connections that the kernel has dropped because a listener's queue was full. Each costs its sender a second.
pub fn listen_drops() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "ListenDrops").and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// Waits until others use less than 0.1 core and the cores are near each other, at most `limit`.
pub fn wait_for_quiet(limit: Duration) {
    let started = Instant::now();
    let window = Duration::from_millis(200);
    while started.elapsed() < limit {
        let before = busy_ns();
        std::thread::sleep(window);
        if cores(busy_ns().saturating_sub(before), window) < 0.1
            && distance::now().is_ok_and(|distance| distance <= distance::DISTANCE_MAX)
        {
            return;
        }
    }
}

/// CPU time over wall time.
pub fn cores(ns: u64, over: Duration) -> f64 {
    ns as f64 / over.as_nanos() as f64
}

fn field_kib(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// The fields of a `stat` file after the name, which may hold spaces.
fn stat_fields(path: &str) -> Option<Vec<String>> {
    let text = fs::read_to_string(path).ok()?;
    let rest = text.get(text.rfind(')')? + 1..)?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}
