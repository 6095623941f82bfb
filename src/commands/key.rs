//! `weigate key NAME`

use anyhow::Context as _;
use clap::Args;
use weigate::clients;
use weigate::types::ClientName;

use super::show;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The client's name: letters, digits, `-`, `_` and `.`
    #[arg(value_parser = ClientName::parse)]
    name: ClientName,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let name = &options.name;
    let key = clients::generate().context("asking the system for random bytes")?;
    let digest = clients::digest_text(key.expose());
    show(format_args!(
        "The key of {name}, shown this once; give it to the application as its AppSecret or Bearer key:"
    ))?;
    show(format_args!("\n    {}\n", key.expose()))?;
    show(format_args!(
        "For proxy.toml, which holds only the key's SHA-256; `accounts` names those it may use:\n"
    ))?;
    show(format_args!("[[clients]]\nname = \"{name}\"\nkey_sha256 = \"{digest}\"\naccounts = [\"shop\"]"))
}
