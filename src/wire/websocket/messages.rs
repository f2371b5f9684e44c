//! Recognition of the messages that matter: pings, the Close, and a few text messages. All others are ignored.

use super::codec::{Decoder, Incoming, Kind, Opcode, Violation};

/// Recognizes the messages of one browser. While it [is at rest](MessageDecoder::is_at_rest) it holds no state, so it
/// can be dropped and later replaced by a new one.
#[derive(Debug)]
pub struct MessageDecoder {
    decoder: Decoder,
    words: &'static [&'static str],
    message: PartialMessage,
    /// Whether the Close in progress began before [`MessageDecoder::ignore_message_begun`].
    ignores_close_code: bool,
}

/// The text message in progress, matched against the words.
#[derive(Debug, Clone, Copy)]
struct PartialMessage {
    /// One bit for each word that begins with the bytes that have arrived.
    candidates: u8,
    bytes: usize,
}

impl PartialMessage {
    const NEW: Self = Self { candidates: u8::MAX, bytes: 0 };
    const NO_WORD: Self = Self { candidates: 0, bytes: 0 };
}

/// Messages that were recognized in some bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Payload of the latest ping. A pong to it answers all pings (RFC 6455 §5.5.3).
    pub ping: Option<Vec<u8>>,
    /// One bit for each word that was received.
    words: u8,
    /// The browser's Close. It contains the code, if it has one and [`MessageDecoder::ignore_message_begun`] does not
    /// apply. Bytes after the Close are ignored.
    pub close: Option<Option<u16>>,
    /// The violation of the protocol that follows the other messages. Bytes after it cannot be handled.
    pub violation: Option<Violation>,
}

impl Received {
    /// Returns whether the word with this index was received.
    #[must_use]
    pub const fn has_word(&self, index: u8) -> bool {
        self.words & 1 << index != 0
    }
}

impl MessageDecoder {
    /// Returns a recognizer of the text messages `words`, at most eight. Messages of more than `max_message_bytes` are
    /// violations. Other messages are ignored.
    #[must_use]
    pub const fn new(max_message_bytes: u32, words: &'static [&'static str]) -> Self {
        Self {
            decoder: Decoder::new(max_message_bytes),
            words,
            message: PartialMessage::NEW,
            ignores_close_code: false,
        }
    }

    /// Returns whether no frame and no message is in progress.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.decoder.is_at_rest()
    }

    /// Ignores the message and the Close in progress: a message is recognized as no word, and a Close is recognized
    /// without its code.
    pub fn ignore_message_begun(&mut self) {
        let opcode = self.decoder.opcode_in_progress();
        self.ignores_close_code |= opcode == Some(Opcode::Close as u8);
        let is_data = opcode.is_some_and(|opcode| opcode & 0x8 == 0);
        if is_data || self.decoder.is_within_message() {
            self.message = PartialMessage::NO_WORD;
        }
    }

    /// Handles received bytes, which are unmasked in place.
    pub fn decode(&mut self, mut bytes: &mut [u8]) -> Received {
        let mut received = Received::default();
        loop {
            let incoming = match self.decoder.decode(&mut bytes) {
                Ok(Some(incoming)) => incoming,
                Ok(None) => return received,
                Err(violation) => {
                    received.violation = Some(violation);
                    return received;
                }
            };
            match incoming {
                Incoming::Data { kind, payload, is_last } => {
                    let message = self.message.followed_by(kind, payload, self.words);
                    self.message = if is_last { PartialMessage::NEW } else { message };
                    if is_last {
                        received.words |= message.word(self.words);
                    }
                }
                Incoming::Ping(payload) => received.ping = Some(payload.to_vec()),
                Incoming::Pong(_) => {}
                Incoming::Close(code) => {
                    received.close = Some(code.filter(|_| !self.ignores_close_code));
                    return received;
                }
            }
        }
    }
}

impl PartialMessage {
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

    /// Returns the bit of the word that this whole message is, or 0.
    fn word(self, words: &[&str]) -> u8 {
        let is_whole = |index: usize| self.candidates & 1 << index != 0 && words[index].len() == self.bytes;
        (0..words.len()).filter(|index| is_whole(*index)).fold(0, |bits, index| bits | 1 << index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::websocket::frame;

    /// Returns what is recognized in these messages, each of which consists of these fragments.
    fn received(messages: &[(Opcode, &[&str])]) -> Received {
        let mut decoder = MessageDecoder::new(100, &["ack", "ping"]);
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
        let received = decoder.decode(&mut bytes);
        assert!(decoder.is_at_rest());
        received
    }

    #[test]
    fn word_is_a_whole_text_message() {
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
            assert_eq!(received(messages).has_word(0), word, "{messages:?}");
            assert!(!received(messages).has_word(1), "{messages:?}");
        }
    }

    #[test]
    fn several_words_are_distinguished() {
        let said = received(&[(Opcode::Text, &["p", "ing"]), (Opcode::Text, &["ac"]), (Opcode::Text, &["pin"])]);
        assert!(said.has_word(1) && !said.has_word(0));
        let said = received(&[(Opcode::Text, &["ping"]), (Opcode::Text, &["ack"])]);
        assert!(said.has_word(1) && said.has_word(0));
    }

    #[test]
    fn word_before_a_violation_is_recognized() {
        let mut decoder = MessageDecoder::new(100, &["ack"]);
        let mut bytes = [&[0x81, 0x83, 0, 0, 0, 0][..], b"ack", &[0xFF, 0xFF]].concat();
        let received = decoder.decode(&mut bytes);
        assert!(received.has_word(0));
        assert_eq!(received.violation, Some(Violation::Protocol));
    }

    #[test]
    fn messages_begun_before_discount_are_not_recognized() {
        let masked = |opcode: Opcode, payload: &[u8]| {
            let mut plain = Vec::new();
            frame(&mut plain, opcode, payload);
            [&[plain[0], plain[1] | 0x80, 0, 0, 0, 0], &plain[2..]].concat()
        };
        let close = |code: u16| masked(Opcode::Close, &code.to_be_bytes());
        let after = |whole: Vec<u8>, discounted_at: usize| {
            let mut decoder = MessageDecoder::new(100, &["ack"]);
            let (mut before, mut rest) = (whole[..discounted_at].to_vec(), whole[discounted_at..].to_vec());
            assert_eq!(decoder.decode(&mut before), Received::default());
            decoder.ignore_message_begun();
            decoder.decode(&mut rest)
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
        // A ping in progress is not discounted.
        let ping = masked(Opcode::Ping, b"x");
        assert!(after([ping, word.clone()].concat(), 3).has_word(0));
        // Between two fragments.
        let fragments = [&[0x01, 0x81, 0, 0, 0, 0, b'a'][..], &[0x80, 0x82, 0, 0, 0, 0, b'c', b'k']].concat();
        assert!(!after(fragments.clone(), 7).has_word(0) && after(fragments, 0).has_word(0));
        // Within a Close between two fragments.
        let fragment = [0x01, 0x81, 0, 0, 0, 0, b'a'];
        assert_eq!(after([&fragment[..], &close(1000)].concat(), fragment.len() + 3).close, Some(None));
        assert_eq!(after([&fragment[..], &close(1000)].concat(), fragment.len()).close, Some(Some(1000)));
    }

    #[test]
    fn only_the_latest_ping_is_kept_and_bytes_after_a_close_are_ignored() {
        let said =
            received(&[(Opcode::Ping, &["1"]), (Opcode::Ping, &["2"]), (Opcode::Close, &[""]), (Opcode::Ping, &["3"])]);
        assert_eq!(said, Received { ping: Some(b"2".to_vec()), close: Some(None), ..Received::default() });
    }
}
