//! HTTP/1.1 answers as bytes (RFC 9112 §4), for connections that no HTTP server speaks on: those that wait in the hub,
//! and those that are refused before a request has arrived. Everything else is hyper's.

use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use zeroize::Zeroizing;

use crate::session::Timestamp;

/// The head of an answer in the making. Zeroed when it is dropped: tokens stand in answers.
pub struct Answer(Zeroizing<Vec<u8>>);

impl Answer {
    /// The status line, and the time (RFC 9110 §6.6.1) if there is one.
    #[must_use]
    pub fn new(status: StatusCode, now: Option<Timestamp>) -> Self {
        // As much as most take: what grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(1024));
        let reason = status.canonical_reason().unwrap_or_default();
        bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        let answer = Self(bytes);
        match now {
            Some(now) => answer.field("date", http_date(now).as_bytes()),
            None => answer,
        }
    }

    /// Adds a field.
    #[must_use]
    pub fn field(mut self, name: &str, value: &[u8]) -> Self {
        field(&mut self.0, name, value);
        self
    }

    /// Adds fields that have been made by [`field`].
    #[must_use]
    pub fn fields(mut self, fields: &[u8]) -> Self {
        self.0.extend_from_slice(fields);
        self
    }

    /// The answer with this body, whose length is said.
    #[must_use]
    pub fn with_body(self, body: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut answer = self.field("content-length", body.len().to_string().as_bytes()).open();
        answer.reserve_exact(body.len());
        answer.extend_from_slice(body);
        answer
    }

    /// The answer up to its body, which ends with the connection (RFC 9112 §6.3), or is none.
    #[must_use]
    pub fn open(self) -> Zeroizing<Vec<u8>> {
        let Self(mut bytes) = self;
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// Appends a field's line.
pub fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// The value of `Date` (RFC 9110 §5.6.7).
#[must_use]
pub fn http_date(now: Timestamp) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(now.as_millis().try_into().unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_its_status_time_fields_length_and_body() {
        let answer = Answer::new(StatusCode::CONFLICT, Some(Timestamp::from_millis(784_111_777_000)))
            .field("a", b"1")
            .fields(b"b: 2\r\n")
            .with_body(b"body");
        let expected = "HTTP/1.1 409 Conflict\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\na: 1\r\nb: 2\r\n\
                        content-length: 4\r\n\r\nbody";
        assert_eq!(std::str::from_utf8(&answer).unwrap(), expected);
        let open = Answer::new(StatusCode::SWITCHING_PROTOCOLS, None).open();
        assert_eq!(std::str::from_utf8(&open).unwrap(), "HTTP/1.1 101 Switching Protocols\r\n\r\n");
    }
}
