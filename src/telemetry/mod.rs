//! The log, and other output that must not block the thread that writes it.
//!
//! Only `tracing` events are logged, and not those of the `log` crate. Some libraries log whole WebSocket frames
//! through it, and frames contain tokens.

pub mod cause;
mod collector;
mod line;
pub mod warnings;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;

use serde::{Deserialize, Serialize};
use tracing::field::display;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber, error};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{DefaultFields, Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, Formatter, SubscriberBuilder};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload::Handle;

pub use collector::with_warnings;
pub use writer::{LineQueue, WriterThread};

/// Beginning of the targets of the pool of connections to Postgres (the crates `deadpool` and `deadpool-postgres`).
const POOL: &str = "deadpool";
/// The directive that hides the lines of the pool.
const POOL_OFF: &str = "deadpool=off";

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text that people read.
    Text,
    /// One JSON object per line.
    Json,
}

/// The log of the process. When it is dropped, its pending lines are written.
pub struct Log {
    level: Level,
    format: LogFormat,
    lines: LineQueue,
    /// The writer thread. It is declared last, so that it is dropped last and writes all pending lines.
    writing: Option<WriterThread>,
}

/// The handle that changes the level of the running log, for each format.
enum Level {
    Text(Handle<EnvFilter, Formatter<DefaultFields, CountingFormat<Format>, LineQueue>>),
    Json(Handle<EnvFilter, Formatter<JsonFields, CountingFormat<Format<Json>>, LineQueue>>),
}

/// An event format that counts events which cannot be formatted as lost lines. `tracing-subscriber` would write a line
/// of its own for them, which is not JSON.
struct CountingFormat<F> {
    format: F,
    lines: LineQueue,
}

impl<S, N, F> FormatEvent<S, N> for CountingFormat<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let formatted = self.format.format_event(context, writer, event);
        if formatted.is_err() {
            self.lines.count_lost_line();
        }
        formatted
    }
}

impl Log {
    /// Starts the log, which writes to standard error and logs panics. If the process has a subscriber already, the log
    /// gets no events.
    #[must_use]
    pub fn start(level: &str, format: LogFormat) -> Self {
        let (lines, writing) = WriterThread::start("qrlogin-log", io::stderr(), format)
            .map_or_else(|_| (LineQueue::default(), None), |(lines, writing)| (lines, Some(writing)));
        let builder: SubscriberBuilder<DefaultFields, Format, EnvFilter, LineQueue> = tracing_subscriber::fmt()
            .with_env_filter(filter(level))
            .with_writer(lines.clone())
            .log_internal_errors(false);
        // `try_init` fails if the process has a subscriber already, as in tests.
        let (level, begun) = match format {
            LogFormat::Text => {
                let builder = builder.with_ansi(io::stderr().is_terminal());
                let builder = builder.map_event_format(|format| CountingFormat { format, lines: lines.clone() });
                let builder = builder.with_filter_reloading();
                (Level::Text(builder.reload_handle()), builder.try_init())
            }
            LogFormat::Json => {
                let builder = builder.json().flatten_event(true);
                let builder = builder.map_event_format(|format| CountingFormat { format, lines: lines.clone() });
                let builder = builder.with_filter_reloading();
                (Level::Json(builder.reload_handle()), builder.try_init())
            }
        };
        if begun.is_ok() {
            std::panic::set_hook(Box::new(log_panic));
        }
        Self { level, format, lines, writing }
    }

    /// Writes the error that ends the program, in the log's format and at every level.
    pub fn log_failure(&self, failure: &dyn Error) {
        let line = line::failure(self.format, failure);
        if self.writing.is_some() {
            drop(self.lines.clone().write_all(line.as_bytes()));
        } else {
            eprint!("{line}");
        }
    }

    /// Changes the level of the log, in `RUST_LOG` syntax.
    pub fn set_level(&self, level: &str) {
        // This fails only if the subscriber has been dropped, and nothing is logged then.
        drop(match &self.level {
            Level::Text(handle) => handle.reload(filter(level)),
            Level::Json(handle) => handle.reload(filter(level)),
        });
    }
}

/// Logs a panic as an event. The hook of the standard library would write to standard error, and block the panicking
/// thread for as long as nothing reads that output.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let (thread, message) = (thread.name().unwrap_or_default(), panic.payload_as_str().unwrap_or_default());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    // Captured only if RUST_BACKTRACE requests it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| display(backtrace));
    error!(event = "panic", thread, place, message, backtrace);
}

/// Parses a level. `Settings::check` has checked it, so the fallback to `info` is not reached with the settings' value.
fn filter(level: &str) -> EnvFilter {
    let filter = EnvFilter::try_new(level).unwrap_or_else(|_| EnvFilter::new("info"));
    if shows_pool(level) {
        return filter;
    }
    // The directive is constant, and a unit test shows that it can be parsed.
    POOL_OFF.parse().map_or_else(|_| EnvFilter::new("info"), |pool_off| filter.add_directive(pool_off))
}

/// Returns whether the log shows lines of [`POOL`]: from the level `debug` on, or if a directive names the target.
///
/// The pool warns of each connection that Postgres has closed. The server's own warning has the cause and the
/// consequence, and does not grow with the pool.
fn shows_pool(level: &str) -> bool {
    level.split(',').map(str::trim).any(|directive| {
        let is_verbose = directive.parse::<LevelFilter>().is_ok_and(|level| level >= LevelFilter::DEBUG);
        is_verbose || directive.starts_with(POOL)
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing::subscriber::with_default;
    use tracing::{info, warn};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Output(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Output {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn lines_of_the_connection_pool_are_shown_at_debug_or_if_its_target_is_named() {
        for (level, is_shown) in [
            ("info", false),
            ("warn", false),
            ("info,qrlogin=debug", false),
            ("qrlogin=trace, hyper=debug", false),
            ("debug", true),
            ("TRACE", true),
            ("5", true),
            ("qrlogin=info,debug", true),
            ("info,deadpool=warn", true),
            ("info, deadpool.postgres=debug", true),
            ("info,deadpool=error", false),
            ("debug,deadpool=off", false),
        ] {
            let output = Output::default();
            let subscriber = tracing_subscriber::fmt().with_env_filter(filter(level)).with_writer(output.clone());
            with_default(subscriber.finish(), || {
                warn!(target: "deadpool.postgres", "of the pool");
                warn!("of the server");
                info!(target: "hyper", "of another library");
            });
            let text = String::from_utf8(output.0.lock().clone()).unwrap();
            assert_eq!(text.contains("of the pool"), is_shown, "{level}: {text}");
            assert!(text.contains("of the server"), "{level}: {text}");
        }
    }
}
