//! Close codes of WebSockets and event streams (RFC 6455 §7.4). Codes from 4000 on are private to this protocol.

/// The session is decided, cancelled or expired. The browser must not reconnect.
pub const DONE: u16 = 1000;
/// The browser violated the WebSocket protocol. It must not reconnect.
pub const PROTOCOL_ERROR: u16 = 1002;
/// The browser sent a text message that is not UTF-8. It must not reconnect.
pub const INVALID_TEXT: u16 = 1007;
/// The browser sent a message that is too long. It must not reconnect.
pub const TOO_BIG: u16 = 1009;
/// The token of a confirmed session cannot be made. The browser may reconnect with backoff.
pub const INTERNAL: u16 = 1011;
/// This node is restarting. The browser may reconnect after the delay in the reason.
pub const RESTARTING: u16 = 1012;
/// The store does not answer. The browser may reconnect with backoff.
pub const UNAVAILABLE: u16 = 1013;
/// The browser did not answer two heartbeats. It may reconnect.
pub const HEARTBEAT: u16 = 4408;
/// A newer connection superseded this one. The browser must not reconnect.
pub const REPLACED: u16 = 4409;
