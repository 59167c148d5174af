//! Attacks and faults, in a short version here and a long one in `scripts/torture`, which sets `TORTURE`
//! to the folder where everything that was said and written is kept, to be looked through for keys.

mod bad_input;
mod crashes;
mod crowd;
mod everywhere;
mod leaks;
mod tampering;

use std::{fs, path::PathBuf, process::Command};

/// In every key, prompt and secret of these tests: what `leaks` looks for. With characters that each
/// encoding changes.
pub(crate) const CANARY: &str = "CaNaRy/+=7f3a";

/// A key with the canary in it.
pub(crate) fn key(name: &str) -> String {
    format!("AQ.{CANARY}-{name}")
}

/// Where the long version keeps everything; `None` in the short one.
pub(crate) fn kept() -> Option<PathBuf> {
    std::env::var_os("TORTURE").map(PathBuf::from)
}

/// So often in the short version, so often in the long one.
pub(crate) fn times(short: usize, long: usize) -> usize {
    if kept().is_some() { long } else { short }
}

/// With limits that no test meets.
pub(crate) fn unlimited(command: &mut Command) -> &mut Command {
    for limit in [
        "SAVE_PER_MINUTE",
        "READ_PER_MINUTE",
        "GENERATE_PER_MINUTE",
        "GENERATE_PER_DAY",
    ] {
        command.env(format!("RATE_LIMIT_{limit}"), "1000000");
    }
    command
}

/// A folder for one test; it stays in the long version.
pub(crate) struct Place {
    path: PathBuf,
    stays: bool,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        let (path, stays) = match kept() {
            Some(folder) => (folder.join(name), true),
            None => (tempfile::tempdir().unwrap().keep(), false),
        };
        fs::create_dir_all(&path).unwrap();
        Self { path, stays }
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Keeps what was said, beside the log and the data.
    pub(crate) fn keep(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.stays {
            fs::remove_dir_all(&self.path).ok();
        }
    }
}
