//! A decision in the database of one node, which is written to a file.

use std::sync::Arc;

use criterion::{BatchSize, Criterion};
use qrlogin::internals::store::{Announcer, Changed, SessionSelector, SqliteStore, Store as _, Stored};
use qrlogin::internals::system::clock::Clock;
use qrlogin::internals::system::random;
use qrlogin::session::{Session, SessionId};
use tokio::runtime::Runtime;

use crate::session::{CODE, confirmation, pending, user};

/// An announcer without connections.
struct NoConnections;

impl Announcer for NoConnections {
    fn announce(&self, _: &Stored) {}
}

/// Confirms a session that is pending.
async fn confirm(store: &SqliteStore, session: &Session) {
    let transition = Arc::new(|session: &Session, now| session.decide(&user(), CODE, confirmation(now), now));
    match store.change(SessionSelector::Code(session.code), transition, Arc::new(NoConnections)).await {
        Ok(Changed::Done(committed)) => drop(committed.announce()),
        _ => panic!("the decision is written"),
    }
}

pub fn benchmarks(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = Runtime::new().expect("a runtime");
    let _within = runtime.enter();
    let clock = Clock::system();
    let url = format!("sqlite://{}", directory.path().join("store.db").display());
    let store = SqliteStore::open(&url, clock.clone()).expect("a store");
    let inserted = || {
        let session = pending(SessionId::from_random(random::bytes()).key(), clock.now());
        runtime.block_on(store.insert(&session)).expect("a new session");
        session
    };
    criterion.bench_function("store/sqlite_confirm", |bencher| {
        let confirm = |session: Session| runtime.block_on(confirm(&store, &session));
        bencher.iter_batched(inserted, confirm, BatchSize::SmallInput);
    });
    runtime.block_on(store.close());
}
