//! The bytes of the wire: JSON types, HTTP/1.1 responses, events, and WebSocket frames. No input or output.

pub mod event_stream;
pub mod fields;
pub mod http1;
pub mod long_poll;
pub mod types;
pub mod websocket;
