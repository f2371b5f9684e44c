//! The request to read keys and databases again.

use std::sync::Arc;

use tokio::sync::Notify;

/// A handle that makes the running server read its keys and MaxMind files again. Clones refer to the same server.
#[derive(Debug, Clone, Default)]
pub struct Reload {
    asked: Arc<Notify>,
}

impl Reload {
    /// Waits for the next request.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Requests a reload. A request during a reload causes one more after it.
    pub fn ask(&self) {
        self.asked.notify_one();
    }
}
