//! Tells when the configuration, or a file that it names, is not what was loaded last.
//!
//! # Why looking, and not being told
//!
//! inotify watches inodes. Kubernetes swaps a symbolic link two directories up, editors rename, secrets come on network
//! file systems that tell nobody: each needs care of its own, and a look at a dozen files once a second costs nothing.
//! What is looked at is what the path leads to *now*, through every link.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::error::ConfigErrors;
use super::load::{Loaded, load_noting};

/// A configuration's file and the files it named when it was loaded last, well or not.
#[derive(Debug)]
pub struct Watch {
    path: PathBuf,
    loaded: Files,
    /// What the last look found, where it was not what had been loaded.
    found: Option<Vec<Stamp>>,
    /// Questions to answer without a look, since a look at so many files takes its time.
    unlooked: usize,
}

/// A look at so many files takes some 5 ms. Of more, not every question is worth one: a hundred thousand accounts with
/// a secret's file each are looked at every 49th time.
const FILES_PER_LOOK: usize = 4096;

/// Files as they were just before they were read.
pub(super) type Files = Vec<(PathBuf, Stamp)>;

/// What changes when a file does: device, inode, length, time of content and of inode; `None`: no such file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp(Option<[i64; 7]>);

// === impl Watch ===

impl Watch {
    /// Watches the configuration at `path` from its next [`Watch::load`] on.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), loaded: Vec::new(), found: None, unlooked: 0 }
    }

    /// Reads the configuration, and remembers which files that took, also where it found faults: a fault in a
    /// certificate is cured in the certificate.
    pub fn load(&mut self) -> Result<Loaded, ConfigErrors> {
        self.found = None;
        self.loaded.clear();
        load_noting(&self.path, &mut self.loaded)
    }

    /// Whether a file differs from what was loaded, and has not changed since the look before: whoever writes a
    /// certificate and then its key is let finish. Blocks; a few system calls for each file.
    pub fn has_changed(&mut self) -> bool {
        if self.unlooked > 0 {
            self.unlooked -= 1;
            return false;
        }
        self.unlooked = self.loaded.len() / FILES_PER_LOOK;
        let now: Vec<Stamp> = self.loaded.iter().map(|(path, _)| Stamp::of(path)).collect();
        if self.loaded.iter().map(|(_, stamp)| stamp).eq(&now) {
            self.found = None;
            return false;
        }
        let is_still = self.found.as_ref() == Some(&now);
        self.found = Some(now);
        is_still
    }
}

// === impl Stamp ===

impl Stamp {
    pub(super) fn of(path: &Path) -> Self {
        let Ok(metadata) = path.metadata() else { return Self(None) };
        let wide = |number: u64| number.cast_signed();
        Self(Some([
            wide(metadata.dev()),
            wide(metadata.ino()),
            wide(metadata.len()),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        ]))
    }
}
