//! Stopping in order, and the signals that ask for it.

use tokio_util::sync::CancellationToken;

/// Says when to stop; clones say the same.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// From here on `/readyz` fails.
    asked: CancellationToken,
    /// From here on nothing new is taken.
    closing: CancellationToken,
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
