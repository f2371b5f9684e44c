//! Collection of warnings as text, for commands that have no log.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::field::{Field, Visit};
use tracing::subscriber::with_default;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt as _};

/// Runs `work` on this thread. Returns its result, and the events at WARN and ERROR that it caused on this thread, each
/// as a line of text.
pub fn with_warnings<T>(work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let result = with_default(tracing_subscriber::registry().with(Collector(lines.clone())), work);
    let lines = std::mem::take(&mut *lines.lock());
    (result, lines)
}

/// A layer that keeps the text of each event at WARN and ERROR.
struct Collector(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if *event.metadata().level() > Level::WARN {
            return;
        }
        let mut line = EventText::default();
        event.record(&mut line);
        self.0.lock().push(line.text());
    }
}

#[derive(Default)]
struct EventText {
    event: String,
    message: String,
    fields: String,
}

impl EventText {
    fn text(self) -> String {
        let parts = [self.event, self.message, self.fields];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ")
    }

    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        // Writing to a string never fails.
        let _ = match field.name() {
            "event" => self.event.write_fmt(value),
            "message" => self.message.write_fmt(value),
            name => {
                let pause = if self.fields.is_empty() { "" } else { ", " };
                write!(self.fields, "{pause}{name} {value}")
            }
        };
    }
}

impl Visit for EventText {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use tracing::{info, warn};

    use super::*;

    #[test]
    fn events_at_warn_are_collected_as_text_and_those_at_info_are_not() {
        let (result, lines) = with_warnings(|| {
            info!(event = "fine");
            warn!(event = "setting cleaned", key = "public_url", count = 3);
            warn!(event = "other", "with {}", "a text");
            7
        });
        assert_eq!(
            (result, lines),
            (7, vec!["setting cleaned: key public_url, count 3".to_owned(), "other: with a text".to_owned()])
        );
    }
}
