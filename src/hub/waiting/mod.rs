//! A waiting browser: its record, and the conversation with it.
//!
//! The record is all there is: no task, buffer, channel or timer of its own. Whatever happens (bytes arrive, the session
//! changes, a deadline passes) is a [`Turn`]: a method of [`Waiting`] under the registry's lock, which never waits and
//! fills [`Effects`] with what is to be done outside of the lock. A turn that writes does not read first, and a turn
//! that reads is bounded; so no browser delays what it is told, or what others are told.
//!
//! The record is also a guard: however it leaves the registry, its [`Drop`] closes the socket and counts the
//! connection as closed, once.
//!
//! This file has how a connection begins and ends; `say.rs` what is written, `hear.rs` what is read, `due.rs` the
//! deadlines. `simulation` runs all of it on a simulated socket, in any order.

mod due;
mod hear;
mod say;
#[cfg(test)]
mod simulation;

use std::sync::Arc;

use mio::Token;
use mio::net::TcpStream;
use tracing::info;

use super::effects::Effects;
use super::message::Message;
use super::registry::{Keyed, Place};
use super::shared::Shared;
use super::socket::{Socket, Watch};
use super::wheel::{Lag, SessionTick, Tick};
use super::wire::{Channel, Wire};
use crate::clock::Clock;
use crate::limits::Cells;
use crate::metrics::{CloseReason, Stopwatch};
use crate::node::Hint;
use crate::protocol::close_code;
use crate::session::{Session, SessionKey};
use crate::websocket::Ear;

pub(super) use hear::{Readiness, Share};
pub(super) use say::RECEIPT_SECONDS;

/// How long a closing handshake may take, in seconds.
const CLOSE_SECONDS: u32 = 1;

/// See the module.
pub(super) struct Waiting<S: Socket = TcpStream> {
    key: SessionKey,
    /// Set once the connection is up.
    socket: Option<S>,
    /// Set while the connection counts.
    counted: Option<Arc<Shared>>,
    /// Where it counts among those of its address, if there is a limit on them.
    cells: Option<Cells>,
    /// The store's number of this connection among those of its session at all nodes: a newer one's is greater. 0 while
    /// it is not known, and always with a store of one node.
    attachment: u32,
    /// Number of this connection among those that arrived at this node. It begins anew after 2^32: no connection waits
    /// that long.
    arrival: u32,
    expiry: SessionTick,
    next_beat: Tick,
    /// When the next code is to be shown, and which period's is.
    next_rotation: SessionTick,
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
    hold_back: HoldBack,
    reason: CloseReason,
    aside: Option<Box<Aside>>,
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
    /// What the system did not take at once, up to where it ends with a token if it does, until when it must be taken,
    /// and how long it has been under way.
    unsent: Vec<u8>,
    unsent_token_bytes: usize,
    unsent_until: Option<Tick>,
    pushing: Option<Stopwatch>,
    /// How much more is read of a browser that broke the protocol.
    linger_bytes: usize,
    /// Number of unread bytes that had been received when the token was written: no receipt is among them.
    early_bytes: usize,
}

/// Whether a token is held back, while another connection's acknowledgement of it may be on its way. It is once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HoldBack {
    NotYet,
    /// Until the end of the phase. Then the session is read again.
    Now,
    Over,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The row is being read, the handshake not yet answered.
    Arriving,
    /// Nothing has been decided yet.
    Waiting,
    /// The token has been written; the message `ack` is the receipt.
    AwaitingWord,
    /// The token and our Close have been written; the browser's Close 1000 is the receipt.
    AwaitingReceipt,
    /// The receipt is being stored; then, perhaps, we close.
    Claiming { then_close: bool },
    /// Our Close has been written; the browser's is awaited.
    Closing,
    /// The browser broke the protocol and has been told so; what it still sends is discarded.
    Lingering,
    /// The connection has ended; the record is dropped after this turn.
    Ended,
}

/// The other connections of the same session, as they are during a turn.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Others {
    /// Arrival of the newest of those that are up at this node.
    newest: Option<u32>,
    /// Greatest attachment of those that are up at this node.
    attachment: u32,
    /// A newer one is known to wait at another node.
    is_newer_elsewhere: bool,
    /// One of them has been given the token, and its acknowledgement may be on its way.
    awaits_ack: bool,
}

impl Others {
    /// Takes another connection into account.
    pub(super) fn note<S: Socket>(&mut self, other: &Waiting<S>) {
        #[cfg(test)]
        if IS_BLIND.get() {
            return;
        }
        self.newest = self.newest.max(other.active_arrival());
        self.attachment = self.attachment.max(other.attachment);
        self.awaits_ack |= other.awaits_ack();
    }
}

#[cfg(test)]
thread_local! {
    static IS_BLIND: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Lets connections not know of the others of their session, on this thread, until the guard is dropped: the simulation
/// must find it.
#[cfg(test)]
pub(super) fn blind_to_others() -> impl Drop {
    struct Blind;
    impl Drop for Blind {
        fn drop(&mut self) {
            IS_BLIND.set(false);
        }
    }
    IS_BLIND.set(true);
    Blind
}

/// One turn: what it may use, and the effects that it fills.
pub(super) struct Turn<'a, S: Socket = TcpStream> {
    pub(super) place: Place,
    /// The tick from which a wait that begins now is counted.
    pub(super) now: Tick,
    /// How session time stands to steady time.
    pub(super) lag: Lag,
    pub(super) heartbeat_seconds: u32,
    pub(super) rotate_seconds: u32,
    pub(super) poll: &'a S::Poll,
    pub(super) clock: &'a Clock,
    /// Known in turns that deliver a session's state.
    pub(super) others: Others,
    pub(super) effects: Effects,
}

/// How a connection comes up.
pub(super) struct Opening<'a, S: Socket = TcpStream> {
    pub(super) socket: S,
    /// The answer to the handshake, if it has not been written.
    pub(super) answer: Vec<u8>,
    /// What the browser said right behind its request.
    pub(super) early: &'a mut [u8],
    pub(super) channel: Channel,
    pub(super) attachment: u32,
    /// Whether a connection of the session at another node may have been given the token just now.
    pub(super) may_await_ack_elsewhere: bool,
    pub(super) expiry: SessionTick,
    pub(super) first_beat: Tick,
    pub(super) period: u16,
    pub(super) next_rotation: SessionTick,
    pub(super) shared: Arc<Shared>,
    pub(super) cells: Option<Cells>,
}

impl<S: Socket> Keyed for Waiting<S> {
    fn key(&self) -> &SessionKey {
        &self.key
    }
}

impl<S: Socket> Waiting<S> {
    /// A browser whose row is being read.
    pub(super) const fn arriving(key: SessionKey, arrival: u32) -> Self {
        Self {
            key,
            socket: None,
            counted: None,
            cells: None,
            attachment: 0,
            arrival,
            expiry: SessionTick::NEVER,
            next_beat: Tick::NEVER,
            next_rotation: SessionTick::NEVER,
            period: 0,
            phase_end: Tick::NEVER,
            armed: Tick::NEVER,
            told_version: 0,
            phase: Phase::Arriving,
            unanswered: 0,
            wire: Wire::WebSocket,
            acknowledges: false,
            hold_back: HoldBack::NotYet,
            reason: CloseReason::Network,
            aside: None,
        }
    }

    /// Returns the connection's number among those that arrived at this node, if it is up. One that has been superseded
    /// itself supersedes no other.
    pub(super) fn active_arrival(&self) -> Option<u32> {
        (self.phase != Phase::Arriving && self.reason != CloseReason::Replaced).then_some(self.arrival)
    }

    pub(super) const fn attachment(&self) -> u32 {
        self.attachment
    }

    /// Takes the number of another connection of the session at this node, if that is greater: the store numbers
    /// connections in the order in which it runs its statements, and two statements of a node may run in another order
    /// than the requests arrived in. With a smaller number than the store's last one, the newest connection would be
    /// taken for one that is superseded.
    pub(super) fn adopt(&mut self, attachment: u32) {
        if self.phase != Phase::Arriving {
            self.attachment = self.attachment.max(attachment);
        }
    }

    /// Whether its receipt may be in the socket's buffer, or is being stored. (A browser that says the word waits for
    /// our Close, and so does not come back before.)
    pub(super) fn awaits_receipt(&self) -> bool {
        matches!(self.phase, Phase::AwaitingReceipt | Phase::Claiming { .. })
    }

    /// Whether the connection has been given the token, and its acknowledgement may be on its way or is being stored.
    fn awaits_ack(&self) -> bool {
        self.awaits_receipt() || self.phase == Phase::AwaitingWord
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

    /// The connection is up; `message` says how its session stands, if that can be told. Returns the change that came
    /// during the handshake, if one did.
    pub(super) fn open(
        &mut self,
        opening: Opening<'_, S>,
        message: Option<&Message>,
        turn: &mut Turn<'_, S>,
    ) -> Option<(Arc<Session>, Stopwatch)> {
        let metrics = &opening.shared.metrics;
        metrics.connection_opened();
        info!(event = "connected", session = %self.key, active = metrics.active_connections());
        self.counted = Some(opening.shared);
        self.cells = opening.cells;
        self.socket = Some(opening.socket);
        self.attachment = opening.attachment.max(turn.others.attachment);
        self.expiry = opening.expiry;
        self.phase_end = opening.expiry.tick(turn.lag);
        self.next_beat = opening.first_beat;
        self.next_rotation = opening.next_rotation;
        self.period = opening.period;
        self.phase = Phase::Waiting;
        let (missed, newest_attachment) =
            self.aside.take().map_or((None, 0), |aside| (aside.missed, aside.newest_attachment));
        self.take_up(opening.channel, turn);
        // What arrives from here on is reported, and handled after this turn.
        if self.watch(Watch::Begin, turn).is_err() {
            self.end(CloseReason::Network, turn);
            return None;
        }
        // A connection that has been superseded before it is up is answered and closed. It is not given the token.
        turn.others.is_newer_elsewhere = self.attachment < newest_attachment;
        turn.others.awaits_ack |= opening.may_await_ack_elsewhere;
        // What was read is out of date if a change has come meanwhile. The change is delivered next.
        let is_overtaken =
            message.zip(missed.as_ref()).is_some_and(|(read, (missed, _))| read.version < missed.version);
        self.greet(opening.answer, opening.early, message, is_overtaken, turn);
        missed
    }

    fn take_up(&mut self, channel: Channel, turn: &Turn<'_, S>) {
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
                self.next_beat = turn.now.plus_seconds(wait_seconds).min(self.next_rotation.tick(turn.lag));
                self.next_rotation = SessionTick::NEVER;
            }
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

    /// Takes in a hint of another node: closes a connection that another took over from. Returns whether the session is
    /// to be read.
    pub(super) fn hinted(&mut self, hint: &Hint, turn: &mut Turn<'_, S>) -> bool {
        if self.phase == Phase::Arriving {
            let newest = &mut self.aside.get_or_insert_default().newest_attachment;
            *newest = hint.attachment.max(*newest);
            return true;
        }
        if self.attachment < hint.attachment {
            self.give_way(turn);
            return false;
        }
        self.is_waiting() && self.told_version < hint.version
    }

    /// The receipt has been stored, or could not be.
    pub(super) fn claimed(&mut self, turn: &mut Turn<'_, S>) {
        match self.phase {
            Phase::Claiming { then_close: true } => self.close(close_code::DONE, "", CloseReason::Decided, turn),
            Phase::Claiming { then_close: false } => self.finish(turn),
            _ => {}
        }
    }

    fn watch(&mut self, watch: Watch, turn: &Turn<'_, S>) -> std::io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        socket.watch(turn.poll, Token(turn.place.to_token()), watch)
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

    fn pass_to(&mut self, phase: Phase, seconds: u32, turn: &Turn<'_, S>) {
        self.phase = phase;
        self.phase_end = turn.now.plus_seconds(seconds);
    }

    fn has_unsent(&self) -> bool {
        self.aside.as_ref().is_some_and(|aside| !aside.unsent.is_empty())
    }

    /// Lets go of what is no longer needed.
    fn tidy(&mut self) {
        let is_needed = |aside: &Aside| {
            aside.ear.is_some() || !aside.unsent.is_empty() || aside.linger_bytes > 0 || aside.early_bytes > 0
        };
        if self.aside.as_ref().is_some_and(|aside| !is_needed(aside)) {
            self.aside = None;
        }
    }

    /// The connection ends for this reason.
    fn end(&mut self, reason: CloseReason, turn: &mut Turn<'_, S>) {
        self.reason = reason;
        self.finish(turn);
    }

    /// The connection ends, for the reason that is noted.
    fn finish(&mut self, turn: &mut Turn<'_, S>) {
        self.phase = Phase::Ended;
        turn.effects.ends = true;
    }

    fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }
}

impl<S: Socket> Drop for Waiting<S> {
    fn drop(&mut self) {
        let has_unsent = self.has_unsent();
        if let Some(socket) = self.socket.as_mut().filter(|_| has_unsent) {
            // The browser has not taken it in its time. The system would keep its own queue for minutes.
            socket.discard_unsent();
        }
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
