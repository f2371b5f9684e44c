//! The bytes of the wire: JSON types, HTTP/1.1 answers, events, and WebSocket frames. No input or output.

pub mod http1;
pub mod types;
pub mod websocket;
