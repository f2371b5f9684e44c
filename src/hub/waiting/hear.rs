//! What is heard of a browser.

use std::io::{self, Read as _};

use tracing::{debug, info};

use super::{CLOSE_SECONDS, Phase, Step, Turn, Waiting};
use crate::hub::wheel::Tick;
use crate::hub::wire::Wire;
use crate::metrics::CloseReason;
use crate::protocol::{ACK_MESSAGE, close_code};
use crate::websocket::{Ear, Heard, Opcode, Violation, close_payload};

/// What a browser may say at once.
const MAX_MESSAGE_BYTES: u32 = 1024;
/// What is read and thrown away of a browser that broke the protocol, so that it reads the Close. (Closing on what has
/// not been read would reset the connection.)
const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// Readings in one turn: whoever has still more to say waits for the next, so that nobody holds up the others.
const MAX_READINGS: usize = 16;

impl Waiting {
    /// Something can be read or written.
    pub(in crate::hub) fn ready(&mut self, is_writable: bool, is_hung_up: bool, turn: &Turn<'_>) -> Step {
        if is_writable && self.flush(turn) == Step::End {
            return Step::End;
        }
        self.listen(is_hung_up, turn)
    }

    /// Reads what is there: to the end if the browser has hung up, else until a reading comes short.
    pub(super) fn listen(&mut self, is_hung_up: bool, turn: &Turn<'_>) -> Step {
        let mut scratch = [0; 4096];
        for _ in 0..MAX_READINGS {
            let Some(socket) = &mut self.socket else { return Step::Stay };
            let read = match socket.read(&mut scratch) {
                Ok(0) => return self.hang_up(),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Stay,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // The system has given up: see `http::park`.
                    let is_silent = error.kind() == io::ErrorKind::TimedOut && self.wire == Wire::EventStream;
                    return if is_silent && self.is_waiting() { self.end(CloseReason::Heartbeat) } else { Step::End };
                }
            };
            let step = self.take_in(&mut scratch[..read], turn);
            if step != Step::Stay || (read < scratch.len() && !is_hung_up) {
                return step;
            }
        }
        Step::ReadMore
    }

    /// The browser has closed its side. Of a request, that is how it is given up.
    fn hang_up(&mut self) -> Step {
        if self.wire != Wire::WebSocket && self.is_waiting() {
            let active = self.active();
            info!(event = "client closed", session = %self.key, active);
            self.reason = CloseReason::Client;
        }
        Step::End
    }

    pub(super) fn take_in(&mut self, bytes: &mut [u8], turn: &Turn<'_>) -> Step {
        if self.wire != Wire::WebSocket {
            // Nobody who waits for an answer has anything to say: a little of it is ignored.
            let is_too_much = bytes.len() > MAX_MESSAGE_BYTES as usize && self.is_waiting();
            return if is_too_much { self.end(CloseReason::Protocol) } else { Step::Stay };
        }
        if self.phase == Phase::Lingering {
            let aside = self.aside.get_or_insert_default();
            aside.linger_bytes = aside.linger_bytes.saturating_sub(bytes.len());
            return if aside.linger_bytes == 0 { Step::End } else { Step::Stay };
        }
        let kept = self.aside.as_mut().and_then(|aside| aside.ear.take());
        let mut ear = kept.unwrap_or_else(|| Ear::new(MAX_MESSAGE_BYTES, ACK_MESSAGE));
        let heard = ear.hear(bytes);
        if heard.is_ok() && !ear.is_at_rest() {
            self.aside.get_or_insert_default().ear = Some(ear);
        }
        self.tidy();
        match heard {
            Ok(heard) => self.answer(&heard, turn),
            Err(violation) => self.object(violation, turn),
        }
    }

    fn answer(&mut self, heard: &Heard, turn: &Turn<'_>) -> Step {
        self.unanswered = 0;
        match (self.phase, heard.close) {
            (Phase::Waiting, Some(code)) => {
                let active = self.active();
                info!(event = "client closed", session = %self.key, active);
                self.agree(code, turn);
                self.end(CloseReason::Client)
            }
            (Phase::AwaitingWord, _) if heard.word => self.claim(true),
            (Phase::AwaitingWord, Some(code)) => {
                self.agree(code, turn);
                Step::End
            }
            // A receipt for what has not been written whole is none.
            (Phase::AwaitingReceipt, Some(Some(close_code::DONE))) if !self.has_unsent() => self.claim(false),
            (Phase::AwaitingReceipt | Phase::Closing, Some(_)) => Step::End,
            (Phase::Waiting | Phase::AwaitingWord, None) => match &heard.ping {
                Some(payload) if !self.has_unsent() => self.send(Opcode::Pong, payload, turn),
                _ => Step::Stay,
            },
            (Phase::AwaitingReceipt | Phase::Closing, None) => Step::Stay,
            (Phase::Arriving | Phase::Claiming { .. } | Phase::Lingering, _) => Step::Stay,
        }
    }

    fn claim(&mut self, then_close: bool) -> Step {
        self.phase = Phase::Claiming { then_close };
        self.phase_end = Tick::NEVER;
        Step::Claim
    }

    /// Returns the browser's Close.
    fn agree(&mut self, code: Option<u16>, turn: &Turn<'_>) {
        let payload = code.map_or_else(Vec::new, |code| close_payload(code, ""));
        self.send(Opcode::Close, &payload, turn);
    }

    /// A broken protocol is answered with its close code.
    fn object(&mut self, violation: Violation, turn: &Turn<'_>) -> Step {
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
                self.send(Opcode::Close, &close_payload(code, ""), turn)
            }
            Phase::AwaitingWord => self.close(code, "", CloseReason::Decided, turn),
            Phase::Claiming { .. } => Step::Stay,
            _ => Step::End,
        }
    }
}
