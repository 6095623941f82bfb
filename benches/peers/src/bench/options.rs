//! The command line; `benches/run --help` describes it.

use std::path::PathBuf;

use crate::Anyhow;
use crate::subject::Kind;

#[derive(Debug, Clone)]
pub struct Options {
    pub rounds: usize,
    pub seconds: u64,
    pub warm_up_s: u64,
    pub only: Vec<Kind>,
    pub skip: Vec<Kind>,
    pub experiments: Vec<Experiment>,
    pub connections: Vec<usize>,
    /// How long a sample waits for a quiet machine.
    pub quiet_wait_s: u64,
    /// How often a noisy sample is taken again.
    pub repeats: usize,
    pub idle_connections: usize,
    pub accounts: usize,
    pub out: PathBuf,
    pub weigate: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Experiment {
    Speed,
    Idle,
    Storm,
    Accounts,
    Start,
}

impl Options {
    pub fn parse(arguments: &[String]) -> Anyhow<Self> {
        let mut options = Self {
            rounds: 4,
            seconds: 2,
            warm_up_s: 1,
            only: Vec::new(),
            skip: Vec::new(),
            experiments: EXPERIMENTS.iter().map(|(_, experiment)| *experiment).collect(),
            connections: vec![1, 64, 256],
            quiet_wait_s: 20,
            repeats: 2,
            idle_connections: 9500,
            accounts: 100_000,
            out: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".."),
            weigate: None,
        };
        let mut rest = arguments.iter();
        while let Some(name) = rest.next() {
            if name == "--quick" {
                (options.rounds, options.seconds, options.quiet_wait_s, options.repeats) = (1, 1, 0, 0);
                (options.idle_connections, options.accounts) = (2000, 2000);
                continue;
            }
            let value = rest.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--rounds" => options.rounds = value.parse()?,
                "--seconds" => options.seconds = value.parse()?,
                "--warm-up" => options.warm_up_s = value.parse()?,
                "--only" => options.only = each(value, Kind::parse)?,
                "--skip" => options.skip = each(value, Kind::parse)?,
                "--experiments" => options.experiments = each(value, Experiment::parse)?,
                "--connections" => options.connections = each(value, |text| text.parse().ok())?,
                "--quiet-wait" => options.quiet_wait_s = value.parse()?,
                "--repeats" => options.repeats = value.parse()?,
                "--idle-connections" => options.idle_connections = value.parse()?,
                "--accounts" => options.accounts = value.parse()?,
                "--out" => options.out = value.into(),
                "--weigate" => options.weigate = Some(value.into()),
                _ => return Err(format!("{name} is not an option, see benches/run --help").into()),
            }
        }
        Ok(options)
    }
}

impl Experiment {
    fn parse(text: &str) -> Option<Self> {
        EXPERIMENTS.iter().find(|(name, _)| *name == text).map(|(_, experiment)| *experiment)
    }
}

const EXPERIMENTS: [(&str, Experiment); 5] = [
    ("speed", Experiment::Speed),
    ("idle", Experiment::Idle),
    ("storm", Experiment::Storm),
    ("accounts", Experiment::Accounts),
    ("start", Experiment::Start),
];

fn each<T>(list: &str, parse: impl Fn(&str) -> Option<T>) -> Anyhow<Vec<T>> {
    list.split(',')
        .map(|text| parse(text).ok_or_else(|| format!("{text} is none of the choices").into()))
        .collect()
}
