//! The state machine of a connection on a simulated socket, with events in random order ([`proptest`]). A run checks
//! that no message is lost, repeated or reordered, that no other bytes are taken for an acknowledgement, that every
//! byte is read, and that the connection ends once.
//!
//! A run is a list of bytes. The first four choose how the connection begins, and each further pair chooses an event:
//! the browser sends something, some of it arrives, the session changes, a change is delivered (late, twice, out of
//! order), a deadline comes, an effect of an earlier turn is performed, the system accepts more bytes or none, a system
//! call fails. Then everything under way is completed, and the messages that the browser received are compared with the
//! expected ones. At last time passes until the connection has ended.

mod line;
mod received;
mod scenes;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use zeroize::Zeroizing;

use super::write::WRITE_SECONDS;
use super::{Connection, Others, Phase, ReadBudget, Readiness, Turn};
use crate::cluster::node::Notification;
use crate::hub::deadlines::{Lag, SessionTick, Tick};
use crate::hub::message::Message;
use crate::hub::opening::{NewConnection, Start};
use crate::hub::registry::Slot;
use crate::hub::shared_state::SharedStates;
use crate::hub::transport::Transport;
use crate::hub::turn::Effects;
use crate::metrics::{CloseReason, Metrics};
use crate::session::{Cancellation, SessionKey, Timestamp};
use crate::system::clock::Clock;
use crate::wire::types::{CodeView, Confirmed, Frame};
use crate::wire::websocket::{Opcode, close_payload, frame};
use line::{Hiccup, Simulated};
use received::{Received, answer, events, frames};

/// Runs for each of the four kinds of connection: a million in total. The variable `SIMULATION_RUNS` overrides it.
const RUNS: u32 = 250_000;
/// Runs within which an injected fault must be found.
const RUNS_TO_FIND: u32 = 20_000;
/// Exclusive bound of the number of bytes in a run.
const MAX_CHOICES: usize = 72;
/// Maximum number of deadlines handled at once.
const MAX_DUE: usize = 1000;

const KEY: SessionKey = SessionKey([7; 32]);
const EXPIRY: SessionTick = SessionTick(3000);
const HEARTBEAT_SECONDS: u32 = 30;
const ROTATE_SECONDS: u32 = 60;
/// Size of a turn's buffer, in bytes. It is small, so that a few frames exceed a turn's share.
const BUFFER_BYTES: usize = 12;
const MAX_READS: usize = 2;
/// Version of a pending session.
const PENDING: u32 = 1;
/// Version of a scanned session.
const SCANNED: u32 = 2;
/// Version of a decided session.
const DECIDED: u32 = 3;
const EXPIRED: u32 = u32::MAX;

/// The kinds of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    Acknowledging,
    Events,
    Poll,
}

/// The effect that the simulation drops, as a faulty hub would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dropped {
    Nothing,
    ReadsMore,
    ReadsSession,
    ShowsCode,
    StoresAck,
    Ends,
}

/// Causes for which a connection may stop waiting before the end of its session.
#[derive(Debug, Default)]
struct Causes {
    /// The browser sent a Close, broke the protocol or closed the connection.
    browser: bool,
    /// The network failed or accepted nothing for too long.
    network: bool,
    /// The server closed the connection because it stops or a newer connection supersedes it.
    server: bool,
    /// Time passed, so that a heartbeat may be unanswered.
    time: bool,
}

/// A message of the browser that matters to the result of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Ack,
    Close(u16),
    /// Bytes that break the protocol.
    Nonsense,
}

impl Said {
    /// Returns whether bytes after this message are ignored.
    fn is_last(self) -> bool {
        self != Self::Ack
    }
}

/// Messages by status.
struct Messages(BTreeMap<&'static str, Message>);

impl Messages {
    fn new() -> Self {
        let web_token = Zeroizing::new("t".to_owned());
        let token = Confirmed::Token { web_token, token_type: "Bearer", expires_in: 60, user: None };
        let all = [
            (PENDING, Frame::Pending { version: PENDING, expires_in: 300 }),
            (SCANNED, Frame::Scanned { version: SCANNED, user: None, number: None }),
            (DECIDED, Frame::Confirmed(token)),
            (DECIDED, Frame::rejected()),
            (DECIDED, Frame::cancelled(Cancellation::Browser)),
            (EXPIRED, Frame::expired()),
        ];
        Self(all.into_iter().map(|(version, frame)| (frame.status(), Message::new(version, &frame))).collect())
    }
}

/// State that all runs share.
struct Fixture {
    messages: Messages,
    shared_states: SharedStates,
    metrics: Arc<Metrics>,
    clock: Clock,
    code: crate::hub::message::Frames,
}

impl Fixture {
    fn new() -> Self {
        let metrics = Arc::new(Metrics::new());
        let code = CodeView { code: "c".to_owned(), qr_url: "u".to_owned(), qr_image: "i".to_owned() };
        Self {
            messages: Messages::new(),
            shared_states: SharedStates::new(metrics.clone(), None),
            metrics,
            clock: Clock::manual(Timestamp::from_millis(0)).0,
            code: crate::hub::message::rotated(code),
        }
    }

    fn message(&self, status: &'static str) -> &Message {
        &self.messages.0[status]
    }
}

/// A run: the connection, its socket, and what is expected of them.
struct World<'a> {
    fixture: &'a Fixture,
    kind: Kind,
    dropped: Dropped,
    line: Simulated,
    record: Option<Connection<Simulated>>,
    now: Tick,
    lag: Lag,
    deadlines: Vec<Tick>,
    /// Numbers of effects that have not been performed.
    reads_more: u32,
    reads: u32,
    codes: u32,
    acks: u32,
    acks_in_all: u32,
    /// Status of the session in the store.
    status: &'static str,
    /// Changes that have been announced and not been delivered.
    announced: Vec<&'static str>,
    /// Statuses that the browser must receive, in order.
    expected: Vec<&'static str>,
    /// Messages of the browser, with their offsets in what it sends.
    said: Vec<(usize, Said)>,
    sent_bytes: usize,
    causes: Causes,
    has_time_passed: bool,
    /// Whether the system has not accepted all bytes at once. A code may be left out then.
    was_stuck: bool,
    /// Time since which bytes have been unsent.
    stuck_since: Option<Tick>,
    /// Reason for which the connection has ended.
    ended_by: Option<CloseReason>,
    codes_expected: u32,
}

impl<'a> World<'a> {
    fn new(fixture: &'a Fixture, kind: Kind, dropped: Dropped) -> Self {
        let record = Connection::opening(KEY, 1);
        Self {
            fixture,
            kind,
            dropped,
            line: Simulated::default(),
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
            said: Vec::new(),
            sent_bytes: 0,
            causes: Causes::default(),
            has_time_passed: false,
            was_stuck: false,
            stuck_since: None,
            ended_by: None,
            codes_expected: 0,
        }
    }

    /// Runs a turn as the hub does, but notes the effects, which are performed later.
    fn act(&mut self, what: impl FnOnce(&mut Connection<Simulated>, &mut Turn<'_, Simulated>)) {
        let Some(record) = &mut self.record else { return };
        self.line.0.borrow_mut().has_caught_up = false;
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
        what(record, &mut turn);
        self.was_stuck |= record.has_unsent();
        // Within one turn the system may accept all unsent bytes, and then not all of the next ones.
        let stuck_since = self.stuck_since.filter(|_| !self.line.0.borrow().has_caught_up);
        self.stuck_since = record.has_unsent().then(|| stuck_since.unwrap_or(self.now));
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

    fn open(&mut self, early: &[u8], room_bytes: usize) {
        let mut line = self.line.0.borrow_mut();
        line.room_bytes = room_bytes;
        line.arrived_bytes = early.len();
        drop(line);
        let fields = b"connection: close\r\n".to_vec();
        let transport = match self.kind {
            Kind::Plain => Transport::WebSocket { acknowledges: false },
            Kind::Acknowledging => Transport::WebSocket { acknowledges: true },
            Kind::Events => Transport::EventStream { delivered_version: 0 },
            Kind::Poll => Transport::Poll { version: PENDING, wait_seconds: 20, fields },
        };
        let status = self.status;
        let new = NewConnection {
            socket: self.line.clone(),
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
        let message = (self.kind != Kind::Poll).then_some(message);
        // The browser's early bytes are handled first.
        if message.is_some() && !self.said.iter().any(|(_, said)| said.is_last()) {
            self.expect(status);
        }
        self.act(|connection, turn| drop(connection.open(new, start, message, turn)));
    }

    /// Notes the next status that the browser must receive. Must be called before it is delivered.
    fn expect(&mut self, status: &'static str) {
        self.expected.push(status);
        if status == "confirmed" {
            let frames = &self.fixture.message(status).frames;
            let bytes = if self.kind == Kind::Plain { frames.frame_and_close() } else { frames.frame() };
            bytes.clone_into(&mut self.line.0.borrow_mut().token);
        }
    }

    fn is_waiting(&self) -> bool {
        self.record.as_ref().is_some_and(Connection::is_waiting)
    }

    fn unsent_bytes(&self) -> usize {
        self.record.as_ref().and_then(|record| record.rare.as_ref()).map_or(0, |rare| rare.unsent.len())
    }

    fn deliver(&mut self, status: &'static str) {
        let message = self.fixture.message(status);
        let delivered = self.expected.last().map_or(0, |status| self.fixture.message(status).version);
        let delivered = if self.kind == Kind::Poll { delivered.max(PENDING) } else { delivered };
        if self.is_waiting() && message.version > delivered {
            self.expect(status);
        }
        self.act(|connection, turn| connection.deliver(message, None, turn));
    }

    fn send(&mut self, bytes: &[u8], said: Option<Said>) {
        self.said.extend(said.map(|said| (self.sent_bytes, said)));
        self.sent_bytes += bytes.len();
        self.line.0.borrow_mut().under_way.extend_from_slice(bytes);
    }

    /// Sends one of the messages that browsers send.
    fn browser_sends(&mut self, choice: u8) {
        let bytes = match choice % 12 {
            0..=2 => masked(0x8A, b"pong"),
            3 => masked(0x89, b"ping"),
            4 => masked(0x81, b"ignored"),
            5 => masked(0x82, b""),
            6 => masked(0x81, b"ping"),
            7 => {
                // Empty fragments with a pong between them.
                [masked(0x01, b""), masked(0x00, b""), masked(0x8A, b""), masked(0x80, b"")].concat()
            }
            8 => (0..6).flat_map(|_| masked(0x8A, b"a longer pong")).collect(),
            9 => return self.send(&masked(0x81, b"ack"), Some(Said::Ack)),
            10 => return self.close_with(1000 + u16::from(choice / 12 % 2)),
            _ if (choice / 12).is_multiple_of(4) => {
                self.causes.browser = true;
                return self.send(&[0xFF, 0xFF], Some(Said::Nonsense));
            }
            _ => masked(0x8A, b""),
        };
        self.send(&bytes, None);
    }

    fn close_with(&mut self, code: u16) {
        self.causes.browser = true;
        self.send(&masked(0x88, &close_payload(code, "")), Some(Said::Close(code)));
    }

    /// Does what a correct browser does after reading: acknowledges the token and returns the Close.
    fn browser_reads(&mut self) -> Result<(), String> {
        let delivered = self.delivered()?;
        let has_closed = self.said.iter().any(|(_, said)| matches!(said, Said::Close(_)));
        if self.kind == Kind::Acknowledging && delivered.statuses.last() == Some(&"confirmed".to_owned()) {
            self.send(&masked(0x81, b"ack"), Some(Said::Ack));
        }
        if delivered.is_closed && !has_closed && matches!(self.kind, Kind::Plain | Kind::Acknowledging) {
            self.close_with(1000);
        }
        Ok(())
    }

    /// Changes the session, if its state permits, and announces the change.
    fn change(&mut self, choice: u8) {
        if self.now >= EXPIRY.tick(self.lag) {
            return;
        }
        self.status = match (self.status, choice % 4) {
            ("pending", 0..=2) => "scanned",
            ("pending" | "scanned", 3) => ["rejected", "cancelled"][usize::from(choice / 4 % 2)],
            ("scanned", _) => "confirmed",
            (decided, _) => decided,
        };
        self.announced.push(self.status);
    }

    /// Handles a report of readiness, as the poller does.
    fn report(&mut self) {
        let mut line = self.line.0.borrow_mut();
        let is_writable = std::mem::take(&mut line.is_writable);
        let is_readable = std::mem::take(&mut line.is_readable);
        let is_last = line.has_hung_up || line.failure.is_some();
        drop(line);
        if is_readable || is_writable {
            self.ready(Readiness { is_writable, is_last });
        }
    }

    fn ready(&mut self, readiness: Readiness) {
        let mut buffer = [0; BUFFER_BYTES];
        let share = ReadBudget { buffer: &mut buffer, max_reads: MAX_READS };
        self.act(|connection, turn| connection.ready(readiness, share, turn));
    }

    /// Performs a noted effect. Returns whether there was one.
    fn perform(&mut self, choice: u8) -> bool {
        let due = [self.reads_more, self.reads, self.codes, self.acks];
        let Some(index) = (0..4).map(|offset| (usize::from(choice) + offset) % 4).find(|index| due[*index] > 0) else {
            return false;
        };
        match index {
            0 => {
                self.reads_more -= 1;
                self.ready(Readiness { is_writable: false, is_last: true });
            }
            1 => {
                self.reads -= 1;
                self.settle();
            }
            2 => {
                self.codes -= 1;
                let code = &self.fixture.code;
                self.act(|connection, turn| connection.show_code(code, turn));
            }
            _ => {
                self.acks -= 1;
                self.act(Connection::ack_stored);
            }
        }
        true
    }

    /// Handles the result of reading the store at a deadline.
    fn settle(&mut self) {
        let is_undecided = matches!(self.status, "pending" | "scanned");
        if is_undecided && self.now < EXPIRY.tick(self.lag) {
            if self.record.as_ref().is_some_and(Connection::is_poll_due) {
                self.expect(self.status);
                let message = self.fixture.message(self.status);
                return self.act(|connection, turn| connection.answer_poll(message, turn));
            }
            return self.act(|connection, turn| connection.postpone(EXPIRY, turn));
        }
        self.deliver(if is_undecided { "expired" } else { self.status });
    }

    fn pass_time(&mut self, ticks: u32) {
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

    /// Sets the clock of a shared store to at most two minutes before or after the original time.
    fn step_session_time(&mut self, choice: u8) {
        self.causes.time = true;
        self.lag = Lag((i64::from(choice % 25) - 12) * 10_000);
        self.act(|connection, turn| connection.session_time_stepped(turn));
    }

    fn first_due(&self) -> Option<usize> {
        let due = self.deadlines.iter().enumerate().filter(|(_, tick)| **tick <= self.now);
        due.min_by_key(|(_, tick)| **tick).map(|(index, _)| index)
    }

    fn step(&mut self, action: u8, choice: u8) -> Result<(), String> {
        match action % 16 {
            0..=3 => self.browser_sends(choice),
            4 => self.line.0.borrow_mut().arrive(choice.into()),
            5 => self.line.0.borrow_mut().arrive(usize::from(choice % 16)),
            6 => self.change(choice),
            7 => {
                if !self.announced.is_empty() {
                    let index = usize::from(choice / 2) % self.announced.len();
                    // A notification may be repeated.
                    let status =
                        if choice.is_multiple_of(2) { self.announced.remove(index) } else { self.announced[index] };
                    self.deliver(status);
                }
            }
            8 => self.report(),
            9 => {
                self.perform(choice);
            }
            10 => self.pass_time(u32::from(choice % 64) * if choice >= 224 { 40 } else { 1 }),
            11 => {
                // Often the system accepts exactly what is unsent. Then the next write is the first that it does not
                // accept.
                let bytes = if choice < 192 { choice.into() } else { self.unsent_bytes() };
                self.line.0.borrow_mut().grow_room(bytes);
            }
            12 => {
                let hiccup = if choice.is_multiple_of(2) { Hiccup::Interrupted } else { Hiccup::Short };
                self.line.0.borrow_mut().hiccups.push(hiccup);
            }
            13 => self.browser_reads()?,
            14 if choice < 24 => {
                let mut line = self.line.0.borrow_mut();
                if choice < 8 {
                    line.failure = Some(io::ErrorKind::ConnectionReset);
                }
                line.has_hung_up = true;
                line.is_readable = true;
                self.causes.browser = true;
                self.causes.network |= choice < 8;
            }
            14 if choice < 48 => {
                self.causes.server = true;
                self.act(|connection, turn| {
                    connection.close_if_waiting(1012, "retry_after_ms=1", CloseReason::Shutdown, turn)
                });
            }
            14 if choice >= 224 => self.step_session_time(choice),
            14 if choice < 72 => {
                let attachment = 1 + u32::from(choice % 2);
                self.causes.server |= attachment > 1;
                let notification = Notification { key: KEY, version: SCANNED, attachment };
                self.act(|connection, turn| {
                    connection.notified(&notification, turn);
                });
            }
            _ => {
                self.line.0.borrow_mut().arrive(usize::MAX);
                self.report();
            }
        }
        self.check()
    }

    /// Completes everything that is under way.
    fn complete(&mut self) -> Result<(), String> {
        for status in std::mem::take(&mut self.announced) {
            self.deliver(status);
        }
        let mut line = self.line.0.borrow_mut();
        line.arrive(usize::MAX);
        line.hiccups.clear();
        line.grow_room(1 << 20);
        drop(line);
        for turn in 0..10_000 {
            let line = self.line.0.borrow();
            let is_reported = line.is_readable || line.is_writable;
            drop(line);
            if self.record.is_none() || !is_reported && !self.perform(0) {
                break;
            }
            self.report();
            if turn == 9_999 {
                return Err("it does not come to rest".to_owned());
            }
        }
        self.check()?;
        self.check_told()
    }

    /// Checks what must hold after every step.
    fn check(&self) -> Result<(), String> {
        if self.acks_in_all > u32::from(self.may_have_receipt()) {
            return Err(format!("{} receipts were taken, of {:?}", self.acks_in_all, self.said));
        }
        let was_stuck_for = self.stuck_since.map(|since| self.now.0 - since.0);
        let is_too_slow = was_stuck_for >= Some(10 * WRITE_SECONDS);
        if self.ended_by == Some(CloseReason::Slow) && !is_too_slow {
            return Err(format!("it was given up as slow, and had been stuck for {was_stuck_for:?} ticks"));
        }
        if self.record.is_some() && is_too_slow && self.dropped != Dropped::Ends {
            return Err("it was not given up as slow".to_owned());
        }
        let has_told_end = self.expected.iter().any(|status| !matches!(*status, "pending" | "scanned"));
        let has_answered = self.kind == Kind::Poll && !self.expected.is_empty();
        let Causes { browser, network, server, time } = self.causes;
        let may_have_stopped = has_told_end || has_answered || browser || network || server || time;
        if !self.is_waiting() && !may_have_stopped {
            return Err(format!("it stopped waiting for no reason, after {:?}", self.expected));
        }
        Ok(())
    }

    /// Returns whether the browser has acknowledged its token with a message that began to arrive after the token had
    /// been written whole.
    fn may_have_receipt(&self) -> bool {
        let line = self.line.0.borrow();
        let Some(arrived) = line.arrived_before_token.filter(|_| self.expected.contains(&"confirmed")) else {
            return false;
        };
        let is_ack = |said: Said| said == Said::Ack && self.kind == Kind::Acknowledging;
        let is_close = |said: Said| said == Said::Close(1000) && self.kind == Kind::Plain;
        let last = self.said.iter().position(|(_, said)| said.is_last()).map_or(usize::MAX, |index| index + 1);
        self.said.iter().take(last).any(|(at, said)| *at >= arrived && (is_ack(*said) || is_close(*said)))
    }

    /// Checks what must hold when nothing is under way any more.
    fn check_told(&self) -> Result<(), String> {
        let line = self.line.0.borrow();
        if self.record.is_some() && !line.unread.is_empty() {
            return Err(format!("{} bytes lie unread", line.unread.len()));
        }
        let has_failed = line.failure.is_some() || line.has_hung_up;
        drop(line);
        if self.record.as_ref().is_some_and(|record| record.is_waiting() && record.rare.is_some()) {
            return Err("it waits, has nothing in hand, and keeps memory for it".to_owned());
        }
        let delivered = self.delivered()?;
        let is_in_order = delivered.statuses.len() <= self.expected.len()
            && delivered.statuses.iter().zip(&self.expected).all(|(delivered, expected)| delivered == expected);
        // Bytes that were written when the connection failed may be lost. The browser may also have accepted nothing
        // for too long.
        let is_complete = delivered.statuses.len() == self.expected.len();
        let may_lack = has_failed || self.record.is_none() && (self.causes.time || self.causes.browser);
        if !is_in_order || !is_complete && !may_lack {
            return Err(format!("told {:?} in place of {:?}", delivered.statuses, self.expected));
        }
        let must_have_receipt = self.may_have_receipt() && !has_failed && !self.has_time_passed;
        if must_have_receipt && self.acks_in_all == 0 {
            return Err(format!("no receipt was taken, of {:?}", self.said));
        }
        if self.acks_in_all > 0 && self.record.as_ref().is_some_and(|it| matches!(it.phase, Phase::StoringAck { .. })) {
            return Err("a receipt was not stored".to_owned());
        }
        if self.codes_expected > 0
            && delivered.codes == 0
            && self.is_waiting()
            && self.expected == ["pending"]
            && !self.was_stuck
        {
            return Err("a code was not shown".to_owned());
        }
        Ok(())
    }

    /// Lets time pass until long after the session's end, while the browser answers every heartbeat.
    fn end(&mut self) -> Result<(), String> {
        for _ in 0..200 {
            if self.record.is_none() {
                return self.check_end();
            }
            self.send(&masked(0x8A, b""), None);
            self.pass_time(50);
            self.complete()?;
        }
        Err("it never ends".to_owned())
    }

    /// Checks that the browser received the session's end or close code 4408, unless something else ended the
    /// connection.
    fn check_end(&self) -> Result<(), String> {
        let delivered = self.delivered()?;
        let has_end = delivered.statuses.last().is_some_and(|status| !matches!(&**status, "pending" | "scanned"));
        let Causes { browser, network, server, .. } = self.causes;
        let is_of_use = matches!(self.kind, Kind::Plain | Kind::Acknowledging);
        if is_of_use && !has_end && delivered.close_code != Some(4408) && !browser && !network && !server {
            return Err(format!(
                "the last it was told is {:?}, and a Close {:?}",
                delivered.statuses, delivered.close_code
            ));
        }
        Ok(())
    }

    fn delivered(&self) -> Result<Received, String> {
        let line = self.line.0.borrow();
        match self.kind {
            Kind::Plain | Kind::Acknowledging => frames(line.written.get(1..).unwrap_or_default()),
            Kind::Events => events(line.written.get(1..).unwrap_or_default()),
            Kind::Poll => answer(&line.written),
        }
    }
}

/// Returns a frame as a browser sends it, with a mask of zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    frame(&mut plain, Opcode::Text, payload);
    [&[first, plain[1] | 0x80, 0, 0, 0, 0], &plain[2..]].concat()
}

fn run(fixture: &Fixture, kind: Kind, dropped: Dropped, choices: &[u8]) -> Result<(), String> {
    let mut world = World::new(fixture, kind, dropped);
    let (begin, rest) = choices.split_at(4.min(choices.len()));
    let [early, room, changes, first] = [0, 1, 2, 3].map(|index| begin.get(index).copied().unwrap_or_default());
    for change in 0..changes % 4 {
        // The session may change before the browser opens the connection. A poll would then be answered at once.
        if kind != Kind::Poll {
            world.change(change);
        }
    }
    world.announced.clear();
    let mut early_bytes = Vec::new();
    if early % 4 == 1 && matches!(kind, Kind::Plain | Kind::Acknowledging) {
        world.browser_sends(first);
        early_bytes = std::mem::take(&mut world.line.0.borrow_mut().under_way);
    }
    world.open(&early_bytes, usize::from(room) * 4);
    world.check()?;
    for pair in rest.chunks(2) {
        world.step(pair[0], pair.get(1).copied().unwrap_or_default())?;
    }
    world.complete()?;
    world.end()?;
    match fixture.metrics.active_connections() {
        0 => Ok(()),
        left => Err(format!("{left} connections are counted that have ended")),
    }
}

fn explore(kind: Kind, dropped: Dropped, runs: u32) -> Result<(), String> {
    let fixture = Fixture::new();
    let config = Config { cases: runs, failure_persistence: None, max_shrink_iters: 5_000, ..Config::default() };
    let explored = TestRunner::new(config).run(&vec(any::<u8>(), 0..MAX_CHOICES), |choices| {
        let fixture = if dropped == Dropped::Ends { &Fixture::new() } else { &fixture };
        run(fixture, kind, dropped, &choices).map_err(TestCaseError::fail)
    });
    match explored {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, choices)) => Err(format!("{kind:?}: {reason}, by {choices:?}")),
        Err(TestError::Abort(reason)) => Err(reason.to_string()),
    }
}

fn holds(kind: Kind) {
    let runs = std::env::var("SIMULATION_RUNS").map_or(RUNS, |runs| runs.parse().expect("a number of runs"));
    if let Err(found) = explore(kind, Dropped::Nothing, runs) {
        panic!("{found}");
    }
}

#[test]
fn nothing_is_lost_doubled_or_reordered_on_a_plain_websocket() {
    holds(Kind::Plain);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_on_an_acknowledging_websocket() {
    holds(Kind::Acknowledging);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_on_an_event_stream() {
    holds(Kind::Events);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_on_a_long_poll() {
    holds(Kind::Poll);
}

/// The simulation finds each effect that is dropped.
#[test]
fn each_dropped_effect_is_found() {
    for dropped in [Dropped::ReadsMore, Dropped::ReadsSession, Dropped::ShowsCode, Dropped::StoresAck, Dropped::Ends] {
        let found = explore(Kind::Plain, dropped, RUNS_TO_FIND);
        assert!(found.is_err(), "that {dropped:?} is dropped was not found");
    }
}
