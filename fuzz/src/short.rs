//! A short run on a stable compiler: every target with its corpus, and then, for some seconds, with what comes of
//! cutting, joining and changing pieces of it.
//!
//! ```sh
//! cargo run --locked --manifest-path fuzz/Cargo.toml --bin short -- SECONDS [SEED]
//! ```
//!
//! No coverage guides it: it holds what was found once, and the obvious; `cargo fuzz` looks further.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use weigate_fuzz::{TARGETS, corpus};

/// Pieces that mean something to one target or another.
const WORDS: [&[u8]; 40] = [
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b": ",
    b",",
    b";",
    b"=",
    b"&",
    b"?",
    b"/",
    b"//",
    b"..",
    b"%2e",
    b"%2f",
    b"%5c",
    b"%00",
    b"%",
    b"+",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b"0",
    b"-1",
    b"18446744073709551616",
    b"chunked",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"access_token",
    b"connection: x-a",
    b"\"errcode\":40001",
    b"\xff",
    b"\xe5\xbe\xae",
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>().expect("SECONDS [SEED]"));
    let seconds = arguments.next().unwrap_or(5);
    let seed = arguments.next().unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut is_well = true;
    for (name, target) in TARGETS {
        let seeds = corpus(name);
        assert!(!seeds.is_empty(), "{name} has no corpus");
        let mut random = fastrand::Rng::with_seed(seed);
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut runs = 0_u64;
        let mut ended = seeds.iter().try_for_each(|input| run(target, input));
        while ended.is_ok() && Instant::now() < until {
            let input = changed(&seeds, &mut random);
            ended = run(target, &input);
            runs += 1;
        }
        println!("{name}: {} seeds, {runs} changed ones", seeds.len());
        if let Err(input) = ended {
            println!("{name}: FAILED with {}", input.escape_ascii());
            is_well = false;
        }
    }
    if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The input itself, where it fails; why stands on stderr.
fn run(target: fn(&[u8]), input: &[u8]) -> Result<(), Vec<u8>> {
    catch_unwind(AssertUnwindSafe(|| target(input))).map_err(|_said| input.to_vec())
}

fn changed(seeds: &[Vec<u8>], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut input = seeds[random.usize(..seeds.len())].clone();
    for _change in 0..=random.usize(..6) {
        let at = random.usize(..=input.len());
        match random.u8(..7) {
            0 => input.truncate(at),
            1 => input.insert(at, random.u8(..)),
            2 if at < input.len() => input[at] ^= 1 << random.u8(..8),
            3 if at < input.len() => drop(input.drain(at..random.usize(at..=input.len().min(at + 16)))),
            4 => {
                let other = &seeds[random.usize(..seeds.len())];
                let from = random.usize(..=other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            5 if at < input.len() => {
                let piece = input[at..random.usize(at..=input.len().min(at + 64))].to_vec();
                drop(input.splice(at..at, piece));
            }
            _ => drop(input.splice(at..at, WORDS[random.usize(..WORDS.len())].iter().copied())),
        }
    }
    input
}
