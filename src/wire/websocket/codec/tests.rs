//! Comparison with another implementation of the protocol, with the bytes cut into pieces in all ways.

use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};
use tokio_tungstenite::tungstenite::{Error, Message, protocol};

use super::*;

const MAX: u32 = 1000;

/// A message joined from its pieces, or the violation that ended the input.
#[derive(Debug, Clone, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>),
    Broken(Violation),
}

/// Returns all that is decoded from these bytes, in pieces of these sizes, of which the last is repeated.
fn decoded(bytes: &[u8], pieces: &[usize]) -> Vec<Seen> {
    let mut decoder = Decoder::new(MAX);
    let mut seen = Vec::new();
    let mut message = Vec::new();
    let mut rest = bytes;
    let mut pieces = pieces.iter().copied().chain(std::iter::repeat(*pieces.last().unwrap_or(&usize::MAX)));
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(pieces.next().unwrap().clamp(1, rest.len()));
        rest = later;
        let mut piece = piece.to_vec();
        let mut input = &mut piece[..];
        loop {
            match decoder.decode(&mut input) {
                Ok(None) => break,
                Ok(Some(Incoming::Data { kind, payload, is_last })) => {
                    message.extend_from_slice(payload);
                    if is_last {
                        let whole = std::mem::take(&mut message);
                        seen.push(match kind {
                            Kind::Text => Seen::Text(String::from_utf8(whole).unwrap()),
                            Kind::Binary => Seen::Binary(whole),
                        });
                    }
                }
                Ok(Some(Incoming::Ping(payload))) => seen.push(Seen::Ping(payload.to_vec())),
                Ok(Some(Incoming::Pong(payload))) => seen.push(Seen::Pong(payload.to_vec())),
                Ok(Some(Incoming::Close(code))) => {
                    seen.push(Seen::Close(code));
                    return seen;
                }
                Err(violation) => {
                    seen.push(Seen::Broken(violation));
                    return seen;
                }
            }
        }
    }
    seen
}

/// Returns what the reference implementation reads from the same bytes.
fn reference(bytes: &[u8]) -> Vec<Seen> {
    struct Bytes<'a>(&'a [u8]);
    impl std::io::Read for Bytes<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            if self.0.is_empty() { Err(std::io::ErrorKind::WouldBlock.into()) } else { self.0.read(buffer) }
        }
    }
    impl std::io::Write for Bytes<'_> {
        fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
            Ok(buffer.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let config =
        protocol::WebSocketConfig::default().max_message_size(Some(MAX as usize)).max_frame_size(Some(MAX as usize));
    let mut socket = protocol::WebSocket::from_raw_socket(Bytes(bytes), protocol::Role::Server, Some(config));
    let mut seen = Vec::new();
    loop {
        seen.push(match socket.read() {
            Ok(Message::Text(text)) => Seen::Text(text.to_string()),
            Ok(Message::Binary(bytes)) => Seen::Binary(bytes.to_vec()),
            Ok(Message::Ping(bytes)) => Seen::Ping(bytes.to_vec()),
            Ok(Message::Pong(bytes)) => Seen::Pong(bytes.to_vec()),
            Ok(Message::Close(frame)) => {
                seen.push(Seen::Close(frame.map(|frame| frame.code.into())));
                return seen;
            }
            Ok(Message::Frame(_)) => unreachable!("frames are put together"),
            Err(Error::Io(_)) => return seen,
            Err(Error::Utf8(_)) => Seen::Broken(Violation::InvalidText),
            Err(Error::Capacity(_)) => Seen::Broken(Violation::TooBig),
            Err(_) => Seen::Broken(Violation::Protocol),
        });
        if matches!(seen.last(), Some(Seen::Broken(_))) {
            return seen;
        }
    }
}

/// Returns a frame as a browser sends it, encoded by the reference implementation.
fn masked(opcode: OpCode, is_final: bool, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let header = FrameHeader { is_final, opcode, mask: Some(mask), ..FrameHeader::default() };
    let frame = Frame::from_payload(header, payload.to_vec().into());
    let mut bytes = Vec::new();
    frame.format(&mut bytes).unwrap();
    bytes
}

fn control() -> impl Strategy<Value = Vec<u8>> {
    (any::<bool>(), prop::collection::vec(any::<u8>(), 0..=125), any::<[u8; 4]>()).prop_map(
        |(is_ping, payload, mask)| {
            let control = if is_ping { Control::Ping } else { Control::Pong };
            masked(OpCode::Control(control), true, &payload, mask)
        },
    )
}

/// Generates a message in fragments, with control frames between them.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        "\\PC{0,60}".prop_map(|text| (Data::Text, text.into_bytes())),
        prop::collection::vec(any::<u8>(), 0..400).prop_map(|bytes| (Data::Binary, bytes)),
        // Some texts are not UTF-8.
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| (Data::Text, bytes)),
    ];
    let cuts = prop::collection::vec((any::<prop::sample::Index>(), prop::option::of(control())), 0..4);
    (payload, cuts, any::<[u8; 4]>()).prop_map(|((kind, payload), cuts, mask)| {
        let mut cuts: Vec<_> = cuts.into_iter().map(|(at, between)| (at.index(payload.len() + 1), between)).collect();
        cuts.sort_by_key(|(at, _)| *at);
        let (mut bytes, mut from, mut opcode) = (Vec::new(), 0, OpCode::Data(kind));
        for (at, between) in cuts {
            bytes.extend(masked(opcode, false, &payload[from..at], mask));
            bytes.extend(between.unwrap_or_default());
            (from, opcode) = (at, OpCode::Data(Data::Continue));
        }
        bytes.extend(masked(opcode, true, &payload[from..], mask));
        bytes
    })
}

fn close() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(masked(OpCode::Control(Control::Close), true, &[], [1, 2, 3, 4])),
        (prop::sample::select(vec![1000, 1001, 1011, 3000, 4999]), "\\PC{0,30}", any::<[u8; 4]>()).prop_map(
            |(code, reason, mask)| {
                let payload = close_payload(code, &reason);
                masked(OpCode::Control(Control::Close), true, &payload, mask)
            }
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn messages_in_any_pieces_are_decoded_as_the_reference_decodes_them(
        messages in prop::collection::vec(prop_oneof![control(), message()], 0..6),
        close in prop::option::of(close()),
        pieces in prop::collection::vec(1_usize..50, 1..8),
    ) {
        let bytes: Vec<u8> = messages.into_iter().chain(close).flatten().collect();
        let whole = decoded(&bytes, &[]);
        prop_assert_eq!(&whole, &reference(&bytes));
        prop_assert_eq!(&decoded(&bytes, &pieces), &whole);
        prop_assert_eq!(&decoded(&bytes, &[1]), &whole);
    }

    #[test]
    fn arbitrary_bytes_are_decoded_the_same_in_any_pieces(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200),
        pieces in prop::collection::vec(1_usize..20, 1..8),
        plausible in any::<bool>(),
    ) {
        if plausible && bytes.len() > 1 {
            // Such bytes are likely to be a frame, so that more than the first two bytes are checked.
            bytes[0] &= 0x8F;
            bytes[1] |= 0x80;
        }
        let (whole, cut) = (decoded(&bytes, &[]), decoded(&bytes, &pieces));
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn encoded_frames_agree_with_the_reference(text in "\\PC{0,300}", long in 0_usize..70_000, code in 3000_u16..5000) {
        let mut bytes = Vec::new();
        frame(&mut bytes, Opcode::Text, text.as_bytes());
        frame(&mut bytes, Opcode::Binary, &vec![7; long]);
        frame(&mut bytes, Opcode::Ping, b"?");
        frame(&mut bytes, Opcode::Close, &close_payload(code, &text));
        let mut socket = protocol::WebSocket::from_partially_read(
            std::io::Cursor::new(Vec::new()), bytes, protocol::Role::Client, None,
        );
        prop_assert_eq!(socket.read().unwrap(), Message::text(text.clone()));
        prop_assert_eq!(socket.read().unwrap(), Message::binary(vec![7; long]));
        prop_assert_eq!(socket.read().unwrap(), Message::Ping("?".into()));
        let Message::Close(Some(CloseFrame { code: seen, reason })) = socket.read().unwrap() else { panic!("a Close") };
        prop_assert_eq!(seen, CloseCode::from(code));
        prop_assert!(text.starts_with(reason.as_str()) && (text.len() > 123 || text == reason.as_str()));
    }
}

#[test]
fn violations_are_refused_as_rfc_6455_demands() {
    let cases: [(&[u8], Violation); 14] = [
        (&[0x81, 0x02, b'h', b'i'], Violation::Protocol), // not masked
        (&[0xC1, 0x80, 0, 0, 0, 0], Violation::Protocol), // a reserved bit
        (&[0x83, 0x80, 0, 0, 0, 0], Violation::Protocol), // reserved opcodes
        (&[0x8B, 0x80, 0, 0, 0, 0], Violation::Protocol),
        (&[0x80, 0x80, 0, 0, 0, 0], Violation::Protocol), // continues no message
        (&[0x01, 0x80, 0, 0, 0, 0, 0x81, 0x80], Violation::Protocol), // begins within another message
        (&[0x09, 0x80, 0, 0, 0, 0], Violation::Protocol), // a control frame in fragments
        (&[0x89, 0xFE, 0, 126], Violation::Protocol),     // a control frame too long
        (&[0x82, 0xFE, 0, 125, 0, 0, 0, 0], Violation::Protocol), // lengths not in the shortest encoding
        (&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0, 0, 0, 0], Violation::Protocol),
        (&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], Violation::Protocol), // the highest bit
        (&[0x82, 0xFE, 0x03, 0xE9, 0, 0, 0, 0], Violation::TooBig),                  // 1001 bytes
        (&[0x88, 0x81, 0, 0, 0, 0, 3], Violation::Protocol),                         // half a close code
        (&[0x88, 0x83, 0, 0, 0, 0, 3, 0xE8, 0xFF], Violation::InvalidText),          // a reason that is not UTF-8
    ];
    for (bytes, violation) in cases {
        for pieces in [&[][..], &[1]] {
            assert_eq!(decoded(bytes, pieces).last(), Some(&Seen::Broken(violation)), "{bytes:02x?}");
        }
    }
    for code in [0_u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535] {
        let bytes = masked(OpCode::Control(Control::Close), true, &code.to_be_bytes(), [9; 4]);
        assert_eq!(decoded(&bytes, &[]), [Seen::Broken(Violation::Protocol)], "{code}");
    }
}

#[test]
fn text_is_refused_at_the_first_byte_that_is_not_utf8() {
    // The first bytes of a character of four, whose last byte never comes.
    let begun = masked(OpCode::Data(Data::Text), false, &[0xF0, 0x9F], [5; 4]);
    assert_eq!(decoded(&begun, &[]), []);
    let wrong = masked(OpCode::Data(Data::Continue), false, b"(", [5; 4]);
    assert_eq!(decoded(&[begun.clone(), wrong].concat(), &[]), [Seen::Broken(Violation::InvalidText)]);
    let ended = masked(OpCode::Data(Data::Continue), true, &[0x98], [5; 4]);
    assert_eq!(decoded(&[begun, ended].concat(), &[]), [Seen::Broken(Violation::InvalidText)]);
}

#[test]
fn message_of_the_maximum_length_is_accepted_and_a_longer_one_refused() {
    for (first, second) in [(MAX, 0), (MAX - 1, 1), (0, MAX), (400, 600)] {
        let of = |second: u32| {
            let fragment = |opcode, is_final, bytes: u32| masked(opcode, is_final, &vec![b'a'; bytes as usize], [1; 4]);
            [fragment(OpCode::Data(Data::Text), false, first), fragment(OpCode::Data(Data::Continue), true, second)]
                .concat()
        };
        assert_eq!(decoded(&of(second), &[7]), [Seen::Text("a".repeat(MAX as usize))]);
        assert_eq!(decoded(&of(second + 1), &[7]), [Seen::Broken(Violation::TooBig)]);
    }
}

#[test]
fn fragments_above_the_maximum_are_refused_at_the_head_of_the_last() {
    let first = masked(OpCode::Data(Data::Binary), false, &[7; 600], [5; 4]);
    let second = masked(OpCode::Data(Data::Continue), true, &[7; 401], [5; 4]);
    let bytes = [&first[..], &second[..8]].concat();
    assert_eq!(decoded(&bytes, &[]), [Seen::Broken(Violation::TooBig)]);
}
