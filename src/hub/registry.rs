//! Who waits for which session.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::Event;
use crate::session::SessionKey;

/// A power of two; keys are SHA-256, so any byte of them spreads evenly.
const SHARDS: usize = 64;

/// One connection, unlike any other of this process; a newer one's is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId(pub(super) u64);

struct Waiting {
    id: ConnectionId,
    active: bool,
    awaits_receipt: bool,
    sender: mpsc::Sender<Event>,
}

/// Almost always one connection a session: more than one only while a newer takes over from an older.
type Shard = HashMap<SessionKey, Vec<Waiting>>;

/// The locks are held for as long as it takes to look an entry up, never across a wait.
pub(super) struct Registry {
    shards: [Mutex<Shard>; SHARDS],
}

impl Default for Registry {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Registry {
    /// Enters a connection that is still being set up.
    pub(super) fn insert(&self, key: SessionKey, id: ConnectionId, sender: mpsc::Sender<Event>) {
        self.shard(key).entry(key).or_default().push(Waiting { id, active: false, awaits_receipt: false, sender });
    }

    /// The connection is up; returns those that give way: the older ones, or this one if a newer is up already. (The
    /// order is that of the requests: two handshakes may finish in another.)
    pub(super) fn activate(&self, key: SessionKey, id: ConnectionId) -> Vec<mpsc::Sender<Event>> {
        let mut shard = self.shard(key);
        let Some(connections) = shard.get_mut(&key) else { return Vec::new() };
        for connection in connections.iter_mut().filter(|connection| connection.id == id) {
            connection.active = true;
        }
        let newest = connections.iter().filter(|connection| connection.active).map(|connection| connection.id).max();
        let gives_way = |connection: &&Waiting| connection.active && Some(connection.id) != newest;
        connections.iter().filter(gives_way).map(|connection| connection.sender.clone()).collect()
    }

    /// The token is being written to this connection, and its receipt may follow.
    pub(super) fn await_receipt(&self, key: SessionKey, id: ConnectionId) {
        let mut shard = self.shard(key);
        for connection in shard.get_mut(&key).into_iter().flatten().filter(|connection| connection.id == id) {
            connection.awaits_receipt = true;
        }
    }

    pub(super) fn awaits_receipt(&self, key: SessionKey) -> bool {
        self.shard(key).get(&key).into_iter().flatten().any(|connection| connection.awaits_receipt)
    }

    /// Removes this connection and no other.
    pub(super) fn remove(&self, key: SessionKey, id: ConnectionId) {
        let mut shard = self.shard(key);
        if let Some(connections) = shard.get_mut(&key) {
            connections.retain(|connection| connection.id != id);
            if connections.is_empty() {
                shard.remove(&key);
            }
        }
    }

    pub(super) fn find(&self, key: SessionKey, id: ConnectionId) -> Option<mpsc::Sender<Event>> {
        let shard = self.shard(key);
        shard.get(&key)?.iter().find(|connection| connection.id == id).map(|connection| connection.sender.clone())
    }

    /// `act` must not wait: it runs under the lock.
    pub(super) fn for_each_of(&self, key: SessionKey, act: impl FnMut(&mpsc::Sender<Event>)) {
        let shard = self.shard(key);
        shard.get(&key).into_iter().flatten().map(|connection| &connection.sender).for_each(act);
    }

    /// `act` must not wait: it runs under the lock.
    pub(super) fn for_each(&self, mut act: impl FnMut(&mpsc::Sender<Event>)) {
        for shard in &self.shards {
            lock(shard).values().flatten().map(|connection| &connection.sender).for_each(&mut act);
        }
    }

    fn shard(&self, key: SessionKey) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(key.0[31]) % SHARDS])
    }
}

/// A panic under the lock cannot leave a shard half changed: each change is one call.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: SessionKey = SessionKey([7; 32]);
    const OTHER: SessionKey = SessionKey([8; 32]);

    /// A connection, and where its events arrive.
    fn enter(registry: &Registry, key: SessionKey, id: u64) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(1);
        registry.insert(key, ConnectionId(id), sender);
        receiver
    }

    fn is_sender_of(sender: &mpsc::Sender<Event>, receiver: &mut mpsc::Receiver<Event>) -> bool {
        drop(sender.try_send(Event::Heartbeat));
        receiver.try_recv().is_ok()
    }

    #[test]
    fn an_older_connection_removes_itself_and_never_a_newer_one() {
        let registry = Registry::default();
        let (_older, mut newer) = (enter(&registry, KEY, 1), enter(&registry, KEY, 2));
        registry.remove(KEY, ConnectionId(1));
        registry.remove(KEY, ConnectionId(1));
        registry.remove(OTHER, ConnectionId(2));
        assert!(registry.find(KEY, ConnectionId(1)).is_none());
        assert!(is_sender_of(&registry.find(KEY, ConnectionId(2)).unwrap(), &mut newer));
        registry.remove(KEY, ConnectionId(2));
        assert!(registry.shards.iter().all(|shard| lock(shard).is_empty()), "nothing is left");
    }

    #[test]
    fn the_newer_takes_over_in_whatever_order_the_two_come_up() {
        for order in [[1, 2], [2, 1]] {
            let registry = Registry::default();
            let (mut older, _newer) = (enter(&registry, KEY, 1), enter(&registry, KEY, 2));
            let _third_that_is_not_up_yet = enter(&registry, KEY, 3);
            let _of_another_session = enter(&registry, OTHER, 4);
            registry.activate(OTHER, ConnectionId(4));
            assert!(registry.activate(KEY, ConnectionId(order[0])).is_empty());
            let giving_way = registry.activate(KEY, ConnectionId(order[1]));
            assert_eq!(giving_way.len(), 1);
            assert!(is_sender_of(&giving_way[0], &mut older));
        }
    }
}
