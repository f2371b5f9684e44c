//! What every store does. A second store runs the same suite.

use std::sync::Arc;

use futures_util::future::join_all;
use qrlogin::clock::{Clock, Hands};
use qrlogin::random;
use qrlogin::session::{
    Client, Confirmation, Grant, PhoneUser, Session, SessionId, SessionKey, State, Step, Timestamp,
};
use qrlogin::store::{Ended, Replaced, SqliteStore, Store};
use serde_json::{Map, json};

use crate::harness::START;

fn ann() -> PhoneUser {
    PhoneUser {
        id: "ann".into(), name: Some("Ann Ä. 安".into()), picture: Some("https://example.com/ann.png".into())
    }
}

fn grant() -> Grant {
    Grant {
        kid: "kid".into(),
        jti: "jti".into(),
        iss: "iss".into(),
        sub: "ann".into(),
        aud: "aud".into(),
        iat: 1,
        exp: 2,
        claims: Map::from_iter([("roles".to_owned(), json!(["a", { "b": 1.5 }]))]),
    }
}

fn new_session() -> Session {
    let id = SessionId::from_random(random::bytes());
    Session {
        key: id.key(),
        code: id.code().key(),
        version: 1,
        created_at: START,
        expires_at: START.plus_seconds(300),
        client: Client {
            ip: "192.0.2.1".into(),
            browser: Some("Firefox 143".into()),
            os: None,
            origin: Some("https://example.com".into()),
            client_info: Some("'; DROP TABLE sessions; --".into()),
        },
        state: State::Pending,
    }
}

fn stepped(step: Result<Step, qrlogin::session::Refusal>) -> Session {
    match step.unwrap() {
        Step::To(session) => session,
        Step::Repeated => panic!("a change was expected"),
    }
}

fn confirmed(session: &Session, now: Timestamp) -> Session {
    let decision = qrlogin::session::Decision::Confirm { grant: grant(), claimable_until: now.plus_seconds(60) };
    stepped(session.decide(&ann(), decision, now))
}

async fn stored(store: &dyn Store, key: SessionKey) -> Option<Session> {
    store.read(&[key]).await.unwrap().pop()
}

/// The suite. `hands` move the clock that the store was opened with, which stands at [`START`].
async fn conforms(store: Arc<dyn Store>, hands: &Hands) {
    every_state_comes_back_as_it_was_written(&*store).await;
    many_are_read_at_once_and_the_missing_left_out(&*store).await;
    a_code_finds_its_session(&*store).await;
    a_version_is_written_once(&store).await;
    nothing_is_written_over_another_version(&*store).await;
    store.ping().await.unwrap();
    store.tidy().await.unwrap();
    nothing_is_decided_from_the_deadline_on(&*store, hands).await;
    the_ended_are_swept_in_batches(&*store, hands).await;
}

async fn every_state_comes_back_as_it_was_written(store: &dyn Store) {
    let pending = new_session();
    store.insert(&pending).await.unwrap();
    assert_eq!(stored(store, pending.key).await.as_ref(), Some(&pending));
    let scanned = stepped(pending.scan(&ann(), START));
    let confirmed = confirmed(&scanned, START);
    let claimed = stepped(confirmed.claim(START));
    for next in [scanned, confirmed, claimed] {
        assert_eq!(store.replace(&next).await.unwrap(), Replaced::Written);
        assert_eq!(stored(store, next.key).await.as_ref(), Some(&next));
        let (now, settled) = store.read_settled(&[next.key]).await.unwrap();
        assert_eq!((now, settled), (START, vec![next]));
    }
    for end in [State::Cancelled, State::Rejected(ann())] {
        let pending = new_session();
        store.insert(&pending).await.unwrap();
        let ended = Session { version: 2, state: end, ..pending };
        assert_eq!(store.replace(&ended).await.unwrap(), Replaced::Written);
        assert_eq!(stored(store, ended.key).await, Some(ended));
    }
}

async fn many_are_read_at_once_and_the_missing_left_out(store: &dyn Store) {
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

async fn a_code_finds_its_session(store: &dyn Store) {
    let session = new_session();
    store.insert(&session).await.unwrap();
    assert_eq!(store.find_by_code(&session.code).await.unwrap(), Some(session));
    assert_eq!(store.find_by_code(&new_session().code).await.unwrap(), None);
}

async fn a_version_is_written_once(store: &Arc<dyn Store>) {
    let session = new_session();
    store.insert(&session).await.unwrap();
    let writes = (0..20).map(|index| {
        let user = PhoneUser { id: format!("user {index}"), name: None, picture: None };
        let next = stepped(session.scan(&user, START));
        let store = store.clone();
        tokio::spawn(async move { (store.replace(&next).await.unwrap(), next) })
    });
    let done: Vec<_> = join_all(writes).await.into_iter().map(Result::unwrap).collect();
    let written: Vec<_> = done.into_iter().filter(|(replaced, _)| *replaced == Replaced::Written).collect();
    assert_eq!(written.len(), 1);
    assert_eq!(stored(&**store, session.key).await.as_ref(), Some(&written[0].1));
}

async fn nothing_is_written_over_another_version(store: &dyn Store) {
    let session = new_session();
    let scanned = stepped(session.scan(&ann(), START));
    assert_eq!(store.replace(&scanned).await.unwrap(), Replaced::Stale, "it is not there");
    store.insert(&session).await.unwrap();
    let too_far = Session { version: 3, ..scanned.clone() };
    assert_eq!(store.replace(&too_far).await.unwrap(), Replaced::Stale);
    assert_eq!(store.replace(&scanned).await.unwrap(), Replaced::Written);
    assert_eq!(store.replace(&scanned).await.unwrap(), Replaced::Stale);
}

async fn nothing_is_decided_from_the_deadline_on(store: &dyn Store, hands: &Hands) {
    let [decided, late, unclaimed] = [new_session(), new_session(), new_session()];
    for session in [&decided, &late, &unclaimed] {
        store.insert(session).await.unwrap();
    }
    hands.advance_millis(299_999);
    let now = START.plus_millis(299_999);
    let (just_in_time, too_late) = (confirmed(&decided, now), confirmed(&late, now));
    let never_claimed = confirmed(&unclaimed, now);
    assert_eq!(store.replace(&just_in_time).await.unwrap(), Replaced::Written);
    assert_eq!(store.replace(&never_claimed).await.unwrap(), Replaced::Written);
    hands.advance_millis(1);
    assert_eq!(store.replace(&too_late).await.unwrap(), Replaced::Stale, "decided in time, written too late");
    let (now, settled) = store.read_settled(&[late.key]).await.unwrap();
    assert_eq!((now, settled), (START.plus_seconds(300), vec![late]));
    // A receipt has until the claim's end, which lies past the session's.
    hands.advance_millis(59_998);
    assert_eq!(store.replace(&stepped(just_in_time.claim(now))).await.unwrap(), Replaced::Written);
    hands.advance_millis(1);
    assert_eq!(store.replace(&stepped(never_claimed.claim(now))).await.unwrap(), Replaced::Stale);
}

async fn the_ended_are_swept_in_batches(store: &dyn Store, hands: &Hands) {
    // Whatever is there from before.
    hands.advance_seconds(10_000);
    let now = START.plus_seconds(10_360);
    while !store.sweep(now, 1000).await.unwrap().is_empty() {}

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
        assert_eq!(store.replace(&next).await.unwrap(), Replaced::Written);
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

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hands) = Clock::manual(START);
    let url = format!("sqlite://{}", dir.path().join("conformance.db").display());
    let store = Arc::new(SqliteStore::open(&url, clock).unwrap());
    conforms(store.clone(), &hands).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_keeps_what_it_was_given_and_shows_it_to_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kept.db");
    let url = format!("sqlite://{}", path.display());
    let session = new_session();
    for round in 0..2 {
        let store = SqliteStore::open(&url, Clock::manual(START).0).unwrap();
        if round == 0 {
            store.insert(&session).await.unwrap();
        }
        assert_eq!(stored(&store, session.key).await.as_ref(), Some(&session));
        store.close().await;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlites_log_stays_small_while_somebody_always_writes() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("busy.db").display());
    let store = Arc::new(SqliteStore::open(&url, Clock::manual(START).0).unwrap());
    let writers = join_all((0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..800 {
                store.insert(&new_session()).await.unwrap();
            }
        })
    }));
    let tidying = async {
        loop {
            store.tidy().await.unwrap();
        }
    };
    tokio::select! {
        written = writers => assert!(written.iter().all(Result::is_ok)),
        () = tidying => unreachable!("there is always something to tidy"),
    }
    let log_bytes = std::fs::metadata(dir.path().join("busy.db-wal")).unwrap().len();
    assert!(log_bytes < 48 * 1024 * 1024, "{log_bytes} bytes");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_opened_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let nonsense = dir.path().join("nonsense.db");
    std::fs::write(&nonsense, "this is not a database, although it is long enough to be looked at ".repeat(100))
        .unwrap();
    for (url, part) in [
        (format!("sqlite://{}/missing/x.db", dir.path().display()), "missing/x.db"),
        (format!("sqlite://{}", dir.path().display()), "database_url"),
        (format!("sqlite://{}", nonsense.display()), "nonsense.db"),
        ("postgres://localhost/x".to_owned(), "sqlite://FILE"),
        ("sqlite://:memory:".to_owned(), "sqlite://FILE"),
    ] {
        let error = SqliteStore::open(&url, Clock::system()).err().unwrap().to_string();
        assert!(error.starts_with("database_url: ") && error.contains(part), "{error}");
    }
}
