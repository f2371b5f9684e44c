//! What a browser is told, and how: everything that is written to it.

use std::io::{self, Write as _};
use std::net::Shutdown;

use mio::net::TcpStream;
use tracing::info;

use super::{CLOSE_SECONDS, Phase, Step, Turn, Waiting, Watch};
use crate::hub::message::{Ending, Message, Text};
use crate::hub::wheel::Tick;
use crate::hub::wire::{self, Wire};
use crate::metrics::{CloseReason, Stopwatch};
use crate::protocol::close_code;
use crate::websocket::{Opcode, close_payload, frame};

/// A browser that does not take a frame in this time is disconnected.
const WRITE_SECONDS: u32 = 5;
/// How long a receipt is waited for.
const RECEIPT_SECONDS: u32 = 5;

impl Waiting {
    pub(super) fn greet(
        &mut self,
        mut answer: Vec<u8>,
        early: &mut [u8],
        message: Option<&Message>,
        turn: &Turn<'_>,
    ) -> Step {
        match self.wire {
            // What there is to say to it has been found to be nothing yet.
            Wire::Poll => return Step::Stay,
            // A proxy that waits for a beginning passes it on, and the browser knows that it has come through.
            Wire::EventStream => answer.extend_from_slice(wire::COMMENT),
            Wire::WebSocket => {}
        }
        if let Some(message) = message.filter(|message| early.is_empty() && message.ending != Ending::Token) {
            if message.version <= self.told_version {
                return self.write(&answer, turn);
            }
            return self.tell_after(&mut answer, message, None, turn);
        }
        // What the browser has said before the token was written is heard first: a Close among it is no receipt.
        let step = self.write(&answer, turn);
        if step != Step::Stay {
            return step;
        }
        let step = if early.is_empty() { Step::Stay } else { self.take_in(early, turn) };
        match message {
            _ if step != Step::Stay => step,
            Some(message) => self.tell(message, None, turn),
            None => self.unavailable(turn),
        }
    }

    /// Tells the browser, unless it knows or has been told the end. `since` runs from the change on.
    pub(in crate::hub) fn tell(&mut self, message: &Message, since: Option<Stopwatch>, turn: &Turn<'_>) -> Step {
        self.tell_after(&mut Vec::new(), message, since, turn)
    }

    fn tell_after(&mut self, out: &mut Vec<u8>, message: &Message, since: Option<Stopwatch>, turn: &Turn<'_>) -> Step {
        if !self.is_waiting() || message.version <= self.told_version {
            return Step::Stay;
        }
        if message.ending == Ending::Token && self.wire == Wire::WebSocket && !self.acknowledges {
            // A Close that is here already was sent before the token, and is no receipt for it.
            let step = self.listen(true, turn);
            if step != Step::Stay || !self.is_waiting() {
                return step;
            }
        }
        self.told_version = message.version;
        if message.status != "pending" {
            // From the scan on nothing rotates.
            self.next_rotation = Tick::NEVER;
        }
        let active = self.active();
        if message.ending == Ending::Closed(CloseReason::Expired) {
            info!(event = "expired", session = %self.key, active);
        }
        info!(event = "status pushed", session = %self.key, status = message.status, active);
        let step = self.say(out, message, turn);
        if let (Some(since), Step::Stay) = (since, step) {
            match &mut self.aside {
                Some(aside) if !aside.unsent.is_empty() => aside.pushing = Some(since),
                _ => self.pushed(since),
            }
        }
        step
    }

    fn say(&mut self, out: &mut Vec<u8>, message: &Message, turn: &Turn<'_>) -> Step {
        let write = |waiting: &mut Self, out: &mut Vec<u8>, bytes: &[u8]| {
            if out.is_empty() {
                return waiting.write(bytes, turn);
            }
            out.extend_from_slice(bytes);
            waiting.write(out, turn)
        };
        let reason = match message.ending {
            Ending::Goes => None,
            Ending::Token => Some(CloseReason::Decided),
            Ending::Closed(reason) => Some(reason),
        };
        self.reason = reason.unwrap_or(self.reason);
        match (self.wire, message.ending) {
            (Wire::WebSocket, Ending::Goes) => write(self, out, message.text.frame()),
            (Wire::WebSocket, Ending::Token) if self.acknowledges => {
                self.pass_to(Phase::AwaitingWord, RECEIPT_SECONDS, turn);
                write(self, out, message.text.frame())
            }
            (Wire::WebSocket, Ending::Token) => {
                self.pass_to(Phase::AwaitingReceipt, RECEIPT_SECONDS, turn);
                write(self, out, message.text.frame_and_close())
            }
            (Wire::WebSocket, Ending::Closed(_)) => {
                self.pass_to(Phase::Closing, CLOSE_SECONDS, turn);
                write(self, out, message.text.frame_and_close())
            }
            (Wire::EventStream, Ending::Goes) => write(self, out, &wire::event(message)),
            // Its receipt comes on another connection.
            (Wire::EventStream, Ending::Token | Ending::Closed(_)) => {
                self.pass_to(Phase::Closing, CLOSE_SECONDS, turn);
                let mut events = wire::event(message);
                events.extend_from_slice(&wire::close_event(close_code::DONE, ""));
                write(self, out, &events)
            }
            (Wire::Poll, _) => {
                self.pass_to(Phase::Closing, CLOSE_SECONDS, turn);
                self.reason = reason.unwrap_or(CloseReason::Answered);
                let view = message.view.as_ref().map_or(message.text.json(), |view| view);
                let answer = wire::answer(self.fields(), view, turn.clock.now());
                self.write(&answer, turn)
            }
        }
    }

    /// Answers a poll with how its session stands, changed or not.
    pub(in crate::hub) fn answer_poll(&mut self, message: &Message, turn: &Turn<'_>) -> Step {
        if self.is_waiting() { self.say(&mut Vec::new(), message, turn) } else { Step::Stay }
    }

    fn fields(&self) -> &[u8] {
        self.counted.as_ref().map_or(&[], |shared| &shared.fields)
    }

    /// Shows the next code, unless there is no more to be shown.
    pub(in crate::hub) fn show_code(&mut self, code: &Text, turn: &Turn<'_>) -> Step {
        // Whoever has not taken what came before gets a fresher one later.
        let is_of_use = self.is_waiting() && self.next_rotation != Tick::NEVER && !self.has_unsent();
        match self.wire {
            Wire::WebSocket if is_of_use => self.write(code.frame(), turn),
            Wire::EventStream if is_of_use => self.write(&wire::passing_event(code.json()), turn),
            _ => Step::Stay,
        }
    }

    pub(in crate::hub) fn unavailable(&mut self, turn: &Turn<'_>) -> Step {
        self.leave(close_code::UNAVAILABLE, "the store does not answer", CloseReason::Unavailable, turn)
    }

    /// A newer connection is the one that is told.
    pub(in crate::hub) fn give_way(&mut self, turn: &Turn<'_>) -> Step {
        self.leave(close_code::REPLACED, "a newer connection took over", CloseReason::Replaced, turn)
    }

    /// Sends the browser away, unless it has been told how its login ended.
    pub(in crate::hub) fn leave(&mut self, code: u16, why: &str, reason: CloseReason, turn: &Turn<'_>) -> Step {
        if self.is_waiting() { self.close(code, why, reason, turn) } else { Step::Stay }
    }

    /// Closes from our side and waits for the browser to agree.
    pub(super) fn close(&mut self, code: u16, why: &str, reason: CloseReason, turn: &Turn<'_>) -> Step {
        self.pass_to(Phase::Closing, CLOSE_SECONDS, turn);
        self.reason = reason;
        match self.wire {
            Wire::WebSocket => self.send(Opcode::Close, &close_payload(code, why), turn),
            Wire::EventStream => self.write(&wire::close_event(code, why), turn),
            Wire::Poll => self.write(&wire::refusal(self.fields(), code, why, turn.clock.now()), turn),
        }
    }

    pub(super) fn send(&mut self, opcode: Opcode, payload: &[u8], turn: &Turn<'_>) -> Step {
        let mut frames = Vec::new();
        frame(&mut frames, opcode, payload);
        self.write(&frames, turn)
    }

    /// Writes at once what the system takes, and keeps the rest.
    pub(super) fn write(&mut self, bytes: &[u8], turn: &Turn<'_>) -> Step {
        if let Some(aside) = self.aside.as_mut().filter(|aside| !aside.unsent.is_empty()) {
            aside.unsent.extend_from_slice(bytes);
            return Step::Stay;
        }
        let Some(socket) = &mut self.socket else { return Step::End };
        match write_some(socket, bytes) {
            Ok(written) if written == bytes.len() => {
                self.finish();
                Step::Stay
            }
            Ok(written) => {
                let aside = self.aside.get_or_insert_default();
                aside.unsent.extend_from_slice(&bytes[written..]);
                aside.unsent_until = Some(turn.now.plus_seconds(WRITE_SECONDS));
                if self.watch(Watch::ReadsAndRoom, turn).is_ok() { Step::Stay } else { self.end(CloseReason::Network) }
            }
            Err(_) => self.end(CloseReason::Network),
        }
    }

    /// That was the last of an answer: the browser sees its end, and hangs up.
    fn finish(&self) {
        if let (Phase::Closing, Wire::EventStream | Wire::Poll, Some(socket)) = (self.phase, self.wire, &self.socket) {
            drop(socket.shutdown(Shutdown::Write));
        }
    }

    pub(super) fn flush(&mut self, turn: &Turn<'_>) -> Step {
        let (Some(aside), Some(socket)) = (&mut self.aside, &mut self.socket) else { return Step::Stay };
        match write_some(socket, &aside.unsent) {
            Ok(written) => drop(aside.unsent.drain(..written)),
            Err(_) => return self.end(CloseReason::Network),
        }
        if aside.unsent.is_empty() {
            aside.unsent_until = None;
            if let Some(since) = aside.pushing.take() {
                self.pushed(since);
            }
            self.finish();
            self.tidy();
            drop(self.watch(Watch::Reads, turn));
        }
        Step::Stay
    }
}

/// As much as the system takes at once.
fn write_some(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while written < bytes.len() {
        match socket.write(&bytes[written..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
