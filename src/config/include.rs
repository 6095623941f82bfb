//! Accounts and clients from a directory of files: `include_dir`.
//!
//! It promises that the files are taken in the order of their names, that a fault says which file it is in, and that
//! one that cannot be read is a fault of the whole configuration: a reload that lacks an account would end that
//! account's service.
//!
//! # Why a directory
//!
//! Whoever serves a hundred thousand mini programs adds and removes them by the minute, from templates or a secret
//! store. One file for each account is written, replaced and deleted without touching another one's.

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io, thread};

use toml::Spanned;

use super::check::why_unreadable;
use super::error::{Faults, Source};
use super::file::People;
use super::load::{document, read_text};
use super::watch::{Files, Stamp};

/// One file of the directory.
struct Included {
    source: Source,
    people: Option<People>,
    faults: Faults,
    /// The file as it was just before it was read.
    file: (PathBuf, Stamp),
}

/// Threads that read files at one time: a start waits for the disk, mostly.
const READERS_MAX: usize = 8;

/// Reads the files `*.toml` of `dir`; each becomes one more of the sources. Hidden files (their names begin with a
/// dot) and directories are left out: editors and mounts of Kubernetes make them.
///
/// Adds to `files` what is read, the directory too: it changes when a file comes or goes.
pub(super) fn read(
    dir: &Spanned<String>,
    sources: &mut Vec<Source>,
    faults: &mut Faults,
    files: &mut Files,
) -> Vec<People> {
    let Some(main) = sources.first() else { return Vec::new() };
    if dir.get_ref().is_empty() || dir.get_ref().contains('\0') {
        faults.at(dir, "`include_dir` is not a path, it takes one of a directory, such as \"proxy.d\"");
        return Vec::new();
    }
    let path: Arc<Path> = main.base_dir.join(dir.get_ref()).into();
    let shown = Path::new(main.name.as_ref()).with_file_name(dir.get_ref());
    files.push((path.to_path_buf(), Stamp::of(&path)));
    let names = match names(&path) {
        Ok(names) => names,
        Err(error) => {
            let reason = why_no_directory(&error);
            faults.at(dir, format!("the directory in `include_dir` cannot be read: {reason}"));
            return Vec::new();
        }
    };
    let first = sources.len();
    let one = |at: usize, name: &Path| include(first + at, &path.join(name), &shown.join(name), &path);
    let mut people = Vec::with_capacity(names.len());
    for included in in_parallel(&names, &one) {
        sources.push(included.source);
        files.push(included.file);
        faults.absorb(included.faults);
        people.extend(included.people);
    }
    people
}

fn include(source: usize, path: &Path, shown: &Path, dir: &Arc<Path>) -> Included {
    let mut faults = Faults::of(source);
    let file = (path.to_owned(), Stamp::of(path));
    let (text, people) = match read_text(path, &mut faults) {
        Ok(text) => {
            let people =
                document(&text, &mut faults, |table, faults| People::included(table, source, faults));
            (text, people)
        }
        Err(text) => (text, None),
    };
    let source = Source { name: shown.display().to_string().into(), text, base_dir: Arc::clone(dir) };
    Included { source, people, faults, file }
}

/// The names of the files to include, sorted.
fn names(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = PathBuf::from(entry.file_name());
        let is_hidden = entry.file_name().as_encoded_bytes().first() == Some(&b'.');
        let is_toml = name.extension().is_some_and(|extension| extension == "toml");
        // A link is followed: that is how Kubernetes mounts files.
        if is_toml && !is_hidden && !entry.file_type()?.is_dir() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Does `one` for each name, with its number; the results stand in the order of the names.
fn in_parallel(names: &[PathBuf], one: &(impl Fn(usize, &Path) -> Included + Sync)) -> Vec<Included> {
    let readers = thread::available_parallelism().map_or(1, usize::from).min(READERS_MAX);
    let share = names.len().div_ceil(readers).max(1);
    let several = |(chunk, names): (usize, &[PathBuf])| -> Vec<Included> {
        names.iter().enumerate().map(|(at, name)| one(chunk * share + at, name)).collect()
    };
    if names.len() <= share {
        return names.chunks(share).enumerate().flat_map(several).collect();
    }
    thread::scope(|scope| {
        let several = &several;
        let readers: Vec<_> =
            names.chunks(share).enumerate().map(|chunk| scope.spawn(move || several(chunk))).collect();
        readers
            .into_iter()
            .flat_map(|reader| reader.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

fn why_no_directory(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        "there is no such directory".to_owned()
    } else if error.kind() == io::ErrorKind::NotADirectory {
        "it is not a directory".to_owned()
    } else {
        why_unreadable(error.kind())
    }
}
