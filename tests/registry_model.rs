//! The registry's invariants, in every order in which threads can meet (`loom`): an entry goes once; a change that comes
//! while a browser arrives is not missed; of two connections of one session exactly one stays; and whoever comes while
//! the server closes is either refused or sent away.
//!
//! It is the registry itself, compiled here once more with loom's locks in place of the system's.

#[expect(dead_code, reason = "the hub's, of which the model needs only some")]
#[path = "../src/hub/registry.rs"]
mod registry;

mod sync {
    pub(super) use loom::sync::{Mutex, MutexGuard};
}

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;
use qrlogin::session::{self, SessionKey};
use registry::{Closing, Keyed, Registry, Retain, Slot};

const KEY: SessionKey = session::SessionKey([7; 32]);

/// One shard is enough: entries of different shards never meet.
type Model = Registry<Browser, 1>;

#[derive(Debug)]
struct Browser {
    order: usize,
    is_active: bool,
    /// The version that it has been told, or has noted while it arrives.
    version: usize,
    was_sent_away: bool,
}

impl Keyed for Browser {
    fn key(&self) -> &SessionKey {
        &KEY
    }
}

fn opening(order: usize) -> Browser {
    Browser { order, is_active: false, version: 0, was_sent_away: false }
}

/// As the hub does it: everybody who is up knows all who are up, and all but the newest go.
fn activate(registry: &Model, slot: Slot) {
    registry.update(slot, |browser| {
        browser.is_active = true;
        Retain::Yes
    });
    let mut active = Vec::new();
    registry.for_each(&KEY, |slot, browser| {
        if browser.is_active {
            active.push((browser.order, slot));
        }
    });
    let newest = active.iter().map(|(order, _)| *order).max();
    for (_, slot) in active.into_iter().filter(|(order, _)| Some(*order) != newest) {
        close_to_drain(registry, slot);
    }
}

fn close_to_drain(registry: &Model, slot: Slot) {
    registry.update(slot, |browser| {
        browser.was_sent_away = true;
        Retain::Yes
    });
}

fn all(registry: &Model) -> Vec<(usize, bool)> {
    let mut all = Vec::new();
    registry.for_each(&KEY, |_, browser| all.push((browser.order, browser.was_sent_away)));
    all.sort_unstable();
    all
}

#[test]
fn an_entry_goes_once_whoever_lets_it_go() {
    loom::model(|| {
        let registry = Arc::new(Model::default());
        let slot = registry.insert(opening(1)).unwrap();
        let gone = Arc::new(AtomicUsize::new(0));
        // Say, the browser hangs up while its time runs out.
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (registry, gone) = (registry.clone(), gone.clone());
                thread::spawn(move || {
                    if registry.update(slot, |_| Retain::No).is_some() {
                        gone.fetch_add(1, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        // Meanwhile somebody else takes the place that becomes free, or another.
        let later = registry.insert(opening(2)).unwrap();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(gone.load(Ordering::SeqCst), 1);
        assert_eq!(all(&registry), [(2, false)]);
        assert!(registry.update(later, |_| Retain::No).is_some());
        assert!(registry.is_empty());
    });
}

#[test]
fn a_change_that_comes_while_a_browser_arrives_is_not_missed() {
    loom::model(|| {
        let (registry, row) = (Arc::new(Model::default()), Arc::new(AtomicUsize::new(1)));
        let deciding = {
            let (registry, row) = (registry.clone(), row.clone());
            thread::spawn(move || {
                // Written first, announced second.
                row.store(2, Ordering::SeqCst);
                let mut slots = Vec::new();
                registry.for_each(&KEY, |slot, _| slots.push(slot));
                for slot in slots {
                    registry.update(slot, |browser| {
                        browser.version = browser.version.max(2);
                        Retain::Yes
                    });
                }
            })
        };
        // Entered first, read second.
        let slot = registry.insert(opening(1)).unwrap();
        let read = row.load(Ordering::SeqCst);
        registry.update(slot, |browser| {
            browser.version = browser.version.max(read);
            Retain::Yes
        });
        deciding.join().unwrap();
        registry.update(slot, |browser| {
            assert_eq!(browser.version, 2);
            Retain::Yes
        });
    });
}

#[test]
fn of_two_connections_that_come_up_together_the_older_goes() {
    loom::model(|| {
        let registry = Arc::new(Model::default());
        let (older, newer) = (registry.insert(opening(1)).unwrap(), registry.insert(opening(2)).unwrap());
        let other = {
            let registry = registry.clone();
            thread::spawn(move || activate(&registry, older))
        };
        activate(&registry, newer);
        other.join().unwrap();
        assert_eq!(all(&registry), [(1, true), (2, false)]);
    });
}

#[test]
fn whoever_comes_while_the_server_closes_is_refused_or_sent_away() {
    loom::model(|| {
        let (registry, is_closing) = (Arc::new(Model::default()), Arc::new(AtomicBool::new(false)));
        let closing = {
            let (registry, is_closing) = (registry.clone(), is_closing.clone());
            thread::spawn(move || {
                is_closing.store(true, Ordering::SeqCst);
                for slot in registry.close() {
                    // One that still arrives is not told yet.
                    registry.update(slot, |browser| {
                        browser.was_sent_away |= browser.is_active;
                        Retain::Yes
                    });
                }
            })
        };
        let entered = registry.insert(opening(1));
        if let Ok(slot) = entered {
            activate(&registry, slot);
            if is_closing.load(Ordering::SeqCst) {
                close_to_drain(&registry, slot);
            }
        }
        closing.join().unwrap();
        match entered {
            Ok(_) => assert_eq!(all(&registry), [(1, true)]),
            Err(Closing) => assert!(registry.is_empty()),
        }
    });
}
