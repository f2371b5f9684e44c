//! A TCP connection that has become a WebSocket, server side.
//!
//! It holds the connection and the decoder, and no buffer: what is read goes through one on the stack, and is taken
//! in at once.

use std::io;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::codec::{Decoder, Incoming, Kind, Violation};

/// What is appended to the browser's key (§1.3).
const HANDSHAKE_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const READ_BYTES: usize = 2048;

/// The `Sec-WebSocket-Accept` that answers this `Sec-WebSocket-Key` (§4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(HANDSHAKE_GUID.as_bytes());
    STANDARD.encode(hash.finish())
}

/// See the module.
pub struct Socket {
    stream: TcpStream,
    decoder: Decoder,
    /// The only message that is listened for; all others are ignored.
    word: &'static str,
    /// How much of the word the text message in progress is, as long as it is nothing else.
    heard_of_word: Option<usize>,
    /// Read together with the handshake.
    early: Vec<u8>,
}

/// What one reading brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// A pong is owed, with this payload: that of the latest ping, as is permitted (§5.5.3).
    pub ping: Option<Vec<u8>>,
    /// The word was said.
    pub word: bool,
    /// The browser's Close, with its code if it gave one. What follows it is nobody's business.
    pub close: Option<Option<u16>>,
}

/// Why nothing more can be read.
#[derive(Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection broke, or ended without a Close.
    Network,
    /// The browser broke the protocol.
    Violation(Violation),
}

impl Socket {
    /// A socket on this connection, of which `early` has been read already. Messages longer than `max_message_bytes`
    /// are refused; the text message `word` is listened for.
    #[must_use]
    pub const fn new(stream: TcpStream, early: Vec<u8>, max_message_bytes: u32, word: &'static str) -> Self {
        Self { stream, decoder: Decoder::new(max_message_bytes), word, heard_of_word: None, early }
    }

    /// Writes all of these frames.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.stream.write_all(frames).await
    }

    /// What comes next. May be dropped and called again.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn receive(&mut self) -> Result<Heard, Failure> {
        if !self.early.is_empty() {
            let mut early = std::mem::take(&mut self.early);
            return self.take_in(&mut early);
        }
        loop {
            self.stream.readable().await.map_err(|_| Failure::Network)?;
            if let Some(heard) = self.receive_now()? {
                return Ok(heard);
            }
        }
    }

    /// What is known to be there already; `None` if that is nothing. (Not async, so that its buffer is on the stack and
    /// not kept with the task.)
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn receive_now(&mut self) -> Result<Option<Heard>, Failure> {
        let mut buffer = [0; READ_BYTES];
        match self.stream.try_read(&mut buffer) {
            Ok(0) => Err(Failure::Network),
            Ok(read) => self.take_in(&mut buffer[..read]).map(Some),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(_) => Err(Failure::Network),
        }
    }

    fn take_in(&mut self, mut bytes: &mut [u8]) -> Result<Heard, Failure> {
        let mut heard = Heard::default();
        while let Some(incoming) = self.decoder.decode(&mut bytes).map_err(Failure::Violation)? {
            match incoming {
                Incoming::Data { kind, payload, is_last } => {
                    let before = self.heard_of_word.unwrap_or(0);
                    let is_start_of_word = kind == Kind::Text
                        && before != usize::MAX
                        && self.word.as_bytes()[before..].starts_with(payload);
                    let now = if is_start_of_word { before + payload.len() } else { usize::MAX };
                    heard.word |= is_last && now == self.word.len();
                    self.heard_of_word = (!is_last).then_some(now);
                }
                Incoming::Ping(payload) => heard.ping = Some(payload.to_vec()),
                Incoming::Pong(_) => {}
                Incoming::Close(code) => {
                    heard.close = Some(code);
                    break;
                }
            }
        }
        Ok(heard)
    }

    /// Reads and throws away until the other end closes, `max_bytes` at most. (Closing on what has not been read
    /// would reset the connection, and what we sent last might not be read.)
    pub async fn drain(&mut self, max_bytes: usize) {
        let mut buffer = vec![0; READ_BYTES];
        let mut left = max_bytes;
        while left > 0 {
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::{Opcode, frame};

    #[test]
    fn the_accept_key_is_that_of_rfc_6455_section_1_3() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    /// What is heard of these messages, each cut into these fragments.
    async fn heard(messages: &[(Opcode, &[&str])]) -> Heard {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = Socket::new(stream, Vec::new(), 100, "ack");
        let mut bytes = Vec::new();
        for (opcode, fragments) in messages {
            for (index, fragment) in fragments.iter().enumerate() {
                let mut plain = Vec::new();
                frame(&mut plain, *opcode, fragment.as_bytes());
                let is_last = index + 1 == fragments.len();
                let opcode = if index == 0 { *opcode as u8 } else { 0 };
                bytes.extend([if is_last { 0x80 | opcode } else { opcode }, plain[1] | 0x80, 0, 0, 0, 0]);
                bytes.extend_from_slice(&plain[2..]);
            }
        }
        socket.take_in(&mut bytes).unwrap()
    }

    #[tokio::test]
    async fn the_word_is_a_whole_text_message_and_nothing_else() {
        for (messages, word) in [
            (&[(Opcode::Text, &["ack"][..])][..], true),
            (&[(Opcode::Text, &["a", "", "ck"])], true),
            (&[(Opcode::Text, &["back"]), (Opcode::Text, &["ack"])], true),
            (&[(Opcode::Text, &["a", "x"]), (Opcode::Text, &["ack"])], true),
            (&[(Opcode::Text, &["acknowledged"])], false),
            (&[(Opcode::Text, &["ack", "!"])], false),
            (&[(Opcode::Text, &["ac"]), (Opcode::Text, &["k"])], false),
            (&[(Opcode::Text, &[""])], false),
            (&[(Opcode::Binary, &["ack"])], false),
        ] {
            assert_eq!(heard(messages).await.word, word, "{messages:?}");
        }
    }

    #[tokio::test]
    async fn only_the_latest_ping_is_answered_and_nothing_after_a_close_is_heard() {
        let said =
            heard(&[(Opcode::Ping, &["1"]), (Opcode::Ping, &["2"]), (Opcode::Close, &[""]), (Opcode::Ping, &["3"])]);
        assert_eq!(said.await, Heard { ping: Some(b"2".to_vec()), word: false, close: Some(None) });
    }
}
