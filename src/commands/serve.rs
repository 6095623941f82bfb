//! `weigate serve` and `weigate serve --sandbox`

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use weigate::app::{self, App, Passed, Start};
use weigate::clients;
use weigate::config::{Config, ListenAddress, Loaded, UpstreamHost, Watch};
use weigate::sandbox::{Sandbox, SandboxOptions};
use weigate::telemetry::log;
use weigate::types::{AppId, AppSecret};

use super::{ConfigFile, Failure, Signals, load, loopback, memory, runtime, systemd, tell};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Stand in front of the built-in WeChat sandbox instead of a configuration: one account, one client key
    #[arg(long)]
    sandbox: bool,
    /// Start beside a weigate that serves the same configuration; tell that one to stop (SIGTERM) when this one says that
    /// it serves
    #[arg(long, conflicts_with = "sandbox")]
    take_over: bool,
    /// With --sandbox: where clients connect
    #[arg(long, value_name = "ADDRESS", requires = "sandbox")]
    listen: Option<SocketAddr>,
    /// With --sandbox: where the admin listener is
    #[arg(long, value_name = "ADDRESS", requires = "sandbox")]
    admin: Option<SocketAddr>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    memory::keep_little();
    harden();
    if options.sandbox {
        return Ok(server_runtime()?.block_on(serve_sandbox(options))?);
    }
    // Before there are other threads: it changes the environment.
    let passed = Passed::from_environment().context("taking the sockets that were passed on")?;
    let start = if options.take_over { Start::TakeOver } else { Start::Alone };
    let mut watch = Watch::new(&options.file.config);
    let loaded = load(&options.file.config, || watch.load())?;
    tracing::subscriber::set_global_default(log::subscriber(&loaded.config.log))?;
    announce(&loaded);
    Ok(server_runtime()?.block_on(serve(loaded.config, watch, start, passed))?)
}

/// A runtime on which free memory is given back for as long as it lives.
fn server_runtime() -> anyhow::Result<Runtime> {
    let runtime = runtime()?;
    runtime.spawn(memory::give_back_now_and_then());
    Ok(runtime)
}

/// No core file with secrets in it, no other process of this user that reads our memory, and as many file
/// descriptors as the system allows.
fn harden() {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    // Where the system says no, weigate runs all the same.
    let _core = rustix::process::setrlimit(Resource::Core, none);
    let _dump = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let files = rustix::process::getrlimit(Resource::Nofile);
    let _files = rustix::process::setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
}

fn announce(loaded: &Loaded) {
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    for setting in &loaded.settings {
        tracing::debug!(setting = setting.name, value = %setting.value, "set");
    }
}

async fn serve(config: Config, mut watch: Watch, start: Start, passed: Passed) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listeners = app::bind_with(&config, start, passed)?;
    let (addresses, admin_address) = (listeners.server_addresses.clone(), listeners.admin_address.clone());
    let mut app = App::start(config, listeners).await?;
    let mut asked = app.reloads_asked().context("somebody else reloads")?;
    for address in addresses {
        tracing::info!(%address, "clients connect here");
    }
    if let Some(address) = admin_address {
        tracing::info!(%address, "operators connect here");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "weigate serves");
    systemd::is_ready();
    systemd::watched(until_stop(&mut app, &mut watch, &mut signals, &mut hangup, &mut asked)).await?;
    systemd::stops();
    tracing::info!("stopping: requests in flight finish; a second signal cuts them");
    let is_whole = systemd::watched(app.stop(signals.stop())).await;
    if is_whole {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped; some requests were cut");
    }
    Ok(())
}

/// Reloads when it is asked to, until it is asked to stop.
async fn until_stop(
    app: &mut App,
    watch: &mut Watch,
    signals: &mut Signals,
    hangup: &mut Signal,
    asked: &mut app::ReloadsAsked,
) -> anyhow::Result<()> {
    loop {
        tokio::select! {
            () = signals.stop() => return Ok(()),
            () = app.failed() => anyhow::bail!("a worker ended by itself"),
            _ = hangup.recv() => drop(reload(app, watch).await),
            () = changed(watch, app.watches_files()) => {
                tracing::info!("a file of the configuration has changed");
                drop(reload(app, watch).await);
            }
            Some(asked) = asked.recv() => {
                // Who asked may have hung up; the reload counts all the same.
                let _told = asked.answer.send(reload(app, watch).await);
            }
        }
    }
}

async fn reload(app: &mut App, watch: &mut Watch) -> app::ReloadOutcome {
    systemd::reloads();
    let loaded = watch.load();
    if let Ok(loaded) = &loaded {
        announce(loaded);
    }
    let outcome = app.reload(loaded.map(|loaded| loaded.config)).await;
    // With the new configuration or the old one.
    systemd::is_ready();
    outcome
}

/// Ends when a file of the configuration has changed; never, where that is not wanted.
async fn changed(watch: &mut Watch, is_wanted: bool) {
    if !is_wanted {
        std::future::pending::<()>().await;
    }
    let mut pause = LOOK_EVERY;
    loop {
        tokio::time::sleep(pause).await;
        let started = tokio::time::Instant::now();
        if tokio::task::block_in_place(|| watch.has_changed()) {
            return;
        }
        // A hundred thousand accounts, each with a file: the look may take two hundredths of our time.
        pause = LOOK_EVERY.max(started.elapsed() * 50);
    }
}

/// A change is taken up when it has stood for two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);

async fn serve_sandbox(options: &Options) -> anyhow::Result<()> {
    let account = super::sandbox::default_account();
    let sandbox_options = SandboxOptions {
        tls: true,
        control: Some(loopback(0)),
        accounts: vec![account.clone()],
        ..SandboxOptions::default()
    };
    let sandbox = Sandbox::start(sandbox_options).await.context("starting the sandbox")?;
    let key = clients::generate()?;
    let host = UpstreamHost { tls: true, host: "127.0.0.1".to_owned(), port: sandbox.address().port() };
    let app_id = AppId::parse(&account.app_id).context("the sandbox has no AppID")?;
    let ca_pem = sandbox.ca_pem().map(|pem| pem.as_bytes().to_vec());
    let secret = AppSecret::new(account.app_secret.clone());
    let mut config = Config::sandbox(host, ca_pem, app_id, secret, clients::digest(key.expose()))?;
    if let Some(listen) = options.listen {
        config.server.listen = vec![ListenAddress::Tcp(listen)];
    }
    if let (Some(listen), Some(admin)) = (options.admin, &mut config.admin) {
        admin.listen = ListenAddress::Tcp(listen);
    }
    tracing::subscriber::set_global_default(log::subscriber(&config.log))?;
    let listeners = app::bind(&config, Start::Alone)?;
    let proxy = listeners.server_addresses.first().map(ToString::to_string).unwrap_or_default();
    let admin = listeners.admin_address.as_ref().map(ToString::to_string).unwrap_or_default();
    let control = sandbox.control_address().map(|address| address.to_string()).unwrap_or_default();
    let mut signals = Signals::new()?;
    let app = App::start(config, listeners).await?;
    tell(format_args!(
        "weigate stands in front of its own WeChat sandbox. Try it:

    curl -H 'Authorization: Bearer {}' 'http://{proxy}/cgi-bin/user/info?openid=o6_bmjrPTlm6_2sgVt7hMZOPfL2M'

An SDK needs three settings:  base URL http://{proxy}   appid {}   secret: the key above
Tokens, errors, metrics:      http://{admin}/accounts   /readyz   /metrics
Revoke the token, inject faults, see what arrived:  http://{control}/
Ctrl-C stops.
",
        key.expose(),
        account.app_id,
    ));
    tokio::select! {
        () = signals.stop() => {}
        () = app.failed() => anyhow::bail!("a worker ended by itself"),
    }
    app.stop(signals.stop()).await;
    sandbox.stop().await;
    Ok(())
}
