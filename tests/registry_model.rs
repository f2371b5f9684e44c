//! The registry's invariants, model-checked in every interleaving of its threads (`loom`):
//!
//! - An entry is removed once.
//! - A change during an arrival is not missed.
//! - One of two connections of a session remains.
//! - A connection that arrives during the close is refused or drained.
//!
//! The model is the registry itself, compiled here once more with loom's locks in place of the system's.

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
    /// Latest version that was delivered, or noted during the arrival.
    version: usize,
    is_drained: bool,
}

impl Keyed for Browser {
    fn key(&self) -> &SessionKey {
        &KEY
    }
}

fn opening(order: usize) -> Browser {
    Browser { order, is_active: false, version: 0, is_drained: false }
}

/// Activates a connection and closes all active connections but the newest, as the hub does.
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
        browser.is_drained = true;
        Retain::Yes
    });
}

fn all(registry: &Model) -> Vec<(usize, bool)> {
    let mut all = Vec::new();
    registry.for_each(&KEY, |_, browser| all.push((browser.order, browser.is_drained)));
    all.sort_unstable();
    all
}

#[test]
fn entry_is_removed_once_by_concurrent_removals() {
    loom::model(|| {
        let registry = Arc::new(Model::default());
        let slot = registry.insert(opening(1)).unwrap();
        let gone = Arc::new(AtomicUsize::new(0));
        // For example, the browser disconnects at the deadline of its session.
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
        // Meanwhile, another entry is inserted into the slot that becomes free, or into another slot.
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
fn change_during_an_arrival_is_not_missed() {
    loom::model(|| {
        let (registry, row) = (Arc::new(Model::default()), Arc::new(AtomicUsize::new(1)));
        let deciding = {
            let (registry, row) = (registry.clone(), row.clone());
            thread::spawn(move || {
                // The row is written before the change is announced.
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
        // The connection is registered before the row is read.
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
fn older_of_two_concurrent_connections_is_superseded() {
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
fn arrival_during_the_close_is_refused_or_drained() {
    loom::model(|| {
        let (registry, is_closing) = (Arc::new(Model::default()), Arc::new(AtomicBool::new(false)));
        let closing = {
            let (registry, is_closing) = (registry.clone(), is_closing.clone());
            thread::spawn(move || {
                is_closing.store(true, Ordering::SeqCst);
                for slot in registry.close() {
                    // A connection that still arrives is closed when it becomes active.
                    registry.update(slot, |browser| {
                        browser.is_drained |= browser.is_active;
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
