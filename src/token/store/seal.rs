//! Seals what leaves the process for a disk or a Redis, so that whoever reads those holds nothing.
//!
//! ```text
//! s · 12 random bytes · ChaCha20-Poly1305 (key, those bytes, what it is for, the bytes) · 16 bytes of tag
//! p · the bytes, where no key is configured
//! ```
//!
//! What a value is for (which account, which AppID, which fence) is bound to it: a value that was put in another
//! one's place opens no more than one with a changed bit. With a key, what is not sealed is not taken; without one,
//! what is sealed is not.
//!
//! # Why random nonces of 96 bits
//!
//! A key seals some fourteen values for an account and day: after ten years with 100 000 accounts two nonces are the
//! same with a chance below one in a million million. ring is in the binary already, for TLS.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use crate::config::SealKey;

/// Seals and opens; without a key, only marks.
#[derive(Clone)]
pub(super) struct Seal(Option<std::sync::Arc<LessSafeKey>>);

const SEALED: u8 = b's';
const PLAIN: u8 = b'p';

// === impl Seal ===

impl Seal {
    /// A seal with this key, or none.
    pub(super) fn new(key: Option<&SealKey>) -> Self {
        // A key for this cipher has 32 bytes, as this one has.
        let key = key.and_then(|key| UnboundKey::new(&CHACHA20_POLY1305, key.expose()).ok());
        Self(key.map(|key| std::sync::Arc::new(LessSafeKey::new(key))))
    }

    /// Whether there is a key.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Seals `bytes` for one purpose. `None`: the system gives no random bytes.
    pub(super) fn seal(&self, purpose: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let Some(key) = &self.0 else {
            let mut marked = vec![PLAIN];
            marked.extend_from_slice(bytes);
            return Some(marked);
        };
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).ok()?;
        // Whole from the start, so that no copy of the plain text stays behind in a buffer that grew.
        let mut text = Zeroizing::new(bytes.to_vec());
        let aad = Aad::from(purpose.as_bytes());
        let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text).ok()?;
        Some([&[SEALED], &nonce[..], &text, tag.as_ref()].concat())
    }

    /// What was sealed for this purpose; `None` for anything else.
    pub(super) fn open(&self, purpose: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (mark, rest) = sealed.split_first()?;
        let Some(key) = &self.0 else {
            return (*mark == PLAIN).then(|| Zeroizing::new(rest.to_vec()));
        };
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().filter(|_| *mark == SEALED)?;
        let mut text = Zeroizing::new(text.to_vec());
        let aad = Aad::from(purpose.as_bytes());
        let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut text).ok()?.len();
        text.truncate(opened);
        Some(text)
    }
}

impl std::fmt::Debug for Seal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_on() { "Seal(on)" } else { "Seal(off)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(byte: u8) -> Seal {
        Seal::new(Some(&SealKey::new(Zeroizing::new([byte; 32]))))
    }

    #[test]
    fn what_is_sealed_opens_for_its_purpose_only_and_shows_nothing() {
        let sealed = seal(1).seal("shop 7", b"the token").unwrap_or_default();
        assert_eq!(seal(1).open("shop 7", &sealed).as_deref().map(Vec::as_slice), Some(&b"the token"[..]));
        assert!(seal(1).open("shop 8", &sealed).is_none(), "another purpose");
        assert!(seal(2).open("shop 7", &sealed).is_none(), "another key");
        assert!(Seal::new(None).open("shop 7", &sealed).is_none(), "no key");
        assert!(!sealed.windows(5).any(|part| part == b"token"));
        assert_ne!(
            seal(1).seal("shop 7", b"the token").unwrap_or_default(),
            sealed,
            "twice is never the same"
        );
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let sealed = seal(1).seal("shop", b"the token").unwrap_or_default();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            if let Some(byte) = changed.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            assert!(seal(1).open("shop", &changed).is_none(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(seal(1).open("shop", sealed.get(..length).unwrap_or_default()).is_none(), "{length}");
        }
    }

    #[test]
    fn without_a_key_values_are_marked_and_with_one_such_values_are_not_taken() {
        let plain = Seal::new(None).seal("shop", b"the token").unwrap_or_default();
        assert_eq!(
            Seal::new(None).open("shop", &plain).as_deref().map(Vec::as_slice),
            Some(&b"the token"[..])
        );
        assert!(seal(1).open("shop", &plain).is_none());
        assert!(Seal::new(None).open("shop", b"").is_none());
    }
}
