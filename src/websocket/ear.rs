//! The messages of a browser that matter: pings, the Close, and a few words. All others are ignored.

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::codec::{Decoder, Incoming, Kind, Opcode, Violation};

/// Appended to the browser's key before hashing (§1.3).
const HANDSHAKE_GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The `Sec-WebSocket-Accept` that answers this `Sec-WebSocket-Key` (§4.2.2).
#[must_use]
pub fn accept_key(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(HANDSHAKE_GUID.as_bytes());
    STANDARD.encode(hash.finish())
}

/// Listens to one browser. An ear that [is at rest](Ear::is_at_rest) holds nothing: it may be dropped, and a new one
/// goes on in its place.
#[derive(Debug)]
pub struct Ear {
    decoder: Decoder,
    words: &'static [&'static str],
    message: Message,
    /// The Close in progress began before [`Ear::discount`].
    is_close_discounted: bool,
}

/// The text message in progress: which of the words it may still be.
#[derive(Debug, Clone, Copy)]
struct Message {
    /// One bit for each word that begins with what has arrived.
    candidates: u8,
    bytes: usize,
}

impl Message {
    const NEW: Self = Self { candidates: u8::MAX, bytes: 0 };
    const NO_WORD: Self = Self { candidates: 0, bytes: 0 };
}

/// What some bytes said.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// A pong is owed, with this payload: that of the latest ping, as is permitted (§5.5.3).
    pub ping: Option<Vec<u8>>,
    words: u8,
    /// The browser's Close, with its code if it gave one and the Close does not fall under [`Ear::discount`]. Bytes
    /// behind it are ignored.
    pub close: Option<Option<u16>>,
    /// How the browser broke the protocol, behind all else. Nothing more can be read then.
    pub violation: Option<Violation>,
}

impl Heard {
    /// Whether the word of this index was said.
    #[must_use]
    pub const fn has_word(&self, index: u8) -> bool {
        self.words & 1 << index != 0
    }
}

impl Ear {
    /// Refuses messages longer than `max_message_bytes`; listens for the text messages `words`, at most eight. All
    /// other messages are ignored.
    #[must_use]
    pub const fn new(max_message_bytes: u32, words: &'static [&'static str]) -> Self {
        Self { decoder: Decoder::new(max_message_bytes), words, message: Message::NEW, is_close_discounted: false }
    }

    /// Whether no frame and no message is in progress.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.decoder.is_at_rest()
    }

    /// Discounts what is in progress: the message will be none of the words, and the Close will have no code.
    pub fn discount(&mut self) {
        let opcode = self.decoder.opcode_in_progress();
        self.is_close_discounted |= opcode == Some(Opcode::Close as u8);
        let is_data = opcode.is_some_and(|opcode| opcode & 0x8 == 0);
        if is_data || self.decoder.is_within_message() {
            self.message = Message::NO_WORD;
        }
    }

    /// Takes in what has arrived, unmasking it in place.
    pub fn hear(&mut self, mut bytes: &mut [u8]) -> Heard {
        let mut heard = Heard::default();
        loop {
            let incoming = match self.decoder.decode(&mut bytes) {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return heard,
                Err(violation) => {
                    heard.violation = Some(violation);
                    return heard;
                }
            };
            match incoming {
                Incoming::Data { kind, payload, is_last } => {
                    let message = self.message.followed_by(kind, payload, self.words);
                    self.message = if is_last { Message::NEW } else { message };
                    if is_last {
                        heard.words |= message.word(self.words);
                    }
                }
                Incoming::Ping(payload) => heard.ping = Some(payload.to_vec()),
                Incoming::Pong(_) => {}
                Incoming::Close(code) => {
                    heard.close = Some(code.filter(|_| !self.is_close_discounted));
                    return heard;
                }
            }
        }
    }
}

impl Message {
    fn followed_by(self, kind: Kind, payload: &[u8], words: &[&str]) -> Self {
        let mut candidates = 0;
        for (index, word) in words.iter().enumerate().filter(|(index, _)| self.candidates & 1 << index != 0) {
            let rest = word.as_bytes().get(self.bytes..).unwrap_or_default();
            if kind == Kind::Text && rest.starts_with(payload) {
                candidates |= 1 << index;
            }
        }
        Self { candidates, bytes: self.bytes + payload.len() }
    }

    /// The bit of the word that this message is, if it is one.
    fn word(self, words: &[&str]) -> u8 {
        let is_whole = |index: usize| self.candidates & 1 << index != 0 && words[index].len() == self.bytes;
        (0..words.len()).filter(|index| is_whole(*index)).fold(0, |bits, index| bits | 1 << index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::frame;

    #[test]
    fn the_accept_key_is_that_of_rfc_6455_section_1_3() {
        assert_eq!(accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    /// What is heard of these messages, each cut into these fragments.
    fn heard(messages: &[(Opcode, &[&str])]) -> Heard {
        let mut ear = Ear::new(100, &["ack", "ping"]);
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
        let heard = ear.hear(&mut bytes);
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
            assert_eq!(heard(messages).has_word(0), word, "{messages:?}");
            assert!(!heard(messages).has_word(1), "{messages:?}");
        }
    }

    #[test]
    fn several_words_are_told_apart() {
        let said = heard(&[(Opcode::Text, &["p", "ing"]), (Opcode::Text, &["ac"]), (Opcode::Text, &["pin"])]);
        assert!(said.has_word(1) && !said.has_word(0));
        let said = heard(&[(Opcode::Text, &["ping"]), (Opcode::Text, &["ack"])]);
        assert!(said.has_word(1) && said.has_word(0));
    }

    #[test]
    fn what_was_said_before_the_protocol_was_broken_counts() {
        let mut ear = Ear::new(100, &["ack"]);
        let mut bytes = [&[0x81, 0x83, 0, 0, 0, 0][..], b"ack", &[0xFF, 0xFF]].concat();
        let heard = ear.hear(&mut bytes);
        assert!(heard.has_word(0));
        assert_eq!(heard.violation, Some(Violation::Protocol));
    }

    #[test]
    fn what_began_before_it_was_discounted_does_not_count() {
        let masked = |opcode: Opcode, payload: &[u8]| {
            let mut plain = Vec::new();
            frame(&mut plain, opcode, payload);
            [&[plain[0], plain[1] | 0x80, 0, 0, 0, 0], &plain[2..]].concat()
        };
        let close = |code: u16| masked(Opcode::Close, &code.to_be_bytes());
        let after = |whole: Vec<u8>, discounted_at: usize| {
            let mut ear = Ear::new(100, &["ack"]);
            let (mut before, mut rest) = (whole[..discounted_at].to_vec(), whole[discounted_at..].to_vec());
            assert_eq!(ear.hear(&mut before), Heard::default());
            ear.discount();
            ear.hear(&mut rest)
        };
        for at in 1..8 {
            assert_eq!(after(close(1000), at).close, Some(None), "at {at}");
        }
        assert_eq!(after(close(1000), 0).close, Some(Some(1000)));
        let word = masked(Opcode::Text, b"ack");
        for at in 1..9 {
            assert!(!after(word.clone(), at).has_word(0), "at {at}");
            assert!(after([word.clone(), word.clone()].concat(), at).has_word(0), "the second counts");
            assert_eq!(after([word.clone(), close(1000)].concat(), at).close, Some(Some(1000)), "a later Close counts");
        }
        assert!(after(word.clone(), 0).has_word(0));
        // Of a ping that was cut there is nothing to discount.
        let ping = masked(Opcode::Ping, b"x");
        assert!(after([ping, word.clone()].concat(), 3).has_word(0));
        // Between two fragments.
        let fragments = [&[0x01, 0x81, 0, 0, 0, 0, b'a'][..], &[0x80, 0x82, 0, 0, 0, 0, b'c', b'k']].concat();
        assert!(!after(fragments.clone(), 7).has_word(0) && after(fragments, 0).has_word(0));
        // A Close between two fragments, cut within the Close.
        let fragment = [0x01, 0x81, 0, 0, 0, 0, b'a'];
        assert_eq!(after([&fragment[..], &close(1000)].concat(), fragment.len() + 3).close, Some(None));
        assert_eq!(after([&fragment[..], &close(1000)].concat(), fragment.len()).close, Some(Some(1000)));
    }

    #[test]
    fn only_the_latest_ping_is_answered_and_nothing_after_a_close_is_heard() {
        let said =
            heard(&[(Opcode::Ping, &["1"]), (Opcode::Ping, &["2"]), (Opcode::Close, &[""]), (Opcode::Ping, &["3"])]);
        assert_eq!(said, Heard { ping: Some(b"2".to_vec()), close: Some(None), ..Heard::default() });
    }
}
