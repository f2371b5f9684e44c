//! The poller: the thread that waits for readiness of all sockets (epoll). It reads what browsers send, and writes what
//! the system did not accept at once. A session change is first written by the thread that announces it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use parking_lot::Mutex;

use super::Hub;
use super::connection::{ReadBudget, Readiness};
use super::registry::Slot;
use crate::system::shutdown::Vital;

/// Token of the waker. No slot has this number.
const WAKE: Token = Token(usize::MAX);
/// Maximum number of events handled per call of epoll.
const EVENTS: usize = 1024;
/// Size of the read buffer, in bytes.
const BUFFER_BYTES: usize = 16 * 1024;
/// Maximum number of reads per turn.
const MAX_READS: usize = 4;

/// Requests of other threads to the poller.
pub(super) struct PollerHandle {
    waker: Waker,
    /// Connections with more unread bytes than one turn's share.
    unfinished: Mutex<Vec<Slot>>,
}

impl PollerHandle {
    /// Creates the epoll instance and its waker.
    pub(super) fn prepare() -> io::Result<(Poll, Self)> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        Ok((poll, Self { waker, unfinished: Mutex::default() }))
    }

    /// Wakes the thread.
    pub(super) fn wake(&self) {
        // No error is expected: mio resets a full counter of the waker and tries again.
        drop(self.waker.wake());
    }

    /// Queues another read of the connection, which runs after the current batch of events.
    pub(super) fn read_on(&self, slot: Slot) {
        self.unfinished.lock().push(slot);
        self.wake();
    }

    fn take_unfinished(&self) -> Vec<Slot> {
        std::mem::take(&mut *self.unfinished.lock())
    }
}

/// Starts the poller thread. It runs until the hub is stopped.
pub(super) fn spawn(hub: Arc<Hub>, mut poll: Poll, vital: Vital) -> io::Result<()> {
    let watching = move || {
        let _vital = vital;
        let mut events = Events::with_capacity(EVENTS);
        let mut buffer = vec![0; BUFFER_BYTES];
        while !hub.is_stopped.load(Ordering::Acquire) {
            match poll.poll(&mut events, None) {
                Ok(()) => {}
                // `events` is empty after an error.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The system may be out of memory. The pause keeps the loop from spinning.
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
            let mut turn = |slot, readiness| {
                let share = ReadBudget { buffer: &mut buffer, max_reads: MAX_READS };
                hub.act(slot, |connection, turn| connection.ready(readiness, share, turn));
            };
            // No event is reported for these sockets, because their bytes have been reported before.
            for slot in hub.poller.take_unfinished() {
                turn(slot, Readiness { is_writable: false, is_last: true });
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                let is_last = event.is_read_closed() || event.is_error();
                turn(Slot::from_token(event.token().0), Readiness { is_writable: event.is_writable(), is_last });
            }
        }
    };
    std::thread::Builder::new().name("qrlogin-poller".to_owned()).spawn(watching).map(drop)
}
