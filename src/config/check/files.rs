//! Reads what the configuration names: files, secrets in files or variables, certificates and keys.
//!
//! Messages name the setting, never the path or the variable: either may be a secret that someone put into the
//! wrong setting.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use toml::Spanned;
use zeroize::Zeroizing;

use super::super::PlaceholderKey;
use super::super::reader::SecretSource;
use super::super::watch::Stamp;
use super::Checker;

impl Checker<'_> {
    /// A path, relative to the directory of the configuration.
    pub(super) fn path(&mut self, setting: &str, path: &Spanned<String>) -> Option<PathBuf> {
        if path.get_ref().is_empty() || path.get_ref().contains('\0') {
            self.faults.at(path, format!("`{setting}` is not a path, it takes one such as \"state/file\""));
            return None;
        }
        Some(self.base_dir.join(path.get_ref()))
    }

    /// A small file as a whole.
    pub(super) fn read(&mut self, setting: &str, path: &Spanned<String>) -> Option<Zeroizing<Vec<u8>>> {
        self.read_with_mode(setting, path).map(|(bytes, _)| bytes)
    }

    /// The same, of a file that should be its owner's alone.
    pub(super) fn read_private(
        &mut self,
        setting: &str,
        path: &Spanned<String>,
    ) -> Option<Zeroizing<Vec<u8>>> {
        let (bytes, mode) = self.read_with_mode(setting, path)?;
        if mode & 0o077 != 0 {
            let message =
                format!("the file in `{setting}` is open to its group or to everyone, chmod 600 closes it");
            self.faults.warn(path, message);
        }
        Some(bytes)
    }

    fn read_with_mode(&mut self, setting: &str, path: &Spanned<String>) -> Option<(Zeroizing<Vec<u8>>, u32)> {
        let full = self.path(setting, path)?;
        self.files.push((full.clone(), Stamp::of(&full)));
        // Found once: there may be a hundred thousand of them.
        let read = || -> io::Result<(Zeroizing<Vec<u8>>, u32)> {
            // A pipe would make the start wait for whoever writes it.
            let file = File::options().read(true).custom_flags(O_NONBLOCK).open(&full)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::from(io::ErrorKind::InvalidInput));
            }
            // A secret in a buffer that grows would be left behind where it was copied from.
            let length = usize::try_from(metadata.len().min(FILE_BYTES_MAX)).unwrap_or_default();
            let mut bytes = Zeroizing::new(Vec::with_capacity(length + 1));
            file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
            Ok((bytes, metadata.permissions().mode()))
        };
        match read() {
            Ok((bytes, mode)) if u64::try_from(bytes.len()).is_ok_and(|length| length <= FILE_BYTES_MAX) => {
                Some((bytes, mode))
            }
            Ok(_) => {
                let message =
                    format!("the file in `{setting}` is too long, it may have {FILE_BYTES_MAX} bytes");
                self.faults.at(path, message);
                None
            }
            Err(error) => {
                let reason = why_unreadable(error.kind());
                self.faults.at(path, format!("the file in `{setting}` cannot be read: {reason}"));
                None
            }
        }
    }

    /// A secret: one line, without the line's end.
    pub(super) fn secret(&mut self, source: &SecretSource) -> Option<Zeroizing<String>> {
        let (setting, place, text) = match source {
            SecretSource::Env(setting, name) => (*setting, name, self.variable(setting, name)?),
            SecretSource::File(setting, path) => {
                let bytes = self.read_private(setting, path)?;
                let Ok(text) = std::str::from_utf8(&bytes) else {
                    self.faults.at(path, format!("the file in `{setting}` is not a text, it holds one line"));
                    return None;
                };
                (*setting, path, Zeroizing::new(text.to_owned()))
            }
        };
        let secret = Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned());
        let fault = if secret.is_empty() {
            "is empty, it takes the secret itself"
        } else if secret.len() > SECRET_BYTES_MAX {
            "is too long for a secret"
        } else if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            "has spaces, further lines or other characters that have no place in one"
        } else {
            return Some(secret);
        };
        self.faults.at(place, format!("the secret that `{setting}` names {fault}"));
        None
    }

    fn variable(&mut self, setting: &str, name: &Spanned<String>) -> Option<Zeroizing<String>> {
        let is_name = |name: &str| {
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
                && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit())
        };
        let fault = if is_name(name.get_ref()) {
            match (self.environment)(name.get_ref()).map(std::ffi::OsString::into_string) {
                Some(Ok(text)) => return Some(Zeroizing::new(text)),
                Some(Err(_)) => "names a variable whose value is not a text",
                None => "names a variable that is not set in the environment, set it or name another",
            }
        } else {
            "is not the name of a variable, it takes a name such as SHOP_APP_SECRET, never the secret itself"
        };
        self.faults.at(name, format!("`{setting}` {fault}"));
        None
    }

    /// 32 random bytes, in base64 or hexadecimal digits.
    pub(super) fn placeholder_key(&mut self, source: &SecretSource) -> Option<PlaceholderKey> {
        let key = self.key(source)?;
        self.note("placeholder", "key given");
        Some(PlaceholderKey(key))
    }

    /// Certificates of authorities: at least one, each usable.
    pub(super) fn authorities(&mut self, setting: &str, path: &Spanned<String>) -> Option<Vec<u8>> {
        let pem = self.read(setting, path)?;
        let mut roots = RootCertStore::empty();
        let added = CertificateDer::pem_slice_iter(&pem).try_for_each(|certificate| {
            certificate.map_err(drop).and_then(|der| roots.add(der).map_err(drop))
        });
        if added.is_err() || roots.is_empty() {
            self.faults.at(path, format!("the file in `{setting}` holds no authority's certificate in PEM"));
            return None;
        }
        Some(pem.to_vec())
    }
}

/// In words that name no path, whatever the error has in its own.
pub(in crate::config) fn why_unreadable(kind: io::ErrorKind) -> String {
    if kind == io::ErrorKind::NotFound {
        "there is no such file".to_owned()
    } else if kind == io::ErrorKind::PermissionDenied {
        "we may not read it".to_owned()
    } else if kind == io::ErrorKind::InvalidInput {
        "it is not a file".to_owned()
    } else {
        kind.to_string()
    }
}

/// 32 bytes from base64 or hexadecimal digits.
pub(super) fn key_bytes(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    if let Some(bytes) = hex_32(text) {
        return Some(Zeroizing::new(bytes));
    }
    let plain: Zeroizing<String> = Zeroizing::new(text.replace('-', "+").replace('_', "/"));
    let bytes = Zeroizing::new(STANDARD_NO_PAD.decode(plain.trim_end_matches('=')).ok()?);
    Some(Zeroizing::new(bytes.as_slice().try_into().ok()?))
}

/// 32 bytes from 64 hexadecimal digits.
pub(super) fn hex_32(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    let mut digits = text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()));
    for byte in &mut bytes {
        *byte = digits.next()?? << 4 | digits.next()??;
    }
    Some(bytes)
}

/// Far above any bundle of certificates in use (the public roots together have some 250 KiB).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Opening a pipe that nobody writes does not wait.
const O_NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// An AppSecret has 32 characters.
const SECRET_BYTES_MAX: usize = 512;
