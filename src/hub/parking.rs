//! The thread that watches the sockets of all who wait. It reads what browsers say, and writes what the system did not
//! take when it was to be pushed; pushes themselves are written by whoever has something to tell.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use super::Hub;
use super::registry::Place;
use super::waiting::Step;

/// Wakes the thread; no place has this number.
pub(super) const WAKE: Token = Token(usize::MAX);
const EVENTS: usize = 1024;

/// A poll, and what ends its watching.
pub(super) fn prepare() -> io::Result<(Poll, Waker)> {
    let poll = Poll::new()?;
    let waker = Waker::new(poll.registry(), WAKE)?;
    Ok((poll, waker))
}

/// Watches until the hub is stopped.
pub(super) fn watch(hub: Arc<Hub>, mut poll: Poll) -> io::Result<()> {
    let watching = move || {
        let mut events = Events::with_capacity(EVENTS);
        // Those who had more to say than one turn takes.
        let mut unfinished: Vec<(Place, bool)> = Vec::new();
        while !hub.is_stopped.load(Ordering::Acquire) {
            let patience = if unfinished.is_empty() { None } else { Some(Duration::ZERO) };
            // An interrupted poll comes with no events.
            drop(poll.poll(&mut events, patience));
            for (place, is_hung_up) in std::mem::take(&mut unfinished) {
                if hub.act(place, |waiting, turn| waiting.ready(false, is_hung_up, turn)) == Step::ReadMore {
                    unfinished.push((place, is_hung_up));
                }
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                let place = Place::from_token(event.token().0);
                let is_hung_up = event.is_read_closed() || event.is_error();
                let step = hub.act(place, |waiting, turn| waiting.ready(event.is_writable(), is_hung_up, turn));
                if step == Step::ReadMore {
                    unfinished.push((place, is_hung_up));
                }
            }
        }
    };
    std::thread::Builder::new().name("qrlogin-parking".to_owned()).spawn(watching).map(drop)
}
