//! Attacks and faults, in a short version here and a long one in `scripts/torture`, which sets `TORTURE`
//! to the folder where everything that was said and written is kept, to be looked through for keys.

mod bad_input;
mod crashes;
mod crowd;
mod everywhere;
pub(crate) mod leaks;
mod tampering;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use local::token;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const KEYS: &str = "/api/onboarding/api-keys";
pub(crate) const INVOKE: &str = "/2015-03-31/functions/open-keys/invocations";

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
        "CHECK_PER_HOUR",
        "OPEN_PER_MINUTE",
        "OPEN_PER_DAY",
    ] {
        command.env(format!("RATE_LIMIT_{limit}"), "1000000");
    }
    command
}

/// open-keys' event for a person's Gemini key.
pub(crate) fn open_gemini(user: &str) -> Value {
    let token = token::sign(user).unwrap();
    json!({"token": token, "providers": ["gemini"], "purpose": "torture"})
}

/// `command` as `wrapper` starts it: the same folder and environment, and its output to be read.
pub(crate) fn under(wrapper: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper[0]);
    wrapped
        .args(&wrapper[1..])
        .arg(command.get_program())
        .args(command.get_args())
        .current_dir(command.get_current_dir().unwrap())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        wrapped.env(name, value.unwrap_or_default());
    }
    wrapped
}

/// A folder for one test; it stays in the long version.
pub(crate) struct Place {
    path: PathBuf,
    /// Goes with this.
    _short: Option<TempDir>,
}

impl Place {
    pub(crate) fn new(name: &str) -> Self {
        let short = kept().is_none().then(|| tempfile::tempdir().unwrap());
        let path = match &short {
            Some(folder) => folder.path().to_owned(),
            None => kept().unwrap().join(name),
        };
        fs::create_dir_all(&path).unwrap();
        Self {
            path,
            _short: short,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps what was said, beside the log and the data.
    pub(crate) fn keep(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }
}
