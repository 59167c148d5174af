//! Medians, with the noise beside them.

use serde::Serialize;

/// Of several runs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) runs: usize,
}

impl Spread {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |n: usize| values.get(n).copied().unwrap_or(f64::NAN);
        let runs = values.len();
        Self {
            median: (at(runs / 2) + at(runs.saturating_sub(1) / 2)) / 2.0,
            min: at(0),
            max: at(runs.saturating_sub(1)),
            runs,
        }
    }
}
