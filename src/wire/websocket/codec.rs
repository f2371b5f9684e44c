//! Encoding and decoding of frames (RFC 6455 §5). No input or output. Decoding allocates memory only for a control
//! frame that arrives in pieces.

/// Type of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text message, whose UTF-8 is checked (§8.1).
    Text,
    /// A binary message, whose content is not checked.
    Binary,
}

/// A decoded part of the input.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming<'a> {
    /// A piece of a message: the part of a frame's payload that was in the input.
    Data {
        /// Type of the message.
        kind: Kind,
        /// Unmasked bytes of the piece. A piece of a text may end within a character.
        payload: &'a [u8],
        /// Whether the message ends with this piece.
        is_last: bool,
    },
    /// A ping, to be answered with a pong of the same payload (§5.5.2).
    Ping(&'a [u8]),
    /// A pong (§5.5.3), which may be unsolicited.
    Pong(&'a [u8]),
    /// A Close, with its code if it has one (§5.5.1).
    Close(Option<u16>),
}

/// Opcodes of the frames that the server sends (§5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    /// Opcode of a whole text message.
    Text = 0x1,
    /// Opcode of a whole binary message.
    Binary = 0x2,
    /// Opcode of a Close.
    Close = 0x8,
    /// Opcode of a ping.
    Ping = 0x9,
    /// Opcode of a pong.
    Pong = 0xA,
}

/// A violation of the protocol by the client. The decoder cannot be used after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// A frame that is not permitted. Close with 1002.
    Protocol,
    /// A text or Close reason that is not UTF-8. Close with 1007.
    InvalidText,
    /// A message longer than the maximum. Close with 1009.
    TooBig,
}

/// Maximum length of a control frame's payload, in bytes (§5.5).
const MAX_CONTROL_BYTES: usize = 125;
/// Maximum length of a frame's head, in bytes: two bytes, eight of the length, four of the mask.
const MAX_HEAD_BYTES: usize = 14;

/// Opcode of a frame that continues a message (§5.4).
const CONTINUATION: u8 = 0x0;

/// A decoder of frames from bytes that arrive in any pieces. Within a frame it stores the head and the number of
/// remaining bytes.
///
/// ```
/// use qrlogin::websocket::{Decoder, Incoming, Kind, Violation};
///
/// let mut decoder = Decoder::new(1000);
/// // A masked text frame, whose last byte has not arrived.
/// let mut bytes = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1];
/// let mut input = &mut bytes[..];
/// let first = decoder.decode(&mut input)?;
/// assert_eq!(first, Some(Incoming::Data { kind: Kind::Text, payload: b"h", is_last: false }));
/// assert_eq!(decoder.decode(&mut input)?, None);
///
/// let mut bytes = [b'i' ^ 2];
/// let last = decoder.decode(&mut &mut bytes[..])?;
/// assert_eq!(last, Some(Incoming::Data { kind: Kind::Text, payload: b"i", is_last: true }));
/// assert!(decoder.is_at_rest());
///
/// // The frames of a client must be masked.
/// assert_eq!(decoder.decode(&mut &mut [0x81, 0x00][..]), Err(Violation::Protocol));
/// # Ok::<(), Violation>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    max_message_bytes: u32,
    head: [u8; MAX_HEAD_BYTES],
    head_bytes: u8,
    frame: Option<FrameInProgress>,
    message: Option<MessageInProgress>,
    /// Payload of a control frame that arrived in pieces. Kept until the next control frame.
    control: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct FrameInProgress {
    opcode: u8,
    is_final: bool,
    remaining_bytes: u32,
    /// Mask of the remaining payload, rotated so that its first byte applies to the next byte.
    mask: [u8; 4],
}

#[derive(Debug)]
struct MessageInProgress {
    kind: Kind,
    bytes: u32,
    tail: Utf8Tail,
}

impl Decoder {
    /// Returns a decoder that refuses messages of more than `max_message_bytes`, over all of their frames.
    #[must_use]
    pub const fn new(max_message_bytes: u32) -> Self {
        Self {
            max_message_bytes,
            head: [0; MAX_HEAD_BYTES],
            head_bytes: 0,
            frame: None,
            message: None,
            control: Vec::new(),
        }
    }

    /// Returns whether no frame and no message is in progress. A new decoder can then replace this one.
    #[must_use]
    pub const fn is_at_rest(&self) -> bool {
        self.head_bytes == 0 && self.frame.is_none() && self.message.is_none()
    }

    /// Returns the opcode of the frame in progress, once its first byte has arrived.
    #[must_use]
    pub const fn opcode_in_progress(&self) -> Option<u8> {
        match &self.frame {
            Some(frame) => Some(frame.opcode),
            None if self.head_bytes > 0 => Some(self.head[0] & 0x0F),
            None => None,
        }
    }

    /// Returns whether a message has begun and not ended. A message begins when the head of its first frame is
    /// complete.
    #[must_use]
    pub const fn is_within_message(&self) -> bool {
        self.message.is_some()
    }

    /// Decodes the next part at the front of `input` and removes it. Returns `None` when `input` is used up. Payloads
    /// are unmasked in place.
    ///
    /// # Errors
    /// Returns the violation if the client broke the protocol. The decoder cannot be used after it.
    pub fn decode<'d, 'i: 'd>(&'d mut self, input: &mut &'i mut [u8]) -> Result<Option<Incoming<'d>>, Violation> {
        let Some(mut frame) = self.frame.take().map_or_else(|| self.read_head(input), |frame| Ok(Some(frame)))? else {
            return Ok(None);
        };
        let available = input.len().min(frame.remaining_bytes as usize);
        if available == 0 && frame.remaining_bytes > 0 {
            self.frame = Some(frame);
            return Ok(None);
        }
        let (payload, rest) = std::mem::take(input).split_at_mut(available);
        *input = rest;
        unmask(payload, &mut frame.mask);
        frame.remaining_bytes -= u32::try_from(available).unwrap_or(u32::MAX);
        let is_whole = frame.remaining_bytes == 0;
        if frame.opcode & 0x8 != 0 {
            return self.control(frame, payload, is_whole);
        }
        self.frame = (!is_whole).then_some(frame);
        self.data(payload, is_whole && frame.is_final).map(Some)
    }

    /// Collects the head of a frame. Returns it once it is complete.
    fn read_head(&mut self, input: &mut &mut [u8]) -> Result<Option<FrameInProgress>, Violation> {
        loop {
            let have = usize::from(self.head_bytes);
            let need = head_bytes(&self.head[..have]);
            if have >= 2 && have == need {
                self.head_bytes = 0;
                return self.begin_frame(need).map(Some);
            }
            let take = input.len().min(need - have);
            if take == 0 {
                return Ok(None);
            }
            let (bytes, rest) = std::mem::take(input).split_at_mut(take);
            *input = rest;
            self.head[have..have + take].copy_from_slice(bytes);
            #[expect(clippy::cast_possible_truncation, reason = "at most 14")]
            let now = (have + take) as u8;
            self.head_bytes = now;
            if have < 2 && now >= 2 {
                self.check_first_bytes()?;
            }
        }
    }

    /// Checks the first two bytes of a head, before the rest arrives.
    fn check_first_bytes(&self) -> Result<(), Violation> {
        let [first, second] = [self.head[0], self.head[1]];
        let (opcode, is_final) = (first & 0x0F, first & 0x80 != 0);
        let is_masked = second & 0x80 != 0;
        let has_reserved_bits = first & 0x70 != 0;
        if has_reserved_bits || !is_masked {
            return Err(Violation::Protocol);
        }
        let is_permitted = match opcode {
            CONTINUATION => self.message.is_some(),
            0x1 | 0x2 => self.message.is_none(),
            0x8..=0xA => is_final && usize::from(second & 0x7F) <= MAX_CONTROL_BYTES,
            _ => false,
        };
        if is_permitted { Ok(()) } else { Err(Violation::Protocol) }
    }

    fn begin_frame(&mut self, head_bytes: usize) -> Result<FrameInProgress, Violation> {
        let opcode = self.head[0] & 0x0F;
        let length = payload_bytes(&self.head)?;
        let mut mask = [0; 4];
        mask.copy_from_slice(&self.head[head_bytes - 4..head_bytes]);
        if opcode & 0x8 != 0 {
            self.control = Vec::new();
        } else {
            let kind = if opcode == 0x1 { Kind::Text } else { Kind::Binary };
            let message = self.message.get_or_insert(MessageInProgress { kind, bytes: 0, tail: Utf8Tail::default() });
            let total = length.checked_add(message.bytes.into()).ok_or(Violation::TooBig)?;
            if total > u64::from(self.max_message_bytes) {
                return Err(Violation::TooBig);
            }
            message.bytes = u32::try_from(total).map_err(|_| Violation::TooBig)?;
        }
        let remaining_bytes = u32::try_from(length).map_err(|_| Violation::TooBig)?;
        Ok(FrameInProgress { opcode, is_final: self.head[0] & 0x80 != 0, remaining_bytes, mask })
    }

    fn data<'d>(&mut self, payload: &'d [u8], is_last: bool) -> Result<Incoming<'d>, Violation> {
        let message = self.message.as_mut().ok_or(Violation::Protocol)?;
        let kind = message.kind;
        if kind == Kind::Text {
            message.tail.check(payload, is_last)?;
        }
        if is_last {
            self.message = None;
        }
        Ok(Incoming::Data { kind, payload, is_last })
    }

    fn control<'d>(
        &'d mut self,
        frame: FrameInProgress,
        payload: &'d [u8],
        is_whole: bool,
    ) -> Result<Option<Incoming<'d>>, Violation> {
        if !is_whole {
            self.control.extend_from_slice(payload);
            self.frame = Some(frame);
            return Ok(None);
        }
        // The payload is joined only if it arrived in pieces. The buffer is freed when the next control frame begins.
        if self.control.is_empty() {
            return incoming_control(frame.opcode, payload).map(Some);
        }
        self.control.extend_from_slice(payload);
        incoming_control(frame.opcode, &self.control).map(Some)
    }
}

/// Returns the length of a head that begins with these bytes, as far as it is known, in bytes.
fn head_bytes(head: &[u8]) -> usize {
    let extended = match head.get(1).map(|second| second & 0x7F) {
        None => return 2,
        Some(126) => 2,
        Some(127) => 8,
        Some(_) => 0,
    };
    2 + extended + 4
}

/// Returns the length of the payload, which must have the shortest encoding (§5.2).
fn payload_bytes(head: &[u8; MAX_HEAD_BYTES]) -> Result<u64, Violation> {
    let (length, least) = match head[1] & 0x7F {
        126 => (u64::from(u16::from_be_bytes([head[2], head[3]])), 126),
        127 => {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&head[2..10]);
            (u64::from_be_bytes(bytes), 0x1_0000)
        }
        short => (short.into(), 0),
    };
    // The highest bit of a length of eight bytes must be 0 (§5.2).
    if length >= least && length <= i64::MAX.cast_unsigned() { Ok(length) } else { Err(Violation::Protocol) }
}

/// Applies the mask (§5.3) and rotates it for the byte that follows.
fn unmask(payload: &mut [u8], mask: &mut [u8; 4]) {
    let mut words = payload.chunks_exact_mut(4);
    for word in &mut words {
        for (byte, key) in word.iter_mut().zip(*mask) {
            *byte ^= key;
        }
    }
    let rest = words.into_remainder();
    for (byte, key) in rest.iter_mut().zip(*mask) {
        *byte ^= key;
    }
    mask.rotate_left(rest.len());
}

fn incoming_control(opcode: u8, payload: &[u8]) -> Result<Incoming<'_>, Violation> {
    match opcode {
        0x9 => Ok(Incoming::Ping(payload)),
        0xA => Ok(Incoming::Pong(payload)),
        _ => close_code_of(payload).map(Incoming::Close),
    }
}

/// Returns the code in the payload of a Close. It must be a code that may be sent (§7.4), with a reason in UTF-8.
fn close_code_of(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk::<2>() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::Protocol) };
    };
    let code = u16::from_be_bytes(*code);
    // 1004 is reserved, 1005, 1006 and 1015 are never sent, and the others below 3000 are not assigned.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol);
    }
    std::str::from_utf8(reason).map_err(|_| Violation::InvalidText)?;
    Ok(Some(code))
}

/// The bytes of an incomplete character at the end of a piece of text.
#[derive(Debug, Default)]
struct Utf8Tail {
    bytes: [u8; 4],
    len: u8,
}

impl Utf8Tail {
    fn check(&mut self, mut piece: &[u8], is_last: bool) -> Result<(), Violation> {
        while self.len > 0 {
            let Some((next, rest)) = piece.split_first() else { break };
            piece = rest;
            self.bytes[usize::from(self.len)] = *next;
            self.len += 1;
            match std::str::from_utf8(&self.bytes[..usize::from(self.len)]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_some() => return Err(Violation::InvalidText),
                Err(_) => {}
            }
        }
        if let Err(error) = std::str::from_utf8(piece) {
            if error.error_len().is_some() {
                return Err(Violation::InvalidText);
            }
            let incomplete = &piece[error.valid_up_to()..];
            self.bytes[..incomplete.len()].copy_from_slice(incomplete);
            #[expect(clippy::cast_possible_truncation, reason = "at most 3")]
            let len = incomplete.len() as u8;
            self.len = len;
        }
        if is_last && self.len > 0 { Err(Violation::InvalidText) } else { Ok(()) }
    }
}

/// Appends a whole unmasked frame, as a server sends it. The payload of a control frame is cut at 125 bytes.
///
/// ```
/// use qrlogin::websocket::{Opcode, close_payload, frame};
///
/// let mut bytes = Vec::new();
/// frame(&mut bytes, Opcode::Text, b"hi");
/// frame(&mut bytes, Opcode::Close, &close_payload(1000, ""));
/// assert_eq!(bytes, [0x81, 2, b'h', b'i', 0x88, 2, 0x03, 0xe8]);
/// ```
pub fn frame(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    let is_control = opcode as u8 & 0x8 != 0;
    let payload = if is_control { &payload[..payload.len().min(MAX_CONTROL_BYTES)] } else { payload };
    out.push(0x80 | opcode as u8);
    #[expect(clippy::cast_possible_truncation, reason = "each arm has the range of its type")]
    match payload.len() {
        short @ 0..=125 => out.push(short as u8),
        medium @ 126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// Returns the payload of a Close. The reason is cut at a character boundary if it is too long.
#[must_use]
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    let fits = reason.floor_char_boundary(MAX_CONTROL_BYTES - 2);
    [&code.to_be_bytes(), &reason.as_bytes()[..fits]].concat()
}

#[cfg(test)]
mod tests;
