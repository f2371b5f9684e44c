//! Conformance suite of the `Store` trait, and tests of what only one of the stores does.

use std::sync::{Arc, Mutex};

use futures_util::future::join_all;
use qrlogin::internals::cluster::node::{NodeName, Notification, Waits};
use qrlogin::internals::postgres::Postgres;
use qrlogin::internals::store::{
    Announcer, Attached, Changed, Ended, PostgresSetup, PostgresStore, SessionSelector, SqliteStore, Store, Stored,
    Undelivered,
};
use qrlogin::internals::system::clock::{Clock, Hands};
use qrlogin::internals::system::random;
use qrlogin::session::{
    Cancellation, Client, Confirmation, Grant, PhoneUser, Presented, Refusal, Rotation, Session, SessionId, SessionKey,
    State, Step, Timestamp,
};
use serde_json::{Map, json};

use qrlogin_testing::harness::START;
use qrlogin_testing::real_time::until;
use qrlogin_testing::services;
use qrlogin_testing::test;

/// A code of a session whose codes do not rotate.
pub const CODE: Presented = Presented { period: 0, rotation: Rotation::NONE };

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
        code: id.key().code_key(),
        version: 1,
        created_at: START,
        expires_at: START.plus_seconds(300),
        scanned_at: None,
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
    let decision = qrlogin::session::Decision::Confirm {
        grant: grant(),
        claimable_until: now.plus_seconds(60),
        number_matches: None,
    };
    stepped(session.decide(&ann(), CODE, decision, now))
}

/// Result of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replaced {
    /// The session is stored. Holds the node at which its browser waits, if there is one.
    Written(Option<Waits>),
    /// Nothing was written.
    Stale,
}

/// An announcer that records what it announces.
#[derive(Default)]
pub struct Heard(pub Mutex<Vec<Stored>>);

impl Announcer for Heard {
    fn announce(&self, stored: &Stored) {
        self.0.lock().unwrap().push(stored.clone());
    }
}

/// Writes `next` if the store has the version before it.
pub async fn replace(store: &(impl Store + ?Sized), next: &Session) -> Replaced {
    let (heard, next) = (Arc::new(Heard::default()), next.clone());
    let key = next.key;
    let over = next.version - 1;
    let transition = move |found: &Session, _| {
        if found.version == over { Ok(Step::To(next.clone())) } else { Err(Refusal::AlreadyDecided) }
    };
    match store.change(SessionSelector::Key(key), Arc::new(transition), heard.clone()).await.unwrap() {
        Changed::Done(committed) => {
            committed.announce().unwrap();
            let [stored] = &heard.0.lock().unwrap()[..] else { panic!("announced once") };
            assert!(stored.is_new);
            Replaced::Written(stored.waits.clone())
        }
        Changed::Refused(..) | Changed::Missing => Replaced::Stale,
        Changed::Contended => panic!("no other write happens"),
    }
}

async fn stored(store: &dyn Store, key: SessionKey) -> Option<Session> {
    store.read(&[key]).await.unwrap().pop()
}

/// The clock that the store uses. It starts at [`START`], and the test moves it.
enum Time {
    Ours(Hands),
    /// Postgres's clock, in this database.
    Theirs(tokio_postgres::Client),
}

impl Time {
    async fn advance_millis(&self, millis: i64) {
        match self {
            Self::Ours(hands) => hands.advance_millis(millis),
            Self::Theirs(client) => {
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
    let given_up = [Cancellation::Browser, Cancellation::Overload].map(State::Cancelled);
    for end in given_up.into_iter().chain([State::Rejected(ann())]) {
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

#[test]
async fn sqlite_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let (clock, hands) = Clock::manual(START);
    let url = format!("sqlite://{}", dir.path().join("conformance.db").display());
    let store = Arc::new(SqliteStore::open(&url, clock).unwrap());
    conforms(store.clone(), &Time::Ours(hands)).await;
    store.close().await;
}

/// Opens the store of a new node on this database.
async fn node(url: &str) -> (NodeName, PostgresStore) {
    let node = NodeName::random();
    let setup =
        PostgresSetup { node: node.clone(), clock: Clock::shared(), max_connections: 4, sends_notifications: true };
    (node, PostgresStore::open(&Postgres::parse(url).unwrap(), setup).await.unwrap())
}

#[test(needs(Postgres))]
async fn postgres_refuses_an_overdue_attachment() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    let session = new_session();
    store.insert(&session).await.unwrap();
    // This node's clock is years behind, so Postgres finds that its request is overdue.
    let (clock, _hands) = Clock::manual(Timestamp::from_millis(1_600_000_000_000));
    let setup = PostgresSetup { node: NodeName::random(), clock, max_connections: 1, sends_notifications: true };
    let late = PostgresStore::open(&Postgres::parse(&url).unwrap(), setup).await.unwrap();
    assert!(late.attach(&[session.key]).await.unwrap_err().to_string().contains("too late"));
    assert!(late.attach(&[new_session().key]).await.unwrap().is_empty());
    assert_eq!(store.attach(&[session.key]).await.unwrap()[0].attachment, 1);
}

#[test(needs(Postgres))]
async fn postgres_conforms() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    let client = services::connect(&url).await.unwrap();
    let held_still = format!(
        "CREATE TABLE qrlogin.test_time AS SELECT {}::bigint AS millis;
         CREATE OR REPLACE FUNCTION qrlogin.now_millis() RETURNS bigint LANGUAGE sql VOLATILE
             AS 'SELECT millis FROM qrlogin.test_time'",
        START.as_millis()
    );
    client.batch_execute(&held_still).await.unwrap();
    conforms(Arc::new(store), &Time::Theirs(client)).await;
}

/// Inserts a session that was created now and lasts for five minutes, by the store's own clock.
pub async fn session_of_now(store: &dyn Store) -> Session {
    let (now, _) = store.read_settled(&[]).await.unwrap();
    let session = Session { created_at: now, expires_at: now.plus_seconds(300), ..new_session() };
    store.insert(&session).await.unwrap();
    session
}

fn hint_of(session: &Session, attachment: u32) -> Notification {
    Notification { key: session.key, version: session.version, attachment }
}

#[test(needs(Postgres))]
async fn row_names_the_node_to_which_its_browser_was_attached_last() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let ((here, ours), (there, theirs)) = (node(&url).await, node(&url).await);
    let session = session_of_now(&ours).await;

    let first = ours.attach(&[session.key, new_session().key]).await.unwrap();
    assert_eq!(first, [Attached { session: session.clone(), attachment: 1, superseded_node: None }]);
    let again = ours.attach(&[session.key]).await.unwrap();
    assert_eq!(
        (again[0].attachment, &again[0].superseded_node),
        (2, &None),
        "a node supersedes no connection of its own"
    );
    let moved = theirs.attach(&[session.key]).await.unwrap();
    assert_eq!((moved[0].attachment, &moved[0].superseded_node), (3, &Some(here)));

    let scanned = stepped(session.scan(&ann(), CODE, session.created_at));
    let waits = Waits { node: there, attachment: 3 };
    assert_eq!(replace(&ours, &scanned).await, Replaced::Written(Some(waits)));
}

#[test(needs(Postgres))]
async fn undelivered_change_stays_with_its_node_until_it_is_delivered() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let ((_, ours), (_, theirs)) = (node(&url).await, node(&url).await);
    let session = session_of_now(&ours).await;
    let scanned = stepped(session.scan(&ann(), CODE, session.created_at));
    replace(&ours, &scanned).await;
    assert_eq!(ours.undelivered().await.unwrap(), [], "no browser waits");

    theirs.attach(&[session.key]).await.unwrap();
    let confirmed = confirmed(&scanned, session.created_at);
    replace(&ours, &confirmed).await;
    assert_eq!(ours.undelivered().await.unwrap(), []);
    let untold = theirs.undelivered().await.unwrap();
    assert_eq!(untold, [Undelivered { notification: hint_of(&confirmed, 1), session: Some(confirmed.clone()) }]);

    theirs.mark_delivered(&[hint_of(&scanned, 1)]).await.unwrap();
    assert_eq!(theirs.undelivered().await.unwrap(), untold, "an older version was delivered");
    theirs.mark_delivered(&[hint_of(&confirmed, 1)]).await.unwrap();
    assert_eq!(theirs.undelivered().await.unwrap(), []);
    let claimed = stepped(confirmed.acknowledge(session.created_at));
    replace(&ours, &claimed).await;
    assert_eq!(theirs.undelivered().await.unwrap(), [], "no browser waits for an acknowledgement");

    ours.attach(&[session.key]).await.unwrap();
    assert_eq!(
        theirs.undelivered().await.unwrap(),
        [Undelivered { notification: hint_of(&claimed, 2), session: Some(claimed) }]
    );
}

#[test(needs(Postgres))]
async fn sweep_deletes_old_undelivered_changes_and_waits_for_no_lock() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    let mut client = services::connect(&url).await.unwrap();
    let (now, _) = store.read_settled(&[]).await.unwrap();
    let long_ago = now.plus_seconds(60).plus_millis(-3 * 3_600_000);
    let insert = "INSERT INTO qrlogin.untold (node, id, version, attachment, since) VALUES ('gone', $1, 2, 1, $2)";
    for (id, since) in [(b"1", long_ago), (b"2", long_ago), (b"3", now)] {
        client.execute(insert, &[&&id[..], &since.as_millis()]).await.unwrap();
    }
    let left = "SELECT convert_from(string_agg(id, '' ORDER BY id), 'UTF8') FROM qrlogin.untold";

    let holder = client.transaction().await.unwrap();
    holder.execute("SELECT 1 FROM qrlogin.untold WHERE id = '1' FOR UPDATE", &[]).await.unwrap();
    store.sweep(now, 10).await.unwrap();
    assert_eq!(holder.query_one(left, &[]).await.unwrap().get::<_, String>(0), "13");
    holder.commit().await.unwrap();
    store.sweep(now, 10).await.unwrap();
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, String>(0), "3");
}

#[test(needs(Postgres))]
async fn concurrent_attachment_or_decision_sees_the_other() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let ((_, ours), (there, theirs)) = (node(&url).await, node(&url).await);
    for _ in 0..200 {
        let session = session_of_now(&ours).await;
        let scanned = stepped(session.scan(&ann(), CODE, session.created_at));
        let keys = [session.key];
        let (attached, replaced) = tokio::join!(theirs.attach(&keys), replace(&ours, &scanned));
        let sees_decision = attached.unwrap()[0].session == scanned;
        let Replaced::Written(waits) = replaced else { panic!("no other write happens") };
        assert!(sees_decision || waits.is_some_and(|waits| waits.node == there));
    }
}

#[test(needs(Postgres))]
async fn decision_that_waits_for_a_lock_past_the_deadline_is_not_written() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    let store = Arc::new(store);
    let mut session = session_of_now(&*store).await;
    session.expires_at = session.created_at.plus_millis(400);
    let mut client = services::connect(&url).await.unwrap();
    let set = "UPDATE qrlogin.sessions SET expires_at = $2 WHERE id = $1";
    client.execute(set, &[&&session.key.0[..], &session.expires_at.as_millis()]).await.unwrap();

    // Hold the lock of the row past the deadline, as a reading at the deadline does.
    let holder = client.transaction().await.unwrap();
    holder.execute("SELECT 1 FROM qrlogin.sessions WHERE id = $1 FOR SHARE", &[&&session.key.0[..]]).await.unwrap();
    let late = stepped(session.scan(&ann(), CODE, session.created_at));
    let writing = {
        let store = store.clone();
        tokio::spawn(async move { replace(&*store, &late).await })
    };
    holder.batch_execute("SELECT pg_sleep(0.6)").await.unwrap();
    holder.commit().await.unwrap();
    assert_eq!(writing.await.unwrap(), Replaced::Stale);
    let (now, settled) = store.read_settled(&[session.key]).await.unwrap();
    assert!(now >= session.expires_at);
    assert_eq!(settled, [session]);
}

#[test(needs(Postgres))]
async fn nodes_that_start_together_on_an_empty_database_create_one_schema() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let started = join_all((0..6).map(|_| node(&url))).await;
    let session = session_of_now(&started[0].1).await;
    assert_eq!(started[5].1.read(&[session.key]).await.unwrap(), [session]);
}

#[test(needs(Postgres))]
async fn updates_of_a_login_touch_no_index_of_postgres() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (_, store) = node(&url).await;
    for _ in 0..100 {
        let session = session_of_now(&store).await;
        let now = session.created_at;
        store.attach(&[session.key]).await.unwrap();
        let scanned = stepped(session.scan(&ann(), CODE, now));
        let confirmed = confirmed(&scanned, now);
        for next in [&scanned, &confirmed, &stepped(confirmed.acknowledge(now))] {
            replace(&store, next).await;
        }
    }
    store.close().await;
    let client = services::connect(&url).await.unwrap();
    let (mut updates, mut hot) = (0, 0);
    // Postgres counts the updates of a connection when it ends, or a moment later.
    until("all updates are counted", async || {
        let counts = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'";
        let row = client.query_one(counts, &[]).await.unwrap();
        (updates, hot) = (row.get::<_, i64>(0), row.get::<_, i64>(1));
        updates >= 400
    })
    .await;
    assert_eq!((updates, hot), (400, 400));
}

#[test]
async fn unusable_postgres_is_refused_without_quoting_its_password() {
    let url = format!("postgres://ann:hunter2@127.0.0.1:{}/x", services::free_port());
    let setup = PostgresSetup {
        node: NodeName::random(),
        clock: Clock::shared(),
        max_connections: 1,
        sends_notifications: true,
    };
    let refused = PostgresStore::open(&Postgres::parse(&url).unwrap(), setup).await.err().unwrap().to_string();
    assert!(refused.starts_with("database_url: ") && refused.contains("127.0.0.1"), "{refused}");
    assert!(!refused.contains("hunter2"), "{refused}");
    for bad in ["postgres://", "postgres://localhost:port/x", "postgres://u@h/db?sslmode=perhaps"] {
        assert!(Postgres::parse(bad).is_err(), "{bad}");
    }
}

#[test]
async fn sqlite_keeps_sessions_in_a_private_file() {
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

#[test]
async fn write_ahead_log_of_sqlite_stays_small_under_constant_writes() {
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
            store.maintain().await.unwrap();
        }
    };
    tokio::select! {
        written = writers => assert!(written.iter().all(Result::is_ok)),
        () = tidying => unreachable!("the loop does not end"),
    }
    let log_bytes = std::fs::metadata(dir.path().join("busy.db-wal")).unwrap().len();
    assert!(log_bytes < 48 * 1024 * 1024, "{log_bytes} bytes");
    store.close().await;
}

#[test]
async fn unusable_sqlite_url_is_refused_and_its_fault_named() {
    let dir = tempfile::tempdir().unwrap();
    let nonsense = dir.path().join("nonsense.db");
    std::fs::write(&nonsense, "this is not a database, although it is long enough to be looked at ".repeat(100))
        .unwrap();
    for (url, part) in [
        (format!("sqlite://{}/missing/x.db", dir.path().display()), "missing/x.db"),
        (format!("sqlite://{}", dir.path().display()), "database_url"),
        (format!("sqlite://{}", nonsense.display()), "nonsense.db"),
        ("postgres://localhost/x".to_owned(), "sqlite://FILE"),
        ("host=db user=u password=hunter2".to_owned(), "sqlite://FILE"),
        ("sqlite://".to_owned(), "names no file"),
        ("sqlite://:memory:".to_owned(), "a database in memory"),
        ("sqlite://:memory:?cache=shared".to_owned(), "a database in memory"),
        ("sqlite://file:q.db".to_owned(), "SQLite's own URIs"),
        ("sqlite://file:q.db?mode=memory".to_owned(), "SQLite's own URIs"),
        ("sqlite://q.db?key=hunter2".to_owned(), "no parameters"),
        ("sqlite:///var/lib/a%20b/q.db".to_owned(), "percent-encoded"),
        ("sqlite://q%2Edb".to_owned(), "percent-encoded"),
        ("sqlite://q.db\r".to_owned(), "control character"),
        ("sqlite://q\0.db".to_owned(), "control character"),
    ] {
        let error = SqliteStore::open(&url, Clock::system()).err().unwrap().to_string();
        assert!(error.starts_with("database_url: ") && error.contains(part), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
async fn path_of_sqlite_is_taken_literally() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["file:q.db", "100%.db", "a b.db", "a#b.db", "安.db", "%zz.db"] {
        let file = dir.path().join(name);
        let store = SqliteStore::open(&format!("sqlite://{}", file.display()), Clock::system()).unwrap();
        store.ping().await.unwrap();
        assert!(file.metadata().unwrap().len() > 0, "{name}");
        store.close().await;
    }
    assert!(!dir.path().join("q.db").exists());
}

#[test(needs(Postgres))]
async fn failed_statement_keeps_its_pooled_connection() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let setup = PostgresSetup {
        node: NodeName::random(),
        clock: Clock::shared(),
        max_connections: 1,
        sends_notifications: true,
    };
    let store = PostgresStore::open(&Postgres::parse(&url).unwrap(), setup).await.unwrap();
    let admin = services::connect(&url).await.unwrap();
    let connection = async || {
        let of_store =
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'qrlogin' AND datname = current_database()";
        admin.query(of_store, &[]).await.unwrap().iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>()
    };
    let before = connection().await;
    assert_eq!(before.len(), 1);
    let session = new_session();
    store.insert(&session).await.unwrap();
    let mut unstorable = new_session();
    unstorable.client.client_info = Some("a\0b".into());
    for refused in [&unstorable, &session] {
        let error = store.insert(refused).await.unwrap_err().to_string();
        assert!(error.contains("0x00") || error.contains("duplicate key"), "{error}");
        assert_eq!(store.read(&[session.key]).await.unwrap().len(), 1);
        assert_eq!(connection().await, before);
    }
    // A connection that ends is replaced.
    admin.execute("SELECT pg_terminate_backend($1)", &[&before[0]]).await.unwrap();
    until("the store answers on another connection", async || store.read(&[session.key]).await.is_ok()).await;
    assert_ne!(connection().await, before);
    store.close().await;
}
