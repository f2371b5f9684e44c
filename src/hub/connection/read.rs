//! Reading: what browsers send, and what follows from it.

use std::io;

use tracing::{debug, info};

use super::state::Phase;
use super::{CLOSE_SECONDS, Connection};
use crate::hub::deadlines::Tick;
use crate::hub::socket::Socket;
use crate::hub::transport::TransportKind;
use crate::hub::turn::Turn;
use crate::metrics::CloseReason;
use crate::wire::types::{ACK_MESSAGE, PING_MESSAGE, close_code};
use crate::wire::websocket::{self, MessageDecoder, Opcode, Received, Violation, close_payload};

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
pub(in crate::hub) struct ReadBudget<'a> {
    pub(in crate::hub) buffer: &'a mut [u8],
    /// Maximum number of reads.
    pub(in crate::hub) max_reads: usize,
}

impl<S: Socket> Connection<S> {
    /// Handles readiness of the socket.
    pub(in crate::hub) fn ready(&mut self, readiness: Readiness, share: ReadBudget<'_>, turn: &mut Turn<'_, S>) {
        if readiness.is_writable {
            self.flush(turn);
        }
        self.read_available(readiness.is_last, share, turn);
    }

    /// Reads what has been received, up to the turn's share. A read that does not fill the buffer has emptied the
    /// socket, and later bytes are reported (epoll(7)). After the last report it reads until the socket is empty.
    fn read_available(
        &mut self,
        is_last: bool,
        ReadBudget { buffer, max_reads }: ReadBudget<'_>,
        turn: &mut Turn<'_, S>,
    ) {
        for _ in 0..max_reads {
            if self.has_ended() {
                return;
            }
            let Some(socket) = &mut self.socket else { return };
            match socket.read(buffer) {
                Ok(0) => return self.end_of_stream(turn),
                Ok(read) => {
                    self.receive(&mut buffer[..read], turn);
                    if read < buffer.len() && !is_last {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.fail(&error, turn),
            }
        }
        turn.effects.reads_more = !self.has_ended();
    }

    fn fail(&mut self, error: &io::Error, turn: &mut Turn<'_, S>) {
        // The system has not received acknowledgements of heartbeats in time: see `http::outgoing::notice_silence`.
        let is_silent = error.kind() == io::ErrorKind::TimedOut && self.transport == TransportKind::EventStream;
        if is_silent && self.is_waiting() {
            self.reason = CloseReason::Heartbeat;
        }
        self.finish(turn);
    }

    /// Handles the end of the browser's stream. A client gives up a stream of events or a poll in this way.
    fn end_of_stream(&mut self, turn: &mut Turn<'_, S>) {
        if self.transport != TransportKind::WebSocket && self.is_waiting() {
            let active = self.active();
            info!(event = "client closed", session = %self.key, active);
            self.reason = CloseReason::Client;
        }
        self.finish(turn);
    }

    pub(super) fn receive(&mut self, bytes: &mut [u8], turn: &mut Turn<'_, S>) {
        if self.transport != TransportKind::WebSocket {
            // A client that waits for a response need not send anything. Up to 1 KiB per read is ignored.
            if bytes.len() > MAX_MESSAGE_BYTES as usize && self.is_waiting() {
                self.end(CloseReason::Protocol, turn);
            }
            return;
        }
        if self.phase == Phase::Lingering {
            let rare = self.rare.get_or_insert_default();
            rare.linger_bytes = rare.linger_bytes.saturating_sub(bytes.len());
            if rare.linger_bytes == 0 {
                self.finish(turn);
            }
            return;
        }
        let early_bytes = self.rare.as_ref().map_or(0, |rare| rare.early_bytes.min(bytes.len()));
        let (early, late) = bytes.split_at_mut(early_bytes);
        if !early.is_empty() {
            self.decode(early, false, turn);
        }
        if !late.is_empty() && !matches!(self.phase, Phase::Ended | Phase::Lingering) {
            self.decode(late, true, turn);
        }
    }

    /// Handles received bytes. `is_late` is false if they arrived before the token was written.
    fn decode(&mut self, bytes: &mut [u8], is_late: bool, turn: &mut Turn<'_, S>) {
        let kept = self.rare.as_mut().and_then(|rare| rare.decoder.take());
        let mut decoder = kept.unwrap_or_else(|| MessageDecoder::new(MAX_MESSAGE_BYTES, WORDS));
        let received = decoder.decode(bytes);
        if let Some(rare) = self.rare.as_mut().filter(|_| !is_late) {
            rare.early_bytes -= bytes.len();
            if rare.early_bytes == 0 {
                decoder.ignore_message_begun();
            }
        }
        if received.violation.is_none() && !decoder.is_at_rest() {
            self.rare.get_or_insert_default().decoder = Some(decoder);
        }
        self.free_rare_state();
        self.answer(&received, is_late, turn);
        if let Some(violation) = received.violation {
            self.close_for_violation(violation, turn);
        }
    }

    fn answer(&mut self, received: &Received, is_late: bool, turn: &mut Turn<'_, S>) {
        self.unanswered = 0;
        // Bytes that were received before the whole token was written acknowledge nothing.
        let is_token_unsent = self.rare.as_ref().is_some_and(|rare| rare.unsent_token_bytes > 0);
        let acknowledges = is_late && !is_token_unsent;
        match (self.phase, received.close) {
            (Phase::Waiting, Some(code)) => {
                let active = self.active();
                info!(event = "client closed", session = %self.key, active);
                self.echo_close(code, turn);
                self.end(CloseReason::Client, turn);
            }
            (Phase::AwaitingAckMessage, _) if acknowledges && received.has_word(ACK) => self.begin_ack(true, turn),
            (Phase::AwaitingAckMessage, Some(code)) => {
                self.echo_close(code, turn);
                self.finish(turn);
            }
            (Phase::AwaitingClose, Some(Some(close_code::DONE))) if acknowledges => self.begin_ack(false, turn),
            (Phase::AwaitingClose | Phase::Closing, Some(_)) => self.finish(turn),
            (Phase::Waiting | Phase::AwaitingAckMessage, None) => self.reply(received, turn),
            (Phase::AwaitingClose | Phase::Closing, None) => {}
            (Phase::Opening | Phase::StoringAck { .. } | Phase::Lingering | Phase::Ended, _) => {}
        }
    }

    /// Answers a ping with a pong and the message `ping` with a heartbeat, unless earlier bytes are still unsent.
    fn reply(&mut self, received: &Received, turn: &mut Turn<'_, S>) {
        if let Some(payload) = received.ping.as_ref().filter(|_| !self.has_unsent()) {
            self.send(Opcode::Pong, payload, turn);
        }
        if received.has_word(PING) && !self.has_unsent() {
            self.write(websocket::HEARTBEAT, turn);
        }
    }

    fn begin_ack(&mut self, then_close: bool, turn: &mut Turn<'_, S>) {
        self.phase = Phase::StoringAck { then_close };
        self.phase_end = Tick::NEVER;
        turn.effects.stores_ack_of = Some(self.key);
    }

    /// Sends a Close with the code of the browser's Close.
    fn echo_close(&mut self, code: Option<u16>, turn: &mut Turn<'_, S>) {
        let payload = code.map_or_else(Vec::new, |code| close_payload(code, ""));
        self.send(Opcode::Close, &payload, turn);
    }

    /// Closes the connection with the close code of the violation.
    fn close_for_violation(&mut self, violation: Violation, turn: &mut Turn<'_, S>) {
        let code = match violation {
            Violation::Protocol => close_code::PROTOCOL_ERROR,
            Violation::InvalidText => close_code::INVALID_TEXT,
            Violation::TooBig => close_code::TOO_BIG,
        };
        debug!(event = "protocol broken", session = %self.key, code);
        match self.phase {
            Phase::Waiting => {
                self.enter(Phase::Lingering, CLOSE_SECONDS, turn);
                self.rare.get_or_insert_default().linger_bytes = LINGER_BYTES;
                self.reason = CloseReason::Protocol;
                self.send(Opcode::Close, &close_payload(code, ""), turn);
            }
            Phase::AwaitingAckMessage => self.close(code, "", CloseReason::Decided, turn),
            Phase::StoringAck { .. } => {}
            _ => self.finish(turn),
        }
    }
}
