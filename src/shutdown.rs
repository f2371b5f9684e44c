//! Stopping in order, and the signals that ask for it.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tracing::error;

/// Says when to stop; clones say the same.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// From here on `/readyz` fails.
    asked: CancellationToken,
    /// From here on nothing new is taken.
    closing: CancellationToken,
    /// The part that made it stop.
    failed: Arc<OnceLock<&'static str>>,
}

/// What the server cannot do without holds this while it runs: should it panic, the server stops. A server that goes on
/// without it would look alive, and tell nobody anything.
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
    /// `future`, which holds this until it has ended.
    pub async fn with(self, future: impl Future<Output = ()>) {
        future.await;
        drop(self);
    }
}

impl Shutdown {
    /// Nothing has been asked yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks the server to stop. Asking again changes nothing.
    pub fn stop(&self) {
        self.asked.cancel();
    }

    /// Asks the server to stop, as this part of it has failed.
    fn fail(&self, part: &'static str) {
        // The first is the cause.
        let _ = self.failed.set(part);
        self.stop();
    }

    /// The part whose failure has made the server stop, if one has.
    #[must_use]
    pub fn failed(&self) -> Option<&'static str> {
        self.failed.get().copied()
    }

    /// For this part of the server, which it cannot do without.
    pub fn vital(&self, part: &'static str) -> Vital {
        Vital { part, shutdown: self.clone() }
    }

    /// Whether that has been asked.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.asked.is_cancelled()
    }

    /// Waits until it is asked.
    pub async fn asked(&self) {
        self.asked.cancelled().await;
    }

    /// Takes nothing new from here on.
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Whether nothing new is to be taken.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Waits until nothing new is to be taken.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }
}

/// What the operator asks for with a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM, SIGINT (Ctrl-C): stop.
    Stop,
    /// SIGHUP: read again what can change while the server runs.
    Reload,
}

/// The signals to this process, from [`Signals::listen`] on.
pub struct Signals {
    #[cfg(unix)]
    kinds: [(Signal, tokio::signal::unix::Signal); 3],
}

#[cfg(unix)]
impl Signals {
    /// Begins to listen. A signal that is listened for no longer ends the process.
    ///
    /// # Errors
    /// The system does not permit it.
    pub fn listen() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [
            (Signal::Stop, signal(SignalKind::terminate())?),
            (Signal::Stop, signal(SignalKind::interrupt())?),
            (Signal::Reload, signal(SignalKind::hangup())?),
        ];
        Ok(Self { kinds })
    }

    /// Waits for the next.
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
    /// Begins to listen.
    ///
    /// # Errors
    /// None.
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
    fn a_vital_thread_that_panics_stops_the_server_and_one_that_ends_does_not() {
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
