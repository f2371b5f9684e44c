use super::registry::{Closing, Fate, Keyed, Place, Registry};
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
    registry.each_of(&key, |_, named| names.push(named.1));
    names.sort_unstable();
    names
}

#[test]
fn entries_are_found_by_key_and_slot_until_they_are_removed() {
    let registry = Registry::<Named>::default();
    let older = registry.enter(Named(key(1), 10)).unwrap();
    let newer = registry.enter(Named(key(1), 11)).unwrap();
    registry.enter(Named(key(2), 20)).unwrap();
    assert_eq!(names(&registry, key(1)), [10, 11]);
    assert_eq!(registry.at(older, |_| Fate::Goes), Some(Named(key(1), 10)));
    assert_eq!(registry.at(older, |_| unreachable!("it is gone")), None);
    assert_eq!(names(&registry, key(1)), [11]);
    assert_eq!(registry.at(newer, |_| Fate::Stays), None);
    assert_eq!(names(&registry, key(1)), [11]);
    assert_eq!(names(&registry, key(2)), [20]);
    assert_eq!(names(&registry, key(3)), [] as [u32; 0]);
}

#[test]
fn a_stale_slot_finds_no_later_entry() {
    let registry = Registry::<Named>::default();
    let first = registry.enter(Named(key(1), 1)).unwrap();
    registry.at(first, |_| Fate::Goes);
    let second = registry.enter(Named(key(1), 2)).unwrap();
    assert_ne!(first, second);
    assert_eq!(registry.at(first, |_| Fate::Goes), None);
    assert_eq!(names(&registry, key(1)), [2]);
    assert_eq!(Place::from_token(second.to_token()), second);
}

#[test]
fn all_memory_is_freed_after_entries_are_removed_in_any_order() {
    let registry = Registry::<Named>::default();
    let mut places = Vec::new();
    for round in 0..3 {
        for number in 0..5_000 {
            places.push((number, registry.enter(Named(key(number), number)).unwrap()));
        }
        // A third of the entries stays for another round. The others are removed in the reverse order of their
        // insertion.
        let (stay, go): (Vec<_>, Vec<_>) = places.drain(..).partition(|(number, _)| round < 2 && number % 3 == round);
        for (number, place) in go.into_iter().rev() {
            assert_eq!(registry.at(place, |_| Fate::Goes).map(|named| named.1), Some(number));
        }
        places = stay;
        for (number, _) in &places {
            assert!(names(&registry, key(*number)).contains(number));
        }
    }
    assert!(registry.is_empty() && registry.has_given_all_back());
}

#[test]
fn entries_are_spread_evenly_over_shards_and_packed_into_chunks() {
    let registry = Registry::<Named>::default();
    let mut places: Vec<_> =
        (0..6400).map(|number| (number, registry.enter(Named(key(number), number)).unwrap())).collect();
    // Every second entry is replaced, so that the new ones take the free positions.
    for (number, place) in &mut places {
        if *number % 2 == 0 {
            registry.at(*place, |_| Fate::Goes);
            *place = registry.enter(Named(key(*number), *number)).unwrap();
        }
    }
    for shard in registry.holdings() {
        assert_eq!(shard.entries, 100, "a shard of 64");
        assert_eq!(shard.chunks, 4, "of 32 each");
        assert!(shard.looked_at < 20, "among {}", shard.looked_at);
    }
}

#[test]
fn the_index_shrinks_when_it_is_nearly_empty_and_not_before() {
    let registry = Registry::<Named, 1>::default();
    let mut places: Vec<_> = (0..1000).map(|number| registry.enter(Named(key(number), number)).unwrap()).collect();
    let capacity = || registry.holdings()[0].index_capacity;
    let full = capacity();
    for place in places.drain(full / 8..) {
        registry.at(place, |_| Fate::Goes);
        assert_eq!(capacity(), full);
    }
    registry.at(places.pop().unwrap(), |_| Fate::Goes);
    assert!((2 * places.len()..full / 2).contains(&capacity()), "{} of {full} for {}", capacity(), places.len());
}

#[test]
fn close_returns_all_slots_and_refuses_new_entries() {
    let registry = Registry::<Named>::default();
    let mut entered: Vec<_> =
        (0..100).map(|number| registry.enter(Named(key(number), number)).unwrap().to_token()).collect();
    let mut closing: Vec<_> = registry.close().into_iter().map(Place::to_token).collect();
    entered.sort_unstable();
    closing.sort_unstable();
    assert_eq!(entered, closing);
    assert_eq!(registry.enter(Named(key(200), 200)), Err(Closing));
}
