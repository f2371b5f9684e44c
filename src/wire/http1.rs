//! HTTP/1.1 responses as bytes (RFC 9112 §4), for connections that hyper does not serve: those of the hub, and those
//! that are refused before a whole request has arrived.

use http::StatusCode;
use jiff::fmt::rfc2822::DateTimePrinter;
use zeroize::Zeroizing;

use crate::session::Timestamp;

/// A builder of a response. Its bytes are zeroed when it is dropped, because a response can hold a token.
pub struct Http1Response(Zeroizing<Vec<u8>>);

impl Http1Response {
    /// Creates a response with a status line, and with `Date` (RFC 9110 §6.6.1) if `now` is given.
    #[must_use]
    pub fn new(status: StatusCode, now: Option<Timestamp>) -> Self {
        // Large enough for most responses: a vector that grows leaves copies of its bytes in memory.
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        let reason = status.canonical_reason().unwrap_or_default();
        bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        let response = Self(bytes);
        match now {
            Some(now) => response.field("date", http_date(now).as_bytes()),
            None => response,
        }
    }

    /// Adds a header field.
    #[must_use]
    pub fn field(mut self, name: &str, value: &[u8]) -> Self {
        field(&mut self.0, name, value);
        self
    }

    /// Adds header field lines that [`field`] has made.
    #[must_use]
    pub fn fields(mut self, fields: &[u8]) -> Self {
        self.0.extend_from_slice(fields);
        self
    }

    /// Returns the bytes of the response with `Content-Length` and this body.
    #[must_use]
    pub fn with_body(self, body: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut response = self.field("content-length", body.len().to_string().as_bytes()).open();
        response.reserve_exact(body.len());
        response.extend_from_slice(body);
        response
    }

    /// Returns the bytes of the response's head. The body, if there is one, ends with the connection (RFC 9112 §6.3).
    #[must_use]
    pub fn open(self) -> Zeroizing<Vec<u8>> {
        let Self(mut bytes) = self;
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// Appends a header field line to `out`.
pub fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Returns a time in the format of `Date` (RFC 9110 §5.6.7), or an empty text for a time that has none.
#[must_use]
pub fn http_date(now: Timestamp) -> String {
    let date = jiff::Timestamp::from_millisecond(now.as_millis()).ok();
    date.and_then(|date| DateTimePrinter::new().timestamp_to_rfc9110_string(&date).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answer_has_status_date_fields_length_and_body() {
        let response = Http1Response::new(StatusCode::CONFLICT, Some(Timestamp::from_millis(784_111_777_000)))
            .field("a", b"1")
            .fields(b"b: 2\r\n")
            .with_body(b"body");
        let expected = "HTTP/1.1 409 Conflict\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\na: 1\r\nb: 2\r\n\
                        content-length: 4\r\n\r\nbody";
        assert_eq!(std::str::from_utf8(&response).unwrap(), expected);
        let open = Http1Response::new(StatusCode::SWITCHING_PROTOCOLS, None).open();
        assert_eq!(std::str::from_utf8(&open).unwrap(), "HTTP/1.1 101 Switching Protocols\r\n\r\n");
    }
}
