//! The registry: the waiting connections of this node, sharded by the session's key. No lock is held across an `await`.
//!
//! An entry costs its own size, about ten bytes of index, and its part of a chunk. Chunks have one size and are freed
//! when they are empty, so memory grows evenly with the number of connections and shrinks with it.
//!
//! `tests/registry_model.rs` compiles this file once more, and `loom` runs it through every interleaving of threads.
//! Lock types therefore come from the parent module.

use hashbrown::HashTable;

use super::sync::{Mutex, MutexGuard};
use crate::session::SessionKey;

/// Number of shards. Keys are SHA-256 digests, so any byte of them distributes entries evenly.
const SHARDS: usize = 64;
/// Entries in a chunk, one for each bit of its `in_use`.
const CHUNK: usize = u32::BITS as usize;
/// Bits of a slot that hold the position within its shard.
const POSITION_BITS: u32 = 24;

/// Names one entry. The generation numbers the entries of a shard and repeats only after 2^32 of them, so a stale slot
/// finds nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Slot(u64);

impl Slot {
    const fn new(shard: usize, position: u32, generation: u32) -> Self {
        Self((shard as u64) << (POSITION_BITS + u32::BITS) | (position as u64) << u32::BITS | generation as u64)
    }

    /// Returns the slot as a number under which a socket is registered with epoll.
    #[expect(clippy::cast_possible_truncation, reason = "the server runs on 64-bit systems")]
    pub(super) const fn to_token(self) -> usize {
        self.0 as usize
    }

    /// Returns the slot of a number that [`Slot::to_token`] returned.
    pub(super) const fn from_token(token: usize) -> Self {
        Self(token as u64)
    }

    /// Returns the shard, the position in it, and the generation.
    #[expect(clippy::cast_possible_truncation, reason = "each part has the width it had in `Slot::new`")]
    const fn parts(self) -> (usize, u32, u32) {
        let position = (self.0 >> u32::BITS) as u32 & ((1 << POSITION_BITS) - 1);
        ((self.0 >> (POSITION_BITS + u32::BITS)) as usize, position, self.0 as u32)
    }
}

/// A value with a session's key.
pub(super) trait Keyed {
    fn key(&self) -> &SessionKey;
}

/// Whether an entry stays in the registry after a look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retain {
    Yes,
    No,
}

/// The registry is closed to new connections.
#[derive(Debug, PartialEq, Eq)]
pub struct Closing;

/// A table of values by session key, with several entries per key.
pub(super) struct Registry<T, const N: usize = SHARDS> {
    shards: [Mutex<Shard<T>>; N],
}

struct Shard<T> {
    chunks: Vec<Chunk<T>>,
    /// Index before which all chunks are full.
    first_with_room: usize,
    /// Positions by key. A key has more than one entry only while a newer connection supersedes an older one.
    index: HashTable<u32>,
    /// Generation of the newest entry.
    generation: u32,
    is_closing: bool,
}

/// Measurements of a shard. `looked_at` is the greatest number of candidates that a lookup in the index visits.
#[cfg(test)]
pub(super) struct Holdings {
    pub(super) entries: usize,
    pub(super) chunks: usize,
    pub(super) index_capacity: usize,
    pub(super) looked_at: usize,
}

struct Chunk<T> {
    in_use: u32,
    entries: Option<Box<[Option<Entry<T>>; CHUNK]>>,
}

struct Entry<T> {
    generation: u32,
    value: T,
}

impl<T: Keyed, const N: usize> Default for Registry<T, N> {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::new(Shard::default())) }
    }
}

impl<T: Keyed, const N: usize> Registry<T, N> {
    /// Adds `value` under its key.
    pub(super) fn insert(&self, value: T) -> Result<Slot, Closing> {
        let number = shard_number::<N>(value.key());
        let mut shard = lock(&self.shards[number]);
        if shard.is_closing {
            return Err(Closing);
        }
        let (position, generation) = shard.insert(value);
        Ok(Slot::new(number, position, generation))
    }

    /// Calls `look` with the entry in this slot, if it still exists. A removed entry is returned so that it is dropped
    /// outside of the lock.
    pub(super) fn update(&self, slot: Slot, look: impl FnOnce(&mut T) -> Retain) -> Option<T> {
        self.update_with_others(slot, |_| {}, look)
    }

    /// Like [`Registry::update`], but first calls `other` with each other entry of the same key, under the same lock.
    /// The other entries cannot change before `look` returns.
    pub(super) fn update_with_others(
        &self,
        slot: Slot,
        mut other: impl FnMut(&T),
        look: impl FnOnce(&mut T) -> Retain,
    ) -> Option<T> {
        let (number, position, generation) = slot.parts();
        let mut shard = lock(self.shards.get(number)?);
        let entry = shard.get(position).filter(|entry| entry.generation == generation)?;
        let key = entry.value.key();
        for another in shard.index.iter_hash(hash(key)).filter(|another| **another != position) {
            if let Some(entry) = shard.get(*another).filter(|entry| entry.value.key() == key) {
                other(&entry.value);
            }
        }
        let entry = shard.get_mut(position)?;
        if look(&mut entry.value) == Retain::Yes {
            return None;
        }
        shard.remove(position)
    }

    /// Calls `look` with all entries of this key.
    pub(super) fn for_each(&self, key: &SessionKey, mut look: impl FnMut(Slot, &T)) {
        let number = shard_number::<N>(key);
        let shard = lock(&self.shards[number]);
        for position in shard.index.iter_hash(hash(key)) {
            if let Some(entry) = shard.get(*position).filter(|entry| entry.value.key() == key) {
                look(Slot::new(number, *position, entry.generation), &entry.value);
            }
        }
    }

    /// Calls `change` with all entries of this key.
    pub(super) fn for_each_mut(&self, key: &SessionKey, mut change: impl FnMut(&mut T)) {
        let mut shard = lock(&self.shards[shard_number::<N>(key)]);
        let entries: Vec<u32> = shard.index.iter_hash(hash(key)).copied().collect();
        for position in entries {
            if let Some(entry) = shard.get_mut(position).filter(|entry| entry.value.key() == key) {
                change(&mut entry.value);
            }
        }
    }

    /// Closes the registry to new entries and returns the slots of the existing ones.
    pub(super) fn close(&self) -> Vec<Slot> {
        for shard in &self.shards {
            lock(shard).is_closing = true;
        }
        self.slots()
    }

    /// Returns the slots of all entries. Each shard is locked in turn, so this is no snapshot of the whole.
    pub(super) fn slots(&self) -> Vec<Slot> {
        let mut slots = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let shard = lock(shard);
            let slot =
                |position: &u32| shard.get(*position).map(|entry| Slot::new(number, *position, entry.generation));
            slots.extend(shard.index.iter().filter_map(slot));
        }
        slots
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).index.is_empty())
    }

    /// Returns the measurements of each shard.
    #[cfg(test)]
    pub(super) fn holdings(&self) -> Vec<Holdings> {
        self.shards
            .iter()
            .map(|shard| {
                let shard = lock(shard);
                let looked_at = |position: &u32| shard.index.iter_hash(hash_at(&shard.chunks, *position)).count();
                Holdings {
                    entries: shard.index.len(),
                    chunks: shard.chunks.iter().filter(|chunk| chunk.entries.is_some()).count(),
                    index_capacity: shard.index.capacity(),
                    looked_at: shard.index.iter().map(looked_at).max().unwrap_or(0),
                }
            })
            .collect()
    }

    /// Returns whether the registry holds no more memory than a new one, after all shards have been shrunk.
    #[cfg(test)]
    pub(super) fn has_given_all_back(&self) -> bool {
        self.shards.iter().all(|shard| {
            let mut shard = lock(shard);
            shard.shrink();
            shard.chunks.capacity() == 0 && shard.index.capacity() == 0
        })
    }
}

impl<T> Default for Shard<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), first_with_room: 0, index: HashTable::new(), generation: 0, is_closing: false }
    }
}

impl<T: Keyed> Shard<T> {
    /// Adds a value and returns its position and generation. It takes the first free position, so that the last chunks
    /// become empty.
    fn insert(&mut self, value: T) -> (u32, u32) {
        let number = (self.first_with_room..self.chunks.len())
            .find(|number| self.chunks[*number].in_use != u32::MAX)
            .unwrap_or(self.chunks.len());
        self.first_with_room = number;
        if number == self.chunks.len() {
            self.chunks.push(Chunk { in_use: 0, entries: None });
        }
        let chunk = &mut self.chunks[number];
        let within = chunk.in_use.trailing_ones() as usize;
        let entries = chunk.entries.get_or_insert_with(|| Box::new([const { None }; CHUNK]));
        self.generation = self.generation.wrapping_add(1);
        let hash = hash(value.key());
        entries[within] = Some(Entry { generation: self.generation, value });
        chunk.in_use |= 1 << within;
        let position = u32::try_from(number * CHUNK + within).unwrap_or(u32::MAX);
        let chunks = &self.chunks;
        self.index.insert_unique(hash, position, |position| hash_at(chunks, *position));
        (position, self.generation)
    }

    fn remove(&mut self, position: u32) -> Option<T> {
        let (number, within) = (position as usize / CHUNK, position as usize % CHUNK);
        let chunk = self.chunks.get_mut(number)?;
        let entry = chunk.entries.as_mut()?[within].take()?;
        chunk.in_use &= !(1 << within);
        if chunk.in_use == 0 {
            chunk.entries = None;
        }
        self.first_with_room = self.first_with_room.min(number);
        if let Ok(indexed) = self.index.find_entry(hash(entry.value.key()), |indexed| *indexed == position) {
            indexed.remove();
        }
        if self.index.len() < self.index.capacity() / 8 {
            self.shrink();
        }
        Some(entry.value)
    }

    fn shrink(&mut self) {
        while self.chunks.last().is_some_and(|chunk| chunk.in_use == 0) {
            self.chunks.pop();
        }
        self.chunks.shrink_to_fit();
        self.first_with_room = self.first_with_room.min(self.chunks.len());
        let chunks = &self.chunks;
        self.index.shrink_to(self.index.len() * 2, |position| hash_at(chunks, *position));
    }

    fn get(&self, position: u32) -> Option<&Entry<T>> {
        self.chunks.get(position as usize / CHUNK)?.entries.as_ref()?[position as usize % CHUNK].as_ref()
    }

    fn get_mut(&mut self, position: u32) -> Option<&mut Entry<T>> {
        self.chunks.get_mut(position as usize / CHUNK)?.entries.as_mut()?[position as usize % CHUNK].as_mut()
    }
}

fn hash_at<T: Keyed>(chunks: &[Chunk<T>], position: u32) -> u64 {
    let entries = chunks[position as usize / CHUNK].entries.as_ref();
    entries.and_then(|entries| entries[position as usize % CHUNK].as_ref()).map_or(0, |entry| hash(entry.value.key()))
}

/// Returns the first eight bytes of a key. A key is a SHA-256 digest and need not be hashed again.
fn hash(key: &SessionKey) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = key.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Returns the shard of a key by a byte that `hash` does not use. Otherwise the hashes within a shard would have bits
/// in common.
fn shard_number<const N: usize>(key: &SessionKey) -> usize {
    usize::from(key.0[31]) % N
}

/// Locks a shard, even if a thread has panicked while it held the lock. The closures that may panic are given an entry
/// and never the shard's own fields, so these are consistent.
fn lock<T>(shard: &Mutex<Shard<T>>) -> MutexGuard<'_, Shard<T>> {
    shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
