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
    key[..4].copy_from_slice(&number.wrapping_mul(0x9E37_79B9).to_le_bytes());
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
fn an_entry_is_found_by_its_key_and_at_its_place_until_it_goes_once() {
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
fn whoever_comes_later_is_never_found_at_an_earlier_place() {
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
fn thousands_come_and_go_in_any_order_and_nothing_is_left() {
    let registry = Registry::<Named>::default();
    let mut places = Vec::new();
    for round in 0..3 {
        for number in 0..5_000 {
            places.push((number, registry.enter(Named(key(number), number)).unwrap()));
        }
        // Every third stays for another round; of the others, the later ones go first.
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
fn a_registry_that_closes_names_all_who_are_there_and_takes_no_more() {
    let registry = Registry::<Named>::default();
    let mut entered: Vec<_> =
        (0..100).map(|number| registry.enter(Named(key(number), number)).unwrap().to_token()).collect();
    let mut closing: Vec<_> = registry.close().into_iter().map(Place::to_token).collect();
    entered.sort_unstable();
    closing.sort_unstable();
    assert_eq!(entered, closing);
    assert_eq!(registry.enter(Named(key(200), 200)), Err(Closing));
}
