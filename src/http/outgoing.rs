//! Bounds on answers that a client does not read: how many bytes the system queues for a connection, and how long a
//! connection may take none of them.

use std::time::Duration;

use socket2::SockRef;

/// Size of the send buffer of each connection that is accepted. Linux doubles it, to count what its own records take,
/// and exceeds it by one segment (64 KiB) at most. Without a size, the buffer grows to 4 MB (`net.ipv4.tcp_wmem`).
pub const SEND_BUFFER_BYTES: u32 = 64 * 1024;
/// Number of unsent bytes from which on the system takes no more of an answer. It exceeds this by one segment at most.
const UNSENT_BYTES: u32 = 16 * 1024;
/// No bound on unsent bytes but the size of the send buffer.
const UNBOUNDED: u32 = 0;
/// Time for which the system may take no byte of a blocked write, in multiples of `limits.header_seconds`. Here the system
/// itself ends a connection whose client takes nothing ([`limit`]). This bounds a client that acknowledges single bytes:
/// the system has room again each time that the client has taken a segment.
#[cfg(any(target_os = "linux", target_os = "android"))]
const MAX_BLOCKED: u32 = 12;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const MAX_BLOCKED: u32 = 1;

/// Returns how long a write may be blocked without a byte being taken.
pub(super) fn max_blocked(header_time: Duration) -> Duration {
    header_time * MAX_BLOCKED
}

/// Bounds the unsent bytes of an HTTP connection, and has the system discard it once its client has taken nothing for
/// `header_time` while there is something to send (RFC 5482, `TCP_USER_TIMEOUT`). This holds also after the connection has
/// been closed here. Linux measures what a client with a full receive buffer takes in whole segments: less than 64 KiB in
/// `header_time` may count as nothing. A client with a slow network is not affected, because it acknowledges what arrives.
pub(super) fn limit<'a>(stream: impl Into<SockRef<'a>>, header_time: Duration) {
    set(stream.into(), UNSENT_BYTES, header_time);
}

/// Removes the bounds of [`limit`] from a connection that becomes a WebSocket. Its client may be unreachable for a while,
/// which heartbeats detect, and the hub bounds the time that a frame may take.
pub(super) fn lift<'a>(stream: impl Into<SockRef<'a>>) {
    set(stream.into(), UNBOUNDED, Duration::ZERO);
}

/// As [`lift`], for an event stream. The client does not answer heartbeats, but its system acknowledges them. The
/// connection fails if no acknowledgement arrives for `silence`.
pub(super) fn notice_silence<'a>(stream: impl Into<SockRef<'a>>, silence: Duration) {
    set(stream.into(), UNBOUNDED, silence);
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn set(socket: SockRef<'_>, unsent_bytes: u32, silence: Duration) {
    // A socket that refuses has failed, and the next call finds out.
    drop(socket.set_tcp_notsent_lowat(unsent_bytes));
    drop(socket.set_tcp_user_timeout(Some(silence)));
}

/// Other systems do not have both options: [`max_blocked`] and the size of the send buffer bound a connection there.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set(_: SockRef<'_>, _: u32, _: Duration) {}
