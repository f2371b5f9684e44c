use super::registry::{Closing, Keyed, Registry, Retain, Slot};
use crate::session::SessionKey;

#[derive(Debug, PartialEq, Eq)]
struct Named(SessionKey, u32);

impl Keyed for Named {
    fn key(&self) -> &SessionKey {
        &self.0
    }
}

fn key(number: u32) -> SessionKey {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&u64::from(number).wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    key[31] = number.to_le_bytes()[0];
    SessionKey(key)
}

fn names(registry: &Registry<Named>, key: SessionKey) -> Vec<u32> {
    let mut names = Vec::new();
    registry.for_each(&key, |_, named| names.push(named.1));
    names.sort_unstable();
    names
}

#[test]
fn entries_are_found_by_key_and_slot_until_they_are_removed() {
    let registry = Registry::<Named>::default();
    let older = registry.insert(Named(key(1), 10)).unwrap();
    let newer = registry.insert(Named(key(1), 11)).unwrap();
    registry.insert(Named(key(2), 20)).unwrap();
    assert_eq!(names(&registry, key(1)), [10, 11]);
    assert_eq!(registry.update(older, |_| Retain::No), Some(Named(key(1), 10)));
    assert_eq!(registry.update(older, |_| unreachable!("it is gone")), None);
    assert_eq!(names(&registry, key(1)), [11]);
    assert_eq!(registry.update(newer, |_| Retain::Yes), None);
    assert_eq!(names(&registry, key(1)), [11]);
    assert_eq!(names(&registry, key(2)), [20]);
    assert_eq!(names(&registry, key(3)), [] as [u32; 0]);
}

#[test]
fn stale_slot_finds_no_later_entry() {
    let registry = Registry::<Named>::default();
    let first = registry.insert(Named(key(1), 1)).unwrap();
    registry.update(first, |_| Retain::No);
    let second = registry.insert(Named(key(1), 2)).unwrap();
    assert_ne!(first, second);
    assert_eq!(registry.update(first, |_| Retain::No), None);
    assert_eq!(names(&registry, key(1)), [2]);
    assert_eq!(Slot::from_token(second.to_token()), second);
}

#[test]
fn all_memory_is_freed_after_entries_are_removed_in_any_order() {
    let registry = Registry::<Named>::default();
    let mut slots = Vec::new();
    for round in 0..3 {
        for number in 0..5_000 {
            slots.push((number, registry.insert(Named(key(number), number)).unwrap()));
        }
        // A third of the entries stays for another round. The others are removed in the reverse order of their
        // insertion.
        let (stay, go): (Vec<_>, Vec<_>) = slots.drain(..).partition(|(number, _)| round < 2 && number % 3 == round);
        for (number, slot) in go.into_iter().rev() {
            assert_eq!(registry.update(slot, |_| Retain::No).map(|named| named.1), Some(number));
        }
        slots = stay;
        for (number, _) in &slots {
            assert!(names(&registry, key(*number)).contains(number));
        }
    }
    assert!(registry.is_empty() && registry.has_given_all_back());
}

#[test]
fn entries_are_spread_evenly_over_shards_and_packed_into_chunks() {
    let registry = Registry::<Named>::default();
    let mut slots: Vec<_> =
        (0..6400).map(|number| (number, registry.insert(Named(key(number), number)).unwrap())).collect();
    // Every second entry is replaced, so that the new ones take the free positions.
    for (number, slot) in &mut slots {
        if *number % 2 == 0 {
            registry.update(*slot, |_| Retain::No);
            *slot = registry.insert(Named(key(*number), *number)).unwrap();
        }
    }
    for shard in registry.holdings() {
        assert_eq!(shard.entries, 100, "a shard of 64");
        assert_eq!(shard.chunks, 4, "of 32 each");
        assert!(shard.looked_at < 20, "among {}", shard.looked_at);
    }
}

#[test]
fn index_shrinks_when_it_is_nearly_empty_and_not_before() {
    let registry = Registry::<Named, 1>::default();
    let mut slots: Vec<_> = (0..1000).map(|number| registry.insert(Named(key(number), number)).unwrap()).collect();
    let capacity = || registry.holdings()[0].index_capacity;
    let full = capacity();
    for slot in slots.drain(full / 8..) {
        registry.update(slot, |_| Retain::No);
        assert_eq!(capacity(), full);
    }
    registry.update(slots.pop().unwrap(), |_| Retain::No);
    assert!((2 * slots.len()..full / 2).contains(&capacity()), "{} of {full} for {}", capacity(), slots.len());
}

#[test]
fn close_returns_all_slots_and_refuses_new_entries() {
    let registry = Registry::<Named>::default();
    let mut entered: Vec<_> =
        (0..100).map(|number| registry.insert(Named(key(number), number)).unwrap().to_token()).collect();
    let mut closing: Vec<_> = registry.close().into_iter().map(Slot::to_token).collect();
    entered.sort_unstable();
    closing.sort_unstable();
    assert_eq!(entered, closing);
    assert_eq!(registry.insert(Named(key(200), 200)), Err(Closing));
}
