//! One waiting connection: its record and its state machine.
//!
//! A connection has no task, buffer, channel or timer of its own, only its record. Every event (bytes arrive, the session
//! changes, a deadline passes) is a [`Turn`]: a method of [`Connection`] that runs under the registry's lock. A
//! turn never blocks. It sets [`Effects`](super::turn::Effects) for what must be done outside of the lock. A turn that writes does not read
//! first, and a turn that reads is bounded, so a client that floods its connection delays neither its own messages nor
//! those of other connections.
//!
//! The record is also a guard. Its [`Drop`] closes the socket and counts the connection as closed, once, however it
//! leaves the registry.
//!
//! This file holds the beginning and the end of a connection, `deliver.rs` what is delivered, `write.rs` how it is
//! written, `read.rs` what is read, and `timers.rs` the deadlines. `simulation` runs all of
//! it on a simulated socket, in random order.

mod deliver;
mod read;
#[cfg(test)]
mod simulation;
mod state;
mod timers;
mod write;

use std::sync::Arc;

use mio::Token;
use mio::net::TcpStream;
use tracing::info;

use super::deadlines::{SessionTick, Tick};
use super::message::Message;
use super::opening::{NewConnection, Start};
use super::registry::Keyed;
use super::shared_state::SharedState;
use super::socket::{Socket, Watch};
use super::transport::{Transport, TransportKind};
use super::turn::{Others, Turn};
use crate::cluster::node::Notification;
use crate::limits::{ConnectionPermit, QuotaCells};
use crate::metrics::{CloseReason, Stopwatch};
use crate::session::{Session, SessionKey};
use crate::wire::types::close_code;

use state::{HoldBack, Phase, RareState};

pub(super) use deliver::ACK_SECONDS;
pub(super) use read::{ReadBudget, Readiness};

/// Maximum time of a closing handshake, in seconds.
const CLOSE_SECONDS: u32 = 1;

/// The record of a waiting connection. See the [module documentation](self).
pub(super) struct Connection<S: Socket = TcpStream> {
    key: SessionKey,
    /// The socket, once the connection is open.
    socket: Option<S>,
    /// Where the connection is counted, while it is open.
    counted: Option<Arc<SharedState>>,
    /// Cells of the quota in which the connection is counted, if connections are limited.
    quota_cells: Option<QuotaCells>,
    /// Number that the store has given this connection among those of its session at all nodes. A newer connection has
    /// a greater one. 0 until it is known, and always with a store that serves one node.
    attachment: u32,
    /// Number of this connection in the order of registration at this node. It wraps around after 2^32 connections.
    number: u32,
    /// End of the session, in session time.
    expiry: SessionTick,
    /// Time of the next heartbeat. For a poll, the time at which it is answered without a change.
    next_timer: Tick,
    /// Start of the next rotation period.
    next_rotation: SessionTick,
    /// The rotation period whose code the browser shows.
    period: u16,
    /// End of the present phase. While the connection waits, the time at which the session's row is read.
    phase_end: Tick,
    /// The tick of the connection's one valid entry in the queue of deadlines. Entries of other ticks are out of date.
    queued: Tick,
    /// Greatest version of the session that has been delivered, or that the browser knew already.
    delivered_version: u32,
    phase: Phase,
    /// Number of heartbeats in a row that have not been answered.
    unanswered: u8,
    transport: TransportKind,
    /// Whether the browser acknowledges the token with the message `ack`.
    acknowledges: bool,
    hold_back: HoldBack,
    /// Reason that is reported when the connection ends.
    reason: CloseReason,
    /// State that is seldom needed.
    rare: Option<Box<RareState>>,
}

/// Returns whether the connection with this number was registered after `other`. The numbers wrap around, so what
/// counts is their difference (as in RFC 1982 §3.2).
pub(super) const fn is_after(number: u32, other: u32) -> bool {
    number.wrapping_sub(other).cast_signed() > 0
}

#[cfg(test)]
thread_local! {
    static IS_BLIND: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Makes connections ignore the others of their session, on this thread, until the guard is dropped. The simulation
/// must find this fault.
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

impl<S: Socket> Keyed for Connection<S> {
    fn key(&self) -> &SessionKey {
        &self.key
    }
}

impl<S: Socket> Connection<S> {
    /// Returns the record of a connection whose session is being read.
    pub(super) const fn opening(key: SessionKey, number: u32) -> Self {
        Self {
            key,
            socket: None,
            counted: None,
            quota_cells: None,
            attachment: 0,
            number,
            expiry: SessionTick::NEVER,
            next_timer: Tick::NEVER,
            next_rotation: SessionTick::NEVER,
            period: 0,
            phase_end: Tick::NEVER,
            queued: Tick::NEVER,
            delivered_version: 0,
            phase: Phase::Opening,
            unanswered: 0,
            transport: TransportKind::WebSocket,
            acknowledges: false,
            hold_back: HoldBack::NotYet,
            reason: CloseReason::Network,
            rare: None,
        }
    }

    /// Returns the connection's number in the order of registration, if it is open. A superseded connection does not
    /// supersede others and has none.
    pub(super) fn active_number(&self) -> Option<u32> {
        (self.phase != Phase::Opening && self.reason != CloseReason::Replaced).then_some(self.number)
    }

    pub(super) const fn attachment(&self) -> u32 {
        self.attachment
    }

    /// Raises the attachment to that of another connection of the session at this node. The store numbers connections
    /// in the order of its statements, which may differ from the order of the requests. With a smaller number than the
    /// store's last one, the newest connection would be taken for a superseded one.
    pub(super) fn raise_attachment(&mut self, attachment: u32) {
        if self.phase != Phase::Opening {
            self.attachment = self.attachment.max(attachment);
        }
    }

    /// Returns whether an acknowledgement may be in the socket's receive buffer or is being stored. A browser that
    /// sends `ack` waits for the server's Close before it opens another connection, so the wait for its `ack` does not
    /// count.
    pub(super) fn may_have_received_ack(&self) -> bool {
        matches!(self.phase, Phase::AwaitingClose | Phase::StoringAck { .. })
    }

    /// Returns whether the connection has been given the token, and its acknowledgement may be on its way or is being
    /// stored.
    fn awaits_ack(&self) -> bool {
        self.may_have_received_ack() || self.phase == Phase::AwaitingAckMessage
    }

    /// Takes this connection into account as one of the others of its session.
    pub(super) fn note_in(&self, others: &mut Others) {
        #[cfg(test)]
        if IS_BLIND.get() {
            return;
        }
        if let Some(number) = self.active_number()
            && others.newest.is_none_or(|newest| is_after(number, newest))
        {
            others.newest = Some(number);
        }
        others.attachment = others.attachment.max(self.attachment);
        others.awaits_ack |= self.awaits_ack();
    }

    /// Returns whether the session's end has not been delivered yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.phase == Phase::Waiting
    }

    /// Returns whether the connection is sent the whole view of the session.
    pub(super) fn wants_view(&self) -> bool {
        self.transport == TransportKind::Poll
    }

    /// Returns whether a poll's time is up, so that it is answered even if the session has not changed.
    pub(super) fn is_poll_due(&self) -> bool {
        self.transport == TransportKind::Poll && self.is_waiting() && self.next_timer == Tick::NEVER
    }

    /// Opens the connection. `message` is the session's state, or `None` if its token cannot be minted. Returns the
    /// change that was announced during the handshake, if any.
    pub(super) fn open(
        &mut self,
        mut new: NewConnection<S>,
        start: Start,
        message: Option<&Message>,
        turn: &mut Turn<'_, S>,
    ) -> Option<(Arc<Session>, Stopwatch)> {
        let metrics = &start.shared.metrics;
        metrics.connection_opened();
        info!(event = "connected", session = %self.key, active = metrics.active_connections());
        self.counted = Some(start.shared);
        self.quota_cells = new.permit.map(ConnectionPermit::into_cells);
        self.socket = Some(new.socket);
        self.attachment = start.attachment.max(turn.others.attachment);
        self.expiry = start.expiry;
        self.phase_end = start.expiry.tick(turn.lag);
        self.next_timer = turn.now.plus_millis(start.first_heartbeat_millis);
        self.next_rotation = start.next_rotation;
        self.period = start.period;
        self.phase = Phase::Waiting;
        let (kept_change, newest_attachment) =
            self.rare.take().map_or((None, 0), |rare| (rare.kept_change, rare.newest_attachment));
        self.set_transport(&new.transport, turn);
        // Readiness from here on is reported, and handled after this turn.
        if self.watch(Watch::Begin, turn).is_err() {
            self.end(CloseReason::Network, turn);
            return None;
        }
        // A connection that has been superseded before it is open is answered and closed. It is not given the token.
        turn.others.is_newer_elsewhere = self.attachment < newest_attachment;
        turn.others.awaits_ack |= start.may_await_ack_elsewhere;
        // A change that was announced meanwhile makes the state that was read out of date. The caller delivers the
        // change next.
        let is_overtaken = message
            .zip(kept_change.as_ref())
            .is_some_and(|(read, (kept_change, _))| read.version < kept_change.version);
        self.write_greeting(new.response, &mut new.early, message, is_overtaken, turn);
        kept_change
    }

    fn set_transport(&mut self, transport: &Transport, turn: &Turn<'_, S>) {
        match *transport {
            Transport::WebSocket { acknowledges } => self.acknowledges = acknowledges,
            Transport::EventStream { delivered_version } => {
                self.transport = TransportKind::EventStream;
                self.delivered_version = delivered_version;
            }
            Transport::Poll { version, wait_seconds, .. } => {
                self.transport = TransportKind::Poll;
                self.delivered_version = version;
                // A poll is also answered when the code rotates, which does not change the version.
                self.next_timer = turn.now.plus_seconds(wait_seconds).min(self.next_rotation.tick(turn.lag));
                self.next_rotation = SessionTick::NEVER;
            }
        }
    }

    /// Keeps a change that is announced during the handshake. Returns whether the handshake is under way.
    pub(super) fn keep_if_opening(&mut self, session: &Arc<Session>, since: Stopwatch) -> bool {
        let is_opening = self.phase == Phase::Opening;
        if is_opening {
            let kept_change = &mut self.rare.get_or_insert_default().kept_change;
            if kept_change.as_ref().is_none_or(|(earlier, _)| earlier.version < session.version) {
                *kept_change = Some((session.clone(), since));
            }
        }
        is_opening
    }

    /// Handles a notification. Closes the connection if the notification names a newer one. Returns whether the session
    /// must be read for this connection.
    pub(super) fn notified(&mut self, notification: &Notification, turn: &mut Turn<'_, S>) -> bool {
        if self.phase == Phase::Opening {
            let newest = &mut self.rare.get_or_insert_default().newest_attachment;
            *newest = notification.attachment.max(*newest);
            return true;
        }
        if self.attachment < notification.attachment {
            self.supersede(turn);
            return false;
        }
        self.is_waiting() && self.delivered_version < notification.version
    }

    /// Continues after the acknowledgement has been stored or its storing has failed.
    pub(super) fn ack_stored(&mut self, turn: &mut Turn<'_, S>) {
        match self.phase {
            Phase::StoringAck { then_close: true } => self.close(close_code::DONE, "", CloseReason::Decided, turn),
            Phase::StoringAck { then_close: false } => self.finish(turn),
            _ => {}
        }
    }

    fn watch(&mut self, watch: Watch, turn: &Turn<'_, S>) -> std::io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        socket.watch(turn.poll, Token(turn.slot.to_token()), watch)
    }

    fn record_push(&self, since: Stopwatch) {
        if let Some(shared) = &self.counted {
            shared.metrics.pushed(since);
        }
    }

    /// Returns the number of active connections, for the log.
    fn active(&self) -> i64 {
        self.counted.as_ref().map_or(0, |shared| shared.metrics.active_connections())
    }

    fn enter(&mut self, phase: Phase, seconds: u32, turn: &Turn<'_, S>) {
        self.phase = phase;
        self.phase_end = turn.now.plus_seconds(seconds);
    }

    fn has_unsent(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.unsent.is_empty())
    }

    /// Frees the seldom needed state if nothing in it is needed any more.
    fn free_rare_state(&mut self) {
        let is_needed = |rare: &RareState| {
            rare.decoder.is_some() || !rare.unsent.is_empty() || rare.linger_bytes > 0 || rare.early_bytes > 0
        };
        if self.rare.as_ref().is_some_and(|rare| !is_needed(rare)) {
            self.rare = None;
        }
    }

    /// Ends the connection with this reason.
    fn end(&mut self, reason: CloseReason, turn: &mut Turn<'_, S>) {
        self.reason = reason;
        self.finish(turn);
    }

    /// Ends the connection with the reason that is already set.
    fn finish(&mut self, turn: &mut Turn<'_, S>) {
        self.phase = Phase::Ended;
        turn.effects.ends = true;
    }

    fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }
}

impl<S: Socket> Drop for Connection<S> {
    fn drop(&mut self) {
        let has_unsent = self.has_unsent();
        if let Some(socket) = self.socket.as_mut().filter(|_| has_unsent) {
            // The browser did not read in time. Without this the system would keep its queue for minutes.
            socket.discard_unsent();
        }
        drop(self.socket.take());
        if let Some(shared) = self.counted.take() {
            if let (Some(quota), Some(quota_cells)) = (&shared.quota, self.quota_cells) {
                quota.release(quota_cells);
            }
            shared.metrics.connection_closed(self.reason);
            let (reason, active) = (self.reason.as_str(), shared.metrics.active_connections());
            info!(event = "disconnected", session = %self.key, reason, active);
        }
    }
}
