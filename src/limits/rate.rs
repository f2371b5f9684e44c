//! A rate limit per client (GCRA, by the crate `governor`), in a table of fixed capacity.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{NotUntil, Quota, RateLimiter};
use quick_cache::sync::{Cache, EntryAction, EntryResult};

use super::Exceeded;
use crate::system::clock::Clock;

/// Maximum number of clients in the table of one rate. An entry is a hash and a time.
pub(super) const MAX_CLIENTS: usize = 65_536;

type Limiter = RateLimiter<u64, ClientTable, Steady, NoOpMiddleware<Duration>>;

/// A limit on the calls per minute of each client.
pub(super) struct Rate {
    key: &'static str,
    counting: Limiter,
    /// Checks against the same table as `counting`, and counts nothing.
    checking: Limiter,
    #[cfg(test)]
    clients: Arc<Cache<u64, Nanos>>,
    hasher: RandomState,
}

impl Rate {
    /// Creates the limit that the setting `key` holds. Returns `None` if `per_minute` is 0, which means no limit.
    pub(super) fn new(key: &'static str, per_minute: u32, clock: Clock) -> Option<Self> {
        let quota = Quota::per_minute(NonZeroU32::new(per_minute)?);
        let clients = Arc::new(Cache::new(MAX_CLIENTS));
        let limiter = |counts| {
            RateLimiter::new(quota, ClientTable { clients: Arc::clone(&clients), counts }, Steady(clock.clone()))
        };
        Some(Self {
            key,
            counting: limiter(true),
            checking: limiter(false),
            #[cfg(test)]
            clients,
            hasher: RandomState::new(),
        })
    }

    pub(super) fn count(&self, client: &(impl Hash + ?Sized)) -> Result<(), Exceeded> {
        self.measure(&self.counting, client)
    }

    pub(super) fn check(&self, client: &(impl Hash + ?Sized)) -> Result<(), Exceeded> {
        self.measure(&self.checking, client)
    }

    /// Checks `client` against `limiter`. The table holds a hash of the client, so that entries have the same small
    /// size. The hash is keyed at random, so that a client cannot choose names that collide with those of another.
    fn measure(&self, limiter: &Limiter, client: &(impl Hash + ?Sized)) -> Result<(), Exceeded> {
        let exceeded = |until: NotUntil<Duration>| {
            let wait = until.wait_time_from(limiter.clock().now());
            Exceeded {
                key: self.key,
                retry_after_seconds: wait.as_millis().div_ceil(1000).max(1).try_into().unwrap_or(60),
            }
        };
        limiter.check_key(&self.hasher.hash_one(client)).map_err(exceeded)
    }

    #[cfg(test)]
    pub(super) fn client_count(&self) -> usize {
        self.clients.len()
    }
}

/// The table of clients. It holds the time at which each client has its full rate again. Entries that were used once
/// and long ago are evicted first.
struct ClientTable {
    clients: Arc<Cache<u64, Nanos>>,
    counts: bool,
}

impl StateStore for ClientTable {
    type Key = u64;

    fn measure_and_replace<T, F, E>(&self, client: &u64, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let again = |state: &mut Nanos| {
            let (outcome, next) = measure(Some(*state))?;
            if self.counts {
                *state = next;
            }
            Ok(outcome)
        };
        match self.clients.entry(client, None, |_, state| EntryAction::Retain(again(state))) {
            EntryResult::Retained(outcome) => outcome,
            EntryResult::Vacant(place) => {
                let (outcome, next) = measure(None)?;
                if self.counts {
                    // An error means that the entry was evicted at once.
                    let _ = place.insert(next);
                }
                Ok(outcome)
            }
            // Not reached: the closure always retains the entry, and the call has no timeout.
            EntryResult::Removed(..) | EntryResult::Replaced(..) | EntryResult::Timeout => {
                measure(None).map(|(outcome, _)| outcome)
            }
        }
    }
}

/// The steady time of the program's clock, for `governor`.
struct Steady(Clock);

impl governor::clock::Clock for Steady {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.steady()
    }
}
