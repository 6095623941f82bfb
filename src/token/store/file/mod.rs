//! A directory of this process alone: one file for each account.
//!
//! ```text
//! DIR/             0700
//!   .lock          held while the process lives; a second process is refused, or, where it is to take over, reads
//!                  only until the first has ended
//!   NAME.token     0600   weigate-token 1 SHA-256-of-the-rest, a line feed, JSON
//!   NAME.blob      0600   weigate-blob 1 SHA-256-of-the-rest, a line feed, the bytes
//!   .NAME.tmp      a write that was cut off; cleared at the next start
//!                    with a seal key, all these begin weigate-sealed 1 and hold sealed bytes (seal.rs)
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

mod format;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use tracing::{info, warn};
use zeroize::Zeroizing;

use self::format::{BLOB_HEAD, Found, SEALED_HEAD, TOKEN_HEAD, head_of, payload_of, read_token, unsealed};
pub use self::format::{decode_token, encode_token};
use super::seal::Seal;
use super::{BLOB_BYTES_MAX, Saved, StoreError, Stored, TokenStore, check_blob};
use crate::config::SealKey;
use crate::types::{AccountName, AppId, UnixSeconds};

/// A directory with a file for each account. Cheap to clone; the lock goes with the last clone.
#[derive(Debug, Clone)]
pub struct FileStore(Arc<Dir>);

#[derive(Debug)]
struct Dir {
    path: PathBuf,
    seal: Seal,
    /// One write at a time, so that a slow one cannot overtake a later one.
    writing: Mutex<()>,
    lock_path: PathBuf,
    /// Locked as long as it is open; `None`: another process has it still.
    lock: Mutex<Option<File>>,
    /// Threads that this store uses.
    places: Arc<Semaphore>,
}

/// What stands in a file; nothing, where it was deleted; or why it cannot be read.
type Opened = Result<Option<Zeroizing<Vec<u8>>>, &'static str>;

/// More at one time make nothing faster, and each takes a thread for as long as the disk takes.
const AT_ONCE_MAX: usize = 16;

/// How the name of a write ends that is not yet in place; account names start with no dot.
const CUT_OFF: &str = ".tmp";

/// First line and payload: a token's file is under 2 KiB, a blob is bounded.
const FILE_BYTES_MAX: u64 = BLOB_BYTES_MAX as u64 + 192;

/// Files set aside, for each name; older ones are deleted.
const BAD_FILES_MAX: usize = 4;

// === impl FileStore ===

impl FileStore {
    /// Opens the directory, makes it (mode 0700) if it is missing, and clears what cut-off writes left. Blocks.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_sealed(dir, None)
    }

    /// The same; what stands there is sealed with this key. What stands there unsealed is deleted, not read.
    pub fn open_sealed(dir: &Path, seal_key: Option<&SealKey>) -> Result<Self, StoreError> {
        let store = Self::open_beside(dir, seal_key)?;
        if store.0.has_lock()? { Ok(store) } else { Err(StoreError::InUse(dir.to_owned())) }
    }

    /// The same, but where another process has the directory, that is no fault: until it has ended, this store reads
    /// and does not write ([`StoreError::InUse`]). Blocks.
    pub fn open_beside(dir: &Path, seal_key: Option<&SealKey>) -> Result<Self, StoreError> {
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
            seal: Seal::new(seal_key),
            writing: Mutex::new(()),
            lock_path: dir.join(".lock"),
            lock: Mutex::new(None),
            places: Arc::new(Semaphore::new(AT_ONCE_MAX)),
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
        let place = Arc::clone(&dir.places).acquire_owned().await.map_err(|_| StoreError::Stopping)?;
        let working = tokio::task::spawn_blocking(move || {
            let done = work(&dir);
            // Whoever asked may have given up: a disk that hangs holds the place all the same.
            drop(place);
            done
        });
        working.await.unwrap_or(Err(StoreError::Stopping))
    }
}

impl TokenStore for FileStore {
    async fn load(&self, account: &AccountName, app_id: &AppId) -> Result<Option<Stored>, StoreError> {
        let (account, app_id) = (account.clone(), app_id.clone());
        self.off_the_runtime(move |dir| dir.load_token(&account, &app_id)).await
    }

    async fn save(
        &self,
        account: &AccountName,
        app_id: &AppId,
        stored: &Stored,
    ) -> Result<Saved, StoreError> {
        let (account, app_id, stored) = (account.clone(), app_id.clone(), stored.clone());
        self.off_the_runtime(move |dir| dir.save_token(&account, &app_id, &stored)).await?;
        Ok(Saved::Kept)
    }

    async fn load_blob(&self, name: &'static str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        check_blob(name, &[])?;
        self.off_the_runtime(move |dir| dir.load_blob(name)).await
    }

    async fn save_blob(&self, name: &'static str, bytes: Zeroizing<Vec<u8>>) -> Result<(), StoreError> {
        check_blob(name, &bytes)?;
        self.off_the_runtime(move |dir| dir.keep(&format!("{name}.blob"), BLOB_HEAD, &bytes)).await
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
        let payload = match self.opened(&name, TOKEN_HEAD, &bytes)? {
            Ok(Some(payload)) => payload,
            Ok(None) => return Ok(None),
            Err(why) => {
                self.set_aside(&name, why)?;
                return Ok(None);
            }
        };
        match read_token(&payload, account, app_id) {
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
        self.keep(&name, TOKEN_HEAD, &payload)
    }

    fn load_blob(&self, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        let name = format!("{name}.blob");
        let Some(bytes) = self.read(&name)? else { return Ok(None) };
        match self.opened(&name, BLOB_HEAD, &bytes)? {
            Ok(payload) => Ok(payload),
            Err(why) => {
                self.set_aside(&name, why)?;
                Ok(None)
            }
        }
    }

    /// What stands in a file, or why that cannot be read. Deletes what should be sealed and is not: it lies open.
    fn opened(&self, name: &str, head: &str, bytes: &[u8]) -> Result<Opened, StoreError> {
        if !self.seal.is_on() {
            let payload = unsealed(bytes, head).map(|payload| Zeroizing::new(payload.to_vec()));
            return Ok(payload.map(Some).ok_or("it is torn or changed, or sealed and there is no key"));
        }
        if bytes.starts_with(head.as_bytes()) {
            let path = self.path.join(name);
            info!(file = %path.display(), "deleting what was stored before there was a seal key");
            fs::remove_file(&path).map_err(fault("delete", &path))?;
            return Ok(Ok(None));
        }
        let payload = unsealed(bytes, SEALED_HEAD).and_then(|sealed| self.seal.open(name, sealed));
        Ok(payload.map(Some).ok_or("it is torn or changed, or sealed with another key"))
    }

    /// Writes a file, sealed where there is a key.
    fn keep(&self, name: &str, head: &str, payload: &[u8]) -> Result<(), StoreError> {
        if !self.seal.is_on() {
            return self.replace(name, head, payload);
        }
        let sealed = self.seal.seal(name, payload).ok_or(StoreError::Random)?;
        self.replace(name, SEALED_HEAD, &sealed)
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

fn fault(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Io { doing, path, source }
}
