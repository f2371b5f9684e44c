//! Stopping in order.

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

/// Listens for SIGTERM and SIGINT from now on; the future waits for the first.
///
/// # Errors
/// The system does not let us listen for them.
#[cfg(unix)]
pub fn signal() -> std::io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Listens for Ctrl-C; the future waits for it.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn signal() -> std::io::Result<impl Future<Output = ()>> {
    Ok(async { drop(tokio::signal::ctrl_c().await) })
}
