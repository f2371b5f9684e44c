//! The decoder of WebSocket frames: it decodes the same from bytes in any pieces, and it decodes encoded frames.

use std::collections::BTreeSet;

use qrlogin::websocket::{Decoder, Incoming, Kind, MessageDecoder, Opcode, Violation, frame};

/// Maximum length of a message, in bytes.
const MAX_MESSAGE_BYTES: u32 = 1000;
/// The words that the message decoder recognizes.
const WORDS: &[&str] = &["ack", "ping", "pingpong"];

/// A message joined from its pieces, or the violation that ends the input.
#[derive(Debug, PartialEq, Eq)]
enum Decoded {
    Message(Kind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Broken(Violation),
}

/// Checks the properties for an input: the lengths of pieces, see [`crate::lengths_and_bytes`], and the bytes of a
/// connection.
pub fn run(data: &[u8]) {
    let (lengths, bytes) = super::lengths_and_bytes(data);
    let whole = decoded(&[bytes]);
    for lengths in [lengths, &[1]] {
        let pieces = super::pieces(lengths, bytes);
        assert_eq!(decoded(&pieces), whole, "in pieces of {lengths:?}");
        assert_eq!(recognized(&pieces), recognized(&[bytes]), "in pieces of {lengths:?}");
    }
    for opcode in [Opcode::Text, Opcode::Binary, Opcode::Ping, Opcode::Pong] {
        check_encoded(opcode, bytes);
    }
}

/// Returns what is decoded from bytes that arrive in these pieces, up to the first Close or violation.
fn decoded(pieces: &[&[u8]]) -> Vec<Decoded> {
    let mut decoder = Decoder::new(MAX_MESSAGE_BYTES);
    let (mut decoded, mut message) = (Vec::new(), Vec::new());
    for piece in pieces {
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(Incoming::Data { kind, payload, is_last })) => {
                    message.extend_from_slice(payload);
                    assert!(message.len() <= MAX_MESSAGE_BYTES as usize, "a message is too long");
                    if is_last {
                        let message = std::mem::take(&mut message);
                        assert!(kind == Kind::Binary || str::from_utf8(&message).is_ok(), "a text is not UTF-8");
                        decoded.push(Decoded::Message(kind, message));
                    }
                }
                Ok(Some(Incoming::Ping(payload))) => decoded.push(Decoded::Ping(payload.to_vec())),
                Ok(Some(Incoming::Pong(payload))) => decoded.push(Decoded::Pong(payload.to_vec())),
                Ok(Some(Incoming::Close(code))) => {
                    decoded.push(Decoded::Close(code));
                    return decoded;
                }
                Err(violation) => {
                    decoded.push(Decoded::Broken(violation));
                    return decoded;
                }
            }
        }
        assert!(input.is_empty(), "the decoder left bytes");
    }
    decoded
}

/// What the message decoder recognizes in a connection.
#[derive(Debug, Default, PartialEq, Eq)]
struct Recognized {
    /// Indices of the words.
    words: BTreeSet<u8>,
    latest_ping: Option<Vec<u8>>,
    close: Option<Option<u16>>,
    violation: Option<Violation>,
}

/// Returns what the message decoder recognizes in bytes that arrive in these pieces, up to the first Close or
/// violation.
fn recognized(pieces: &[&[u8]]) -> Recognized {
    let mut decoder = MessageDecoder::new(MAX_MESSAGE_BYTES, WORDS);
    let mut recognized = Recognized::default();
    for piece in pieces {
        let received = decoder.decode(&mut piece.to_vec());
        recognized.words.extend((0..3).filter(|index| received.has_word(*index)));
        recognized.latest_ping = received.ping.or(recognized.latest_ping);
        recognized.close = received.close;
        recognized.violation = received.violation;
        if recognized.close.is_some() || recognized.violation.is_some() {
            break;
        }
    }
    recognized
}

/// Checks that a frame with this payload is decoded to the payload, once it is masked as a browser masks it.
fn check_encoded(opcode: Opcode, payload: &[u8]) {
    let is_control = matches!(opcode, Opcode::Ping | Opcode::Pong);
    let payload = &payload[..payload.len().min(if is_control { 125 } else { MAX_MESSAGE_BYTES as usize })];
    let mut plain = Vec::new();
    frame(&mut plain, opcode, payload);
    let mask = [0x5a, 0, 0xff, plain[1]];
    let (head, encoded) = plain.split_at(plain.len() - payload.len());
    assert_eq!(encoded, payload);
    let mut masked = head.to_vec();
    masked[1] |= 0x80;
    masked.extend(mask);
    masked.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    let expected = match opcode {
        Opcode::Text if str::from_utf8(payload).is_err() => Decoded::Broken(Violation::InvalidText),
        Opcode::Text => Decoded::Message(Kind::Text, payload.to_vec()),
        Opcode::Ping => Decoded::Ping(payload.to_vec()),
        Opcode::Pong => Decoded::Pong(payload.to_vec()),
        _ => Decoded::Message(Kind::Binary, payload.to_vec()),
    };
    assert_eq!(decoded(&[&masked]), [expected]);
}
