//! The commands, one file each.

mod check;
mod key;
mod leaked;
mod memory;
mod sandbox;
mod serve;
mod status;
mod systemd;

use std::fmt;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use weigate::config::{self, Loaded};

/// The arguments.
#[derive(Debug, Parser)]
#[command(name = "weigate", version, about = ABOUT, disable_help_subcommand = true, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: serve::Options,
}

const ABOUT: &str = "\
A reverse proxy for the WeChat API. Applications use it as their base URL in place of https://api.weixin.qq.com and \
drop all token code: it holds the AppSecret, keeps the access_token fresh, and puts it into every request.";

const EXAMPLES: &str = "\
Examples:
  weigate serve --sandbox       try it: a built-in WeChat, no credentials, a curl line to paste
  weigate key orders            make a client key and the lines for proxy.toml
  weigate check --online        will it work here? says each cure in words
  weigate -c proxy.toml         the proxy and its admin listener (`serve` may be left out)

Exit codes: 0, 2 bad configuration, 64 bad usage, 1 anything else.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the proxy and its admin listener (the default command)
    Serve(serve::Options),
    /// Read the configuration and print every fault; start nothing
    Check(check::Options),
    /// Run a stand-in for api.weixin.qq.com alone, with its control API, for integration tests
    Sandbox(sandbox::Options),
    /// Make a client key, print it once, and the `[[clients]]` lines to paste
    Key(key::Options),
    /// Show accounts, their tokens and last errors, from a running weigate
    Status(status::Options),
    /// A token has leaked: fetch two new ones 30 s apart, which ends it
    Leaked(leaked::Options),
    /// Exit 0 when a running weigate is ready, 1 when not (for HEALTHCHECK)
    Health(status::HealthOptions),
}

/// Where the configuration is.
#[derive(Debug, Clone, Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long, short, value_name = "FILE", default_value = "proxy.toml", env = "WEIGATE_CONFIG")]
    config: PathBuf,
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What is wrong with the configuration, a line each.
    Configuration(config::ConfigErrors),
    /// Anything else.
    Other(anyhow::Error),
}

pub(crate) fn run(arguments: Arguments) -> Result<(), Failure> {
    match arguments.command.unwrap_or(Command::Serve(arguments.serve)) {
        Command::Serve(options) => serve::run(&options),
        Command::Check(options) => check::run(&options),
        Command::Sandbox(options) => Ok(sandbox::run(&options)?),
        Command::Key(options) => Ok(key::run(&options)?),
        Command::Status(options) => Ok(status::run(&options)?),
        Command::Leaked(options) => Ok(leaked::run(&options)?),
        Command::Health(options) => Ok(status::health(&options)?),
    }
}

/// Prints a line for the person at the terminal, to stderr.
pub(crate) fn tell(line: fmt::Arguments<'_>) {
    // Who closed stderr does not want to know.
    let _told = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints a line of a command's result, to stdout.
fn show(line: fmt::Arguments<'_>) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("writing to stdout")
}

/// An error and its causes in one line. What a cause says already inside the text above it is not said twice.
pub(crate) fn chain(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.contains(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}

fn load(path: &Path, load: impl FnOnce() -> Result<Loaded, config::ConfigErrors>) -> Result<Loaded, Failure> {
    let loaded = load().map_err(Failure::Configuration);
    if loaded.is_err() && !path.exists() {
        tell(format_args!("No configuration yet? `weigate serve --sandbox` tries weigate without one."));
    }
    loaded
}

/// The two signals that ask for a stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// For the disk and for host names. A file store may use 16 of them at most, so a disk that hangs leaves some for names; and
/// each that was ever busy keeps memory of its own.
const BLOCKING_THREADS_MAX: usize = 64;

/// The runtime of everything but requests: keepers, admin, stores, the sandbox.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("background")
        .enable_all()
        .build()
        .context("starting the background runtime")
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

// === impl Signals ===

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

// === impl Failure ===

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}
