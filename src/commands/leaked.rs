//! `weigate leaked NAME`

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};

use super::status::{TIMEOUT, client};
use super::{runtime, show};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The account whose token has leaked
    name: String,
    /// The admin listener of a running weigate
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090", env = "WEIGATE_ADMIN")]
    admin: String,
    /// Why, for the log; without any secret
    #[arg(long, value_name = "TEXT", default_value = "not said")]
    why: String,
    /// Who, for the log
    #[arg(long, value_name = "NAME", default_value = "not said", env = "USER")]
    by: String,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    // A name with a slash would be another path.
    weigate::types::AccountName::parse(&options.name).context("that is no account's name")?;
    let url = format!("{}/accounts/{}/leaked", options.admin.trim_end_matches('/'), options.name);
    let body = json!({ "by": options.by, "why": options.why }).to_string();
    let (status, answer) = runtime()?.block_on(async {
        let asked =
            client()?.post(&url).header("content-type", "application/json").body(body).timeout(TIMEOUT);
        let response = asked.send().await.map_err(reqwest::Error::without_url);
        let response = response
            .with_context(|| format!("asking {url}; is weigate running, with its admin listener there?"))?;
        let status = response.status();
        anyhow::Ok((status, response.text().await.map_err(reqwest::Error::without_url)?))
    })?;
    let said = serde_json::from_str::<Value>(&answer).ok();
    let message = said.as_ref().and_then(|said| said.get("message")?.as_str()).unwrap_or(answer.trim());
    if !status.is_success() {
        bail!("{message}");
    }
    show(format_args!("{}: {message}\n`weigate status` shows how far it has come.", options.name))
}
