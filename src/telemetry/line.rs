//! Log lines that are not events. They are written at every level of the log.

use std::error::Error;

use serde::Serialize;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use super::LogFormat;

/// A line in JSON, with the same fields as the line of an event.
#[derive(Serialize)]
struct JsonLine<F> {
    timestamp: String,
    level: &'static str,
    event: &'static str,
    #[serde(flatten)]
    fields: F,
    target: &'static str,
}

#[derive(Serialize)]
struct FailureFields {
    error: String,
}

#[derive(Serialize)]
struct LostFields {
    lines: u64,
}

/// Returns the line with the error that ends the program.
pub(super) fn failure(format: LogFormat, failure: &dyn Error) -> String {
    match format {
        LogFormat::Text => format!("qrlogin: {failure}\n"),
        LogFormat::Json => json("ERROR", "failed", FailureFields { error: failure.to_string() }),
    }
}

/// Returns the line with the number of lines that were not written.
pub(super) fn lost(format: LogFormat, lines: u64) -> String {
    match format {
        LogFormat::Text => format!("({lines} log lines were lost: they were not read, or could not be written)\n"),
        LogFormat::Json => json("WARN", "log_lines_lost", LostFields { lines }),
    }
}

fn json(level: &'static str, event: &'static str, fields: impl Serialize) -> String {
    let mut timestamp = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
    let line = JsonLine { timestamp, level, event, fields, target: module_path!() };
    serde_json::to_string(&line).unwrap_or_default() + "\n"
}
