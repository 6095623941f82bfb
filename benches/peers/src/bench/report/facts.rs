//! What the page says of the machine and the programs; no names, no paths.

use std::fs;
use std::process::Command;

use crate::subject::Kind;
use crate::{Anyhow, Bench};

pub fn of(bench: &Bench) -> Anyhow<Vec<String>> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|rest| rest.split_once(": "))
        .map_or("unknown", |(_, model)| model.trim());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let kernel = kernel.split(['-', '\n']).next().unwrap_or_default().to_owned();
    let memory_kib: u64 = fs::read_to_string("/proc/meminfo")?
        .split_whitespace()
        .nth(1)
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0);
    let cores = std::thread::available_parallelism()?;
    let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    let mut facts = vec![format!(
        "{cores} cores of {model}, {} GiB, Linux {kernel}, TCP congestion control {}; client, proxy and origin on this one machine",
        memory_kib >> 20,
        congestion.trim()
    )];
    let mut versions = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| bench.wants(*kind)) {
        versions.extend(match kind {
            Kind::Weigate => first_line(&bench.weigate.to_string_lossy(), "--version", 0..2),
            Kind::Nginx | Kind::NginxLua
                if versions.iter().any(|version: &String| version.starts_with("nginx")) =>
            {
                None
            }
            Kind::Nginx | Kind::NginxLua => first_line("nginx", "-v", 2..3),
            Kind::Haproxy => first_line("haproxy", "-v", 0..3),
            Kind::Pingora => pingora_version(),
            Kind::Envoy => first_line(&bench.envoy.to_string_lossy(), "--version", 2..3)
                .and_then(|text| text.split('/').nth(1).map(|version| format!("Envoy {version}"))),
            Kind::Relay | Kind::Direct => None,
        });
    }
    versions.extend(first_line("wrk", "-v", 0..2));
    facts.push(versions.join(", "));
    Ok(facts)
}

/// Some words of what a program first says of its version, on whatever stream.
fn first_line(program: &str, argument: &str, words: std::ops::Range<usize>) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let line = text.lines().find(|line| !line.is_empty())?;
    Some(line.split_whitespace().skip(words.start).take(words.len()).collect::<Vec<_>>().join(" "))
}

fn pingora_version() -> Option<String> {
    let lock = include_str!("../../../Cargo.lock");
    let rest = lock.split_once("name = \"pingora-core\"\nversion = \"")?.1;
    Some(format!("Pingora {}", rest.split('"').next()?))
}
