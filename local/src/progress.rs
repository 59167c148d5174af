//! What the person at the terminal sees meanwhile.

use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use user_api_keys::sweep::Answer;

/// A bar with items, rate and time left; silent where there is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    bad: Mutex<(u64, u64)>,
}

impl Progress {
    pub(crate) fn new(what: &'static str, rows: u64) -> Self {
        let bar = ProgressBar::new(rows).with_prefix(what);
        let shape = "{prefix} {wide_bar} {pos}/{len} {per_sec} {eta} left {msg}";
        if let Ok(style) = ProgressStyle::with_template(shape) {
            bar.set_style(style);
        }
        Self {
            bar,
            bad: Mutex::default(),
        }
    }

    pub(crate) fn restart(&self) {
        self.bar.reset();
    }

    pub(crate) fn step(&self) {
        self.bar.inc(1);
    }

    pub(crate) fn add(&self, answer: &Answer) {
        let count = |word| answer.counts.get(word).copied().unwrap_or_default();
        self.bar.inc(count("scanned"));
        // Nobody panics while holding it.
        if let Ok(mut bad) = self.bad.lock() {
            bad.0 += count("superseded");
            bad.1 += count("failed");
            let (superseded, failed) = *bad;
            self.bar
                .set_message(format!("{superseded} superseded, {failed} failed"));
        }
    }

    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// The most memory this process has had; `None` where the system does not say.
pub(crate) fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}
