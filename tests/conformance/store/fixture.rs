//! Sessions of the conformance suites, and writes of them.

use std::sync::{Arc, Mutex};

use qrlogin::internals::cluster::node::Waits;
use qrlogin::internals::store::{Announcer, Changed, SessionSelector, Store, Stored};
use qrlogin::internals::system::random;
use qrlogin::session::{
    Client, Decision, Grant, PhoneUser, Presented, Refusal, Rotation, Session, SessionId, SessionKey, State, Step,
    Timestamp,
};
use qrlogin_testing::harness::START;
use serde_json::{Map, json};

/// A code of a session whose codes do not rotate.
pub const CODE: Presented = Presented { period: 0, rotation: Rotation::NONE };

/// A phone user with all properties.
pub fn ann() -> PhoneUser {
    PhoneUser {
        id: "ann".into(), name: Some("Ann Ä. 安".into()), picture: Some("https://example.com/ann.png".into())
    }
}

/// A grant with claims of nested types.
pub fn grant() -> Grant {
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

/// Returns a pending session of [`START`], which is not stored.
pub fn new_session() -> Session {
    let id = SessionId::from_random(random::bytes());
    Session {
        key: id.key(),
        code: id.key().code_key(),
        version: 1,
        created_at: START,
        expires_at: START.plus_seconds(300),
        request: None,
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

/// Returns the session after a step. Panics if the step was refused or changed nothing.
pub fn stepped(step: Result<Step, Refusal>) -> Session {
    match step.unwrap() {
        Step::To(session) => session,
        Step::Repeated => panic!("a change was expected"),
    }
}

/// Returns the session after its confirmation by [`ann`]. Its token is claimable for a minute.
pub fn confirmed(session: &Session, now: Timestamp) -> Session {
    let decision = Decision::Confirm { grant: grant(), claimable_until: now.plus_seconds(60), number_matches: None };
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
pub struct RecordingAnnouncer(pub Mutex<Vec<Stored>>);

impl Announcer for RecordingAnnouncer {
    fn announce(&self, stored: &Stored) {
        self.0.lock().unwrap().push(stored.clone());
    }
}

/// Writes `next` if the store has the version before it.
pub async fn replace(store: &(impl Store + ?Sized), next: &Session) -> Replaced {
    let (announced, next) = (Arc::new(RecordingAnnouncer::default()), next.clone());
    let key = next.key;
    let over = next.version - 1;
    let transition = move |found: &Session, _| {
        if found.version == over { Ok(Step::To(next.clone())) } else { Err(Refusal::AlreadyDecided) }
    };
    match store.change(SessionSelector::Key(key), Arc::new(transition), announced.clone()).await.unwrap() {
        Changed::Done(committed) => {
            committed.announce().unwrap();
            let [stored] = &announced.0.lock().unwrap()[..] else { panic!("announced once") };
            assert!(stored.is_new);
            Replaced::Written(stored.waits.clone())
        }
        Changed::Refused(..) | Changed::Missing => Replaced::Stale,
        Changed::Contended => panic!("no other write happens"),
    }
}

/// Reads a session.
pub async fn stored(store: &dyn Store, key: SessionKey) -> Option<Session> {
    store.read(&[key]).await.unwrap().pop()
}

/// Inserts a session that was created now and lasts for five minutes, by the store's own clock.
pub async fn session_of_now(store: &dyn Store) -> Session {
    let (now, _) = store.read_settled(&[]).await.unwrap();
    let session = Session { created_at: now, expires_at: now.plus_seconds(300), ..new_session() };
    store.insert(&session).await.unwrap();
    session
}
