//! The events of a run, and its completion.

use std::io;

use super::run::{Run, SentMessage};
use super::socket::Disturbance;
use super::{ConnectionKind, EXPIRY, KEY, SCANNED, masked};
use crate::cluster::node::Notification;
use crate::hub::connection::{Connection, Readiness};
use crate::hub::deadlines::Lag;
use crate::metrics::CloseReason;
use crate::wire::websocket::close_payload;

impl Run<'_> {
    pub(super) fn step(&mut self, action: u8, choice: u8) -> Result<(), String> {
        match action % 16 {
            0..=3 => self.browser_sends(choice),
            4 => self.socket.0.borrow_mut().arrive(choice.into()),
            5 => self.socket.0.borrow_mut().arrive(usize::from(choice % 16)),
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
                self.socket.0.borrow_mut().grow_room(bytes);
            }
            12 => {
                let disturbance = if choice.is_multiple_of(2) { Disturbance::Interrupted } else { Disturbance::Short };
                self.socket.0.borrow_mut().disturbances.push(disturbance);
            }
            13 => self.browser_reads()?,
            14 if choice < 24 => {
                let mut socket = self.socket.0.borrow_mut();
                if choice < 8 {
                    socket.failure = Some(io::ErrorKind::ConnectionReset);
                }
                socket.has_hung_up = true;
                socket.is_readable = true;
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
                self.socket.0.borrow_mut().arrive(usize::MAX);
                self.report();
            }
        }
        self.check()
    }

    /// Completes everything that is in transit.
    pub(super) fn complete(&mut self) -> Result<(), String> {
        for status in std::mem::take(&mut self.announced) {
            self.deliver(status);
        }
        let mut socket = self.socket.0.borrow_mut();
        socket.arrive(usize::MAX);
        socket.disturbances.clear();
        socket.grow_room(1 << 20);
        drop(socket);
        for turn in 0..10_000 {
            let socket = self.socket.0.borrow();
            let is_reported = socket.is_readable || socket.is_writable;
            drop(socket);
            if self.record.is_none() || !is_reported && !self.perform(0) {
                break;
            }
            self.report();
            if turn == 9_999 {
                return Err("the effects never end".to_owned());
            }
        }
        self.check()?;
        self.check_delivered()
    }

    /// Lets time pass until long after the session's end, while the browser answers every heartbeat.
    pub(super) fn end(&mut self) -> Result<(), String> {
        for _ in 0..200 {
            if self.record.is_none() {
                return self.check_end();
            }
            self.send(&masked(0x8A, b""), None);
            self.pass_time(50);
            self.complete()?;
        }
        Err("the connection never ends".to_owned())
    }

    /// Sends one of the messages that browsers send.
    pub(super) fn browser_sends(&mut self, choice: u8) {
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
            9 => return self.send(&masked(0x81, b"ack"), Some(SentMessage::Ack)),
            10 => return self.close_with(1000 + u16::from(choice / 12 % 2)),
            _ if (choice / 12).is_multiple_of(4) => {
                self.causes.browser = true;
                return self.send(&[0xFF, 0xFF], Some(SentMessage::Violation));
            }
            _ => masked(0x8A, b""),
        };
        self.send(&bytes, None);
    }

    fn close_with(&mut self, code: u16) {
        self.causes.browser = true;
        self.send(&masked(0x88, &close_payload(code, "")), Some(SentMessage::Close(code)));
    }

    /// Does what a correct browser does after reading: acknowledges the token and returns the Close.
    fn browser_reads(&mut self) -> Result<(), String> {
        let delivered = self.delivered()?;
        let has_closed = self.sent_messages.iter().any(|(_, sent)| matches!(sent, SentMessage::Close(_)));
        if self.kind == ConnectionKind::Acknowledging && delivered.statuses.last() == Some(&"confirmed".to_owned()) {
            self.send(&masked(0x81, b"ack"), Some(SentMessage::Ack));
        }
        if delivered.is_closed
            && !has_closed
            && matches!(self.kind, ConnectionKind::Plain | ConnectionKind::Acknowledging)
        {
            self.close_with(1000);
        }
        Ok(())
    }

    /// Changes the session, if its state permits, and announces the change.
    pub(super) fn change(&mut self, choice: u8) {
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

    /// Performs a noted effect. Returns whether there was one.
    pub(super) fn perform(&mut self, choice: u8) -> bool {
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

    /// Sets the clock of a shared store to at most two minutes before or after the original time.
    fn step_session_time(&mut self, choice: u8) {
        self.causes.time = true;
        self.lag = Lag((i64::from(choice % 25) - 12) * 10_000);
        self.act(|connection, turn| connection.session_time_stepped(turn));
    }
}
