//! One run: a connection on a simulated socket, the effects that are still to be performed, and the expected messages.

use super::fixture::Fixture;
use super::socket::SimulatedSocket;
use super::{
    BUFFER_BYTES, ConnectionKind, Dropped, EXPIRY, HEARTBEAT_SECONDS, KEY, MAX_DUE, MAX_READS, PENDING, ROTATE_SECONDS,
};
use crate::hub::connection::{Connection, Others, ReadBudget, Readiness, Start, Turn};
use crate::hub::deadlines::{Lag, SessionTick, Tick};
use crate::hub::opening::NewConnection;
use crate::hub::registry::Slot;
use crate::hub::transport::Transport;
use crate::hub::turn::Effects;
use crate::metrics::CloseReason;

/// A run: the connection, its socket, and what is expected of them.
pub(super) struct Run<'a> {
    pub(super) fixture: &'a Fixture,
    pub(super) kind: ConnectionKind,
    pub(super) dropped: Dropped,
    pub(super) socket: SimulatedSocket,
    pub(super) record: Option<Connection<SimulatedSocket>>,
    pub(super) now: Tick,
    pub(super) lag: Lag,
    pub(super) deadlines: Vec<Tick>,
    /// Numbers of effects that have not been performed.
    pub(super) reads_more: u32,
    pub(super) reads: u32,
    pub(super) codes: u32,
    pub(super) acks: u32,
    pub(super) acks_in_all: u32,
    /// Status of the session in the store.
    pub(super) status: &'static str,
    /// Changes that have been announced and not been delivered.
    pub(super) announced: Vec<&'static str>,
    /// Statuses that the browser must receive, in order.
    pub(super) expected: Vec<&'static str>,
    /// Messages of the browser, with their offsets in what it sends.
    pub(super) sent_messages: Vec<(usize, SentMessage)>,
    pub(super) sent_bytes: usize,
    pub(super) causes: Causes,
    pub(super) has_time_passed: bool,
    /// Whether the system has not accepted all bytes at once. A code may be left out then.
    pub(super) had_unsent: bool,
    /// Time since which bytes have been unsent.
    pub(super) unsent_since: Option<Tick>,
    /// Reason for which the connection has ended.
    pub(super) ended_by: Option<CloseReason>,
    pub(super) codes_expected: u32,
}

/// Causes for which a connection may stop waiting before the end of its session.
#[derive(Debug, Default)]
pub(super) struct Causes {
    /// The browser sent a Close, broke the protocol or closed the connection.
    pub(super) browser: bool,
    /// The network failed or accepted nothing for too long.
    pub(super) network: bool,
    /// The server closed the connection because it stops or a newer connection supersedes it.
    pub(super) server: bool,
    /// Time passed, so that a heartbeat may be unanswered.
    pub(super) time: bool,
}

/// A message of the browser that matters to the result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SentMessage {
    Ack,
    Close(u16),
    /// Bytes that break the protocol.
    Violation,
}

impl SentMessage {
    /// Returns whether bytes after this message are ignored.
    pub(super) fn is_last(self) -> bool {
        self != Self::Ack
    }
}

impl<'a> Run<'a> {
    pub(super) fn new(fixture: &'a Fixture, kind: ConnectionKind, dropped: Dropped) -> Self {
        let record = Connection::opening(KEY, 1);
        Self {
            fixture,
            kind,
            dropped,
            socket: SimulatedSocket::default(),
            record: Some(record),
            now: Tick(0),
            lag: Lag(0),
            deadlines: Vec::new(),
            reads_more: 0,
            reads: 0,
            codes: 0,
            acks: 0,
            acks_in_all: 0,
            status: "pending",
            announced: Vec::new(),
            expected: Vec::new(),
            sent_messages: Vec::new(),
            sent_bytes: 0,
            causes: Causes::default(),
            has_time_passed: false,
            had_unsent: false,
            unsent_since: None,
            ended_by: None,
            codes_expected: 0,
        }
    }
}

impl Run<'_> {
    pub(super) fn open(&mut self, early: &[u8], room_bytes: usize) {
        let mut socket = self.socket.0.borrow_mut();
        socket.room_bytes = room_bytes;
        socket.arrived_bytes = early.len();
        drop(socket);
        let fields = b"connection: close\r\n".to_vec();
        let transport = match self.kind {
            ConnectionKind::Plain => Transport::WebSocket { acknowledges: false },
            ConnectionKind::Acknowledging => Transport::WebSocket { acknowledges: true },
            ConnectionKind::Events => Transport::EventStream { delivered_version: 0 },
            ConnectionKind::Poll => Transport::Poll { version: PENDING, wait_seconds: 20, fields },
        };
        let status = self.status;
        let new = NewConnection {
            socket: self.socket.clone(),
            response: b"!".to_vec(),
            early: early.to_vec(),
            transport,
            permit: None,
        };
        let start = Start {
            attachment: 1,
            may_await_ack_elsewhere: false,
            expiry: EXPIRY,
            first_heartbeat_millis: 10_000,
            period: 0,
            next_rotation: SessionTick(600),
            shared: self.fixture.shared_states.with_all(),
        };
        let message = self.fixture.message(status);
        // The server answers a poll for an old version at once, without opening a connection.
        let message = (self.kind != ConnectionKind::Poll).then_some(message);
        // The browser's early bytes are handled first.
        if message.is_some() && !self.sent_messages.iter().any(|(_, sent)| sent.is_last()) {
            self.expect(status);
        }
        self.act(|connection, turn| drop(connection.open(new, start, message, turn)));
    }

    pub(super) fn deliver(&mut self, status: &'static str) {
        let message = self.fixture.message(status);
        let delivered = self.expected.last().map_or(0, |status| self.fixture.message(status).version);
        let delivered = if self.kind == ConnectionKind::Poll { delivered.max(PENDING) } else { delivered };
        if self.is_waiting() && message.version > delivered {
            self.expect(status);
        }
        self.act(|connection, turn| connection.deliver(message, None, turn));
    }

    pub(super) fn send(&mut self, bytes: &[u8], sent: Option<SentMessage>) {
        self.sent_messages.extend(sent.map(|sent| (self.sent_bytes, sent)));
        self.sent_bytes += bytes.len();
        self.socket.0.borrow_mut().in_transit.extend_from_slice(bytes);
    }

    /// Handles a report of readiness, as the poller does.
    pub(super) fn report(&mut self) {
        let mut socket = self.socket.0.borrow_mut();
        let is_writable = std::mem::take(&mut socket.is_writable);
        let is_readable = std::mem::take(&mut socket.is_readable);
        let is_last = socket.has_hung_up || socket.failure.is_some();
        drop(socket);
        if is_readable || is_writable {
            self.ready(Readiness { is_writable, is_last });
        }
    }

    pub(super) fn ready(&mut self, readiness: Readiness) {
        let mut buffer = [0; BUFFER_BYTES];
        let share = ReadBudget { buffer: &mut buffer, max_reads: MAX_READS };
        self.act(|connection, turn| connection.ready(readiness, share, turn));
    }

    pub(super) fn pass_time(&mut self, ticks: u32) {
        self.has_time_passed |= ticks > 0;
        self.causes.time |= ticks > 0;
        // A store that does not answer for long makes the server close the connection.
        self.causes.server |= ticks > 0 && self.reads > 0;
        self.now = Tick(self.now.0 + ticks);
        // The bound matters when an ended record is kept as an injected fault: its deadlines never end.
        for _ in 0..MAX_DUE {
            let Some(index) = self.first_due() else { return };
            let tick = self.deadlines.swap_remove(index);
            self.act(|connection, turn| connection.due(tick, turn));
        }
    }

    /// Runs a turn as the hub does, but notes the effects, which are performed later.
    pub(super) fn act(
        &mut self,
        turn_of: impl FnOnce(&mut Connection<SimulatedSocket>, &mut Turn<'_, SimulatedSocket>),
    ) {
        let Some(record) = &mut self.record else { return };
        self.socket.0.borrow_mut().has_accepted_write = false;
        let mut turn = Turn {
            slot: Slot::from_token(1),
            now: self.now,
            lag: self.lag,
            heartbeat_seconds: HEARTBEAT_SECONDS,
            rotate_seconds: ROTATE_SECONDS,
            poll: &(),
            clock: &self.fixture.clock,
            others: Others::default(),
            effects: Effects::default(),
        };
        turn_of(record, &mut turn);
        self.had_unsent |= record.has_unsent();
        // Within one turn the system may accept all unsent bytes, and then not all of the next ones.
        let unsent_since = self.unsent_since.filter(|_| !self.socket.0.borrow().has_accepted_write);
        self.unsent_since = record.has_unsent().then(|| unsent_since.unwrap_or(self.now));
        let Effects { ends, reads_more, reads_session, shows_code_of, stores_ack_of } = turn.effects;
        if ends && self.dropped != Dropped::Ends {
            // The system accepted nothing for too long, or a call failed.
            self.causes.network |= record.has_unsent();
            self.ended_by = Some(record.reason);
            self.record = None;
        } else if let Some(tick) = record.next_deadline(self.lag) {
            self.deadlines.push(tick);
        }
        self.reads_more += u32::from(reads_more && self.dropped != Dropped::ReadsMore);
        self.reads += u32::from(reads_session && self.dropped != Dropped::ReadsSession);
        self.codes_expected += u32::from(shows_code_of.is_some());
        self.codes += u32::from(shows_code_of.is_some() && self.dropped != Dropped::ShowsCode);
        self.acks_in_all += u32::from(stores_ack_of.is_some());
        self.acks += u32::from(stores_ack_of.is_some() && self.dropped != Dropped::StoresAck);
    }

    /// Notes the next status that the browser must receive. Must be called before it is delivered.
    pub(super) fn expect(&mut self, status: &'static str) {
        self.expected.push(status);
        if status == "confirmed" {
            let frames = &self.fixture.message(status).frames;
            let bytes = if self.kind == ConnectionKind::Plain { frames.frame_and_close() } else { frames.frame() };
            bytes.clone_into(&mut self.socket.0.borrow_mut().token);
        }
    }

    fn first_due(&self) -> Option<usize> {
        let due = self.deadlines.iter().enumerate().filter(|(_, tick)| **tick <= self.now);
        due.min_by_key(|(_, tick)| **tick).map(|(index, _)| index)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.record.as_ref().is_some_and(Connection::is_waiting)
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.record.as_ref().and_then(|record| record.rare.as_ref()).map_or(0, |rare| rare.unsent.len())
    }
}
