//! How near the two cores are to each other at the moment.
//!
//! The host of a virtual machine moves its cores about. *Seen*: while both share a cache, a word goes there and back in
//! 75 ns, while they do not, in 400 ns, and then whatever two processes do with each other costs a fifth to a quarter more
//! CPU; either lasts for some ten seconds. No counter in the machine shows it, and a fifth is more than most proxies differ
//! by. So a sample waits for cores that are as near as they have been, and is taken again where they were not when it ended.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::Anyhow;

/// Cores are far from each other when a word takes longer than this, beside the best that was seen.
pub const DISTANCE_MAX: f64 = 2.0;

const ROUNDS: u32 = 5_000;
/// The fastest of these counts: another process may have had a core meanwhile.
const LOOKS: u32 = 5;
/// The best is looked for over this long before anything is measured.
const CALIBRATION: Duration = Duration::from_secs(20);

/// A word there and back when the cores were nearest, in nanoseconds.
static BEST_NS: AtomicU64 = AtomicU64::new(u64::MAX);

/// Finds out how near the cores can be.
pub fn calibrate() -> Anyhow<()> {
    let started = Instant::now();
    while started.elapsed() < CALIBRATION {
        now()?;
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

/// How far the cores are from each other; 1 is as near as they have been.
pub fn now() -> Anyhow<f64> {
    let now_ns = there_and_back_ns()?;
    let best_ns = BEST_NS.fetch_min(now_ns, Ordering::Relaxed).min(now_ns);
    Ok(now_ns as f64 / best_ns as f64)
}

fn there_and_back_ns() -> Anyhow<u64> {
    // One thread would wait for ever for another that has no core.
    let ours = sched_getaffinity(None)?;
    if !ours.is_set(0) || !ours.is_set(1) {
        return Err("CPU 0 and CPU 1 are needed".into());
    }
    let word = AtomicU32::new(0);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            pin(1)?;
            for round in 0..ROUNDS * LOOKS {
                wait_for(&word, 2 * round + 1);
                word.store(2 * round + 2, Ordering::Release);
            }
            Ok::<_, String>(())
        });
        let one = scope.spawn(|| {
            pin(0)?;
            let looks = (0..LOOKS).map(|look| {
                let started = Instant::now();
                for round in look * ROUNDS..(look + 1) * ROUNDS {
                    word.store(2 * round + 1, Ordering::Release);
                    wait_for(&word, 2 * round + 2);
                }
                started.elapsed() / ROUNDS
            });
            looks.min().ok_or_else(|| "no look".to_owned())
        });
        other.join().map_err(|_| "the other core's thread panicked")??;
        let fastest = one.join().map_err(|_| "a core's thread panicked")??;
        Ok(u64::try_from(fastest.as_nanos())?.max(1))
    })
}

fn pin(cpu: usize) -> Result<(), String> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| format!("CPU {cpu}: {error}"))
}

fn wait_for(word: &AtomicU32, value: u32) {
    let mut spins = 0_u32;
    while word.load(Ordering::Acquire) != value {
        spins = spins.wrapping_add(1);
        // The other thread may have no core yet.
        if spins % 65_536 == 0 {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
    }
}
