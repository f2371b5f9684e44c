//! The thread that watches the sockets of all who wait. It reads what browsers say, and writes what the system did not
//! take when it was to be pushed; pushes themselves are written by the thread that has something to tell.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use super::Hub;
use super::registry::Place;
use super::waiting::{Readiness, Share};
use crate::shutdown::Vital;

/// Wakes the thread; no place has this number.
const WAKE: Token = Token(usize::MAX);
const EVENTS: usize = 1024;
/// What a turn reads at most: this many bytes, this often.
const BUFFER_BYTES: usize = 16 * 1024;
const READINGS: usize = 4;

/// What others have for the thread.
pub(super) struct Parking {
    waker: Waker,
    /// The connections that have more to say than one turn's share.
    unfinished: Mutex<Vec<Place>>,
}

impl Parking {
    /// What watches sockets, and what wakes it.
    pub(super) fn prepare() -> io::Result<(Poll, Self)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        Ok((poll, Self { waker, unfinished: Mutex::default() }))
    }

    /// Lets the thread look at once.
    pub(super) fn wake(&self) {
        // It is awake if this fails: its counter is full.
        drop(self.waker.wake());
    }

    /// Has the connection read on, after the others have had their turns.
    pub(super) fn read_on(&self, place: Place) {
        self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).push(place);
        self.wake();
    }

    fn take_unfinished(&self) -> Vec<Place> {
        std::mem::take(&mut *self.unfinished.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Watches until the hub is stopped.
pub(super) fn watch(hub: Arc<Hub>, mut poll: Poll, vital: Vital) -> io::Result<()> {
    let watching = move || {
        let _vital = vital;
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; BUFFER_BYTES];
        while !hub.is_stopped.load(Ordering::Acquire) {
            match poll.poll(&mut events, None) {
                Ok(()) => {}
                // It comes with no events.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // (A system without memory: not in a loop without a pause.)
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            let mut turn = |place, readiness| {
                let share = Share { buffer: &mut buffer, readings: READINGS };
                hub.act(place, |waiting, turn| waiting.ready(readiness, share, turn));
            };
            // (What is read on has no report of its own.)
            for place in hub.parking.take_unfinished() {
                turn(place, Readiness { is_writable: false, is_last: true });
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                let is_last = event.is_read_closed() || event.is_error();
                turn(Place::from_token(event.token().0), Readiness { is_writable: event.is_writable(), is_last });
            }
        }
    };
    std::thread::Builder::new().name("qrlogin-parking".to_owned()).spawn(watching).map(drop)
}
