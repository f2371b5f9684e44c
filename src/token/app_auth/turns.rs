//! Turns to ask an endpoint: a bounded number at a time, shared fairly among client addresses.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Maximum number of turns at a time, of all addresses and of one.
const MAX_TURNS: usize = 64;
const MAX_TURNS_OF_ADDRESS: usize = 8;
/// Maximum number of calls that wait for their turn, of all addresses and of one.
const MAX_WAITING: usize = 4096;
const MAX_WAITING_OF_ADDRESS: usize = 512;

/// See the module. Clones share the turns.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<Taken>>);

#[derive(Default)]
struct Taken {
    count: usize,
    of_address: HashMap<IpAddr, usize>,
    /// Calls without a turn, in their order.
    waiting: VecDeque<(IpAddr, oneshot::Sender<Turn>)>,
}

/// A turn, until it is dropped.
pub(super) struct Turn {
    turns: Turns,
    address: IpAddr,
}

/// Too many calls wait.
pub(super) struct TooMany;

impl Turns {
    /// Waits for a turn. A turn that becomes free is given to the address that has the fewest, so an address with many
    /// calls waits for itself, and any number of such addresses does not keep out one that has none.
    pub(super) async fn take(&self, address: IpAddr) -> Result<Turn, TooMany> {
        let (given, turn) = oneshot::channel();
        {
            let mut taken = self.lock();
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

    /// Gives the turns that are free.
    fn give(&self) {
        loop {
            let mut taken = self.lock();
            let Some((address, given)) = taken.next() else { return };
            taken.count += 1;
            *taken.of_address.entry(address).or_default() += 1;
            drop(taken);
            // A caller that has gone drops the turn, which is free again then.
            drop(given.send(Turn { turns: self.clone(), address }));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Takes the call that is next, if there is a turn for it.
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
        let mut taken = self.turns.lock();
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
    fn an_address_without_a_turn_is_next_however_many_calls_of_others_wait() {
        let turns = Turns::default();
        // 40 addresses, each with 8 calls: more than there are turns.
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
    fn one_address_has_a_part_of_the_turns_and_of_the_calls_that_wait() {
        let turns = Turns::default();
        let mut calls: Vec<_> =
            (0..MAX_WAITING_OF_ADDRESS + MAX_TURNS_OF_ADDRESS).map(|_| turns.take(address(1)).boxed()).collect();
        let given: Vec<_> = calls.iter_mut().filter_map(|call| call.now_or_never()).collect();
        assert_eq!(given.len(), MAX_TURNS_OF_ADDRESS);
        assert!(matches!(turns.take(address(1)).now_or_never(), Some(Err(TooMany))));
        assert!(matches!(turns.take(address(2)).now_or_never(), Some(Ok(_))));
        // Calls that are given up make room, and their turns go to others.
        drop((calls, given));
        assert!(matches!(turns.take(address(1)).now_or_never(), Some(Ok(_))));
        assert_eq!(turns.lock().of_address.len(), 0);
    }
}
