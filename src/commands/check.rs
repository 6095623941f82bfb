//! `weigate check [--online]`

use clap::Args;
use weigate::app::online;
use weigate::config::Config;

use super::{ConfigFile, Failure, load, runtime, show};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Also try DNS, TLS, the clock, the store and one token call per account, and say each cure
    #[arg(long)]
    online: bool,
}

/// More keys are shown as a number.
const KEYS_SHOWN_MAX: usize = 50;

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let loaded = load(&options.file.config, || weigate::config::load(&options.file.config))?;
    for warning in &loaded.warnings {
        show(format_args!("warning: {warning}"))?;
    }
    let config = &loaded.config;
    show(format_args!(
        "{}: good: {} account(s), {} client(s)",
        options.file.config.display(),
        config.accounts.len(),
        config.clients.len()
    ))?;
    show_published(config)?;
    if !options.online {
        return Ok(());
    }
    let findings = runtime()?.block_on(online::check(config));
    let mut faults = 0;
    for finding in &findings {
        show(format_args!("{finding}"))?;
        faults += usize::from(finding.is_fault());
    }
    if faults > 0 {
        return Err(anyhow::anyhow!("{faults} of {} checks failed", findings.len()).into());
    }
    Ok(())
}

/// Which keys are written where.
fn show_published(config: &Config) -> Result<(), Failure> {
    let Some(redis) = &config.publish else { return Ok(()) };
    let formats =
        config.accounts.iter().flat_map(|account| account.publish.iter().map(move |one| (account, one)));
    let keys: Vec<_> = formats
        .flat_map(|(account, format)| {
            let keys = format.shown_keys(&account.name, &account.app_id);
            keys.into_iter().map(move |key| (account, format, key))
        })
        .collect();
    show(format_args!("{} key(s) are published at {}:", keys.len(), redis.url.shown()))?;
    for (account, format, key) in keys.iter().take(KEYS_SHOWN_MAX) {
        show(format_args!("  {key}  ({}, the token of {})", format.word(), account.name))?;
    }
    if keys.len() > KEYS_SHOWN_MAX {
        show(format_args!("  and {} more", keys.len() - KEYS_SHOWN_MAX))?;
    }
    Ok(())
}
