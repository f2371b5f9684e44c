//! The hub: all waiting connections of this node, and delivery of session changes to them.
//!
//! A waiting connection is a small record in the registry (`registry.rs`) without a task of its own. One thread, the
//! poller (`parking.rs`), waits for readiness of all sockets. The next deadline of each connection is an entry in one
//! queue (`wheel.rs`). A session change is written to the socket by the thread that announces it. `waiting/` holds the
//! record and its state machine.
//!
//! The store is not read for a connection between its opening and its deadline, unless a change is reported. At the
//! deadline, the rows of all due sessions are read together (`settle.rs`). An undecided session is delivered as expired
//! only after a reading that is ordered with the decisions (`Store::read_settled`).

mod connection;
mod deadlines;
mod due_sessions;
mod effects;
#[cfg(test)]
mod history;
mod message;
mod notifications;
mod poller;
mod registry;
#[cfg(test)]
mod registry_test;
mod shared_state;
mod socket;
mod wire;

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::warn;

use crate::cluster::node::Hint;
use crate::limits::{Seat, Sockets};
use crate::login::{Arrival, Logins};
use crate::metrics::{CloseReason, Stopwatch};
use crate::qr::TooLong;
use crate::session::{Rotation, Session, SessionKey, State, Timestamp};
use crate::system::clock::Clock;
use crate::system::random;
use crate::system::shutdown::Vital;
use crate::wire::types::close_code;
use connection::{Opening, Others, RECEIPT_SECONDS, Turn, Waiting, is_after};
use deadlines::{Epoch, SessionTick, Wheel};
use due_sessions::Overdue;
use effects::Effects;
use message::Message;
use notifications::Hints;
use poller::Parking;
use registry::{Fate, Place, Registry};
use shared_state::Sharing;
use socket::Socket;

pub use message::wire_view;
pub use registry::Closing;
pub use wire::Channel;

/// Lock types of the registry. `tests/registry_model.rs` compiles the registry with those of `loom` instead.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}

/// Bound of the random delay after which a client is asked to reconnect to another node, in milliseconds.
const RECONNECT_SPREAD_MILLIS: u32 = 3000;
/// Minimum number of connections closed per batch while draining: 10,000 a second.
const SENT_AWAY_AT_ONCE: usize = 500;
/// Pause between two batches while draining, in milliseconds.
const SENDING_AWAY_MILLIS: u32 = 50;
/// Maximum number of batches while draining, which bounds the drain to 20 seconds. With more connections the batches
/// are larger.
const MAX_BATCHES_SENT_AWAY: usize = 400;
/// Maximum time that a request waits for the acknowledgement of an earlier connection of its session, in milliseconds.
/// The acknowledgement may already be in the socket's receive buffer.
const RECEIPT_GRACE_MILLIS: u32 = 250;
/// Maximum number of due connections handled before yielding to other tasks.
const TURNS_AT_ONCE: usize = 64;

/// All waiting connections of this node. See the [module documentation](self).
pub struct Hub<S: Socket = TcpStream> {
    clock: Clock,
    logins: Arc<Logins>,
    rotation: Rotation,
    sharing: Sharing,
    registry: Registry<Waiting<S>>,
    wheel: Mutex<Wheel>,
    epoch: Epoch,
    /// Held while the due connections of one tick are handled.
    ticking: tokio::sync::Mutex<()>,
    /// Connections whose session must be read from the store.
    overdue: Overdue,
    /// Notified when an entry is queued that is due before all others.
    earlier: Notify,
    /// Notified when a connection has ended.
    ended: Notify,
    /// Number of the next connection in the order of registration.
    next_arrival: AtomicU32,
    is_closing: AtomicBool,
    poll: S::Poll,
    parking: Parking,
    is_stopped: AtomicBool,
    /// Sessions to be read after notifications, and delivered changes to be reported to the store.
    hints: Hints,
    /// Runtime on which acknowledgements are stored.
    runtime: Handle,
}

impl Hub {
    /// Creates an empty hub and starts its poller thread. The quota of a connection that ends is returned to `sockets`.
    /// Must be called within the runtime that the hub is to use.
    ///
    /// # Errors
    /// Returns an error if the thread or the epoll instance cannot be created.
    pub fn start(logins: Arc<Logins>, sockets: Option<Arc<Sockets>>, vital: Vital) -> io::Result<Arc<Self>> {
        let (poll, parking) = Parking::prepare()?;
        let hub = Arc::new(Self::new(logins, sockets, poll.registry().try_clone()?, parking));
        poller::watch(hub.clone(), poll, vital)?;
        Ok(hub)
    }
}

impl<S: Socket + Send + 'static> Hub<S> {
    fn new(logins: Arc<Logins>, sockets: Option<Arc<Sockets>>, poll: S::Poll, parking: Parking) -> Self {
        let clock = logins.clock.clone();
        Self {
            rotation: logins.codes.rotation,
            sharing: Sharing::new(logins.metrics.clone(), sockets),
            registry: Registry::default(),
            wheel: Mutex::default(),
            epoch: Epoch::at(clock.reading()),
            ticking: tokio::sync::Mutex::default(),
            overdue: Overdue::default(),
            earlier: Notify::new(),
            ended: Notify::new(),
            // The numbers wrap around early, so that tests see it.
            next_arrival: AtomicU32::new(u32::MAX - 2),
            hints: Hints::default(),
            is_closing: AtomicBool::new(false),
            poll,
            parking,
            is_stopped: AtomicBool::new(false),
            runtime: Handle::current(),
            clock,
            logins,
        }
    }

    /// Registers a connection. Call this before reading the session's row: a change that commits between the two is
    /// then kept for the connection instead of missed.
    ///
    /// # Errors
    /// Returns [`Closing`] if the hub is draining.
    pub fn register(self: &Arc<Self>, key: SessionKey) -> Result<Registration<S>, Closing> {
        let arrival = self.next_arrival.fetch_add(1, Ordering::Relaxed);
        let place = self.registry.enter(Waiting::arriving(key, arrival))?;
        Ok(Registration { hub: self.clone(), key, place, is_open: false })
    }

    /// Returns whether a connection of this session has been given the token, and its acknowledgement may already be
    /// received or is being stored.
    #[must_use]
    pub fn awaits_receipt(&self, key: SessionKey) -> bool {
        let mut awaits = false;
        self.registry.each_of(&key, |_, waiting| awaits |= waiting.awaits_receipt());
        awaits
    }

    /// Waits until no connection of this session awaits an acknowledgement, for at most a quarter of a second. A
    /// browser may send its acknowledgement and at once a request on another connection. The acknowledgement is then
    /// handled first.
    pub async fn receipt_settled(&self, key: SessionKey) {
        let settled = self.until(|| !self.awaits_receipt(key));
        tokio::select! {
            biased;
            () = settled => {}
            () = self.clock.sleep_millis(RECEIPT_GRACE_MILLIS) => {}
        }
    }

    /// Stops accepting connections and closes the existing ones with code 1012 (Service Restart), in batches, so that
    /// the other nodes do not receive all reconnects at once. A connection that is not closed yet still receives
    /// session changes.
    pub async fn close(self: &Arc<Self>) {
        self.is_closing.store(true, Ordering::SeqCst);
        let places = self.registry.close();
        let batch = SENT_AWAY_AT_ONCE.max(places.len().div_ceil(MAX_BATCHES_SENT_AWAY));
        for (index, some) in places.chunks(batch).enumerate() {
            if index > 0 {
                self.clock.sleep_millis(SENDING_AWAY_MILLIS).await;
            }
            for place in some {
                self.send_away(*place);
            }
        }
    }

    /// Waits until no connection is left in the registry.
    pub async fn emptied(&self) {
        self.until(|| self.registry.is_empty()).await;
    }

    /// Stops the poller thread.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.parking.wake();
    }

    /// Runs the hub's tasks: deadlines, readings of the store, notifications, and steps of session time. Never returns.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.turn_wheel(), self.settle(), self.look_where_hinted(), self.follow_steps());
    }

    /// Handles deadlines as they come due. Never returns.
    async fn turn_wheel(self: &Arc<Self>) {
        loop {
            let earlier = self.earlier.notified();
            let next = self.wheel().next().map(|tick| self.epoch.instant_of(tick));
            tokio::select! {
                () = earlier => continue,
                () = sleep_until(&self.clock, next) => {}
            }
            let now = self.epoch.tick_by(self.clock.steady());
            loop {
                let Some((tick, places)) = self.wheel().take_due(now) else { break };
                let ticking = self.ticking.lock().await;
                for some in places.chunks(TURNS_AT_ONCE) {
                    for place in some {
                        self.act(*place, |waiting, turn| waiting.due(tick, turn));
                    }
                    tokio::task::yield_now().await;
                }
                drop(ticking);
            }
        }
    }

    /// Brings deadlines forward each time that session time has been stepped. Never returns.
    async fn follow_steps(self: &Arc<Self>) {
        loop {
            self.clock.stepped().await;
            warn!(event = "session_time_stepped", "the clock of the shared store was set");
            for some in self.registry.places().chunks(TURNS_AT_ONCE) {
                for place in some {
                    self.act(*place, |waiting, turn| waiting.session_time_stepped(turn));
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Sends the connection the code of this rotation period.
    fn show_code(self: &Arc<Self>, place: Place, key: &SessionKey, period: u16) {
        match self.logins.codes.shown_in(key, period) {
            Ok(code) => {
                let text = message::rotated(code);
                self.act(place, |waiting, turn| waiting.show_code(&text, turn));
            }
            Err(TooLong) => warn!(event = "code not shown", session = %key, "public_url is too long for a QR code"),
        }
    }

    /// Runs `what` on the connection in this slot, if it still exists, and performs the effects of the turn.
    fn act(self: &Arc<Self>, place: Place, what: impl FnOnce(&mut Waiting<S>, &mut Turn<'_, S>)) {
        self.act_among(place, |_, _| {}, what);
    }

    /// Like [`Hub::act`], for a turn that delivers a session's state. The turn also knows the other connections of the
    /// session.
    fn deliver(self: &Arc<Self>, place: Place, what: impl FnOnce(&mut Waiting<S>, &mut Turn<'_, S>)) {
        self.act_among(place, Others::note, what);
    }

    /// Runs a turn under the lock of the connection's shard and performs its effects after the lock is released. `note`
    /// is called for each other connection of the session before `what` runs.
    fn act_among(
        self: &Arc<Self>,
        place: Place,
        note: impl Fn(&mut Others, &Waiting<S>),
        what: impl FnOnce(&mut Waiting<S>, &mut Turn<'_, S>),
    ) {
        let reading = self.clock.reading();
        let mut turn = Turn {
            place,
            now: self.epoch.tick_at(reading.steady),
            lag: self.epoch.lag(reading),
            heartbeat_seconds: self.logins.policy.heartbeat_seconds,
            rotate_seconds: self.rotation.period_seconds,
            poll: &self.poll,
            clock: &self.clock,
            others: Others::default(),
            effects: Effects::default(),
        };
        let others = Cell::new(Others::default());
        let note = |other: &Waiting<S>| {
            let mut noted = others.get();
            note(&mut noted, other);
            others.set(noted);
        };
        let gone = self.registry.at_among(place, note, |waiting| {
            turn.others = others.get();
            what(waiting, &mut turn);
            if turn.effects.ends {
                return Fate::Goes;
            }
            if let Some(tick) = waiting.rearm(turn.lag)
                && self.wheel().arm(tick, place)
            {
                self.earlier.notify_one();
            }
            Fate::Stays
        });
        let Effects { ends, reads_on, asks_store, shows_code_of, stores_receipt_of } = turn.effects;
        if ends {
            drop(gone);
            self.ended.notify_waiters();
        }
        if reads_on {
            self.parking.read_on(place);
        }
        if asks_store {
            self.overdue.add(place);
        }
        if let Some((key, period)) = shows_code_of {
            self.show_code(place, &key, period);
        }
        if let Some(key) = stores_receipt_of {
            self.claim(place, key);
        }
    }

    /// Stores the acknowledgement. The connection stays registered until that is done.
    fn claim(self: &Arc<Self>, place: Place, key: SessionKey) {
        let hub = self.clone();
        self.runtime.spawn(async move {
            // A token whose acknowledgement is not stored can be delivered again, to a browser with the session id.
            if let Err(error) = hub.logins.claim(key).await {
                hub.logins.warn_of_receipt(&error);
            }
            hub.act(place, Waiting::claimed);
        });
    }

    fn send_away(self: &Arc<Self>, place: Place) {
        let why = format!("{}{}", wire::RETRY_AFTER, random::below(RECONNECT_SPREAD_MILLIS));
        self.act(place, |waiting, turn| waiting.leave(close_code::RESTARTING, &why, CloseReason::Shutdown, turn));
    }

    /// Closes all open connections of the session but the newest, in the order of registration. Two handshakes may
    /// finish in another order than that in which they were registered.
    fn let_older_give_way(self: &Arc<Self>, key: SessionKey) {
        let (mut active, mut attachment) = (Vec::new(), 0);
        self.registry.each_of(&key, |place, waiting| {
            active.extend(waiting.active_arrival().map(|arrival| (arrival, place)));
            attachment = attachment.max(waiting.attachment());
        });
        let Some((newest, place)) =
            active.iter().copied().reduce(|newest, other| if is_after(other.0, newest.0) { other } else { newest })
        else {
            return;
        };
        self.act(place, |waiting, _| waiting.adopt(attachment));
        for (_, place) in active.into_iter().filter(|(arrival, _)| *arrival != newest) {
            self.act(place, Waiting::give_way);
        }
    }

    /// Delivers the session's state as of `as_of` to these connections.
    fn tell(self: &Arc<Self>, places: &[Hearer], session: &Session, as_of: Timestamp, since: Option<Stopwatch>) {
        let message = self.message(session, as_of, places.iter().any(|hearer| hearer.wants_view));
        for Hearer { place, .. } in places {
            self.deliver(*place, |waiting, turn| match &message {
                Some(message) => waiting.tell(message, since, turn),
                None => waiting.token_not_made(turn),
            });
        }
    }

    /// Returns the message for the session's state, or `None` if the token cannot be minted.
    fn message(&self, session: &Session, as_of: Timestamp, wants_view: bool) -> Option<Message> {
        let message = Message::of(&self.logins, session, as_of, wants_view);
        message.map_err(|error| self.logins.warn_of(&error.into())).ok()
    }

    /// Delivers a session's state, as it has just been read or written, to its connections at this node. A connection
    /// with a smaller attachment than `attachment` is closed because a newer one waits at another node.
    fn tell_here(self: &Arc<Self>, session: &Arc<Session>, attachment: u32, since: Stopwatch) {
        let mut places = Vec::new();
        self.registry.each_of(&session.key, |place, _| places.push(place));
        let mut hearers = Vec::new();
        let newest = Hint { key: session.key, version: session.version, attachment };
        for place in places {
            self.act(place, |waiting, turn| {
                // A connection that is still arriving keeps the change, and `Registration::open` delivers it.
                let is_arriving = waiting.note_if_arriving(session, since);
                if waiting.hinted(&newest, turn) && !is_arriving {
                    hearers.push(Hearer { place, wants_view: waiting.wants_view() });
                }
            });
        }
        if !hearers.is_empty() {
            self.tell_change(&hearers, session, since);
        }
    }

    /// Delivers a changed session to these connections. `since` runs from the change on.
    fn tell_change(self: &Arc<Self>, hearers: &[Hearer], session: &Session, since: Stopwatch) {
        // An undecided session is delivered as of an instant before its expiry, because a decision may be about to
        // commit. Only the reading of the store at the deadline shows whether the session has expired.
        let now = self.clock.now();
        let as_of = if session.is_undecided() { now.min(session.expires_at.plus_millis(-1)) } else { now };
        self.tell(hearers, session, as_of, Some(since));
    }

    /// Returns the rotation period whose code the browser is to show, and the start of the next one.
    fn period(&self, session: &Session, now: Timestamp) -> (u16, SessionTick) {
        let period = self.rotation.period_at(session, now);
        if self.rotation.period_seconds == 0 || session.scanned_at.is_some() {
            return (period, SessionTick::NEVER);
        }
        let next = session.created_at.plus_seconds(self.rotation.period_seconds.saturating_mul(u32::from(period) + 1));
        (period, self.epoch.session_tick_at(next))
    }

    /// Waits until `is_so` returns true. `is_so` is called again each time that a connection has ended.
    async fn until(&self, is_so: impl Fn() -> bool) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            if is_so() {
                return;
            }
            ended.await;
        }
    }

    fn wheel(&self) -> MutexGuard<'_, Wheel> {
        self.wheel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time until the first heartbeat: a point of the first interval that depends on the key. Connections
/// opened together then do not send their heartbeats together.
fn millis_to_first_beat(key: &SessionKey, heartbeat_seconds: u32) -> u64 {
    let [a, b, c, d, ..] = key.0;
    u64::from(u32::from_le_bytes([a, b, c, d])) % (u64::from(heartbeat_seconds) * 1000) + 1
}

/// Returns whether a browser may still be about to acknowledge the token of this session, if it was delivered when the
/// session was confirmed.
fn is_just_confirmed(session: &Session, now: Timestamp) -> bool {
    match &session.state {
        State::Confirmed(confirmation) => {
            !confirmation.claimed && now < confirmation.decided_at.plus_seconds(RECEIPT_SECONDS)
        }
        _ => false,
    }
}

/// Sleeps until this instant, or for ever if there is none.
async fn sleep_until(clock: &Clock, instant: Option<Duration>) {
    match instant {
        Some(instant) => clock.sleep_until_steady(instant).await,
        None => std::future::pending().await,
    }
}

/// A connection to which a message is delivered.
#[derive(Debug, Clone, Copy)]
struct Hearer {
    place: Place,
    /// Whether the connection is sent the whole view of the session instead of the frame only.
    wants_view: bool,
}

/// A registered connection whose row is being read and whose handshake is not answered yet. Dropping it removes the
/// connection from the registry, unless it has been opened.
pub struct Registration<S: Socket + Send + 'static = TcpStream> {
    hub: Arc<Hub<S>>,
    key: SessionKey,
    place: Place,
    is_open: bool,
}

/// A connection that is ready to be opened.
pub struct Connection<S = TcpStream> {
    /// The socket, which nothing else reads or writes any more.
    pub socket: S,
    /// Beginning of the answer to the request. Empty if it has been written.
    pub answer: Vec<u8>,
    /// Bytes that arrived after the request.
    pub early: Vec<u8>,
    /// How the browser waits: WebSocket, event stream or long poll.
    pub channel: Channel,
    /// Share of the capacity that the connection takes, if connections are limited.
    pub seat: Option<Seat>,
}

impl<S: Socket + Send + 'static> Registration<S> {
    /// Returns the key of the session that the connection waits for.
    #[must_use]
    pub const fn key(&self) -> SessionKey {
        self.key
    }

    /// Opens the connection: counts it, starts its deadlines, sends the session's state as it was read, and closes
    /// older connections of the session.
    pub fn open(mut self, mut connection: Connection<S>, found: &Arrival) {
        let (hub, place) = (self.hub.clone(), self.place);
        let Arrival { session, read_at, attachment, taken_over_from } = found;
        let (wants_view, shared) = match &connection.channel {
            Channel::Poll { fields, .. } => (true, hub.sharing.with_polls(fields)),
            Channel::WebSocket { .. } | Channel::EventStream { .. } => (false, hub.sharing.with_all()),
        };
        // A poll is opened only if the version that its browser knows is current.
        let message = if wants_view { None } else { hub.message(session, *read_at, false) };
        let (period, next_rotation) = hub.period(session, *read_at);
        // The record is removed at the end of its connection from here on, and not by `Drop` of the registration.
        self.is_open = true;
        let mut missed = None;
        let may_await_ack_elsewhere = taken_over_from.is_some() && is_just_confirmed(session, *read_at);
        hub.deliver(place, |waiting, turn| {
            let opening = Opening {
                socket: connection.socket,
                answer: connection.answer,
                early: &mut connection.early,
                channel: connection.channel,
                attachment: *attachment,
                may_await_ack_elsewhere,
                expiry: hub.epoch.session_tick_at(session.expires_at),
                first_beat: turn.now.plus_millis(millis_to_first_beat(&session.key, turn.heartbeat_seconds)),
                period,
                next_rotation,
                shared,
                cells: connection.seat.map(Seat::into_cells),
            };
            missed = waiting.open(opening, message.as_ref(), turn);
        });
        hub.let_older_give_way(session.key);
        // The code that the browser was given when the session was created belongs to an earlier period.
        if period > 0 && next_rotation != SessionTick::NEVER {
            hub.show_code(place, &session.key, period);
        }
        if let Some((session, since)) = missed {
            hub.tell_change(&[Hearer { place, wants_view }], &session, since);
        }
        // Either `Hub::close` finds the connection open, or this finds the hub closing.
        if hub.is_closing.load(Ordering::SeqCst) {
            hub.send_away(place);
        }
    }
}

impl<S: Socket + Send + 'static> Drop for Registration<S> {
    fn drop(&mut self) {
        if !self.is_open {
            drop(self.hub.registry.at(self.place, |_| Fate::Goes));
            self.hub.ended.notify_waiters();
        }
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
            millis_to_first_beat(&SessionKey(key), 30)
        };
        assert_eq!([0, 1, 29_999, 30_000, u32::MAX].map(millis), [1, 2, 30_000, 1, 17_296]);
    }
}
