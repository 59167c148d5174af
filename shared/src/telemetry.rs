//! Logs: JSON lines on standard error.
//!
//! `LOG_LEVEL` (default `info`) moves our own lines only. Libraries stay at `warn`: below that, the
//! SDK and the HTTP stack write bodies and headers, and those hold keys and tokens.

use tracing::Level;
use tracing_subscriber::{
    filter::Targets, layer::SubscriberExt as _, registry, util::SubscriberInitExt as _,
};

/// Our crates, as `tracing` names them.
const OURS: &[&str] = &[
    "user_api_keys",
    "save_keys",
    "fetch_keys",
    "generate_content",
    "onboarding",
    "open_keys",
    "local",
];

/// Starts the log; a second call changes nothing.
pub fn init(level: Level) {
    let ours = OURS.iter().map(|target| (*target, level));
    let filter = Targets::new().with_default(Level::WARN).with_targets(ours);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_writer(std::io::stderr);
    // Already started: the first one stays.
    registry().with(filter).with(lines).try_init().ok();
}
