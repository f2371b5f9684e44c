//! The simulated socket of a connection, and the messages that a browser reads from it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use mio::Token;
use parking_lot::Mutex;
use serde_json::Value;

use crate::hub::socket::{Socket, Watch};

/// Both ends of a connection.
#[derive(Default)]
pub(super) struct Pipe {
    pub(super) written: Vec<u8>,
    pub(super) incoming: VecDeque<u8>,
    pub(super) has_hung_up: bool,
    pub(super) is_dropped: bool,
}

/// The server's end of a connection.
pub(super) struct ServerEnd(pub(super) Arc<Mutex<Pipe>>);

impl Drop for ServerEnd {
    fn drop(&mut self) {
        self.0.lock().is_dropped = true;
    }
}

impl Read for ServerEnd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.0.lock();
        let count = buffer.len().min(pipe.incoming.len());
        if count == 0 {
            return if pipe.has_hung_up { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        for (to, from) in buffer.iter_mut().zip(pipe.incoming.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }
}

impl Write for ServerEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.0.lock();
        if pipe.has_hung_up {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        pipe.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for ServerEnd {
    type Poll = ();

    fn unread_bytes(&self) -> io::Result<usize> {
        Ok(self.0.lock().incoming.len())
    }

    fn watch(&mut self, (): &(), _: Token, _: Watch) -> io::Result<()> {
        Ok(())
    }

    fn end_writing(&mut self) {}

    fn discard_unsent(&mut self) {}
}

/// Messages that a browser has read on one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ReadMessages {
    pub(super) statuses: Vec<String>,
    pub(super) has_token: bool,
    pub(super) close: Option<u16>,
}

impl ReadMessages {
    pub(super) fn of(mut bytes: &[u8]) -> Self {
        let mut received = Self::default();
        while let [first, length, rest @ ..] = bytes {
            let (length, rest) = match (length, rest) {
                (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
                (length, rest) => (usize::from(*length), rest),
            };
            let Some((payload, rest)) = rest.split_at_checked(length) else { break };
            match first {
                0x81 => {
                    let json: Value = serde_json::from_slice(payload).unwrap();
                    received.statuses.push(json["status"].as_str().unwrap().to_owned());
                    received.has_token |= json.get("web_token").is_some();
                }
                0x88 => received.close = payload.first_chunk().map(|code| u16::from_be_bytes(*code)),
                _ => {}
            }
            bytes = rest;
        }
        received
    }
}
