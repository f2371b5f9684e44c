//! Who waits for which session: sharded by the session's key, no lock held across a wait.
//!
//! An entry costs what it holds, about ten bytes of index, and its share of a chunk. Chunks are of one size, and given
//! back when they are empty, so the cost grows evenly and shrinks again.
//!
//! This file is compiled once more in `tests/registry_model.rs`, where `loom` runs it through every order in which
//! threads can meet; so its locks come from the module above.

use hashbrown::HashTable;

use super::sync::{Mutex, MutexGuard};
use crate::session::SessionKey;

/// Enough that two threads seldom meet; keys are SHA-256, so any byte of them spreads evenly.
const SHARDS: usize = 64;
/// Entries in a chunk: as many as the bits of its map of those in use.
const CHUNK: usize = u32::BITS as usize;
const SLOT_BITS: u32 = 24;

/// Where an entry is, for as long as it is there: no later entry is ever found at the place of an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place(u64);

impl Place {
    const fn new(shard: usize, slot: u32, generation: u32) -> Self {
        Self((shard as u64) << (SLOT_BITS + u32::BITS) | (slot as u64) << u32::BITS | generation as u64)
    }

    /// As a number, for the system to give back.
    #[expect(clippy::cast_possible_truncation, reason = "a server of a million sockets has 64 bits")]
    pub(super) const fn to_token(self) -> usize {
        self.0 as usize
    }

    pub(super) const fn from_token(token: usize) -> Self {
        Self(token as u64)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the parts that were put together")]
    const fn parts(self) -> (usize, u32, u32) {
        let slot = (self.0 >> u32::BITS) as u32 & ((1 << SLOT_BITS) - 1);
        ((self.0 >> (SLOT_BITS + u32::BITS)) as usize, slot, self.0 as u32)
    }
}

/// What has a session's key.
pub(super) trait Keyed {
    fn key(&self) -> &SessionKey;
}

/// What becomes of an entry after it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    Goes,
}

/// Nobody new is taken.
#[derive(Debug, PartialEq, Eq)]
pub struct Closing;

pub(super) struct Registry<T, const N: usize = SHARDS> {
    shards: [Mutex<Shard<T>>; N],
}

struct Shard<T> {
    chunks: Vec<Chunk<T>>,
    /// Before this chunk, none has a place that is free.
    first_with_room: usize,
    /// Slots by key. Almost always one entry a key: more than one only while a newer takes over from an older.
    index: HashTable<u32>,
    generation: u32,
    is_closing: bool,
}

/// What a shard holds, and how many entries one is looked for among, at most.
#[cfg(test)]
pub(super) struct Holdings {
    pub(super) entries: usize,
    pub(super) chunks: usize,
    pub(super) index_capacity: usize,
    pub(super) looked_at: usize,
}

struct Chunk<T> {
    in_use: u32,
    slots: Option<Box<[Option<Entry<T>>; CHUNK]>>,
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
    /// Enters `value` under its key.
    pub(super) fn enter(&self, value: T) -> Result<Place, Closing> {
        let number = shard_number::<N>(value.key());
        let mut shard = lock(&self.shards[number]);
        if shard.is_closing {
            return Err(Closing);
        }
        let (slot, generation) = shard.insert(value);
        Ok(Place::new(number, slot, generation))
    }

    /// Looks at the entry at this place, if it is still there. One that goes is handed back, so that it is dropped
    /// outside of the lock.
    pub(super) fn at(&self, place: Place, look: impl FnOnce(&mut T) -> Fate) -> Option<T> {
        self.at_among(place, |_| {}, look)
    }

    /// As [`Registry::at`]. Before it looks at the entry, it shows `other` all other entries of the same key, under the
    /// same lock: what `look` decides by them is still true when it acts.
    pub(super) fn at_among(
        &self,
        place: Place,
        mut other: impl FnMut(&T),
        look: impl FnOnce(&mut T) -> Fate,
    ) -> Option<T> {
        let (number, slot, generation) = place.parts();
        let mut shard = lock(self.shards.get(number)?);
        let entry = shard.get(slot).filter(|entry| entry.generation == generation)?;
        let key = entry.value.key();
        for another in shard.index.iter_hash(hash(key)).filter(|another| **another != slot) {
            if let Some(entry) = shard.get(*another).filter(|entry| entry.value.key() == key) {
                other(&entry.value);
            }
        }
        let entry = shard.get_mut(slot)?;
        if look(&mut entry.value) == Fate::Stays {
            return None;
        }
        shard.remove(slot)
    }

    /// Looks at all entries of this key.
    pub(super) fn each_of(&self, key: &SessionKey, mut look: impl FnMut(Place, &T)) {
        let number = shard_number::<N>(key);
        let shard = lock(&self.shards[number]);
        for slot in shard.index.iter_hash(hash(key)) {
            if let Some(entry) = shard.get(*slot).filter(|entry| entry.value.key() == key) {
                look(Place::new(number, *slot, entry.generation), &entry.value);
            }
        }
    }

    /// Changes all entries of this key.
    pub(super) fn each_of_mut(&self, key: &SessionKey, mut change: impl FnMut(&mut T)) {
        let mut shard = lock(&self.shards[shard_number::<N>(key)]);
        let slots: Vec<u32> = shard.index.iter_hash(hash(key)).copied().collect();
        for slot in slots {
            if let Some(entry) = shard.get_mut(slot).filter(|entry| entry.value.key() == key) {
                change(&mut entry.value);
            }
        }
    }

    /// From here on nobody is entered. The places of all who are there.
    pub(super) fn close(&self) -> Vec<Place> {
        for shard in &self.shards {
            lock(shard).is_closing = true;
        }
        self.places()
    }

    /// Returns the places of all entries, one shard after the other.
    pub(super) fn places(&self) -> Vec<Place> {
        let mut places = Vec::new();
        for (number, shard) in self.shards.iter().enumerate() {
            let shard = lock(shard);
            let place = |slot: &u32| shard.get(*slot).map(|entry| Place::new(number, *slot, entry.generation));
            places.extend(shard.index.iter().filter_map(place));
        }
        places
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).index.is_empty())
    }

    /// What each shard holds.
    #[cfg(test)]
    pub(super) fn holdings(&self) -> Vec<Holdings> {
        self.shards
            .iter()
            .map(|shard| {
                let shard = lock(shard);
                let looked_at = |slot: &u32| shard.index.iter_hash(hash_at(&shard.chunks, *slot)).count();
                Holdings {
                    entries: shard.index.len(),
                    chunks: shard.chunks.iter().filter(|chunk| chunk.slots.is_some()).count(),
                    index_capacity: shard.index.capacity(),
                    looked_at: shard.index.iter().map(looked_at).max().unwrap_or(0),
                }
            })
            .collect()
    }

    /// Whether it holds no more memory than a new one, once everything that may be given back is.
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
    /// The lowest free slot is taken, so that the highest chunks empty.
    fn insert(&mut self, value: T) -> (u32, u32) {
        let number = (self.first_with_room..self.chunks.len())
            .find(|number| self.chunks[*number].in_use != u32::MAX)
            .unwrap_or(self.chunks.len());
        self.first_with_room = number;
        if number == self.chunks.len() {
            self.chunks.push(Chunk { in_use: 0, slots: None });
        }
        let chunk = &mut self.chunks[number];
        let within = chunk.in_use.trailing_ones() as usize;
        let slots = chunk.slots.get_or_insert_with(|| Box::new([const { None }; CHUNK]));
        self.generation = self.generation.wrapping_add(1);
        let hash = hash(value.key());
        slots[within] = Some(Entry { generation: self.generation, value });
        chunk.in_use |= 1 << within;
        let slot = u32::try_from(number * CHUNK + within).unwrap_or(u32::MAX);
        let chunks = &self.chunks;
        self.index.insert_unique(hash, slot, |slot| hash_at(chunks, *slot));
        (slot, self.generation)
    }

    fn remove(&mut self, slot: u32) -> Option<T> {
        let (number, within) = (slot as usize / CHUNK, slot as usize % CHUNK);
        let chunk = self.chunks.get_mut(number)?;
        let entry = chunk.slots.as_mut()?[within].take()?;
        chunk.in_use &= !(1 << within);
        if chunk.in_use == 0 {
            chunk.slots = None;
        }
        self.first_with_room = self.first_with_room.min(number);
        if let Ok(indexed) = self.index.find_entry(hash(entry.value.key()), |indexed| *indexed == slot) {
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
        self.index.shrink_to(self.index.len() * 2, |slot| hash_at(chunks, *slot));
    }

    fn get(&self, slot: u32) -> Option<&Entry<T>> {
        self.chunks.get(slot as usize / CHUNK)?.slots.as_ref()?[slot as usize % CHUNK].as_ref()
    }

    fn get_mut(&mut self, slot: u32) -> Option<&mut Entry<T>> {
        self.chunks.get_mut(slot as usize / CHUNK)?.slots.as_mut()?[slot as usize % CHUNK].as_mut()
    }
}

fn hash_at<T: Keyed>(chunks: &[Chunk<T>], slot: u32) -> u64 {
    let slots = chunks[slot as usize / CHUNK].slots.as_ref();
    slots.and_then(|slots| slots[slot as usize % CHUNK].as_ref()).map_or(0, |entry| hash(entry.value.key()))
}

/// A key is a hash already.
fn hash(key: &SessionKey) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = key.0;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// Of a byte that the hash leaves out: else all of one shard would share bits of their hash.
fn shard_number<const N: usize>(key: &SessionKey) -> usize {
    usize::from(key.0[31]) % N
}

/// A panic under the lock cannot leave a shard half changed: nothing that can panic stands between its changes.
fn lock<T>(shard: &Mutex<Shard<T>>) -> MutexGuard<'_, Shard<T>> {
    shard.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
