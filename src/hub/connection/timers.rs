//! Deadlines: heartbeats, code rotations, and the ends of phases.

use tracing::info;

use super::{HoldBack, Phase, Turn, Waiting};
use crate::hub::deadlines::{Lag, SessionTick, Tick};
use crate::hub::socket::Socket;
use crate::hub::wire::{self, Wire};
use crate::metrics::CloseReason;
use crate::wire::types::close_code;

/// Maximum number of heartbeats in a row that may be unanswered.
const MAX_UNANSWERED: u8 = 2;
/// Time between two attempts to read a due session while the store does not answer, in seconds.
const RETRY_SECONDS: u32 = 1;
/// Time after the session's end at which the connection is closed if the store has not answered, in seconds.
pub(super) const PATIENCE_SECONDS: u32 = 60;

impl<S: Socket> Waiting<S> {
    /// Returns the next deadline if it must be queued because it is before the queued one.
    pub(in crate::hub) fn rearm(&mut self, lag: Lag) -> Option<Tick> {
        let beat = if self.is_waiting() { self.next_beat.min(self.next_rotation.tick(lag)) } else { Tick::NEVER };
        let write = self.aside.as_ref().and_then(|aside| aside.unsent_until).unwrap_or(Tick::NEVER);
        let next = self.phase_end.min(beat).min(write);
        // A later deadline is queued when the earlier one is handled.
        if next >= self.armed {
            return None;
        }
        self.armed = next;
        Some(next)
    }

    /// Handles the entry of this tick in the queue of deadlines.
    pub(in crate::hub) fn due(&mut self, tick: Tick, turn: &mut Turn<'_, S>) {
        if self.armed != tick {
            return;
        }
        self.armed = Tick::NEVER;
        if self.aside.as_ref().and_then(|aside| aside.unsent_until).is_some_and(|until| until <= tick) {
            self.end(CloseReason::Slow, turn);
            return;
        }
        if self.is_to_be_answered_by(tick) {
            self.next_beat = Tick::NEVER;
            self.phase_end = tick;
        }
        if self.is_waiting() && self.next_beat <= tick {
            self.beat(turn);
        }
        if self.phase_end <= tick {
            self.end_phase(tick, turn);
        }
        if self.is_waiting() && self.next_rotation.tick(turn.lag) <= tick {
            self.rotate(tick, turn);
        }
    }

    fn is_to_be_answered_by(&self, tick: Tick) -> bool {
        self.wire == Wire::Poll && self.is_waiting() && self.next_beat <= tick
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
                turn.effects.asks_store = true;
            }
            Phase::AwaitingWord => self.close(close_code::DONE, "", CloseReason::Decided, turn),
            Phase::AwaitingReceipt | Phase::Closing | Phase::Lingering => self.finish(turn),
            Phase::Arriving | Phase::Claiming { .. } | Phase::Ended => {}
        }
    }

    fn beat(&mut self, turn: &mut Turn<'_, S>) {
        if self.wire == Wire::EventStream {
            // The system notices if heartbeats are not acknowledged (`TCP_USER_TIMEOUT`).
            self.next_beat = turn.now.plus_seconds(turn.heartbeat_seconds);
            if !self.has_unsent() {
                self.write(wire::COMMENT, turn);
            }
            return;
        }
        if self.unanswered >= MAX_UNANSWERED {
            let active = self.active();
            info!(event = "heartbeat failed", session = %self.key, active);
            return self.close(close_code::HEARTBEAT, "no answer to two heartbeats", CloseReason::Heartbeat, turn);
        }
        self.next_beat = turn.now.plus_seconds(turn.heartbeat_seconds);
        // No ping is queued behind unsent bytes, which have a deadline of their own.
        if !self.has_unsent() {
            self.unanswered += 1;
            let beat = if self.acknowledges { wire::PING_AND_BEAT } else { wire::PING };
            self.write(beat, turn);
        }
    }

    /// Moves the deadline to `expiry`: the session has not ended by the store's clock.
    pub(in crate::hub) fn put_off(&mut self, expiry: SessionTick, turn: &mut Turn<'_, S>) {
        if self.is_waiting() {
            self.expiry = expiry;
            self.phase_end = expiry.tick(turn.lag).max(turn.now.plus_millis(1));
        }
    }

    /// Moves the deadline after a step of session time, if the session ends earlier now. If it ends later, the row is
    /// read at the old deadline, and [`Waiting::put_off`] moves it.
    pub(in crate::hub) fn session_time_stepped(&mut self, turn: &Turn<'_, S>) {
        if self.is_waiting() {
            // If the session's end has passed, the store has its full time to answer from now on.
            self.expiry = self.expiry.max(turn.now.session(turn.lag));
            self.phase_end = self.phase_end.min(self.expiry.tick(turn.lag));
        }
    }
}
