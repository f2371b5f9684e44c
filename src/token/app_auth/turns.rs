//! Fair scheduling of the requests to the introspection endpoint: a bounded number of turns, shared among client
//! addresses.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Maximum number of concurrent turns of all addresses.
const MAX_TURNS: usize = 64;
/// Maximum number of concurrent turns of one address.
const MAX_TURNS_OF_ADDRESS: usize = 8;
/// Maximum number of calls of all addresses that wait for a turn.
const MAX_WAITING: usize = 4096;
/// Maximum number of calls of one address that wait for a turn.
const MAX_WAITING_OF_ADDRESS: usize = 512;

/// The turns, and the queue of calls that wait for one. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    /// Number of turns that are taken.
    count: usize,
    /// Number of turns that each address has taken, for addresses with at least one.
    of_address: HashMap<IpAddr, usize>,
    /// Calls that wait for a turn, in the order of their arrival.
    waiting: VecDeque<(IpAddr, oneshot::Sender<Turn>)>,
}

/// A guard of one turn, which becomes free when the guard is dropped.
pub(super) struct Turn {
    turns: Turns,
    address: IpAddr,
}

/// The error of a call that would exceed the number of waiting calls.
pub(super) struct TooMany;

impl Turns {
    /// Waits for a turn of this address.
    ///
    /// A free turn goes to the waiting address that has the fewest turns. An address with many calls therefore delays
    /// only itself, and many such addresses do not delay one that has no turn.
    ///
    /// # Errors
    /// Returns [`TooMany`] at once if too many calls wait, of all addresses or of this one.
    pub(super) async fn take(&self, address: IpAddr) -> Result<Turn, TooMany> {
        let (given, turn) = oneshot::channel();
        {
            let mut taken = self.0.lock();
            taken.waiting.retain(|(_, given)| !given.is_closed());
            let of_address = taken.waiting.iter().filter(|(other, _)| *other == address);
            if taken.waiting.len() >= MAX_WAITING || of_address.count() >= MAX_WAITING_OF_ADDRESS {
                return Err(TooMany);
            }
            taken.waiting.push_back((address, given));
        }
        self.give();
        turn.await.map_err(|_| TooMany)
    }

    /// Hands out free turns until none is left or no waiting call may have one.
    fn give(&self) {
        loop {
            let mut taken = self.0.lock();
            let Some((address, given)) = taken.next() else { return };
            taken.count += 1;
            *taken.of_address.entry(address).or_default() += 1;
            drop(taken);
            // If the call has been dropped, so is the turn, which makes it free again.
            drop(given.send(Turn { turns: self.clone(), address }));
        }
    }
}

impl Taken {
    /// Removes and returns the call that is to have the next turn, if a turn is free for one.
    fn next(&mut self) -> Option<(IpAddr, oneshot::Sender<Turn>)> {
        if self.count >= MAX_TURNS {
            return None;
        }
        self.waiting.retain(|(_, given)| !given.is_closed());
        let turns = |address: &IpAddr| self.of_address.get(address).copied().unwrap_or(0);
        let waiting = self.waiting.iter().enumerate().map(|(index, (address, _))| (turns(address), index));
        let (_, index) = waiting.min().filter(|(turns, _)| *turns < MAX_TURNS_OF_ADDRESS)?;
        self.waiting.remove(index)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = self.turns.0.lock();
        taken.count -= 1;
        if let Some(of_address) = taken.of_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                taken.of_address.remove(&self.address);
            }
        }
        drop(taken);
        self.turns.give();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn address(number: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, number])
    }

    #[test]
    fn free_turn_goes_first_to_an_address_without_one() {
        let turns = Turns::default();
        // 40 addresses with 8 calls each are more calls than there are turns.
        let mut calls: Vec<_> =
            (0..320).map(|number| turns.take(address(u8::try_from(number % 40).unwrap())).boxed()).collect();
        let mut given: Vec<_> = calls.iter_mut().filter_map(|call| call.now_or_never()).collect();
        assert_eq!(given.len(), MAX_TURNS);
        let mut honest = turns.take(address(200)).boxed();
        assert!((&mut honest).now_or_never().is_none());
        drop(given.pop());
        assert!(honest.now_or_never().is_some_and(|turn| turn.is_ok()));
    }

    #[test]
    fn turns_and_waiting_calls_of_one_address_are_bounded() {
        let turns = Turns::default();
        let mut calls: Vec<_> =
            (0..MAX_WAITING_OF_ADDRESS + MAX_TURNS_OF_ADDRESS).map(|_| turns.take(address(1)).boxed()).collect();
        let given: Vec<_> = calls.iter_mut().filter_map(|call| call.now_or_never()).collect();
        assert_eq!(given.len(), MAX_TURNS_OF_ADDRESS);
        assert!(matches!(turns.take(address(1)).now_or_never(), Some(Err(TooMany))));
        assert!(matches!(turns.take(address(2)).now_or_never(), Some(Ok(_))));
        // Dropped calls leave the queue, and their turns become free.
        drop((calls, given));
        assert!(matches!(turns.take(address(1)).now_or_never(), Some(Ok(_))));
        assert_eq!(turns.0.lock().of_address.len(), 0);
    }
}
