//! The thread that watches sockets: those of all who wait, and those of one guest. It reads what browsers say, and writes
//! what the system did not take when it was to be pushed; pushes themselves are written by whoever has something to tell.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use super::Hub;
use super::registry::Place;
use super::waiting::Step;

const EVENTS: usize = 1024;
/// Wakes the thread; no place and no guest's socket has this number.
pub(super) const WAKE: Token = Token(usize::MAX);
/// Marks a guest's socket: no place has this bit.
const GUEST: usize = 1 << (usize::BITS - 1);

/// Somebody else whose sockets are watched on the same thread, so that one of them can become a browser's without being
/// carried over.
pub trait Guest: Send + 'static {
    /// One of its sockets is ready: the one that was registered under [`guest_token`] of this number.
    fn ready(&mut self, number: usize);

    /// All that was ready has been looked at; how long it is to be left alone at most.
    fn take_turn(&mut self) -> Option<Duration>;
}

/// Under which a guest registers its socket of this number.
#[must_use]
pub const fn guest_token(number: usize) -> Token {
    Token(GUEST | number)
}

/// What is to be watched, until the thread has been started.
pub struct Parking {
    poll: Poll,
    hub: Arc<Hub>,
}

/// A poll, and what ends its watching.
pub(super) fn prepare() -> io::Result<(Poll, Waker)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    Ok((poll, waker))
}

impl Parking {
    pub(super) const fn new(poll: Poll, hub: Arc<Hub>) -> Self {
        Self { poll, hub }
    }

    /// Where a guest registers its sockets.
    ///
    /// # Errors
    /// The system has no files to give.
    pub fn registry(&self) -> io::Result<mio::Registry> {
        self.poll.registry().try_clone()
    }

    /// Watches until the hub is stopped.
    ///
    /// # Errors
    /// The system gives us no thread.
    pub fn start(self, guest: impl Guest) -> io::Result<()> {
        std::thread::Builder::new().name("qrlogin-sockets".to_owned()).spawn(move || self.watch(guest)).map(drop)
    }

    fn watch(mut self, mut guest: impl Guest) {
        let hub = self.hub;
        let _within = hub.runtime.enter();
        let mut events = Events::with_capacity(EVENTS);
        // Those who had more to say than one turn takes.
        let mut unfinished: Vec<(Place, bool)> = Vec::new();
        while !hub.is_stopped.load(Ordering::Acquire) {
            let patience = guest.take_turn();
            let patience = if unfinished.is_empty() { patience } else { Some(Duration::ZERO) };
            // An interrupted poll comes with no events.
            drop(self.poll.poll(&mut events, patience));
            for (place, is_hung_up) in std::mem::take(&mut unfinished) {
                if hub.act(place, |waiting, turn| waiting.ready(false, is_hung_up, turn)) == Step::ReadMore {
                    unfinished.push((place, is_hung_up));
                }
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                let Token(number) = event.token();
                if number & GUEST != 0 {
                    guest.ready(number & !GUEST);
                    continue;
                }
                let place = Place::from_token(number);
                let is_hung_up = event.is_read_closed() || event.is_error();
                let step = hub.act(place, |waiting, turn| waiting.ready(event.is_writable(), is_hung_up, turn));
                if step == Step::ReadMore {
                    unfinished.push((place, is_hung_up));
                }
            }
        }
    }
}
