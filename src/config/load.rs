//! Reads a configuration: file to text, text to file form, file form to checked form.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use toml::de::DeTable;

use super::Config;
use super::check::{Checker, why_unreadable};
use super::error::{ConfigErrors, Faults, Place};
use super::watch::{Files, Stamp};

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
    let text = read_text(path, &name)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Absolute, so that nothing depends on the directory we happen to be in; a name that resolves today is kept
    // as it is written, since a link may point elsewhere at the next reload.
    let base_dir = std::path::absolute(parent).unwrap_or_else(|_| parent.to_owned());
    parse_noting(&name, &text, &|variable: &str| std::env::var_os(variable), &base_dir, files)
}

/// Checks `text`, which messages call `name`; paths in it are relative to `base_dir`.
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
    let (table, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        // What the parser makes of a broken text is a guess, and judging it would find faults that are not there.
        faults.syntax(text, &syntax);
    }
    let file = if faults.is_empty() { Some(super::file::File::read(&table, &mut faults)) } else { None };
    let mut checker = Checker { faults, settings: Vec::new(), environment, base_dir, files };
    let config = file.map(|file| checker.check(&file));
    let warnings = checker.faults.settle(name, text)?;
    let config = config.ok_or_else(|| ConfigErrors::whole(name, "not TOML"))?;
    Ok(Loaded { config, warnings, settings: checker.settings })
}

fn read_text(path: &Path, name: &str) -> Result<String, ConfigErrors> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read.map(u64::try_from) {
        Ok(Ok(length)) if length <= CONFIG_BYTES_MAX => {}
        Ok(_) => {
            let message = format!("the configuration is too long, it may have {CONFIG_BYTES_MAX} bytes");
            return Err(ConfigErrors::whole(name, message));
        }
        Err(error) => {
            let reason = why_unreadable(error.kind());
            return Err(ConfigErrors::whole(name, format!("the configuration cannot be read: {reason}")));
        }
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(error.as_bytes().get(..valid).unwrap_or_default());
        ConfigErrors::one(name, Place::of(&text, valid), "not UTF-8, save it as UTF-8")
    })
}

/// Room for thousands of accounts and clients.
const CONFIG_BYTES_MAX: u64 = 4 << 20;
