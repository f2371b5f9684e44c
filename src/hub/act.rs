//! Running a turn on a connection, and performing its effects.

use std::cell::Cell;
use std::sync::Arc;

use tracing::warn;

use super::connection::Connection;
use super::registry::{Retain, Slot};
use super::socket::Socket;
use super::turn::{Effects, Others, Turn};
use super::{Hub, message};
use crate::qr::TooLong;
use crate::session::SessionKey;

impl<S: Socket + Send + 'static> Hub<S> {
    /// Runs `what` on the connection in this slot, if it still exists, and performs the effects of the turn.
    pub(super) fn act(self: &Arc<Self>, slot: Slot, what: impl FnOnce(&mut Connection<S>, &mut Turn<'_, S>)) {
        self.act_with(slot, |_, _| {}, what);
    }

    /// Like [`Hub::act`], for a turn that delivers a session's state. The turn also knows the other connections of the
    /// session.
    pub(super) fn act_with_others(
        self: &Arc<Self>,
        slot: Slot,
        what: impl FnOnce(&mut Connection<S>, &mut Turn<'_, S>),
    ) {
        self.act_with(slot, |others, other| other.note_in(others), what);
    }

    /// Runs a turn under the lock of the connection's shard and performs its effects after the lock is released. `note`
    /// is called for each other connection of the session before `what` runs.
    fn act_with(
        self: &Arc<Self>,
        slot: Slot,
        note: impl Fn(&mut Others, &Connection<S>),
        what: impl FnOnce(&mut Connection<S>, &mut Turn<'_, S>),
    ) {
        let reading = self.clock.reading();
        let mut turn = Turn {
            slot,
            now: self.epoch.tick_at(reading.steady),
            lag: self.epoch.lag(reading),
            heartbeat_seconds: self.heartbeat_seconds,
            rotate_seconds: self.codes.rotation.period_seconds,
            poll: &self.poll,
            clock: &self.clock,
            others: Others::default(),
            effects: Effects::default(),
        };
        let others = Cell::new(Others::default());
        let note = |other: &Connection<S>| {
            let mut noted = others.get();
            note(&mut noted, other);
            others.set(noted);
        };
        let ended = self.registry.update_with_others(slot, note, |connection| {
            turn.others = others.get();
            what(connection, &mut turn);
            if turn.effects.ends {
                return Retain::No;
            }
            if let Some(tick) = connection.next_deadline(turn.lag)
                && self.deadlines.lock().arm(tick, slot)
            {
                self.earlier.notify_one();
            }
            Retain::Yes
        });
        self.perform(turn.effects, slot, ended);
    }

    /// Performs the effects of a turn. `ended` is the record of a connection that has ended.
    fn perform(self: &Arc<Self>, effects: Effects, slot: Slot, ended: Option<Connection<S>>) {
        let Effects { ends, reads_more, reads_session, shows_code_of, stores_ack_of } = effects;
        if ends {
            drop(ended);
            self.ended.notify_waiters();
        }
        if reads_more {
            self.poller.read_on(slot);
        }
        if reads_session {
            self.due_queue.add(slot);
        }
        if let Some((key, period)) = shows_code_of {
            self.show_code(slot, &key, period);
        }
        if let Some(key) = stores_ack_of {
            self.store_ack(slot, key);
        }
    }

    /// Stores the acknowledgement. The connection stays registered until that is done.
    fn store_ack(self: &Arc<Self>, slot: Slot, key: SessionKey) {
        let hub = self.clone();
        self.runtime.spawn(async move {
            // A token whose acknowledgement is not stored can be delivered again, to a browser with the session id.
            if let Err(error) = hub.logins.acknowledge(key).await {
                hub.logins.warn_of_lost_ack(&error);
            }
            hub.act(slot, Connection::ack_stored);
        });
    }

    /// Sends the connection the code of this rotation period.
    pub(super) fn show_code(self: &Arc<Self>, slot: Slot, key: &SessionKey, period: u16) {
        match self.codes.of_period(key, period) {
            Ok(code) => {
                let text = message::rotated(code);
                self.act(slot, |connection, turn| connection.show_code(&text, turn));
            }
            Err(TooLong) => warn!(event = "code not shown", session = %key, "public_url is too long for a QR code"),
        }
    }
}
