//! The state of an orderly stop, and the signals that cause one.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tracing::error;

/// The state of the server's stop. Clones share it.
///
/// A stop has two stages. When it is requested, `/readyz` fails. After the drain, the server closes.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Cancelled when the stop is asked for.
    asked: CancellationToken,
    /// Cancelled when the server begins to close, and accepts no more connections.
    closing: CancellationToken,
    /// The first part that failed, if one has.
    failed: Arc<OnceLock<&'static str>>,
}

/// A guard that a vital thread or task holds while it runs. If the holder panics, the server stops.
///
/// Without that part, the server would still answer health checks and deliver nothing.
#[must_use]
#[derive(Debug)]
pub struct Vital {
    part: &'static str,
    shutdown: Shutdown,
}

impl Drop for Vital {
    fn drop(&mut self) {
        if std::thread::panicking() {
            error!(event = "part failed", part = self.part, "the server stops");
            self.shutdown.fail(self.part);
        }
    }
}

impl Vital {
    /// Runs `future`, and holds the guard until it has ended.
    pub async fn with(self, future: impl Future<Output = ()>) {
        future.await;
        drop(self);
    }
}

impl Shutdown {
    /// Returns the state of a server that has not been asked to stop.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the server to stop. Asking again changes nothing.
    pub fn stop(&self) {
        self.asked.cancel();
    }

    /// Asks the server to stop because `part` has failed.
    fn fail(&self, part: &'static str) {
        // Only the first failure is kept, because later ones may follow from it.
        let _ = self.failed.set(part);
        self.stop();
    }

    /// Returns the first part that failed, if one has.
    #[must_use]
    pub fn failed(&self) -> Option<&'static str> {
        self.failed.get().copied()
    }

    /// Returns the guard of a vital part of the server. `part` is its name in the log.
    pub fn vital(&self, part: &'static str) -> Vital {
        Vital { part, shutdown: self.clone() }
    }

    /// Returns whether the server has been asked to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Waits until the server is asked to stop.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// Begins to close: listeners accept no more connections. Call this after the drain.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Returns whether the server has begun to close.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Waits until the server begins to close.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

/// A request of the operator, made by a signal to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT (Ctrl-C): the server is to stop.
    Stop,
    /// SIGHUP: `serve` is to read its keys, MaxMind files and log level again, and `demo` is to stop.
    Reload,
}

/// The signals that the process receives from [`Signals::listen`] on.
pub struct Signals {
    #[cfg(unix)]
    kinds: [(Signal, tokio::signal::unix::Signal); 3],
}

#[cfg(unix)]
impl Signals {
    /// Installs handlers for SIGTERM, SIGINT and SIGHUP, which then no longer end the process by themselves.
    ///
    /// # Errors
    /// Returns an error if the system refuses a handler.
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [
            (Signal::Stop, signal(SignalKind::terminate())?),
            (Signal::Stop, signal(SignalKind::interrupt())?),
            (Signal::Reload, signal(SignalKind::hangup())?),
        ];
        Ok(Self { kinds })
    }

    /// Waits for the next signal.
    pub async fn next(&mut self) -> Signal {
        let [(first, terminate), (second, interrupt), (third, hangup)] = &mut self.kinds;
        tokio::select! {
            _ = terminate.recv() => *first,
            _ = interrupt.recv() => *second,
            _ = hangup.recv() => *third,
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    /// Returns the signals. Here, [`Signals::next`] installs the handler.
    ///
    /// # Errors
    /// Never fails on this system.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {})
    }

    /// Waits for the next Ctrl-C.
    pub async fn next(&mut self) -> Signal {
        drop(tokio::signal::ctrl_c().await);
        Signal::Stop
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_of_a_vital_thread_stops_the_server_and_its_normal_end_does_not() {
        let shutdown = Shutdown::new();
        let run = |part, panics: bool| {
            let vital = shutdown.vital(part);
            std::thread::spawn(move || {
                let _vital = vital;
                assert!(!panics, "as the test wants it");
            })
        };
        run("first", false).join().unwrap();
        assert!(!shutdown.is_stopping());
        for part in ["second", "third"] {
            run(part, true).join().unwrap_err();
            assert_eq!((shutdown.is_stopping(), shutdown.failed()), (true, Some("second")));
        }
    }
}
