//! The log, and other output that is not waited for.
//!
//! Only `tracing` events are shown, never those of the `log` crate, where libraries print what they please: whole frames,
//! some of them, and frames carry tokens.

mod line;
mod warnings;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;

use serde::{Deserialize, Serialize};
use tracing::field::display;
use tracing::{Event, Subscriber, error};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, Formatter, SubscriberBuilder};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::Handle;

pub use warnings::with_warnings;
pub use writer::{Lines, Writing};

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The log, until it is dropped.
pub struct Log {
    level: Level,
    format: LogFormat,
    lines: Lines,
    /// Last: what has been said by then is written by then.
    writing: Option<Writing>,
}

enum Level {
    Text(Handle<EnvFilter, Formatter<DefaultFields, Counted<Format>, Lines>>),
    Json(Handle<EnvFilter, Formatter<JsonFields, Counted<Format<Json>>, Lines>>),
}

/// An event format that counts the events it fails to format as lost lines. `tracing-subscriber` would write a line of
/// its own instead, which is not JSON.
struct Counted<F> {
    format: F,
    lines: Lines,
}

impl<S, N, F> FormatEvent<S, N> for Counted<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let formatted = self.format.format_event(context, writer, event);
        if formatted.is_err() {
            self.lines.lose_one();
        }
        formatted
    }
}

impl Log {
    /// Begins to log to the standard error output. A second call changes nothing.
    #[must_use]
    pub fn start(level: &str, format: LogFormat) -> Self {
        let (lines, writing) = Writing::start("qrlogin-log", io::stderr(), format)
            .map_or_else(|_| (Lines::default(), None), |(lines, writing)| (lines, Some(writing)));
        let builder: SubscriberBuilder<DefaultFields, Format, EnvFilter, Lines> = tracing_subscriber::fmt()
            .with_env_filter(filter(level))
            .with_writer(lines.clone())
            .log_internal_errors(false);
        // Somebody else logs already if this fails: in tests.
        let (level, begun) = match format {
            LogFormat::Text => {
                let builder = builder.with_ansi(io::stderr().is_terminal());
                let builder = builder.map_event_format(|format| Counted { format, lines: lines.clone() });
                let builder = builder.with_filter_reloading();
                (Level::Text(builder.reload_handle()), builder.try_init())
            }
            LogFormat::Json => {
                let builder = builder.json().flatten_event(true);
                let builder = builder.map_event_format(|format| Counted { format, lines: lines.clone() });
                let builder = builder.with_filter_reloading();
                (Level::Json(builder.reload_handle()), builder.try_init())
            }
        };
        if begun.is_ok() {
            std::panic::set_hook(Box::new(log_panic));
        }
        Self { level, format, lines, writing }
    }

    /// Writes why the program ends, in the form of the log and whatever its level.
    pub fn say_failure(&self, failure: &dyn Error) {
        let line = line::failure(self.format, failure);
        if self.writing.is_some() {
            drop(self.lines.clone().write_all(line.as_bytes()));
        } else {
            eprint!("{line}");
        }
    }

    /// Logs at this level from now on.
    pub fn set_level(&self, level: &str) {
        // The subscriber has gone if this fails, and with it all logging.
        drop(match &self.level {
            Level::Text(handle) => handle.reload(filter(level)),
            Level::Json(handle) => handle.reload(filter(level)),
        });
    }
}

/// A panic is logged like all else. The standard library would print it itself, and a thread that panics would wait for
/// the output's reader, for ever if there is none.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (thread, message) = (thread.name().unwrap_or_default(), panic.payload_as_str().unwrap_or_default());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // If it is asked for (RUST_BACKTRACE).
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| display(backtrace));
    error!(event = "panic", thread, place, message, backtrace);
}

/// The settings have been checked: what cannot be read is a level that has been checked otherwise.
fn filter(level: &str) -> EnvFilter {
    EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"))
}
