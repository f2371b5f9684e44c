//! A semaphore for the requests to the introspection endpoint, whose permits are shared fairly among client addresses.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

/// Maximum number of concurrent requests of all addresses.
const MAX_PERMITS: usize = 64;
/// Maximum number of concurrent requests of one address.
const MAX_PERMITS_OF_ADDRESS: usize = 8;
/// Maximum number of calls of all addresses that wait for a permit.
const MAX_WAITING: usize = 4096;
/// Maximum number of calls of one address that wait for a permit.
const MAX_WAITING_OF_ADDRESS: usize = 512;

/// The permits, and the queue of calls that wait for one. Clones share them.
#[derive(Clone, Default)]
pub(super) struct FairSemaphore(Arc<Mutex<SemaphoreState>>);

#[derive(Default)]
struct SemaphoreState {
    /// Number of permits that are taken.
    count: usize,
    /// Number of permits that each address has taken, for addresses with at least one.
    of_address: HashMap<IpAddr, usize>,
    /// Calls that wait for a permit, in the order of their arrival.
    waiting: VecDeque<(IpAddr, oneshot::Sender<FairPermit>)>,
}

/// A guard of one permit, which becomes free when the guard is dropped.
pub(super) struct FairPermit {
    permits: FairSemaphore,
    address: IpAddr,
}

/// The error of a call that would exceed the number of waiting calls.
pub(super) struct QueueFull;

impl FairSemaphore {
    /// Waits for a permit of this address.
    ///
    /// A free permit goes to the waiting address that has the fewest permits. An address with many calls therefore
    /// delays only itself, and many such addresses do not delay one that has no permit.
    ///
    /// # Errors
    /// Returns [`QueueFull`] at once if too many calls wait, of all addresses or of this one.
    pub(super) async fn acquire(&self, address: IpAddr) -> Result<FairPermit, QueueFull> {
        let (sender, permit) = oneshot::channel();
        {
            let mut state = self.0.lock();
            state.waiting.retain(|(_, sender)| !sender.is_closed());
            let of_address = state.waiting.iter().filter(|(other, _)| *other == address);
            if state.waiting.len() >= MAX_WAITING || of_address.count() >= MAX_WAITING_OF_ADDRESS {
                return Err(QueueFull);
            }
            state.waiting.push_back((address, sender));
        }
        self.hand_out();
        permit.await.map_err(|_| QueueFull)
    }

    /// Hands out free permits until none is left or no waiting call may have one.
    fn hand_out(&self) {
        loop {
            let mut state = self.0.lock();
            let Some((address, sender)) = state.next() else { return };
            state.count += 1;
            *state.of_address.entry(address).or_default() += 1;
            drop(state);
            // If the call has been dropped, so is the permit, which makes it free again.
            drop(sender.send(FairPermit { permits: self.clone(), address }));
        }
    }
}

impl SemaphoreState {
    /// Removes and returns the call that is to have the next permit, if a permit is free for one.
    fn next(&mut self) -> Option<(IpAddr, oneshot::Sender<FairPermit>)> {
        if self.count >= MAX_PERMITS {
            return None;
        }
        self.waiting.retain(|(_, sender)| !sender.is_closed());
        let permits_of = |address: &IpAddr| self.of_address.get(address).copied().unwrap_or(0);
        let waiting = self.waiting.iter().enumerate().map(|(index, (address, _))| (permits_of(address), index));
        let (_, index) = waiting.min().filter(|(permits, _)| *permits < MAX_PERMITS_OF_ADDRESS)?;
        self.waiting.remove(index)
    }
}

impl Drop for FairPermit {
    fn drop(&mut self) {
        let mut state = self.permits.0.lock();
        state.count -= 1;
        if let Some(of_address) = state.of_address.get_mut(&self.address) {
            *of_address -= 1;
            if *of_address == 0 {
                state.of_address.remove(&self.address);
            }
        }
        drop(state);
        self.permits.hand_out();
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
        let permits = FairSemaphore::default();
        // 40 addresses with 8 calls each are more calls than there are permits.
        let mut calls: Vec<_> =
            (0..320).map(|number| permits.acquire(address(u8::try_from(number % 40).unwrap())).boxed()).collect();
        let mut sender: Vec<_> = calls.iter_mut().filter_map(|call| call.now_or_never()).collect();
        assert_eq!(sender.len(), MAX_PERMITS);
        let mut honest = permits.acquire(address(200)).boxed();
        assert!((&mut honest).now_or_never().is_none());
        drop(sender.pop());
        assert!(honest.now_or_never().is_some_and(|permit| permit.is_ok()));
    }

    #[test]
    fn turns_and_waiting_calls_of_one_address_are_bounded() {
        let permits = FairSemaphore::default();
        let mut calls: Vec<_> =
            (0..MAX_WAITING_OF_ADDRESS + MAX_PERMITS_OF_ADDRESS).map(|_| permits.acquire(address(1)).boxed()).collect();
        let sender: Vec<_> = calls.iter_mut().filter_map(|call| call.now_or_never()).collect();
        assert_eq!(sender.len(), MAX_PERMITS_OF_ADDRESS);
        assert!(matches!(permits.acquire(address(1)).now_or_never(), Some(Err(QueueFull))));
        assert!(matches!(permits.acquire(address(2)).now_or_never(), Some(Ok(_))));
        // Dropped calls leave the queue, and their permits become free.
        drop((calls, sender));
        assert!(matches!(permits.acquire(address(1)).now_or_never(), Some(Ok(_))));
        assert_eq!(permits.0.lock().of_address.len(), 0);
    }
}
