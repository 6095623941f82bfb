//! `weigate sandbox`

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use weigate::sandbox::{AccountKind, Sandbox, SandboxAccount, SandboxOptions};

use super::{Signals, loopback, runtime, show};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where it stands in for api.weixin.qq.com
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(8443))]
    listen: SocketAddr,
    /// Where tests control it (GET / there explains how)
    #[arg(long, value_name = "ADDRESS", default_value_t = loopback(8444))]
    control: SocketAddr,
    /// Speak plain HTTP instead of TLS
    #[arg(long)]
    plain: bool,
    /// Write the sandbox's certificate authority (PEM) here, for `upstream.ca_file`
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// An account, as APPID:APPSECRET; several allowed [default: wx53616e64626f7801:made-up-sandbox-app-secret]
    #[arg(long = "account", value_name = "APPID:APPSECRET", value_parser = account)]
    accounts: Vec<SandboxAccount>,
    /// An application of 企业微信, as CORPID:SECRET; several allowed
    #[arg(long = "wecom", value_name = "CORPID:SECRET", value_parser = application)]
    applications: Vec<SandboxAccount>,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    runtime()?.block_on(serve(options))
}

async fn serve(options: &Options) -> anyhow::Result<()> {
    let mut sandbox_options = SandboxOptions {
        listen: options.listen,
        tls: !options.plain,
        control: Some(options.control),
        ..SandboxOptions::default()
    };
    sandbox_options.accounts =
        if options.accounts.is_empty() { vec![default_account()] } else { options.accounts.clone() };
    for (application, number) in options.applications.iter().zip(1..) {
        // Each has a name of its own for control: a corp may have several.
        let app_id = format!("{}:{number}", application.app_id);
        sandbox_options.accounts.push(SandboxAccount { app_id, ..application.clone() });
    }
    let accounts = sandbox_options.accounts.clone();
    let mut signals = Signals::new()?;
    let started = Sandbox::start(sandbox_options).await;
    let sandbox = started.with_context(|| {
        format!("starting the sandbox at {} (--listen) and {} (--control)", options.listen, options.control)
    })?;
    if let (Some(path), Some(pem)) = (&options.ca_file, sandbox.ca_pem()) {
        std::fs::write(path, pem).with_context(|| format!("writing {}", path.display()))?;
    }
    show(format_args!("WeChat's stand-in: {}", sandbox.base_url()))?;
    if let Some(control) = sandbox.control_address() {
        show(format_args!("its control API:   http://{control}/"))?;
    }
    for account in &accounts {
        show(format_args!("an account:        appid {} secret {}", account.app_id, account.app_secret))?;
    }
    signals.stop().await;
    sandbox.stop().await;
    Ok(())
}

/// The account of a sandbox that was told of none: made up, like all that it knows.
pub(crate) fn default_account() -> SandboxAccount {
    SandboxAccount::new("wx53616e64626f7801", "made-up-sandbox-app-secret")
}

fn application(text: &str) -> Result<SandboxAccount, &'static str> {
    let account =
        account(text).map_err(|_| "the corpid and the application's secret, with a colon between them");
    Ok(account?.of_kind(AccountKind::WeCom))
}

fn account(text: &str) -> Result<SandboxAccount, &'static str> {
    match text.split_once(':') {
        Some((app_id, app_secret)) if !app_id.is_empty() && !app_secret.is_empty() => {
            Ok(SandboxAccount::new(app_id, app_secret))
        }
        _ => Err("the AppID and the AppSecret, with a colon between them"),
    }
}
