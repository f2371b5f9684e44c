//! What a browser says, as far as anyone cares: of all its frames only pings, the Close, and one word.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::codec::{Decoder, Incoming, Kind, Violation};

/// What is appended to the browser's key (§1.3).
const HANDSHAKE_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `Sec-WebSocket-Accept` that answers this `Sec-WebSocket-Key` (§4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(HANDSHAKE_GUID.as_bytes());
    STANDARD.encode(hash.finish())
}

/// Listens to one browser. Needs no keeping between two messages: whoever [is at rest](Ear::is_at_rest) may be dropped,
/// and a new one goes on in its place.
#[derive(Debug)]
pub struct Ear {
    decoder: Decoder,
    /// The only message that is listened for; all others are ignored.
    word: &'static str,
    /// How much of the word the text message in progress is, as long as it is nothing else.
    heard_of_word: Option<usize>,
}

/// What some bytes said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// A pong is owed, with this payload: that of the latest ping, as is permitted (§5.5.3).
    pub ping: Option<Vec<u8>>,
    /// The word was said.
    pub word: bool,
    /// The browser's Close, with its code if it gave one. What follows it is nobody's business.
    pub close: Option<Option<u16>>,
}

impl Ear {
    /// Refuses messages longer than `max_message_bytes`; listens for the text message `word`.
    #[must_use]
    pub const fn new(max_message_bytes: u32, word: &'static str) -> Self {
        Self { decoder: Decoder::new(max_message_bytes), word, heard_of_word: None }
    }

    /// Whether nothing is half said.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.decoder.is_at_rest()
    }

    /// Takes in what has arrived, unmasking it in place.
    ///
    /// # Errors
    /// The browser broke the protocol. There is nothing to be understood after that.
    pub fn hear(&mut self, mut bytes: &mut [u8]) -> Result<Heard, Violation> {
        let mut heard = Heard::default();
        while let Some(incoming) = self.decoder.decode(&mut bytes)? {
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
    fn heard(messages: &[(Opcode, &[&str])]) -> Heard {
        let mut ear = Ear::new(100, "ack");
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
        let heard = ear.hear(&mut bytes).unwrap();
        assert!(ear.is_at_rest());
        heard
    }

    #[test]
    fn the_word_is_a_whole_text_message_and_nothing_else() {
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
            assert_eq!(heard(messages).word, word, "{messages:?}");
        }
    }

    #[test]
    fn only_the_latest_ping_is_answered_and_nothing_after_a_close_is_heard() {
        let said =
            heard(&[(Opcode::Ping, &["1"]), (Opcode::Ping, &["2"]), (Opcode::Close, &[""]), (Opcode::Ping, &["3"])]);
        assert_eq!(said, Heard { ping: Some(b"2".to_vec()), word: false, close: Some(None) });
    }
}
