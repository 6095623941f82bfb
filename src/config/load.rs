//! Reads a configuration: file to text, text to file form, file form to checked form.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use toml::Spanned;
use toml::de::DeTable;

use super::check::{Checker, why_unreadable};
use super::error::{ConfigErrors, Faults, Source};
use super::file::File;
use super::watch::{Files, Stamp};
use super::{Config, include};

/// A configuration that can be used, and what to say about it at the start.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The checked form.
    pub config: Config,
    /// What works, but should be known, each with its place; free of secrets.
    pub warnings: Vec<String>,
    /// What is set to another value than the default, for the log; free of secrets.
    pub settings: Vec<Setting>,
}

/// One setting that differs from its default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name, with the names of its sections: `server.limits.idle_ms_max`.
    pub name: &'static str,
    /// Its value, or for files with secrets that there is one.
    pub value: String,
}

/// Reads the file at `path`, what it names, and the process's environment.
pub fn load(path: &Path) -> Result<Loaded, ConfigErrors> {
    load_noting(path, &mut Files::new())
}

/// The same; adds to `files` what is read, as it was just before.
pub(super) fn load_noting(path: &Path, files: &mut Files) -> Result<Loaded, ConfigErrors> {
    files.push((path.to_owned(), Stamp::of(path)));
    let name = path.display().to_string();
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Absolute, so that nothing depends on the directory we happen to be in; a name that resolves today is kept
    // as it is written, since a link may point elsewhere at the next reload.
    let base_dir = std::path::absolute(parent).unwrap_or_else(|_| parent.to_owned());
    let mut faults = Faults::default();
    match read_text(path, &mut faults) {
        Ok(text) => {
            parse_noting(&name, &text, &|variable: &str| std::env::var_os(variable), &base_dir, files)
        }
        Err(text) => {
            let source = Source { name: name.as_str().into(), text, base_dir: base_dir.into() };
            faults.settle(&[source])?;
            Err(ConfigErrors::whole(&name, "the configuration cannot be read"))
        }
    }
}

/// Checks `text`, which messages call `name`; paths in it are relative to `base_dir`. Reads what it includes.
pub fn parse(
    name: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<OsString>,
    base_dir: &Path,
) -> Result<Loaded, ConfigErrors> {
    parse_noting(name, text, environment, base_dir, &mut Files::new())
}

fn parse_noting(
    name: &str,
    text: &str,
    environment: &dyn Fn(&str) -> Option<OsString>,
    base_dir: &Path,
    files: &mut Files,
) -> Result<Loaded, ConfigErrors> {
    let mut faults = Faults::default();
    let file = document(text, &mut faults, File::read);
    let mut sources = vec![Source { name: name.into(), text: text.to_owned(), base_dir: base_dir.into() }];
    let file = file.map(|mut file| {
        if let Some(dir) = &file.include_dir {
            file.people.extend(include::read(dir, &mut sources, &mut faults, files));
        }
        file
    });
    let mut checker = Checker::new(faults, environment, &sources, files);
    let config = file.map(|file| checker.check(&file));
    let warnings = checker.faults.settle(&sources)?;
    let config = config.ok_or_else(|| ConfigErrors::whole(name, "not TOML"))?;
    Ok(Loaded { config, warnings, settings: checker.settings })
}

/// Reads one text as TOML, and that with `read`; `None` where it is no TOML.
pub(super) fn document<T>(
    text: &str,
    faults: &mut Faults,
    read: impl FnOnce(&Spanned<DeTable<'_>>, &mut Faults) -> T,
) -> Option<T> {
    let (table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        // What the parser makes of a broken text is a guess, and judging it would find faults that are not there.
        faults.syntax(text, &syntax);
        return None;
    }
    Some(read(&table, faults))
}

/// A text of the configuration. Where it cannot be read, that is a fault, and what could be read of it the error.
pub(super) fn read_text(path: &Path, faults: &mut Faults) -> Result<String, String> {
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read.map(u64::try_from) {
        Ok(Ok(length)) if length <= CONFIG_BYTES_MAX => {}
        Ok(_) => {
            faults.whole(format!("the configuration is too long, it may have {CONFIG_BYTES_MAX} bytes"));
            return Err(String::new());
        }
        Err(error) => {
            let reason = why_unreadable(error.kind());
            faults.whole(format!("the configuration cannot be read: {reason}"));
            return Err(String::new());
        }
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        faults.at_span(&(valid..valid), "not UTF-8, save it as UTF-8");
        String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default()).into_owned()
    })
}

/// Room for a hundred thousand accounts and clients, which take some 30 MB.
const CONFIG_BYTES_MAX: u64 = 64 << 20;
