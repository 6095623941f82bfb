//! `weigate status` and `weigate health`

use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;

use super::{runtime, show};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The admin listener of a running weigate
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090", env = "WEIGATE_ADMIN")]
    admin: String,
    /// Show only accounts without a token, or whose last token call failed
    #[arg(long)]
    failing: bool,
}

#[derive(Debug, Args)]
pub(crate) struct HealthOptions {
    /// The admin listener of a running weigate
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090", env = "WEIGATE_ADMIN")]
    admin: String,
    /// Ask only whether it is alive, not whether every account has a token
    #[arg(long)]
    live: bool,
}

pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    show(format_args!(
        "{:<24} {:<6} {:>4} {:<8} {:>10} {:>10}  {:<18} {}",
        "ACCOUNT", "TOKEN", "GEN", "PRINT", "AGE", "EXPIRES", "LAST CALL", "ADVICE"
    ))?;
    let only = if options.failing { "only=failing" } else { "" };
    let mut path = format!("/accounts?{only}");
    loop {
        let (_, body) = get(&options.admin, &path)?;
        let page: Value = serde_json::from_str(&body).context("reading the admin listener's answer")?;
        rows(&page)?;
        // A name needs no escaping in a query.
        let Some(after) = page.get("next_after").and_then(Value::as_str) else { return Ok(()) };
        path = format!("/accounts?after={after}&{only}");
    }
}

/// One page of accounts.
fn rows(page: &Value) -> anyhow::Result<()> {
    let now = page.get("now").and_then(Value::as_u64).unwrap_or_default();
    let accounts = page.get("accounts").and_then(Value::as_array).context("the answer has no accounts")?;
    for account in accounts {
        let text = |key: &str| account.get(key).and_then(Value::as_str).unwrap_or("-");
        let number = |key: &str| account.get(key).and_then(Value::as_u64);
        let last = |key: &str| account.get("last").and_then(|last| last.get(key)).and_then(Value::as_str);
        let alive = account.get("alive").and_then(Value::as_bool).unwrap_or_default();
        show(format_args!(
            "{:<24} {:<6} {:>4} {:<8} {:>10} {:>10}  {:<18} {}",
            text("name"),
            if alive { "live" } else { "NONE" },
            number("generation").unwrap_or_default(),
            text("fingerprint"),
            span(number("obtained_at").map(|at| now.saturating_sub(at))),
            span(number("expires_at").map(|at| at.saturating_sub(now))),
            last("result").unwrap_or("-"),
            last("advice").unwrap_or(""),
        ))?;
    }
    for account in accounts {
        let Some(leaked) = account.get("leaked") else { continue };
        let number = |key: &str| leaked.get(key).and_then(Value::as_u64);
        let state = leaked.get("state").and_then(Value::as_str).unwrap_or_default();
        if ["running", "done", "failed"].contains(&state) || number("used").unwrap_or_default() > 0 {
            show(format_args!(
                "leaked token of {}: {state}, {} call(s) to come, the next in {}; {} of {} used in 24 hours",
                account.get("name").and_then(Value::as_str).unwrap_or("-"),
                number("calls_left").unwrap_or_default(),
                span(number("next_call_in_s")),
                number("used").unwrap_or_default(),
                number("used_max").unwrap_or_default(),
            ))?;
        }
    }
    Ok(())
}

pub(crate) fn health(options: &HealthOptions) -> anyhow::Result<()> {
    let (status, body) = get(&options.admin, if options.live { "/livez" } else { "/readyz" })?;
    if !status.is_success() {
        bail!("{}", body.trim());
    }
    Ok(())
}

fn get(admin: &str, path: &str) -> anyhow::Result<(reqwest::StatusCode, String)> {
    let url = format!("{}{path}", admin.trim_end_matches('/'));
    runtime()?.block_on(async {
        let asked = client()?.get(&url).timeout(TIMEOUT).send().await.map_err(reqwest::Error::without_url);
        let response = asked
            .with_context(|| format!("asking {url}; is weigate running, with its admin listener there?"))?;
        let status = response.status();
        Ok((status, response.text().await.map_err(reqwest::Error::without_url)?))
    })
}

/// The product's own HTTP client, as far as the admin listener needs it.
pub(super) fn client() -> anyhow::Result<reqwest::Client> {
    Ok(weigate::token::http_client(weigate::proxy::upstream::tls_config(None)?)?)
}

fn span(seconds: Option<u64>) -> String {
    let Some(seconds) = seconds else { return "-".to_owned() };
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    if hours > 0 { format!("{hours}h{minutes:02}m") } else { format!("{minutes}m{:02}s", seconds % 60) }
}
