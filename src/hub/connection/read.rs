//! Reading: what browsers send, and what follows from it.

use std::io;

use tracing::{debug, info};

use super::{CLOSE_SECONDS, Phase, Turn, Waiting};
use crate::hub::deadlines::Tick;
use crate::hub::socket::Socket;
use crate::hub::wire::{self, Wire};
use crate::metrics::CloseReason;
use crate::wire::types::{ACK_MESSAGE, PING_MESSAGE, close_code};
use crate::wire::websocket::{Ear, Heard, Opcode, Violation, close_payload};

/// Maximum length of a browser's message, in bytes.
pub(super) const MAX_MESSAGE_BYTES: u32 = 1024;
/// Number of bytes that are read and discarded after a browser broke the protocol. Closing a socket with unread bytes
/// resets the connection, and the browser may not receive the Close then.
const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// The text messages that have a meaning. `ACK` and `PING` are indices of it.
const WORDS: &[&str] = &[ACK_MESSAGE, PING_MESSAGE];
const ACK: u8 = 0;
const PING: u8 = 1;

/// Readiness of a socket, as reported by epoll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hub) struct Readiness {
    pub(in crate::hub) is_writable: bool,
    /// No further readiness is reported. The socket must be read to its end now.
    pub(in crate::hub) is_last: bool,
}

/// Bounds of what one turn reads. A connection with more unread bytes has another turn after the other connections.
pub(in crate::hub) struct Share<'a> {
    pub(in crate::hub) buffer: &'a mut [u8],
    /// Maximum number of reads.
    pub(in crate::hub) readings: usize,
}

impl<S: Socket> Waiting<S> {
    /// Handles readiness of the socket.
    pub(in crate::hub) fn ready(&mut self, readiness: Readiness, share: Share<'_>, turn: &mut Turn<'_, S>) {
        if readiness.is_writable {
            self.flush(turn);
        }
        self.listen(readiness.is_last, share, turn);
    }

    /// Reads what has been received, up to the turn's share. A read that does not fill the buffer has emptied the
    /// socket, and later bytes are reported (epoll(7)). After the last report it reads until the socket is empty.
    fn listen(&mut self, is_last: bool, Share { buffer, readings }: Share<'_>, turn: &mut Turn<'_, S>) {
        for _ in 0..readings {
            if self.has_ended() {
                return;
            }
            let Some(socket) = &mut self.socket else { return };
            match socket.read(buffer) {
                Ok(0) => return self.hang_up(turn),
                Ok(read) => {
                    self.take_in(&mut buffer[..read], turn);
                    if read < buffer.len() && !is_last {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(&error, turn),
            }
        }
        turn.effects.reads_on = !self.has_ended();
    }

    fn fail(&mut self, error: &io::Error, turn: &mut Turn<'_, S>) {
        // The system has not received acknowledgements of heartbeats in time: see `http::outgoing::notice_silence`.
        let is_silent = error.kind() == io::ErrorKind::TimedOut && self.wire == Wire::EventStream;
        if is_silent && self.is_waiting() {
            self.reason = CloseReason::Heartbeat;
        }
        self.finish(turn);
    }

    /// Handles the end of the browser's stream. A client gives up a stream of events or a poll in this way.
    fn hang_up(&mut self, turn: &mut Turn<'_, S>) {
        if self.wire != Wire::WebSocket && self.is_waiting() {
            let active = self.active();
            info!(event = "client closed", session = %self.key, active);
            self.reason = CloseReason::Client;
        }
        self.finish(turn);
    }

    pub(super) fn take_in(&mut self, bytes: &mut [u8], turn: &mut Turn<'_, S>) {
        if self.wire != Wire::WebSocket {
            // A client that waits for an answer need not send anything. Up to 1 KiB per read is ignored.
            if bytes.len() > MAX_MESSAGE_BYTES as usize && self.is_waiting() {
                self.end(CloseReason::Protocol, turn);
            }
            return;
        }
        if self.phase == Phase::Lingering {
            let aside = self.aside.get_or_insert_default();
            aside.linger_bytes = aside.linger_bytes.saturating_sub(bytes.len());
            if aside.linger_bytes == 0 {
                self.finish(turn);
            }
            return;
        }
        let early_bytes = self.aside.as_ref().map_or(0, |aside| aside.early_bytes.min(bytes.len()));
        let (early, late) = bytes.split_at_mut(early_bytes);
        if !early.is_empty() {
            self.hear(early, false, turn);
        }
        if !late.is_empty() && !matches!(self.phase, Phase::Ended | Phase::Lingering) {
            self.hear(late, true, turn);
        }
    }

    /// Handles received bytes. `is_late` is false if they arrived before the token was written.
    fn hear(&mut self, bytes: &mut [u8], is_late: bool, turn: &mut Turn<'_, S>) {
        let kept = self.aside.as_mut().and_then(|aside| aside.ear.take());
        let mut ear = kept.unwrap_or_else(|| Ear::new(MAX_MESSAGE_BYTES, WORDS));
        let heard = ear.hear(bytes);
        if let Some(aside) = self.aside.as_mut().filter(|_| !is_late) {
            aside.early_bytes -= bytes.len();
            if aside.early_bytes == 0 {
                ear.discount();
            }
        }
        if heard.violation.is_none() && !ear.is_at_rest() {
            self.aside.get_or_insert_default().ear = Some(ear);
        }
        self.tidy();
        self.answer(&heard, is_late, turn);
        if let Some(violation) = heard.violation {
            self.object(violation, turn);
        }
    }

    fn answer(&mut self, heard: &Heard, is_late: bool, turn: &mut Turn<'_, S>) {
        self.unanswered = 0;
        // Bytes that were received before the whole token was written acknowledge nothing.
        let is_token_unsent = self.aside.as_ref().is_some_and(|aside| aside.unsent_token_bytes > 0);
        let acknowledges = is_late && !is_token_unsent;
        match (self.phase, heard.close) {
            (Phase::Waiting, Some(code)) => {
                let active = self.active();
                info!(event = "client closed", session = %self.key, active);
                self.agree(code, turn);
                self.end(CloseReason::Client, turn);
            }
            (Phase::AwaitingWord, _) if acknowledges && heard.has_word(ACK) => self.claim(true, turn),
            (Phase::AwaitingWord, Some(code)) => {
                self.agree(code, turn);
                self.finish(turn);
            }
            (Phase::AwaitingReceipt, Some(Some(close_code::DONE))) if acknowledges => self.claim(false, turn),
            (Phase::AwaitingReceipt | Phase::Closing, Some(_)) => self.finish(turn),
            (Phase::Waiting | Phase::AwaitingWord, None) => self.reply(heard, turn),
            (Phase::AwaitingReceipt | Phase::Closing, None) => {}
            (Phase::Arriving | Phase::Claiming { .. } | Phase::Lingering | Phase::Ended, _) => {}
        }
    }

    /// Answers a ping with a pong and the message `ping` with a heartbeat, unless earlier bytes are still unsent.
    fn reply(&mut self, heard: &Heard, turn: &mut Turn<'_, S>) {
        if let Some(payload) = heard.ping.as_ref().filter(|_| !self.has_unsent()) {
            self.send(Opcode::Pong, payload, turn);
        }
        if heard.has_word(PING) && !self.has_unsent() {
            self.write(wire::BEAT, turn);
        }
    }

    fn claim(&mut self, then_close: bool, turn: &mut Turn<'_, S>) {
        self.phase = Phase::Claiming { then_close };
        self.phase_end = Tick::NEVER;
        turn.effects.stores_receipt_of = Some(self.key);
    }

    /// Sends a Close with the code of the browser's Close.
    fn agree(&mut self, code: Option<u16>, turn: &mut Turn<'_, S>) {
        let payload = code.map_or_else(Vec::new, |code| close_payload(code, ""));
        self.send(Opcode::Close, &payload, turn);
    }

    /// Closes the connection with the close code of the violation.
    fn object(&mut self, violation: Violation, turn: &mut Turn<'_, S>) {
        let code = match violation {
            Violation::Protocol => close_code::PROTOCOL_ERROR,
            Violation::InvalidText => close_code::INVALID_TEXT,
            Violation::TooBig => close_code::TOO_BIG,
        };
        debug!(event = "protocol broken", session = %self.key, code);
        match self.phase {
            Phase::Waiting => {
                self.pass_to(Phase::Lingering, CLOSE_SECONDS, turn);
                self.aside.get_or_insert_default().linger_bytes = LINGER_BYTES;
                self.reason = CloseReason::Protocol;
                self.send(Opcode::Close, &close_payload(code, ""), turn);
            }
            Phase::AwaitingWord => self.close(code, "", CloseReason::Decided, turn),
            Phase::Claiming { .. } => {}
            _ => self.finish(turn),
        }
    }
}
