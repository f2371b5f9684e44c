//! Delivery: the response to the request, session states, codes, and the Close.

use std::borrow::Cow;

use tracing::info;

use super::state::{HoldBack, Phase};
use super::{CLOSE_SECONDS, Connection, is_after};
use crate::hub::deadlines::SessionTick;
use crate::hub::message::{AfterDelivery, Frames, Message};
use crate::hub::socket::Socket;
use crate::hub::transport::TransportKind;
use crate::hub::turn::Turn;
use crate::metrics::{CloseReason, Stopwatch};
use crate::wire::types::close_code;
use crate::wire::websocket::{Opcode, close_payload};
use crate::wire::{event_stream, long_poll};

/// Maximum time between the delivery of a token and its acknowledgement, in seconds.
pub(in crate::hub) const ACK_SECONDS: u32 = 5;
/// Time for which a token is held back while the acknowledgement of another connection may be on its way, in
/// milliseconds.
const ACK_GRACE_MILLIS: u64 = 250;

/// Whether a message may be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// The message is delivered.
    No,
    /// A newer connection is open.
    Superseded,
    /// Another connection was given the token a moment ago.
    PutOff,
}

impl<S: Socket> Connection<S> {
    /// Writes the beginning of the response and the session's state, in one write if no bytes have arrived from the
    /// browser.
    pub(super) fn write_greeting(
        &mut self,
        mut response: Vec<u8>,
        early: &mut [u8],
        message: Option<&Message>,
        is_overtaken: bool,
        turn: &mut Turn<'_, S>,
    ) {
        match self.transport {
            // A poll is answered when the version changes.
            TransportKind::Poll => return self.supersede_if_older(turn),
            // The first comment makes a proxy pass the response on, and shows the browser that the stream works.
            TransportKind::EventStream => response.extend_from_slice(event_stream::COMMENT),
            TransportKind::WebSocket => {}
        }
        if early.is_empty()
            && let Some(message) = message
            && message.version > self.delivered_version
            && !is_overtaken
            && self.hold(message, turn) == Hold::No
        {
            return self.deliver_after(response, message, None, turn);
        }
        // These bytes arrived before a token was written, so none of them acknowledges it.
        self.write(&response, turn);
        self.receive(early, turn);
        self.supersede_if_older(turn);
        match message {
            Some(_) if is_overtaken => {}
            Some(message) => self.deliver(message, None, turn),
            None => self.token_not_minted(turn),
        }
    }

    /// Closes the connection if a newer one of the session is open.
    fn supersede_if_older(&mut self, turn: &mut Turn<'_, S>) {
        if self.is_superseded(turn) {
            self.supersede(turn);
        }
    }

    /// Returns whether a newer connection of the session is open. At this node it is the one that was registered last.
    fn is_superseded(&self, turn: &Turn<'_, S>) -> bool {
        turn.others.newest.is_some_and(|newest| is_after(newest, self.number)) || turn.others.is_newer_elsewhere
    }

    fn holds_back(&self, turn: &Turn<'_, S>) -> bool {
        match self.hold_back {
            HoldBack::NotYet => turn.others.awaits_ack,
            HoldBack::Now => true,
            HoldBack::Over => false,
        }
    }

    /// Returns whether a message may be delivered on this connection now.
    fn hold(&self, message: &Message, turn: &Turn<'_, S>) -> Hold {
        if self.is_superseded(turn) {
            Hold::Superseded
        } else if message.then == AfterDelivery::AwaitsAck && self.holds_back(turn) {
            Hold::PutOff
        } else {
            Hold::No
        }
    }

    /// Delivers a session's state, unless this version or the session's end has been delivered. `since` runs from the
    /// change on.
    ///
    /// Only the newest connection of a session is given its state. An older one is closed. A token is held back for a
    /// moment if another connection has just been given it, so that the acknowledgement can arrive. Then the session is
    /// read again.
    pub(in crate::hub) fn deliver(&mut self, message: &Message, since: Option<Stopwatch>, turn: &mut Turn<'_, S>) {
        if !self.is_waiting() || message.version <= self.delivered_version {
            return;
        }
        match self.hold(message, turn) {
            Hold::No => self.deliver_after(Vec::new(), message, since, turn),
            Hold::Superseded => self.supersede(turn),
            Hold::PutOff if self.hold_back == HoldBack::NotYet => {
                self.hold_back = HoldBack::Now;
                self.phase_end = turn.now.plus_millis(ACK_GRACE_MILLIS);
            }
            Hold::PutOff => {}
        }
    }

    /// Delivers a session's state behind `out`, in one write.
    fn deliver_after(&mut self, out: Vec<u8>, message: &Message, since: Option<Stopwatch>, turn: &mut Turn<'_, S>) {
        self.delivered_version = message.version;
        if message.status != "pending" {
            // Codes do not rotate after the scan.
            self.next_rotation = SessionTick::NEVER;
        }
        let active = self.active();
        if message.then == AfterDelivery::Closes(CloseReason::Expired) {
            info!(event = "expired", session = %self.key, active);
        }
        info!(event = "status pushed", session = %self.key, status = message.status, active);
        self.write_message(out, message, turn);
        if let Some(since) = since.filter(|_| !self.has_ended()) {
            match &mut self.rare {
                Some(rare) if !rare.unsent.is_empty() => rare.pushing = Some(since),
                _ => self.record_push(since),
            }
        }
    }

    /// Writes a message behind `out` in the form of the transport, and begins the phase that follows it.
    fn write_message(&mut self, out: Vec<u8>, message: &Message, turn: &mut Turn<'_, S>) {
        let reason = match message.then {
            AfterDelivery::Waits => None,
            AfterDelivery::AwaitsAck => Some(CloseReason::Decided),
            AfterDelivery::Closes(reason) => Some(reason),
        };
        self.reason = reason.unwrap_or(self.reason);
        match (self.transport, message.then) {
            (TransportKind::WebSocket, AfterDelivery::Waits) => self.write(&after(out, message.frames.frame()), turn),
            (TransportKind::WebSocket, AfterDelivery::AwaitsAck) if self.acknowledges => {
                self.enter(Phase::AwaitingAckMessage, ACK_SECONDS, turn);
                self.write_token(&after(out, message.frames.frame()), turn);
            }
            (TransportKind::WebSocket, AfterDelivery::AwaitsAck) => {
                self.enter(Phase::AwaitingClose, ACK_SECONDS, turn);
                self.write_token(&after(out, message.frames.frame_and_close()), turn);
            }
            (TransportKind::WebSocket, AfterDelivery::Closes(_)) => {
                self.enter(Phase::Closing, CLOSE_SECONDS, turn);
                self.write(&after(out, message.frames.frame_and_close()), turn);
            }
            (TransportKind::EventStream, AfterDelivery::Waits) => self.write(&after(out, &message.event()), turn),
            // The acknowledgement of an event stream is a request of its own.
            (TransportKind::EventStream, AfterDelivery::AwaitsAck | AfterDelivery::Closes(_)) => {
                self.enter(Phase::Closing, CLOSE_SECONDS, turn);
                let mut events = message.event();
                events.extend_from_slice(&event_stream::close_event(close_code::DONE, ""));
                self.write(&after(out, &events), turn);
            }
            (TransportKind::Poll, _) => {
                self.enter(Phase::Closing, CLOSE_SECONDS, turn);
                self.reason = reason.unwrap_or(CloseReason::Answered);
                let view = message.view.as_ref().map_or(message.frames.json(), |view| view);
                let response = long_poll::response(self.fields(), view, turn.clock.wall());
                self.write(&response, turn);
            }
        }
    }

    /// Answers a poll with the session's state, whether or not it has changed.
    pub(in crate::hub) fn answer_poll(&mut self, message: &Message, turn: &mut Turn<'_, S>) {
        if self.is_waiting() {
            self.write_message(Vec::new(), message, turn);
        }
    }

    fn fields(&self) -> &[u8] {
        self.counted.as_ref().map_or(&[], |shared| &shared.fields)
    }

    /// Sends the code of a new rotation period, unless codes do not rotate any more.
    pub(in crate::hub) fn show_code(&mut self, code: &Frames, turn: &mut Turn<'_, S>) {
        // A browser that has not read earlier bytes is sent the code of a later period.
        let is_of_use = self.is_waiting() && self.next_rotation != SessionTick::NEVER && !self.has_unsent();
        match self.transport {
            TransportKind::WebSocket if is_of_use => self.write(code.frame(), turn),
            TransportKind::EventStream if is_of_use => self.write(&event_stream::event_without_id(code.json()), turn),
            _ => {}
        }
    }

    /// Closes the connection because the token cannot be minted. The session stays confirmed. The token is delivered
    /// when the browser reconnects and the signing key exists again.
    pub(in crate::hub) fn token_not_minted(&mut self, turn: &mut Turn<'_, S>) {
        self.close_if_waiting(close_code::INTERNAL, "the token cannot be made", CloseReason::Internal, turn);
    }

    /// Closes the connection because the store does not answer.
    pub(in crate::hub) fn unavailable(&mut self, turn: &mut Turn<'_, S>) {
        self.close_if_waiting(close_code::UNAVAILABLE, "the store does not answer", CloseReason::Unavailable, turn);
    }

    /// Closes the connection because a newer one supersedes it.
    pub(in crate::hub) fn supersede(&mut self, turn: &mut Turn<'_, S>) {
        self.close_if_waiting(close_code::REPLACED, "a newer connection took over", CloseReason::Replaced, turn);
    }

    /// Closes the connection with this code, unless the session's end has been delivered.
    pub(in crate::hub) fn close_if_waiting(
        &mut self,
        code: u16,
        why: &str,
        reason: CloseReason,
        turn: &mut Turn<'_, S>,
    ) {
        if self.is_waiting() {
            self.close(code, why, reason, turn);
        }
    }

    /// Sends a Close and awaits the browser's.
    pub(super) fn close(&mut self, code: u16, why: &str, reason: CloseReason, turn: &mut Turn<'_, S>) {
        self.enter(Phase::Closing, CLOSE_SECONDS, turn);
        self.reason = reason;
        match self.transport {
            TransportKind::WebSocket => self.send(Opcode::Close, &close_payload(code, why), turn),
            TransportKind::EventStream => self.write(&event_stream::close_event(code, why), turn),
            TransportKind::Poll => self.write(&long_poll::refusal(self.fields(), code, why, turn.clock.wall()), turn),
        }
    }
}

/// Returns `bytes` after `out`, for a single write.
fn after(mut out: Vec<u8>, bytes: &[u8]) -> Cow<'_, [u8]> {
    if out.is_empty() {
        return bytes.into();
    }
    out.extend_from_slice(bytes);
    out.into()
}
