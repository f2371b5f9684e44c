//! The time that clients have once the server has begun to close.

use std::time::Duration;

use crate::system::shutdown::Shutdown;

/// Time for a request to arrive whole, and for a response to be read, once the server has begun to close.
const STOPPING_GRACE: Duration = Duration::from_secs(1);

/// Waits until the server has been closing for [`STOPPING_GRACE`]. A body that has not arrived whole by then is
/// refused.
pub(super) async fn closed_for_grace(shutdown: &Shutdown) {
    shutdown.closing().await;
    stopping_grace().await;
}

/// Waits for [`STOPPING_GRACE`].
#[expect(clippy::disallowed_methods, reason = "time limits on the network use the machine's own timers")]
pub(super) async fn stopping_grace() {
    tokio::time::sleep(STOPPING_GRACE).await;
}
