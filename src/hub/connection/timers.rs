//! Deadlines: heartbeats, code rotations, and the ends of phases.

use tracing::info;

use super::Connection;
use super::state::{HoldBack, Phase};
use crate::hub::deadlines::{Lag, SessionTick, Tick};
use crate::hub::socket::Socket;
use crate::hub::transport::TransportKind;
use crate::hub::turn::Turn;
use crate::metrics::CloseReason;
use crate::wire::types::close_code;
use crate::wire::{event_stream, websocket};

/// Maximum number of heartbeats in a row that may be unanswered.
const MAX_UNANSWERED: u8 = 2;
/// Time between two attempts to read a due session while the store does not answer, in seconds.
const RETRY_SECONDS: u32 = 1;
/// Time after the session's end at which the connection is closed if the store has not answered, in seconds.
pub(super) const PATIENCE_SECONDS: u32 = 60;

impl<S: Socket> Connection<S> {
    /// Returns the next deadline if it must be queued because it is before the queued one.
    pub(in crate::hub) fn next_deadline(&mut self, lag: Lag) -> Option<Tick> {
        let heartbeat = if self.is_waiting() { self.next_timer.min(self.next_rotation.tick(lag)) } else { Tick::NEVER };
        let write = self.rare.as_ref().and_then(|rare| rare.write_deadline).unwrap_or(Tick::NEVER);
        let next = self.phase_end.min(heartbeat).min(write);
        // A later deadline is queued when the earlier one is handled.
        if next >= self.queued {
            return None;
        }
        self.queued = next;
        Some(next)
    }

    /// Handles the entry of this tick in the queue of deadlines.
    pub(in crate::hub) fn due(&mut self, tick: Tick, turn: &mut Turn<'_, S>) {
        if self.queued != tick {
            return;
        }
        self.queued = Tick::NEVER;
        if self.rare.as_ref().and_then(|rare| rare.write_deadline).is_some_and(|until| until <= tick) {
            self.end(CloseReason::Slow, turn);
            return;
        }
        if self.is_poll_due_by(tick) {
            self.next_timer = Tick::NEVER;
            self.phase_end = tick;
        }
        if self.is_waiting() && self.next_timer <= tick {
            self.heartbeat(turn);
        }
        if self.phase_end <= tick {
            self.end_phase(tick, turn);
        }
        if self.is_waiting() && self.next_rotation.tick(turn.lag) <= tick {
            self.rotate(tick, turn);
        }
    }

    fn is_poll_due_by(&self, tick: Tick) -> bool {
        self.transport == TransportKind::Poll && self.is_waiting() && self.next_timer <= tick
    }

    fn rotate(&mut self, tick: Tick, turn: &mut Turn<'_, S>) {
        while self.next_rotation.tick(turn.lag) <= tick {
            self.period = self.period.saturating_add(1);
            self.next_rotation = self.next_rotation.plus_seconds(turn.rotate_seconds);
        }
        turn.effects.shows_code_of = Some((self.key, self.period));
    }

    fn end_phase(&mut self, tick: Tick, turn: &mut Turn<'_, S>) {
        match self.phase {
            Phase::Waiting
                if self.hold_back != HoldBack::Now
                    && tick >= self.expiry.tick(turn.lag).plus_seconds(PATIENCE_SECONDS) =>
            {
                self.unavailable(turn);
            }
            Phase::Waiting => {
                if self.hold_back == HoldBack::Now {
                    self.hold_back = HoldBack::Over;
                }
                // Try again later if the store does not answer.
                self.phase_end = turn.now.plus_seconds(RETRY_SECONDS);
                turn.effects.reads_session = true;
            }
            Phase::AwaitingAckMessage => self.close(close_code::DONE, "", CloseReason::Decided, turn),
            Phase::AwaitingClose | Phase::Closing | Phase::Lingering => self.finish(turn),
            Phase::Opening | Phase::StoringAck { .. } | Phase::Ended => {}
        }
    }

    fn heartbeat(&mut self, turn: &mut Turn<'_, S>) {
        if self.transport == TransportKind::EventStream {
            // The system notices if heartbeats are not acknowledged (`TCP_USER_TIMEOUT`).
            self.next_timer = turn.now.plus_seconds(turn.heartbeat_seconds);
            if !self.has_unsent() {
                self.write(event_stream::COMMENT, turn);
            }
            return;
        }
        if self.unanswered >= MAX_UNANSWERED {
            let active = self.active();
            info!(event = "heartbeat failed", session = %self.key, active);
            return self.close(close_code::HEARTBEAT, "no answer to two heartbeats", CloseReason::Heartbeat, turn);
        }
        self.next_timer = turn.now.plus_seconds(turn.heartbeat_seconds);
        // No ping is queued behind unsent bytes, which have a deadline of their own.
        if !self.has_unsent() {
            self.unanswered += 1;
            let heartbeat = if self.acknowledges { websocket::PING_AND_HEARTBEAT } else { websocket::PING };
            self.write(heartbeat, turn);
        }
    }

    /// Moves the deadline to `expiry`: the session has not ended by the store's clock.
    pub(in crate::hub) fn postpone(&mut self, expiry: SessionTick, turn: &mut Turn<'_, S>) {
        if self.is_waiting() {
            self.expiry = expiry;
            self.phase_end = expiry.tick(turn.lag).max(turn.now.plus_millis(1));
        }
    }

    /// Moves the deadline after a step of session time, if the session ends earlier now. If it ends later, the row is
    /// read at the old deadline, and [`Connection::postpone`] moves it.
    pub(in crate::hub) fn session_time_stepped(&mut self, turn: &Turn<'_, S>) {
        if self.is_waiting() {
            // If the session's end has passed, the store has its full time to answer from now on.
            self.expiry = self.expiry.max(turn.now.session(turn.lag));
            self.phase_end = self.phase_end.min(self.expiry.tick(turn.lag));
        }
    }
}
