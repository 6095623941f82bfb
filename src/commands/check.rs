//! `weigate check [--online]`

use clap::Args;
use weigate::app::online;

use super::{ConfigFile, Failure, load, runtime, show};

#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Also try DNS, TLS, the clock, the store and one token call per account, and say each cure
    #[arg(long)]
    online: bool,
}

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
