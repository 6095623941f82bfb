//! A directory of this process alone: one file for each account.
//!
//! ```text
//! DIR/             0700
//!   .lock          held while the process lives; a second process is refused, or, where it is to take over, reads
//!                  only until the first has ended
//!   NAME.token     0600   weigate-token 1 SHA-256-of-the-rest, a line feed, JSON
//!   NAME.blob      0600   weigate-blob 1 SHA-256-of-the-rest, a line feed, the bytes
//!   .NAME.tmp      a write that was cut off; cleared at the next start
//!   NAME.token.bad-UNIX   what could not be read, set aside for a person to look at; the newest few are kept
//! ```
//!
//! It promises that a crash at any instant of a write leaves the old file or the new one (write aside, fsync, rename,
//! fsync of the directory), and that no changed bit goes unnoticed. The checksum is against accidents; who can write
//! here could also write the checksum.
//!
//! # Why no database
//!
//! A handful of accounts, one small write for each every two hours, one process. Files can be listed, copied and
//! deleted by the person who is called at night.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tracing::{info, warn};
use zeroize::Zeroizing;

use super::{BLOB_BYTES_MAX, StoreError, Stored, TokenStore, check_blob};
use crate::types::{AccessToken, AccountName, AppId, UnixSeconds};

/// A directory with a file for each account. Cheap to clone; the lock goes with the last clone.
#[derive(Debug, Clone)]
pub struct FileStore(Arc<Dir>);

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    /// One write at a time, so that a slow one cannot overtake a later one.
    writing: Mutex<()>,
    lock_path: PathBuf,
    /// Locked as long as it is open; `None`: another process has it still.
    lock: Mutex<Option<File>>,
}

/// A token's file, after its first line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Payload<'a> {
    account: &'a str,
    app_id: &'a str,
    access_token: &'a str,
    obtained_at: u64,
    expires_at: u64,
    fence: u64,
}

/// What a file turned out to be.
enum Found {
    Token(Stored),
    /// Whole, but of another AppID: the account was given a new one.
    OtherApp,
    Bad(&'static str),
}

const TOKEN_HEAD: &str = "weigate-token 1 ";
const BLOB_HEAD: &str = "weigate-blob 1 ";

/// How the name of a write ends that is not yet in place; account names start with no dot.
const CUT_OFF: &str = ".tmp";

/// First line and payload: a token's file is under 2 KiB, a blob is bounded.
const FILE_BYTES_MAX: u64 = BLOB_BYTES_MAX as u64 + 128;

/// Files set aside, for each name; older ones are deleted.
const BAD_FILES_MAX: usize = 4;

// === impl FileStore ===

impl FileStore {
    /// Opens the directory, makes it (mode 0700) if it is missing, and clears what cut-off writes left. Blocks.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let store = Self::open_beside(dir)?;
        if store.0.has_lock()? { Ok(store) } else { Err(StoreError::InUse(dir.to_owned())) }
    }

    /// The same, but where another process has the directory, that is no fault: until it has ended, this store reads
    /// and does not write ([`StoreError::InUse`]). Blocks.
    pub fn open_beside(dir: &Path) -> Result<Self, StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(fault("make the directory", dir))?;
        let mode = fs::metadata(dir).map_err(fault("look at", dir))?.permissions().mode();
        if mode & 0o077 != 0 {
            warn!(dir = %dir.display(), mode = format!("{:o}", mode & 0o777), "others can enter the state directory: chmod 700 it");
        }
        let store = Dir {
            path: dir.to_owned(),
            writing: Mutex::new(()),
            lock_path: dir.join(".lock"),
            lock: Mutex::new(None),
        };
        store.has_lock()?;
        Ok(Self(Arc::new(store)))
    }

    /// Whether this process has the directory to itself; takes it if nobody has. Blocks.
    pub fn is_own(&self) -> Result<bool, StoreError> {
        self.0.has_lock()
    }

    /// Runs what blocks where it may.
    async fn off_the_runtime<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Dir) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let dir = Arc::clone(&self.0);
        tokio::task::spawn_blocking(move || work(&dir)).await.unwrap_or(Err(StoreError::Stopping))
    }
}

impl TokenStore for FileStore {
    async fn load(&self, account: &AccountName, app_id: &AppId) -> Result<Option<Stored>, StoreError> {
        let (account, app_id) = (account.clone(), app_id.clone());
        self.off_the_runtime(move |dir| dir.load_token(&account, &app_id)).await
    }

    async fn save(&self, account: &AccountName, app_id: &AppId, stored: &Stored) -> Result<(), StoreError> {
        let (account, app_id, stored) = (account.clone(), app_id.clone(), stored.clone());
        self.off_the_runtime(move |dir| dir.save_token(&account, &app_id, &stored)).await
    }

    async fn load_blob(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        check_blob(name, &[])?;
        self.off_the_runtime(move |dir| dir.load_blob(name)).await
    }

    async fn save_blob(&self, name: &'static str, bytes: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        check_blob(name, &bytes)?;
        self.off_the_runtime(move |dir| dir.replace(&format!("{name}.blob"), BLOB_HEAD, &bytes)).await
    }
}

// === impl Dir ===

impl Dir {
    /// Whether we have the lock, which is taken where it is free.
    fn has_lock(&self) -> Result<bool, StoreError> {
        let mut held = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Ok(true);
        }
        let path = &self.lock_path;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(fault("open", path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(fault("lock", path)(error)),
        }
        *held = Some(lock);
        drop(held);
        self.clear_cut_off_writes()?;
        Ok(true)
    }

    fn check_lock(&self) -> Result<(), StoreError> {
        if self.has_lock()? { Ok(()) } else { Err(StoreError::InUse(self.path.clone())) }
    }

    fn load_token(&self, account: &AccountName, app_id: &AppId) -> Result<Option<Stored>, StoreError> {
        let name = format!("{account}.token");
        let Some(bytes) = self.read(&name)? else { return Ok(None) };
        match read_token(&bytes, account, app_id) {
            Found::Token(stored) => Ok(Some(stored)),
            Found::OtherApp => {
                info!(%account, "the stored token is another AppID's: not taken");
                Ok(None)
            }
            Found::Bad(why) => {
                self.set_aside(&name, why)?;
                Ok(None)
            }
        }
    }

    fn save_token(&self, account: &AccountName, app_id: &AppId, stored: &Stored) -> Result<(), StoreError> {
        let name = format!("{account}.token");
        let payload = payload_of(account, app_id, stored)
            .map_err(|error| fault("write", &self.path.join(&name))(error.into()))?;
        self.replace(&name, TOKEN_HEAD, &payload)
    }

    fn load_blob(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let name = format!("{name}.blob");
        let Some(bytes) = self.read(&name)? else { return Ok(None) };
        if let Some(payload) = unsealed(&bytes, BLOB_HEAD) {
            return Ok(Some(Zeroizing::new(payload.to_vec())));
        }
        self.set_aside(&name, "it is torn or changed")?;
        Ok(None)
    }

    /// The file's bytes, at most one more than a file may have; `None` where there is no such file.
    fn read(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let path = self.path.join(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault("open", &path)(error)),
        };
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fault("read", &path))?;
        Ok(Some(bytes))
    }

    /// Replaces a file so that a crash at any instant leaves the old one or the new one.
    fn replace(&self, name: &str, head: &str, payload: &[u8]) -> Result<(), StoreError> {
        self.check_lock()?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (path, aside) = (self.path.join(name), self.path.join(format!(".{name}{CUT_OFF}")));
        // Left by a write that failed half-way, for want of space perhaps.
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(fault("clear", &aside)(error));
            }
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&aside)
            .map_err(fault("make", &aside))?;
        let written = file
            .write_all(head_of(head, payload).as_bytes())
            .and_then(|()| file.write_all(payload))
            .and_then(|()| file.sync_all());
        drop(file);
        written.map_err(fault("write", &aside))?;
        fs::rename(&aside, &path).map_err(fault("put in place", &path))?;
        self.sync()
    }

    /// Renames a file out of the way and keeps the newest few of its kind.
    fn set_aside(&self, name: &str, why: &'static str) -> Result<(), StoreError> {
        self.check_lock()?;
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let prefix = format!("{name}.bad-");
        let (path, aside) = (self.path.join(name), self.path.join(format!("{prefix}{}", UnixSeconds::now())));
        fs::rename(&path, &aside).map_err(fault("set aside", &path))?;
        warn!(file = %path.display(), aside = %aside.display(), why, "set a stored file aside");

        let mut bad = self.names(|name| name.starts_with(&prefix))?;
        bad.sort_unstable();
        for name in bad.iter().rev().skip(BAD_FILES_MAX) {
            let path = self.path.join(name);
            fs::remove_file(&path).map_err(fault("delete", &path))?;
        }
        self.sync()
    }

    fn clear_cut_off_writes(&self) -> Result<(), StoreError> {
        for name in self.names(|name| name.starts_with('.') && name.ends_with(CUT_OFF))? {
            let path = self.path.join(&name);
            info!(file = %path.display(), "clearing a write that was cut off");
            fs::remove_file(&path).map_err(fault("clear", &path))?;
        }
        Ok(())
    }

    fn names(&self, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>, StoreError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(fault("list", &self.path))? {
            let name = entry.map_err(fault("list", &self.path))?.file_name();
            names.extend(name.to_str().filter(|name| wanted(name)).map(str::to_owned));
        }
        Ok(names)
    }

    /// A rename is safe once the directory is.
    fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(fault("fsync", &self.path))
    }
}

/// A token's file, whole.
pub fn encode_token(
    account: &AccountName,
    app_id: &AppId,
    stored: &Stored,
) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let payload = payload_of(account, app_id, stored)?;
    let mut file = Zeroizing::new(head_of(TOKEN_HEAD, &payload).into_bytes());
    file.extend_from_slice(&payload);
    Ok(file)
}

/// The token in a file that [`encode_token`] made for this account and this AppID; `None` for anything else.
pub fn decode_token(file: &[u8], account: &AccountName, app_id: &AppId) -> Option<Stored> {
    match read_token(file, account, app_id) {
        Found::Token(stored) => Some(stored),
        Found::OtherApp | Found::Bad(_) => None,
    }
}

fn payload_of(
    account: &AccountName,
    app_id: &AppId,
    stored: &Stored,
) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let payload = Payload {
        account: account.as_str(),
        app_id: app_id.as_str(),
        access_token: stored.access_token.expose(),
        obtained_at: stored.obtained_at.0,
        expires_at: stored.expires_at.0,
        fence: stored.fence,
    };
    serde_json::to_vec(&payload).map(Zeroizing::new)
}

fn read_token(bytes: &[u8], account: &AccountName, app_id: &AppId) -> Found {
    let Some(payload) = unsealed(bytes, TOKEN_HEAD) else { return Found::Bad("it is torn or changed") };
    let Ok(payload) = serde_json::from_slice::<Payload<'_>>(payload) else {
        return Found::Bad("it is not of this version");
    };
    if payload.account != account.as_str() {
        return Found::Bad("it is another account's");
    }
    if payload.app_id != app_id.as_str() {
        return Found::OtherApp;
    }
    let Ok(access_token) = AccessToken::parse(payload.access_token) else {
        return Found::Bad("its token is not one");
    };
    Found::Token(Stored {
        access_token,
        obtained_at: UnixSeconds(payload.obtained_at),
        expires_at: UnixSeconds(payload.expires_at),
        fence: payload.fence,
    })
}

/// A file's first line.
fn head_of(head: &str, payload: &[u8]) -> String {
    let digest = Sha256::digest(payload);
    let digits = digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    let mut line = head.to_owned();
    line.extend(digits.filter_map(|digit| char::from_digit(digit.into(), 16)));
    line.push('\n');
    line
}

/// What follows the first line, if that line is right for it.
fn unsealed<'a>(bytes: &'a [u8], head: &str) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, payload) = bytes.split_at_checked(end + 1)?;
    (line == head_of(head, payload).as_bytes()).then_some(payload)
}

fn fault(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { doing, path, source }
}
