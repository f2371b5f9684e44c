//! Bounds on responses that a client does not read: the number of bytes that the system queues for a connection, and
//! the time in which the client must take some of them.

use std::time::Duration;

use socket2::SockRef;

/// Size of the send buffer of each connection that is accepted. Linux doubles it, to count what its own records take,
/// and exceeds it by one segment (64 KiB) at most. Without a size, the buffer grows to 4 MB (`net.ipv4.tcp_wmem`).
pub const SEND_BUFFER_BYTES: u32 = 64 * 1024;
/// Number of unsent bytes at which the system takes no more of a response. The system exceeds it by one segment at
/// most.
const UNSENT_BYTES: u32 = 16 * 1024;
/// Value of `TCP_NOTSENT_LOWAT` for the system's default (`net.ipv4.tcp_notsent_lowat`), no bound unless set.
const UNBOUNDED: u32 = 0;
/// Maximum time for which a write is blocked, in multiples of `limits.header_seconds`. These systems end a connection
/// whose client takes nothing ([`limit`]). This bound is for a client that acknowledges single bytes, because the
/// system has room again each time that the client has taken a segment.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MAX_BLOCKED: u32 = 12;
/// Maximum time for which a write is blocked, in multiples of `limits.header_seconds`. Other systems have no bound of
/// their own.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MAX_BLOCKED: u32 = 1;

/// Returns the maximum time for which a write is blocked, that is, in which the system takes no byte of it.
pub(super) fn max_blocked(header_time: Duration) -> Duration {
    header_time * MAX_BLOCKED
}

/// Bounds the unsent bytes of an HTTP connection, and has the system discard it once its client has taken nothing for
/// `header_time` while there is something to send (`TCP_USER_TIMEOUT`; RFC 5482). The bounds also hold after the
/// connection has been closed here. Linux measures what a client with a full receive buffer takes in whole segments:
/// less than 64 KiB in `header_time` may count as nothing. A client with a slow network is not affected, because it
/// acknowledges what arrives.
pub(super) fn limit<'a>(stream: impl Into<SockRef<'a>>, header_time: Duration) {
    set(stream.into(), UNSENT_BYTES, header_time);
}

/// Removes the bounds of [`limit`] from a connection that becomes a WebSocket. Heartbeats detect a client that stays
/// unreachable, and the hub bounds the time that a frame may take.
pub(super) fn lift<'a>(stream: impl Into<SockRef<'a>>) {
    set(stream.into(), UNBOUNDED, Duration::ZERO);
}

/// Removes the bounds of [`limit`] from a connection that becomes an event stream, and has the system end the
/// connection if it receives no acknowledgement of sent bytes for `silence`. A browser cannot answer the heartbeats of
/// an event stream, but its system acknowledges them.
pub(super) fn notice_silence<'a>(stream: impl Into<SockRef<'a>>, silence: Duration) {
    set(stream.into(), UNBOUNDED, silence);
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set(socket: SockRef<'_>, unsent_bytes: u32, silence: Duration) {
    // Setting an option fails only on a failed socket, and the next read or write reports that.
    drop(socket.set_tcp_notsent_lowat(unsent_bytes));
    drop(socket.set_tcp_user_timeout(Some(silence)));
}

/// Does nothing. Other systems do not have both options, and [`max_blocked`] and the size of the send buffer bound a
/// connection there.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set(_: SockRef<'_>, _: u32, _: Duration) {}
