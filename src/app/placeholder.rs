//! The key that signs placeholders: configured, or kept in the store, the same for all who share it.

use std::time::Duration;

use futures_util::future::OptionFuture;
use zeroize::Zeroizing;

use super::AppError;
use crate::clients::Signer;
use crate::config::{Config, PlaceholderKey};
use crate::token::{ConfiguredStore, StoreError, TokenStore as _};

const BLOB: &str = "placeholder-key";

/// A store that did not work at the start is asked again this often.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A signer with the configured key; else with the one in the store; else with a new one, which goes into the store.
///
/// Where a shared store does not answer, weigate starts all the same, with a key of its own, and goes over to the
/// shared one (the future, to be spawned) as soon as there is one: placeholders from before are asked for once more by then.
pub(super) async fn signer(
    config: &Config,
    store: &ConfiguredStore,
) -> Result<(Signer, impl Future<Output = ()> + use<>), AppError> {
    if let Some(key) = &config.placeholder_key {
        return Ok((Signer::new(key), waiting(None)));
    }
    let mut own = Zeroizing::new([0; 32]);
    getrandom::fill(own.as_mut_slice())?;
    match shared(store, &own).await {
        Ok(key) => Ok((Signer::new(&key), waiting(None))),
        Err(error) if error.may_pass() => {
            tracing::warn!(
                %error,
                "the store has no key for placeholders yet: they are good for this weigate only until it answers"
            );
            let signer = Signer::new(&PlaceholderKey(own.clone()));
            let change_over = change_over(signer.clone(), store.clone(), own);
            Ok((signer, waiting(Some(change_over))))
        }
        Err(error) => Err(error.into()),
    }
}

/// What is waited for, if anything is.
async fn waiting(change_over: Option<impl Future<Output = ()>>) {
    OptionFuture::from(change_over).await;
}

/// The key in the store; `own`, where there is none.
async fn shared(store: &ConfiguredStore, own: &Zeroizing<[u8; 32]>) -> Result<PlaceholderKey, StoreError> {
    let kept = store.blob_or(BLOB, Zeroizing::new(own.to_vec())).await?;
    // A blob is as long as what was offered.
    let kept = kept.first_chunk::<32>().copied().map_or_else(|| own.clone(), Zeroizing::new);
    Ok(PlaceholderKey(kept))
}

async fn change_over(signer: Signer, store: ConfiguredStore, own: Zeroizing<[u8; 32]>) {
    loop {
        tokio::time::sleep(ASK_EVERY).await;
        if let Ok(key) = shared(&store, &own).await {
            signer.change_key(&key);
            tracing::info!("placeholders are signed with the key in the store from now on");
            return;
        }
    }
}
