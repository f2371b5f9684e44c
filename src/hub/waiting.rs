//! A browser that waits: its record, and the conversation with it.
//!
//! The record is all that there is of it: no task, no buffer, no channel, no timer of its own. Whatever happens (bytes
//! arrive, the session changes, a deadline passes) somebody comes along, does what is to be done, in [`Turn`]s that
//! the registry's lock keeps apart, and goes. Nothing in here waits.
//!
//! The record is also the guard: however it leaves the registry, its [`Drop`] closes the socket and counts the
//! connection as closed, once.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Token};
use tracing::{debug, info};

use super::message::{Ending, Message, Text};
use super::registry::{Keyed, Place};
use super::shared::Shared;
use super::wheel::Tick;
use super::wire::{self, Channel, Wire};
use crate::clock::Clock;
use crate::limits::Cells;
use crate::metrics::{CloseReason, Stopwatch};
use crate::node::Hint;
use crate::protocol::{ACK_MESSAGE, close_code};
use crate::session::{Session, SessionKey};
use crate::websocket::{Ear, Heard, Opcode, Violation, close_payload, frame};

/// What a browser may say at once.
const MAX_MESSAGE_BYTES: u32 = 1024;
/// A browser that does not take a frame in this time is disconnected.
const WRITE_SECONDS: u32 = 5;
/// How long a receipt is waited for.
const RECEIPT_SECONDS: u32 = 5;
/// How long the browser's side of a closing handshake is waited for where nothing hangs on it.
const CLOSE_SECONDS: u32 = 1;
/// What is read and thrown away of a browser that broke the protocol, so that it reads the Close. (Closing on what has
/// not been read would reset the connection.)
const LINGER_BYTES: usize = 4 * 1024 * 1024;
/// Heartbeats in a row that may go unanswered.
const MAX_UNANSWERED: u8 = 2;
/// While the store does not answer, what is due is asked for again after this long ...
const RETRY_SECONDS: u32 = 1;
/// ... for this long past its deadline; then the browser is sent away, to come back later.
const PATIENCE_SECONDS: u32 = 60;
/// Readings in one turn: whoever has still more to say waits for the next, so that nobody holds up the others.
const MAX_READINGS: usize = 16;

/// See the module.
pub(super) struct Waiting {
    key: SessionKey,
    /// Set once the connection is up.
    socket: Option<TcpStream>,
    /// Set while the connection counts.
    counted: Option<Arc<Shared>>,
    /// Where it counts among those of its address, if there is a limit on them.
    cells: Option<Cells>,
    order: Order,
    expiry: Tick,
    next_beat: Tick,
    /// When the next code is to be shown, and which period's is.
    next_rotation: Tick,
    period: u16,
    /// When the present phase is to end: while waiting, when the store is to be asked.
    phase_end: Tick,
    /// The one entry in the wheel that counts; any other was put off.
    armed: Tick,
    told_version: u32,
    phase: Phase,
    unanswered: u8,
    wire: Wire,
    acknowledges: bool,
    reason: CloseReason,
    aside: Option<Box<Aside>>,
}

/// Which of a session's connections this is: a newer one's is greater. Over all nodes by the store's number; where that
/// does not tell, by the order in which they came to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order {
    attachment: u32,
    /// Begins anew after 2^32: no connection waits that long.
    arrival: u32,
}

/// What is seldom needed.
#[derive(Default)]
struct Aside {
    /// A change that came before the connection was up.
    missed: Option<(Arc<Session>, Stopwatch)>,
    /// A newer connection elsewhere that was heard of before this one was up.
    newest_attachment: u32,
    /// The browser has said half of something.
    ear: Option<Ear>,
    /// What the system did not take at once, until when it must, and how long it has been under way.
    unsent: Vec<u8>,
    unsent_until: Option<Tick>,
    pushing: Option<Stopwatch>,
    /// How much more is read of a browser that broke the protocol.
    linger_bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The row is being read, the handshake not yet answered.
    Arriving,
    /// The long one.
    Waiting,
    /// The token has been written, and the word is waited for.
    AwaitingWord,
    /// The token and our Close have been written; the browser's Close 1000 is the receipt.
    AwaitingReceipt,
    /// The receipt is being stored; then, perhaps, we close.
    Claiming { then_close: bool },
    /// Our Close has been written; the browser's is waited for.
    Closing,
    /// The browser broke the protocol and has been told so.
    Lingering,
}

/// What of a socket is reported.
enum Watch {
    /// That something can be read; from here on.
    Begin,
    /// That something can be read.
    Reads,
    /// That, and that there is room to write.
    ReadsAndRoom,
}

/// What the caller must do after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    Stay,
    /// Take another turn at reading, after the others had theirs.
    ReadMore,
    /// Ask the store what became of the session.
    AskStore,
    /// Show the code of this period.
    Rotate(u16),
    /// Store the receipt.
    Claim,
    /// Let go of the connection.
    End,
}

/// What a turn may look at.
pub(super) struct Turn<'a> {
    pub(super) place: Place,
    /// The tick from which a wait that begins now is counted.
    pub(super) now: Tick,
    pub(super) heartbeat_seconds: u32,
    pub(super) rotate_seconds: u32,
    pub(super) poll: &'a mio::Registry,
    pub(super) clock: &'a Clock,
}

/// How a connection comes up.
pub(super) struct Opening<'a> {
    pub(super) socket: TcpStream,
    /// The answer to the handshake, if it has not been written.
    pub(super) answer: Vec<u8>,
    /// What the browser said right behind its request.
    pub(super) early: &'a mut [u8],
    pub(super) channel: Channel,
    pub(super) attachment: u32,
    pub(super) expiry: Tick,
    pub(super) first_beat: Tick,
    pub(super) period: u16,
    pub(super) next_rotation: Tick,
    pub(super) shared: Arc<Shared>,
    pub(super) cells: Option<Cells>,
}

impl Keyed for Waiting {
    fn key(&self) -> &SessionKey {
        &self.key
    }
}

impl Waiting {
    /// A browser whose row is being read.
    pub(super) const fn arriving(key: SessionKey, arrival: u32) -> Self {
        Self {
            key,
            socket: None,
            counted: None,
            cells: None,
            order: Order { attachment: 0, arrival },
            expiry: Tick::NEVER,
            next_beat: Tick::NEVER,
            next_rotation: Tick::NEVER,
            period: 0,
            phase_end: Tick::NEVER,
            armed: Tick::NEVER,
            told_version: 0,
            phase: Phase::Arriving,
            unanswered: 0,
            wire: Wire::WebSocket,
            acknowledges: false,
            reason: CloseReason::Network,
            aside: None,
        }
    }

    /// Its place among the connections of its session, if it is up.
    pub(super) fn active_order(&self) -> Option<Order> {
        (self.phase != Phase::Arriving).then_some(self.order)
    }

    /// Whether its receipt may be in the socket's buffer, or is being stored. (Who says the word waits for our Close,
    /// and so does not come back before.)
    pub(super) fn awaits_receipt(&self) -> bool {
        matches!(self.phase, Phase::AwaitingReceipt | Phase::Claiming { .. })
    }

    /// Whether it still waits to be told.
    pub(super) fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// Whether it is to be told the whole of its session.
    pub(super) fn wants_view(&self) -> bool {
        self.wire == Wire::Poll
    }

    /// Whether it is to be answered whatever the store says: its poll has waited as long as it wanted to.
    pub(super) fn is_to_be_answered(&self) -> bool {
        self.wire == Wire::Poll && self.is_waiting() && self.next_beat == Tick::NEVER
    }

    /// The tick that the wheel does not have yet.
    pub(super) fn rearm(&mut self) -> Option<Tick> {
        let beat = if self.is_waiting() { self.next_beat.min(self.next_rotation) } else { Tick::NEVER };
        let write = self.aside.as_ref().and_then(|aside| aside.unsent_until).unwrap_or(Tick::NEVER);
        let next = self.phase_end.min(beat).min(write);
        // A later one is armed when the earlier comes up.
        if next >= self.armed {
            return None;
        }
        self.armed = next;
        Some(next)
    }

    /// The connection is up; `message` says how its session stands, if that can be told. A change that came meanwhile is handed back.
    pub(super) fn open(
        &mut self,
        opening: Opening<'_>,
        message: Option<&Message>,
        turn: &Turn<'_>,
    ) -> (Step, Option<(Arc<Session>, Stopwatch)>) {
        let metrics = &opening.shared.metrics;
        metrics.connection_opened();
        info!(event = "connected", session = %self.key, active = metrics.active_connections());
        self.counted = Some(opening.shared);
        self.cells = opening.cells;
        self.socket = Some(opening.socket);
        self.order.attachment = opening.attachment;
        self.expiry = opening.expiry;
        self.phase_end = opening.expiry;
        self.next_beat = opening.first_beat;
        self.next_rotation = opening.next_rotation;
        self.period = opening.period;
        self.phase = Phase::Waiting;
        let (missed, newest_attachment) =
            self.aside.take().map_or((None, 0), |aside| (aside.missed, aside.newest_attachment));
        self.take_up(opening.channel, turn);
        // Whatever arrives from here on is reported, and waits for the end of this turn.
        if self.watch(Watch::Begin, turn).is_err() {
            return (self.end(CloseReason::Network), None);
        }
        let step = self.greet(opening.answer, opening.early, message, turn);
        if step == Step::Stay && opening.attachment < newest_attachment {
            return (self.give_way(turn), None);
        }
        (step, missed)
    }

    fn take_up(&mut self, channel: Channel, turn: &Turn<'_>) {
        match channel {
            Channel::WebSocket { acknowledges } => self.acknowledges = acknowledges,
            Channel::EventStream { told_version } => {
                self.wire = Wire::EventStream;
                self.told_version = told_version;
            }
            Channel::Poll { version, wait_seconds, .. } => {
                self.wire = Wire::Poll;
                self.told_version = version;
                // A code that rotates is not another version, and is to be told all the same.
                self.next_beat = turn.now.plus_seconds(wait_seconds).min(self.next_rotation);
                self.next_rotation = Tick::NEVER;
            }
        }
    }

    fn greet(&mut self, mut answer: Vec<u8>, early: &mut [u8], message: Option<&Message>, turn: &Turn<'_>) -> Step {
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

    /// Keeps a change that comes while the handshake is under way; whether it is.
    pub(super) fn note_if_arriving(&mut self, session: &Arc<Session>, since: Stopwatch) -> bool {
        let is_arriving = self.phase == Phase::Arriving;
        if is_arriving {
            let missed = &mut self.aside.get_or_insert_default().missed;
            if missed.as_ref().is_none_or(|(earlier, _)| earlier.version < session.version) {
                *missed = Some((session.clone(), since));
            }
        }
        is_arriving
    }

    /// Another node has done something: closes a connection that another took over from; whether the session is to be
    /// looked at.
    pub(super) fn hinted(&mut self, hint: &Hint, turn: &Turn<'_>) -> (Step, bool) {
        if self.phase == Phase::Arriving {
            let newest = &mut self.aside.get_or_insert_default().newest_attachment;
            *newest = hint.attachment.max(*newest);
            return (Step::Stay, true);
        }
        if self.order.attachment < hint.attachment {
            return (self.give_way(turn), false);
        }
        (Step::Stay, self.is_waiting() && self.told_version < hint.version)
    }

    /// Tells the browser, unless it knows or has been told the end. `since` runs from the change on.
    pub(super) fn tell(&mut self, message: &Message, since: Option<Stopwatch>, turn: &Turn<'_>) -> Step {
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
    pub(super) fn answer_poll(&mut self, message: &Message, turn: &Turn<'_>) -> Step {
        if self.is_waiting() { self.say(&mut Vec::new(), message, turn) } else { Step::Stay }
    }

    fn fields(&self) -> &[u8] {
        self.counted.as_ref().map_or(&[], |shared| &shared.fields)
    }

    /// Something can be read or written.
    pub(super) fn ready(&mut self, is_writable: bool, is_hung_up: bool, turn: &Turn<'_>) -> Step {
        if is_writable && self.flush(turn) == Step::End {
            return Step::End;
        }
        self.listen(is_hung_up, turn)
    }

    /// A deadline has come: `tick` of the wheel.
    pub(super) fn due(&mut self, tick: Tick, turn: &Turn<'_>) -> Step {
        if self.armed != tick {
            return Step::Stay;
        }
        self.armed = Tick::NEVER;
        if self.aside.as_ref().and_then(|aside| aside.unsent_until).is_some_and(|until| until <= tick) {
            return self.end(CloseReason::Slow);
        }
        if self.is_to_be_answered_by(tick) {
            self.next_beat = Tick::NEVER;
            self.phase_end = tick;
        }
        if self.is_waiting() && self.next_beat <= tick {
            let step = self.beat(turn);
            if step != Step::Stay {
                return step;
            }
        }
        if self.phase_end <= tick {
            return self.end_phase(tick, turn);
        }
        if self.is_waiting() && self.next_rotation <= tick { self.rotate(tick, turn) } else { Step::Stay }
    }

    fn is_to_be_answered_by(&self, tick: Tick) -> bool {
        self.wire == Wire::Poll && self.is_waiting() && self.next_beat <= tick
    }

    fn rotate(&mut self, tick: Tick, turn: &Turn<'_>) -> Step {
        while self.next_rotation <= tick {
            self.period = self.period.saturating_add(1);
            self.next_rotation = self.next_rotation.plus_seconds(turn.rotate_seconds);
        }
        Step::Rotate(self.period)
    }

    /// Shows the next code, unless there is no more to be shown.
    pub(super) fn show_code(&mut self, code: &Text, turn: &Turn<'_>) -> Step {
        // Whoever has not taken what came before gets a fresher one later.
        let is_of_use = self.is_waiting() && self.next_rotation != Tick::NEVER && !self.has_unsent();
        match self.wire {
            Wire::WebSocket if is_of_use => self.write(code.frame(), turn),
            Wire::EventStream if is_of_use => self.write(&wire::passing_event(code.json()), turn),
            _ => Step::Stay,
        }
    }

    fn end_phase(&mut self, tick: Tick, turn: &Turn<'_>) -> Step {
        match self.phase {
            Phase::Waiting if tick >= self.expiry.plus_seconds(PATIENCE_SECONDS) => self.unavailable(turn),
            Phase::Waiting => {
                // Should the store not answer.
                self.phase_end = turn.now.plus_seconds(RETRY_SECONDS);
                Step::AskStore
            }
            Phase::AwaitingWord => self.close(close_code::DONE, "", CloseReason::Decided, turn),
            Phase::AwaitingReceipt | Phase::Closing | Phase::Lingering => Step::End,
            Phase::Arriving | Phase::Claiming { .. } => Step::Stay,
        }
    }

    fn beat(&mut self, turn: &Turn<'_>) -> Step {
        if self.wire == Wire::EventStream {
            // Whether it arrives, the system finds out.
            self.next_beat = turn.now.plus_seconds(turn.heartbeat_seconds);
            return if self.has_unsent() { Step::Stay } else { self.write(wire::COMMENT, turn) };
        }
        if self.unanswered >= MAX_UNANSWERED {
            let active = self.active();
            info!(event = "heartbeat failed", session = %self.key, active);
            return self.close(close_code::HEARTBEAT, "no answer to two heartbeats", CloseReason::Heartbeat, turn);
        }
        self.unanswered += 1;
        self.next_beat = turn.now.plus_seconds(turn.heartbeat_seconds);
        // Whoever has not taken what came before is counted slow, not silent.
        if self.has_unsent() { Step::Stay } else { self.send(Opcode::Ping, &[], turn) }
    }

    /// The session did not end after all, but ends at `expiry`, as the store's clock has it.
    pub(super) fn put_off(&mut self, expiry: Tick, turn: &Turn<'_>) -> Step {
        if self.is_waiting() {
            self.expiry = expiry;
            self.phase_end = expiry.max(turn.now.plus_millis(1));
        }
        Step::Stay
    }

    /// The receipt has been stored, or could not be.
    pub(super) fn claimed(&mut self, turn: &Turn<'_>) -> Step {
        match self.phase {
            Phase::Claiming { then_close: true } => self.close(close_code::DONE, "", CloseReason::Decided, turn),
            Phase::Claiming { then_close: false } => Step::End,
            _ => Step::Stay,
        }
    }

    pub(super) fn unavailable(&mut self, turn: &Turn<'_>) -> Step {
        self.leave(close_code::UNAVAILABLE, "the store does not answer", CloseReason::Unavailable, turn)
    }

    /// A newer connection is the one that is told.
    pub(super) fn give_way(&mut self, turn: &Turn<'_>) -> Step {
        self.leave(close_code::REPLACED, "a newer connection took over", CloseReason::Replaced, turn)
    }

    /// Sends the browser away, unless it has been told how its login ended.
    pub(super) fn leave(&mut self, code: u16, why: &str, reason: CloseReason, turn: &Turn<'_>) -> Step {
        if self.is_waiting() { self.close(code, why, reason, turn) } else { Step::Stay }
    }

    /// Closes from our side and waits for the browser to agree.
    fn close(&mut self, code: u16, why: &str, reason: CloseReason, turn: &Turn<'_>) -> Step {
        self.pass_to(Phase::Closing, CLOSE_SECONDS, turn);
        self.reason = reason;
        match self.wire {
            Wire::WebSocket => self.send(Opcode::Close, &close_payload(code, why), turn),
            Wire::EventStream => self.write(&wire::close_event(code, why), turn),
            Wire::Poll => self.write(&wire::refusal(self.fields(), code, why, turn.clock.now()), turn),
        }
    }

    /// Reads what is there: to the end if the browser has hung up, else until a reading comes short.
    fn listen(&mut self, is_hung_up: bool, turn: &Turn<'_>) -> Step {
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

    fn take_in(&mut self, bytes: &mut [u8], turn: &Turn<'_>) -> Step {
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

    fn send(&mut self, opcode: Opcode, payload: &[u8], turn: &Turn<'_>) -> Step {
        let mut frames = Vec::new();
        frame(&mut frames, opcode, payload);
        self.write(&frames, turn)
    }

    /// Writes at once what the system takes, and keeps the rest.
    fn write(&mut self, bytes: &[u8], turn: &Turn<'_>) -> Step {
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

    fn flush(&mut self, turn: &Turn<'_>) -> Step {
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

    fn watch(&mut self, what: Watch, turn: &Turn<'_>) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let token = Token(turn.place.to_token());
        match what {
            Watch::Begin => turn.poll.register(socket, token, Interest::READABLE),
            Watch::Reads => turn.poll.reregister(socket, token, Interest::READABLE),
            Watch::ReadsAndRoom => turn.poll.reregister(socket, token, Interest::READABLE | Interest::WRITABLE),
        }
    }

    fn pushed(&self, since: Stopwatch) {
        if let Some(shared) = &self.counted {
            shared.metrics.pushed(since);
        }
    }

    /// For the log.
    fn active(&self) -> i64 {
        self.counted.as_ref().map_or(0, |shared| shared.metrics.active_connections())
    }

    fn pass_to(&mut self, phase: Phase, seconds: u32, turn: &Turn<'_>) {
        self.phase = phase;
        self.phase_end = turn.now.plus_seconds(seconds);
    }

    fn has_unsent(&self) -> bool {
        self.aside.as_ref().is_some_and(|aside| !aside.unsent.is_empty())
    }

    /// Lets go of what is no longer needed.
    fn tidy(&mut self) {
        let is_needed = |aside: &Aside| aside.ear.is_some() || !aside.unsent.is_empty() || aside.linger_bytes > 0;
        if self.aside.as_ref().is_some_and(|aside| !is_needed(aside)) {
            self.aside = None;
        }
    }

    fn end(&mut self, reason: CloseReason) -> Step {
        self.reason = reason;
        Step::End
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.socket.take());
        if let Some(shared) = self.counted.take() {
            if let (Some(sockets), Some(cells)) = (&shared.sockets, self.cells) {
                sockets.release(cells);
            }
            shared.metrics.connection_closed(self.reason);
            let (reason, active) = (self.reason.as_str(), shared.metrics.active_connections());
            info!(event = "disconnected", session = %self.key, reason, active);
        }
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
