//! Who is waiting, and what they must hear.
//!
//! A browser that waits is a small record (`registry.rs`); nothing runs for it. Its socket is parked (`parking.rs`)
//! with a thread that watches all of them; its deadlines are a number in one wheel (`wheel.rs`); what it must hear is
//! written straight to its socket by whoever has decided it. What happens to it is in `waiting/`.
//!
//! Nothing asks the store while a browser waits. At its deadline, the rows of all sessions that are due are read
//! again, in one query, before anybody is told `expired`.

mod effects;
mod hints;
#[cfg(test)]
mod history;
mod message;
mod parking;
mod registry;
#[cfg(test)]
mod registry_test;
mod settle;
mod shared;
mod socket;
mod waiting;
mod wheel;
mod wire;

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::{error, warn};

use crate::clock::Clock;
use crate::limits::{Seat, Sockets};
use crate::login::{Arrival, Logins};
use crate::metrics::{CloseReason, Stopwatch};
use crate::node::Hint;
use crate::protocol::close_code;
use crate::qr::TooLong;
use crate::random;
use crate::session::{Rotation, Session, SessionKey, State, Timestamp};
use crate::shutdown::Vital;
use effects::Effects;
use hints::Hints;
use message::Message;
use parking::Parking;
use registry::{Fate, Place, Registry};
use settle::Overdue;
use shared::Sharing;
use socket::Socket;
use waiting::{Opening, Others, RECEIPT_SECONDS, Turn, Waiting};
use wheel::{Epoch, SessionTick, Wheel};

pub use message::wire_view;
pub use registry::Closing;
pub use wire::Channel;

/// What the registry locks with.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard};
}

/// Browsers that are sent away by a restart come back spread over this long.
const RECONNECT_SPREAD_MILLIS: u32 = 3000;
/// So many are sent away at once, and then others after this pause: 10,000 a second, unless there are so many that ...
const SENT_AWAY_AT_ONCE: usize = 500;
const SENDING_AWAY_MILLIS: u32 = 50;
/// ... it would take longer than 20 seconds.
const MAX_BATCHES_SENT_AWAY: usize = 400;
/// How long a browser that comes back waits for the receipt of its own earlier connection, which may be in our socket's
/// buffer already.
const RECEIPT_GRACE_MILLIS: u32 = 250;
/// Turns of a tick after which others have theirs.
const TURNS_AT_ONCE: usize = 64;

/// See the module.
pub struct Hub<S: Socket = TcpStream> {
    clock: Clock,
    logins: Arc<Logins>,
    rotation: Rotation,
    sharing: Sharing,
    registry: Registry<Waiting<S>>,
    wheel: Mutex<Wheel>,
    epoch: Epoch,
    /// Held while a tick's deadlines are handled.
    ticking: tokio::sync::Mutex<()>,
    overdue: Overdue,
    /// A deadline has come that is earlier than all before.
    earlier: Notify,
    /// A connection has ended.
    ended: Notify,
    next_arrival: AtomicU32,
    is_closing: AtomicBool,
    poll: S::Poll,
    parking: Parking,
    is_stopped: AtomicBool,
    hints: Hints,
    /// Where receipts are stored.
    runtime: Handle,
}

impl Hub {
    /// A hub in which nobody waits, and its thread; connections are counted in `sockets`, too. To be called within the
    /// runtime that it is to use.
    ///
    /// # Errors
    /// The system gives us no thread, or nothing to watch sockets with.
    pub fn start(logins: Arc<Logins>, sockets: Option<Arc<Sockets>>, vital: Vital) -> io::Result<Arc<Self>> {
        let (poll, parking) = Parking::prepare()?;
        let hub = Arc::new(Self::new(logins, sockets, poll.registry().try_clone()?, parking));
        parking::watch(hub.clone(), poll, vital)?;
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
            next_arrival: AtomicU32::new(0),
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

    /// Enters a browser under its session's key, before its row is read: a change that comes between the two is not
    /// missed.
    ///
    /// # Errors
    /// The server is stopping.
    pub fn register(self: &Arc<Self>, key: SessionKey) -> Result<Registration<S>, Closing> {
        let arrival = self.next_arrival.fetch_add(1, Ordering::Relaxed);
        let place = self.registry.enter(Waiting::arriving(key, arrival))?;
        Ok(Registration { hub: self.clone(), key, place, is_open: false })
    }

    /// Whether a connection of this session may be about to say that it has its token.
    #[must_use]
    pub fn awaits_receipt(&self, key: SessionKey) -> bool {
        let mut awaits = false;
        self.registry.each_of(&key, |_, waiting| awaits |= waiting.awaits_receipt());
        awaits
    }

    /// Waits until no connection of this session awaits a receipt, for a moment at most. A browser that has sent its
    /// receipt and asks at once again, on another connection, is not to overtake itself.
    pub async fn receipt_settled(&self, key: SessionKey) {
        let settled = self.until(|| !self.awaits_receipt(key));
        tokio::select! {
            biased;
            () = settled => {}
            () = self.clock.sleep_millis(RECEIPT_GRACE_MILLIS) => {}
        }
    }

    /// Takes no more browsers, and sends those who wait away, with 1012: not all in one instant, as they come back
    /// elsewhere. Who has not been sent away yet is told what happens as before.
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

    /// Waits until nobody is left.
    pub async fn emptied(&self) {
        self.until(|| self.registry.is_empty()).await;
    }

    /// Ends the hub's thread.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.parking.wake();
    }

    /// Watches the deadlines, for as long as the program runs.
    pub async fn run(self: Arc<Self>) {
        tokio::join!(self.turn_wheel(), self.settle(), self.look_where_hinted(), self.follow_steps());
    }

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

    /// Brings deadlines forward each time that session time has been stepped, for as long as the program runs.
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

    /// Pushes the browser the code of this period.
    fn show_code(self: &Arc<Self>, place: Place, key: &SessionKey, period: u16) {
        match self.logins.codes.shown_in(key, period) {
            Ok(code) => {
                let text = message::rotated(code);
                self.act(place, |waiting, turn| waiting.show_code(&text, turn));
            }
            Err(TooLong) => warn!(event = "code not shown", session = %key, "public_url is too long for a QR code"),
        }
    }

    /// Lets the connection at this place have a turn, if it is still there, and performs the turn's effects.
    fn act(self: &Arc<Self>, place: Place, what: impl FnOnce(&mut Waiting<S>, &mut Turn<'_, S>)) {
        self.act_among(place, |_, _| {}, what);
    }

    /// As [`Hub::act`], of a turn that delivers a session's state: it knows the session's other connections.
    fn deliver(self: &Arc<Self>, place: Place, what: impl FnOnce(&mut Waiting<S>, &mut Turn<'_, S>)) {
        self.act_among(place, Others::note, what);
    }

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

    /// Stores the receipt; the connection stays until that is done.
    fn claim(self: &Arc<Self>, place: Place, key: SessionKey) {
        let hub = self.clone();
        self.runtime.spawn(async move {
            // Without the receipt the token is good for another delivery, to this same browser only.
            if let Err(error) = hub.logins.claim(key).await {
                warn!(event = "receipt lost", session = %key, %error);
            }
            hub.act(place, Waiting::claimed);
        });
    }

    fn send_away(self: &Arc<Self>, place: Place) {
        let why = format!("{}{}", wire::RETRY_AFTER, random::below(RECONNECT_SPREAD_MILLIS));
        self.act(place, |waiting, turn| waiting.leave(close_code::RESTARTING, &why, CloseReason::Shutdown, turn));
    }

    /// The newest connection of a session is the one that is told, in the order of the requests: two handshakes may
    /// finish in another.
    fn let_older_give_way(self: &Arc<Self>, key: SessionKey) {
        let (mut active, mut attachment) = (Vec::new(), 0);
        self.registry.each_of(&key, |place, waiting| {
            active.extend(waiting.active_arrival().map(|arrival| (arrival, place)));
            attachment = attachment.max(waiting.attachment());
        });
        let Some((newest, place)) = active.iter().copied().max_by_key(|(arrival, _)| *arrival) else { return };
        self.act(place, |waiting, _| waiting.adopt(attachment));
        for (_, place) in active.into_iter().filter(|(arrival, _)| *arrival != newest) {
            self.act(place, Waiting::give_way);
        }
    }

    /// What is said of this session at `as_of`, to whom it concerns.
    fn tell(self: &Arc<Self>, places: &[Hearer], session: &Session, as_of: Timestamp, since: Option<Stopwatch>) {
        let message = self.message(session, as_of, places.iter().any(|hearer| hearer.wants_view));
        for Hearer { place, .. } in places {
            self.deliver(*place, |waiting, turn| match &message {
                Some(message) => waiting.tell(message, since, turn),
                None => waiting.token_not_made(turn),
            });
        }
    }

    /// Returns `None` if the token cannot be made.
    fn message(&self, session: &Session, as_of: Timestamp, wants_view: bool) -> Option<Message> {
        let message = Message::of(&self.logins, session, as_of, wants_view);
        message.inspect_err(|error| error!(event = "token not minted", session = %session.key, %error)).ok()
    }

    /// Delivers a session's state, as it has just been read or written, to its connections at this node. A connection
    /// with a smaller attachment than `attachment` is closed: a newer one waits at another node.
    fn tell_here(self: &Arc<Self>, session: &Arc<Session>, attachment: u32, since: Stopwatch) {
        let mut places = Vec::new();
        self.registry.each_of(&session.key, |place, _| places.push(place));
        let mut hearers = Vec::new();
        let newest = Hint { key: session.key, version: session.version, attachment };
        for place in places {
            self.act(place, |waiting, turn| {
                // How it waits is known once it is up.
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

    fn tell_change(self: &Arc<Self>, hearers: &[Hearer], session: &Session, since: Stopwatch) {
        // That an undecided session expired is for the store to say, at its deadline: a decision may be on its way. A
        // scan is told as what it was when it was written.
        let now = self.clock.now();
        let as_of = if session.is_undecided() { now.min(session.expires_at.plus_millis(-1)) } else { now };
        self.tell(hearers, session, as_of, Some(since));
    }

    /// The period of the code that the browser is to show, and when the next begins.
    fn period(&self, session: &Session, now: Timestamp) -> (u16, SessionTick) {
        let period = self.rotation.period_at(session, now);
        if self.rotation.period_seconds == 0 || session.scanned_at.is_some() {
            return (period, SessionTick::NEVER);
        }
        let next = session.created_at.plus_seconds(self.rotation.period_seconds.saturating_mul(u32::from(period) + 1));
        (period, self.epoch.session_tick_at(next))
    }

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

/// Somewhere in the first interval, as the key has it: those who come together are not to be asked together ever after.
fn millis_to_first_beat(key: &SessionKey, heartbeat_seconds: u32) -> u64 {
    let [a, b, c, d, ..] = key.0;
    u64::from(u32::from_le_bytes([a, b, c, d])) % (u64::from(heartbeat_seconds) * 1000) + 1
}

/// Whether a browser that was given the token of this session in time may not have acknowledged it yet.
fn is_just_confirmed(session: &Session, now: Timestamp) -> bool {
    match &session.state {
        State::Confirmed(confirmation) => {
            !confirmation.claimed && now < confirmation.decided_at.plus_seconds(RECEIPT_SECONDS)
        }
        _ => false,
    }
}

async fn sleep_until(clock: &Clock, instant: Option<Duration>) {
    match instant {
        Some(instant) => clock.sleep_until_steady(instant).await,
        None => std::future::pending().await,
    }
}

/// Somebody who is to be told something.
#[derive(Debug, Clone, Copy)]
struct Hearer {
    place: Place,
    /// The whole of the session, that is.
    wants_view: bool,
}

/// A browser's entry while its row is being read and its handshake answered: gone when this is dropped.
pub struct Registration<S: Socket + Send + 'static = TcpStream> {
    hub: Arc<Hub<S>>,
    key: SessionKey,
    place: Place,
    is_open: bool,
}

/// A connection on which a browser is about to wait.
pub struct Connection<S = TcpStream> {
    /// Nobody else's any more.
    pub socket: S,
    /// The beginning of the answer, if it has not been written.
    pub answer: Vec<u8>,
    /// What the browser said right behind its request.
    pub early: Vec<u8>,
    /// How the browser waits.
    pub channel: Channel,
    /// Where it counts among those of its address, if there is a limit on them.
    pub seat: Option<Seat>,
}

impl<S: Socket + Send + 'static> Registration<S> {
    /// The session this is for.
    #[must_use]
    pub const fn key(&self) -> SessionKey {
        self.key
    }

    /// The socket is up: from here on the connection counts, its deadlines run, and older ones of the same session
    /// are closed. The browser is told how its session stood when it was read.
    pub fn open(mut self, mut connection: Connection<S>, found: &Arrival) {
        let (hub, place) = (self.hub.clone(), self.place);
        let Arrival { session, read_at, attachment, taken_over_from } = found;
        let (wants_view, shared) = match &connection.channel {
            Channel::Poll { fields, .. } => (true, hub.sharing.with_polls(fields)),
            Channel::WebSocket { .. } | Channel::EventStream { .. } => (false, hub.sharing.with_all()),
        };
        // What a poll is to be told at once, it has been told.
        let message = if wants_view { None } else { hub.message(session, *read_at, false) };
        let (period, next_rotation) = hub.period(session, *read_at);
        // From here on the record ends like any other.
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
        // The code that it was given is an old one.
        if period > 0 && next_rotation != SessionTick::NEVER {
            hub.show_code(place, &session.key, period);
        }
        if let Some((session, since)) = missed {
            hub.tell_change(&[Hearer { place, wants_view }], &session, since);
        }
        // Whoever closes all either finds the connection open, or is seen here.
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
