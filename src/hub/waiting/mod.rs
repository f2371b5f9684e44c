//! A browser that waits: its record, and the conversation with it.
//!
//! The record is all that there is of it: no task, no buffer, no channel, no timer of its own. Whatever happens (bytes
//! arrive, the session changes, a deadline passes) somebody comes along, does what is to be done, in [`Turn`]s that
//! the registry's lock keeps apart, and goes. Nothing in here waits.
//!
//! The record is also the guard: however it leaves the registry, its [`Drop`] closes the socket and counts the
//! connection as closed, once.
//!
//! Here is how it comes up and goes; what it is told is in `say.rs`, what is heard of it in `hear.rs`, and what comes
//! with time in `due.rs`.

mod due;
mod hear;
mod say;

use std::io;
use std::sync::Arc;

use mio::net::TcpStream;
use mio::{Interest, Token};
use tracing::info;

use super::message::Message;
use super::registry::{Keyed, Place};
use super::shared::Shared;
use super::wheel::Tick;
use super::wire::{Channel, Wire};
use crate::clock::Clock;
use crate::limits::Cells;
use crate::metrics::{CloseReason, Stopwatch};
use crate::node::Hint;
use crate::protocol::close_code;
use crate::session::{Session, SessionKey};
use crate::websocket::Ear;

/// How long the browser's side of a closing handshake is waited for where nothing hangs on it.
const CLOSE_SECONDS: u32 = 1;

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

    /// The receipt has been stored, or could not be.
    pub(super) fn claimed(&mut self, turn: &Turn<'_>) -> Step {
        match self.phase {
            Phase::Claiming { then_close: true } => self.close(close_code::DONE, "", CloseReason::Decided, turn),
            Phase::Claiming { then_close: false } => Step::End,
            _ => Step::Stay,
        }
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
