//! What is logged, and how.
//!
//! Only `tracing` events are shown, never those of the `log` crate, where libraries print what they please: whole frames,
//! some of them, and frames carry tokens.

mod writer;

use std::io::IsTerminal as _;

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log, to the standard error output, until what is returned is dropped; what has been said by then is
/// written by then. A second call changes nothing.
pub fn start(level: &str, format: LogFormat) -> impl Drop + use<> {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    let (lines, writing) = writer::start();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
    // That somebody else logs already is for tests to do.
    drop(match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    });
    writing
}
