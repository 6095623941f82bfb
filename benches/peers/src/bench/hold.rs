//! `bench hold SUBJECT plain|h1|h2 core|shared [OPTIONS]`: starts an origin and a subject, prints `PORT PID`, and keeps
//! them until a line comes: for a profiler.

use crate::options::Options;
use crate::origin::Origin;
use crate::subject::{Kind, Mode, Wire};
use crate::{Anyhow, Bench};

pub fn main(arguments: &[String]) -> Anyhow<()> {
    let [kind, wire, mode, options @ ..] = arguments else { return Err("hold SUBJECT WIRE MODE".into()) };
    let kind = Kind::parse(kind).ok_or("no such subject")?;
    let wire = match wire.as_str() {
        "plain" => Wire::Plain,
        "h2" => Wire::TlsH2,
        _ => Wire::TlsH1,
    };
    let mode = if mode == "shared" { Mode::Shared } else { Mode::Core };
    let bench = Bench::new(Options::parse(options)?)?;
    let origin = Origin::start(&bench, mode.load_cpus())?;
    let subject = kind.start(wire, mode, &origin, &bench)?;
    println!("{} {}", subject.port, subject.pids.last().ok_or("it has no process")?);
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}
