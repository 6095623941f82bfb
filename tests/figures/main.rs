//! The promises on the wire as figures, of the binary that `WEIGATE_BIN` names, beside nginx and HAProxy from Debian
//! where they can be asked the same. Prints one table at the end; ends with an error where weigate's figure is not
//! what must be.
//!
//! ```sh
//! cargo build --release --locked
//! WEIGATE_BIN=target/release/weigate cargo test --locked --test figures [-- WORD …]
//! ```
//!
//! With words, only the measurements whose name holds one of them, and of the fronts only those that are named, if any
//! are. It needs root (or sudo's worth of it) for a network
//! namespace and a cgroup, and what tests/setup installs. What it starts it ends, also when it fails.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot be made fails loudly"
)]

mod ambiguity;
mod blackhole;
mod certificates;
mod crowd;
mod floods;
mod fronts;
mod origin;
#[path = "../probes/mod.rs"]
mod probes;
mod redis;
mod slow;
mod stale;
mod stop;
mod table;
mod talk;
mod uploads;

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;

use fronts::Kind;
use table::{Row, Table};

type Measuring = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A measurement: its name, its rows, and what fills them.
struct Figure {
    name: &'static str,
    rows: &'static [Row],
    measure: fn(Arc<Table>, Kind) -> Measuring,
    /// Of nginx and HAProxy too.
    has_peers: bool,
}

macro_rules! figure {
    ($name:ident, $has_peers:expr, $measure:path, [$($row:path),+]) => {
        Figure {
            name: stringify!($name),
            rows: &[$($row),+],
            measure: |table, kind| Box::pin(async move { $measure(&table, kind).await }),
            has_peers: $has_peers,
        }
    };
}

const FIGURES: [Figure; 12] = [
    figure!(ambiguity, true, ambiguity::measure, [ambiguity::H1, ambiguity::H2]),
    figure!(demands, false, ambiguity::measure_strictly, [ambiguity::H1_STRICT, ambiguity::H2_STRICT]),
    figure!(stale, true, stale::measure, [stale::GET, stale::POST]),
    figure!(stop, true, stop::measure, [stop::IN_FLIGHT, stop::IDLE]),
    figure!(slow, true, slow::measure, [slow::HEADER, slow::BODY, slow::READ, slow::OTHERS]),
    figure!(floods, true, floods::measure, [floods::PACED, floods::MEMORY]),
    figure!(uploads, true, uploads::measure, [uploads::UPLOADS]),
    figure!(crowd, true, crowd::measure, [crowd::CROWD]),
    figure!(blackhole, true, blackhole::measure, [blackhole::FAILED, blackhole::TWICE, blackhole::BACK]),
    figure!(redis, false, redis::measure, [redis::FAILED, redis::P99, redis::BACK]),
    figure!(certificates, true, certificates::measure_upstream, [certificates::REFUSED]),
    figure!(sslyze, true, certificates::measure_listener, [certificates::SSLYZE]),
];

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [blackhole::INSIDE, kind] = words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        runtime.block_on(blackhole::inside(kind));
        return ExitCode::SUCCESS;
    }
    runtime.block_on(run(words))
}

#[expect(clippy::print_stdout, reason = "the table is what this is for")]
async fn run(words: Vec<String>) -> ExitCode {
    let (fronts, words): (Vec<String>, Vec<String>) = words
        .into_iter()
        .partition(|word| Kind::ALL.iter().any(|kind| kind.name().eq_ignore_ascii_case(word)));
    let is_named = |kind: &Kind| fronts.iter().any(|name| kind.name().eq_ignore_ascii_case(name));
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| fronts.is_empty() || is_named(kind)).collect();
    let is_wanted =
        |figure: &&Figure| words.is_empty() || words.iter().any(|word| figure.name.contains(word));
    let figures: Vec<&Figure> = FIGURES.iter().filter(is_wanted).collect();
    let table = Arc::new(Table::new(figures.iter().flat_map(|figure| figure.rows.iter().copied()).collect()));
    println!("measuring {}", fronts::binary());
    // These wait most of their time: they run beside the others.
    let (waiting, busy): (Vec<&Figure>, Vec<&Figure>) =
        figures.into_iter().partition(|figure| matches!(figure.name, "slow" | "blackhole" | "floods"));
    let aside: Vec<_> = waiting.iter().flat_map(|figure| begin(figure, &kinds, &table)).collect();
    let mut crashes = Vec::new();
    for figure in busy {
        let started = tokio::time::Instant::now();
        // Gigabytes for each: one after the other.
        let at_once = if figure.name == "uploads" { 1 } else { kinds.len() };
        for kinds in kinds.chunks(at_once) {
            let running = begin(figure, kinds, &table);
            crashes.extend(all_ended(figure.name, running).await);
        }
        println!("  {}: {:.1} s", figure.name, started.elapsed().as_secs_f64());
    }
    crashes.extend(all_ended("one of those aside", aside).await);
    let (text, mut faults) = table.finish();
    println!("\n{text}");
    faults.extend(crashes);
    for fault in &faults {
        println!("NOT AS IT MUST BE: {fault}");
    }
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn begin(figure: &Figure, kinds: &[Kind], table: &Arc<Table>) -> Vec<(Kind, tokio::task::JoinHandle<()>)> {
    let kinds = kinds.iter().filter(|kind| figure.has_peers || **kind == Kind::Weigate);
    kinds.map(|kind| (*kind, tokio::spawn((figure.measure)(Arc::clone(table), *kind)))).collect()
}

/// What could not be measured is a fault, a peer's too.
async fn all_ended(name: &str, running: Vec<(Kind, tokio::task::JoinHandle<()>)>) -> Vec<String> {
    let mut faults = Vec::new();
    for (kind, running) in running {
        if let Err(fault) = running.await {
            faults.push(format!("{name} of {} could not be measured: {fault}", kind.name()));
        }
    }
    faults
}
