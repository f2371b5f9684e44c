//! The arrival of a connection: it is registered before its session's row is read, and opened afterwards.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::net::TcpStream;

use super::Hub;
use super::connection::{ACK_SECONDS, Connection, is_after};
use super::deadlines::SessionTick;
use super::opening::{NewConnection, Start};
use super::push::Recipient;
use super::registry::{Closing, Retain, Slot};
use super::socket::Socket;
use super::transport::Transport;
use crate::login::AttachedSession;
use crate::session::{Session, SessionKey, State, Timestamp};

/// A registered connection whose row is being read and whose handshake is not answered yet. Dropping it removes the
/// connection from the registry, unless it has been opened.
pub struct Registration<S: Socket + Send + 'static = TcpStream> {
    pub(super) hub: Arc<Hub<S>>,
    pub(super) key: SessionKey,
    pub(super) slot: Slot,
    pub(super) is_open: bool,
}

impl<S: Socket + Send + 'static> Registration<S> {
    /// Returns the key of the session that the connection waits for.
    #[must_use]
    pub const fn key(&self) -> SessionKey {
        self.key
    }

    /// Opens the connection: counts it, starts its deadlines, sends the session's state as it was read, and closes
    /// older connections of the session.
    pub fn open(mut self, new: NewConnection<S>, found: &AttachedSession) {
        let (hub, slot) = (self.hub.clone(), self.slot);
        let AttachedSession { session, read_at, attachment, superseded_node } = found;
        let (wants_view, shared) = match &new.transport {
            Transport::Poll { fields, .. } => (true, hub.shared_states.with_polls(fields)),
            Transport::WebSocket { .. } | Transport::EventStream { .. } => (false, hub.shared_states.with_all()),
        };
        // A poll is opened only if the version that its browser knows is current.
        let message = if wants_view { None } else { hub.message(session, *read_at, false) };
        let (period, next_rotation) = hub.period(session, *read_at);
        // The record is removed at the end of its connection from here on, and not by `Drop` of the registration.
        self.is_open = true;
        let mut kept_change = None;
        let start = Start {
            attachment: *attachment,
            may_await_ack_elsewhere: superseded_node.is_some() && is_just_confirmed(session, *read_at),
            expiry: hub.epoch.session_tick_at(session.expires_at),
            first_heartbeat_millis: millis_to_first_heartbeat(&session.key, hub.heartbeat_seconds),
            period,
            next_rotation,
            shared,
        };
        hub.act_with_others(slot, |connection, turn| {
            kept_change = connection.open(new, start, message.as_ref(), turn);
        });
        hub.supersede_older(session.key);
        // The code that the browser was given when the session was created belongs to an earlier period.
        if period > 0 && next_rotation != SessionTick::NEVER {
            hub.show_code(slot, &session.key, period);
        }
        if let Some((session, since)) = kept_change {
            hub.deliver(&[Recipient { slot, wants_view }], &session, hub.delivery_time(&session), Some(since));
        }
        // Either `Hub::close` finds the connection open, or this finds the hub closing.
        if hub.is_closing.load(Ordering::SeqCst) {
            hub.close_to_drain(slot);
        }
    }
}

impl<S: Socket + Send + 'static> Drop for Registration<S> {
    fn drop(&mut self) {
        if !self.is_open {
            drop(self.hub.registry.update(self.slot, |_| Retain::No));
            self.hub.ended.notify_waiters();
        }
    }
}

impl<S: Socket + Send + 'static> Hub<S> {
    /// Registers a connection. Call this before reading the session's row: a change that commits between the two is
    /// then kept for the connection instead of missed.
    ///
    /// # Errors
    /// Returns [`Closing`] if the hub is draining.
    pub fn register(self: &Arc<Self>, key: SessionKey) -> Result<Registration<S>, Closing> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let slot = self.registry.insert(Connection::opening(key, number))?;
        Ok(Registration { hub: self.clone(), key, slot, is_open: false })
    }

    /// Closes all open connections of the session but the newest, in the order of registration. Two handshakes may
    /// finish in another order than that in which they were registered.
    fn supersede_older(self: &Arc<Self>, key: SessionKey) {
        let (mut active, mut attachment) = (Vec::new(), 0);
        self.registry.for_each(&key, |slot, connection| {
            active.extend(connection.active_number().map(|number| (number, slot)));
            attachment = attachment.max(connection.attachment());
        });
        let Some((newest, slot)) =
            active.iter().copied().reduce(|newest, other| if is_after(other.0, newest.0) { other } else { newest })
        else {
            return;
        };
        self.act(slot, |connection, _| connection.raise_attachment(attachment));
        for (_, slot) in active.into_iter().filter(|(number, _)| *number != newest) {
            self.act(slot, Connection::supersede);
        }
    }

    /// Returns the rotation period whose code the browser is to show, and the start of the next one.
    fn period(&self, session: &Session, now: Timestamp) -> (u16, SessionTick) {
        let period = self.codes.rotation.period_at(session, now);
        if self.codes.rotation.period_seconds == 0 || session.scanned_at.is_some() || session.is_of_device() {
            return (period, SessionTick::NEVER);
        }
        let next =
            session.created_at.plus_seconds(self.codes.rotation.period_seconds.saturating_mul(u32::from(period) + 1));
        (period, self.epoch.session_tick_at(next))
    }
}

/// Returns the time until the first heartbeat: a point of the first interval that depends on the key. Connections
/// opened together then do not send their heartbeats together.
fn millis_to_first_heartbeat(key: &SessionKey, heartbeat_seconds: u32) -> u64 {
    let [a, b, c, d, ..] = key.0;
    u64::from(u32::from_le_bytes([a, b, c, d])) % (u64::from(heartbeat_seconds) * 1000) + 1
}

/// Returns whether a browser may still be about to acknowledge the token of this session, if it was delivered when the
/// session was confirmed.
fn is_just_confirmed(session: &Session, now: Timestamp) -> bool {
    match &session.state {
        State::Confirmed(confirmation) => {
            !confirmation.claimed && now < confirmation.decided_at.plus_seconds(ACK_SECONDS)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_heartbeats_are_spread_over_one_interval() {
        let millis = |number: u32| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            millis_to_first_heartbeat(&SessionKey(key), 30)
        };
        assert_eq!([0, 1, 29_999, 30_000, u32::MAX].map(millis), [1, 2, 30_000, 1, 17_296]);
    }
}
