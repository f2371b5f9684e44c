//! Conformance suite of the `Store` trait, and tests of behaviour that only one of the stores has.

pub mod fixture;
mod postgres;
mod reader;
mod records;
mod sqlite;

use std::sync::Arc;

use futures_util::future::join_all;
use qrlogin::internals::store::{Ended, Store};
use qrlogin::internals::system::clock::Hands;
use qrlogin::session::{Cancellation, Confirmation, PhoneUser, Session, State};

use fixture::{CODE, Replaced, ann, confirmed, grant, new_session, replace, stepped, stored};
use qrlogin_testing::harness::START;
use qrlogin_testing::real_time::until;
use records::records_conform;

/// The clock that the store uses. It starts at [`START`], and the test moves it.
enum Time {
    /// A manual clock.
    Manual(Hands),
    /// Postgres's clock, in this database.
    Postgres(tokio_postgres::Client),
}

impl Time {
    async fn advance_millis(&self, millis: i64) {
        match self {
            Self::Manual(hands) => hands.advance_millis(millis),
            Self::Postgres(client) => {
                client
                    .execute("UPDATE qrlogin.test_time SET millis = millis + $1", &[&millis])
                    .await
                    .map(drop)
                    .unwrap();
            }
        }
    }
}

/// Checks what every store does.
async fn conforms(store: Arc<dyn Store>, time: &Time) {
    oldest_pending_sessions_of_the_largest_network_are_found(&*store).await;
    every_state_is_read_as_it_was_written(&*store).await;
    batch_is_read_without_missing_sessions(&*store).await;
    session_is_found_by_its_code(&*store).await;
    version_is_written_once(&store).await;
    nothing_is_written_over_another_version(&*store).await;
    records_conform(&store).await;
    store.ping().await.unwrap();
    store.maintain().await.unwrap();
    no_decision_is_written_from_the_deadline_on(&*store, time).await;
    ended_sessions_are_swept_in_batches(&*store, time).await;
}

async fn oldest_pending_sessions_of_the_largest_network_are_found(store: &dyn Store) {
    let before = store.largest_network(START, 1).await.unwrap().total_pending;
    let mut of_the_largest = Vec::new();
    // Each address has 4 sessions, so the IPv6 network has 12, more than either IPv4 address.
    for (index, ip) in ["192.0.2.7", "192.0.2.8", "2001:db8::1", "2001:db8::2", "2001:db8::3"].iter().enumerate() {
        for _ in 0..4 {
            let mut session = new_session();
            session.client.ip = (*ip).to_owned();
            // Sessions of later addresses are older.
            session.expires_at = START.plus_seconds(300).plus_millis(-i64::try_from(index).unwrap());
            store.insert(&session).await.unwrap();
            if ip.contains(':') {
                of_the_largest.push(session);
            }
        }
    }
    let largest = store.largest_network(START, 5).await.unwrap();
    assert_eq!(largest.total_pending, before + 20);
    assert_eq!(largest.oldest.len(), 5);
    assert!(largest.oldest[..4].iter().all(|session| session.client.ip == "2001:db8::3"));
    assert_eq!(largest.oldest[4].client.ip, "2001:db8::2");
    for session in &of_the_largest {
        let scanned = stepped(session.scan(&ann(), CODE, START));
        assert!(matches!(replace(store, &scanned).await, Replaced::Written(_)));
    }
    let largest = store.largest_network(START, 100).await.unwrap();
    assert_eq!(largest.total_pending, before + 8, "scanned sessions do not count");
    assert!(largest.oldest.iter().all(|session| !session.client.ip.contains(':')));
    assert_eq!(store.largest_network(START.plus_seconds(300), 1).await.unwrap().oldest, []);
}

async fn every_state_is_read_as_it_was_written(store: &dyn Store) {
    let pending = new_session();
    store.insert(&pending).await.unwrap();
    assert_eq!(stored(store, pending.key).await.as_ref(), Some(&pending));
    let scanned = stepped(pending.scan(&ann(), CODE, START));
    let confirmed = confirmed(&scanned, START);
    let claimed = stepped(confirmed.acknowledge(START));
    for next in [scanned, confirmed, claimed] {
        assert_eq!(replace(store, &next).await, Replaced::Written(None));
        assert_eq!(stored(store, next.key).await.as_ref(), Some(&next));
        let (now, settled) = store.read_settled(&[next.key]).await.unwrap();
        assert_eq!((now, settled), (START, vec![next]));
    }
    let cancelled = [Cancellation::Browser, Cancellation::Overload].map(State::Cancelled);
    for end in cancelled.into_iter().chain([State::Rejected(ann())]) {
        let pending = new_session();
        store.insert(&pending).await.unwrap();
        let ended = Session { version: 2, state: end, ..pending };
        assert_eq!(replace(store, &ended).await, Replaced::Written(None));
        assert_eq!(stored(store, ended.key).await, Some(ended));
    }
}

async fn batch_is_read_without_missing_sessions(store: &dyn Store) {
    let mut keys = vec![new_session().key];
    for _ in 0..1201 {
        let session = new_session();
        store.insert(&session).await.unwrap();
        keys.push(session.key);
    }
    assert_eq!(store.read(&keys).await.unwrap().len(), 1201);
    assert_eq!(store.read_settled(&keys).await.unwrap().1.len(), 1201);
    assert!(store.read(&[]).await.unwrap().is_empty());
}

async fn session_is_found_by_its_code(store: &dyn Store) {
    let session = new_session();
    store.insert(&session).await.unwrap();
    assert_eq!(store.find_by_code(&session.code).await.unwrap(), Some(session));
    assert_eq!(store.find_by_code(&new_session().code).await.unwrap(), None);
}

async fn version_is_written_once(store: &Arc<dyn Store>) {
    let session = new_session();
    store.insert(&session).await.unwrap();
    let writes = (0..20).map(|index| {
        let user = PhoneUser { id: format!("user {index}"), name: None, picture: None };
        let next = stepped(session.scan(&user, CODE, START));
        let store = store.clone();
        tokio::spawn(async move { (replace(&*store, &next).await, next) })
    });
    let done: Vec<_> = join_all(writes).await.into_iter().map(Result::unwrap).collect();
    let written: Vec<_> = done.into_iter().filter(|(replaced, _)| *replaced == Replaced::Written(None)).collect();
    assert_eq!(written.len(), 1);
    assert_eq!(stored(&**store, session.key).await.as_ref(), Some(&written[0].1));
}

async fn nothing_is_written_over_another_version(store: &dyn Store) {
    let session = new_session();
    let scanned = stepped(session.scan(&ann(), CODE, START));
    assert_eq!(replace(store, &scanned).await, Replaced::Stale, "the session does not exist");
    store.insert(&session).await.unwrap();
    let too_far = Session { version: 3, ..scanned.clone() };
    assert_eq!(replace(store, &too_far).await, Replaced::Stale);
    assert_eq!(replace(store, &scanned).await, Replaced::Written(None));
    assert_eq!(replace(store, &scanned).await, Replaced::Stale);
}

async fn no_decision_is_written_from_the_deadline_on(store: &dyn Store, time: &Time) {
    let [decided, late, unclaimed] = [new_session(), new_session(), new_session()];
    for session in [&decided, &late, &unclaimed] {
        store.insert(session).await.unwrap();
    }
    time.advance_millis(299_999).await;
    let now = START.plus_millis(299_999);
    let (just_in_time, too_late) = (confirmed(&decided, now), confirmed(&late, now));
    let never_claimed = confirmed(&unclaimed, now);
    assert_eq!(replace(store, &just_in_time).await, Replaced::Written(None));
    assert_eq!(replace(store, &never_claimed).await, Replaced::Written(None));
    time.advance_millis(1).await;
    assert_eq!(replace(store, &too_late).await, Replaced::Stale, "decided in time, written too late");
    let (now, settled) = store.read_settled(&[late.key]).await.unwrap();
    assert_eq!((now, settled), (START.plus_seconds(300), vec![late]));
    // An acknowledgement is accepted until the end of the claim period, which is past the session's deadline.
    time.advance_millis(59_998).await;
    assert_eq!(replace(store, &stepped(just_in_time.acknowledge(now))).await, Replaced::Written(None));
    time.advance_millis(1).await;
    assert_eq!(replace(store, &stepped(never_claimed.acknowledge(now))).await, Replaced::Stale);
}

async fn ended_sessions_are_swept_in_batches(store: &dyn Store, time: &Time) {
    // Remove what earlier checks have left.
    time.advance_millis(10_000_000).await;
    let now = START.plus_seconds(10_360);
    until("all that has ended is swept", async || store.sweep(now, 1000).await.unwrap().is_empty()).await;

    let until = |seconds| Session { expires_at: now.plus_seconds(seconds), ..new_session() };
    let (expired, settled, unclaimed, living) = (until(1), until(1), until(1), until(100));
    for session in [&expired, &settled, &unclaimed, &living] {
        store.insert(session).await.unwrap();
    }
    let confirmation = Confirmation {
        by: ann(),
        decided_at: now,
        claimable_until: now.plus_seconds(60),
        grant: grant(),
        claimed: false,
    };
    let confirmed = Session { version: 2, state: State::Confirmed(confirmation), ..unclaimed };
    let rejected = Session { version: 2, state: State::Rejected(ann()), ..settled };
    for next in [confirmed, rejected] {
        assert_eq!(replace(store, &next).await, Replaced::Written(None));
    }
    let expired_before = now.plus_seconds(2);
    let mut ended = store.sweep(expired_before, 2).await.unwrap();
    assert_eq!(ended.len(), 2, "a batch");
    ended.extend(store.sweep(expired_before, 2).await.unwrap());
    ended.sort_by_key(|ended| format!("{ended:?}"));
    assert_eq!(ended, [Ended::Expired, Ended::Settled, Ended::Unclaimed]);
    assert!(store.sweep(expired_before, 2).await.unwrap().is_empty());
    assert_eq!(stored(store, living.key).await, Some(living));
}
