//! What every bus does, together with the store that its nodes share.

use std::sync::{Arc, Weak};

use qrlogin::bus::{Bus, Change, Listener, LocalBus, PostgresBus, RedisBus};
use qrlogin::clock::Clock;
use qrlogin::metrics::{Metrics, Stopwatch};
use qrlogin::node::{Hint, NodeName};
use qrlogin::postgres::Postgres;
use qrlogin::session::{PhoneUser, Session, Step};
use qrlogin::store::{PostgresSetup, PostgresStore, SqliteStore, Store};
use tokio::sync::mpsc;

use crate::real_time::until;
use crate::services;
use crate::store_conformance::{CODE, Replaced, replace, session_of_now};

/// What a node hears.
#[derive(Debug, PartialEq)]
enum Heard {
    Changed(Box<Session>, u32),
    Hint(Hint),
    MayHaveMissed,
}

struct Ears(mpsc::UnboundedSender<Heard>);

impl Listener for Ears {
    fn changed(self: Arc<Self>, session: &Arc<Session>, attachment: u32, _since: Stopwatch) {
        self.0.send(Heard::Changed(Box::new(Session::clone(session)), attachment)).unwrap();
    }
    fn hinted(self: Arc<Self>, hint: Hint) {
        self.0.send(Heard::Hint(hint)).unwrap();
    }
    fn may_have_missed(self: Arc<Self>) {
        self.0.send(Heard::MayHaveMissed).unwrap();
    }
}

/// A node without anything but its store and its bus.
struct Node {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    metrics: Arc<Metrics>,
    heard: mpsc::UnboundedReceiver<Heard>,
    _ears: Arc<Ears>,
}

impl Node {
    fn new(store: Arc<dyn Store>, bus: Arc<dyn Bus>, metrics: Arc<Metrics>) -> Self {
        let (sender, heard) = mpsc::unbounded_channel();
        let ears = Arc::new(Ears(sender));
        let listener: Weak<dyn Listener> = Arc::<Ears>::downgrade(&ears);
        bus.listen(listener);
        Self { store, bus, metrics, heard, _ears: ears }
    }

    async fn shared(url: &str, redis_url: Option<&str>) -> Self {
        let (node, metrics, postgres) = (NodeName::random(), Arc::new(Metrics::new()), Postgres::parse(url).unwrap());
        let sends_hints = redis_url.is_none();
        let setup = PostgresSetup { node: node.clone(), clock: Clock::shared(), max_connections: 4, sends_hints };
        let store = Arc::new(PostgresStore::open(&postgres, setup).await.unwrap());
        let bus: Arc<dyn Bus> = match redis_url {
            None => Arc::new(PostgresBus::new(postgres, node, metrics.clone())),
            Some(url) => Arc::new(RedisBus::new(url, node, metrics.clone()).unwrap()),
        };
        let mut node = Self::new(store, bus, metrics);
        assert_eq!(node.hears().await, Heard::MayHaveMissed, "once it listens");
        node
    }

    async fn hears(&mut self) -> Heard {
        self.heard.recv().await.unwrap()
    }

    fn hears_nothing(&mut self) {
        assert!(self.heard.is_empty(), "{:?}", self.heard.try_recv());
    }

    /// A browser comes to this node.
    async fn attach(&self, session: &Session) -> u32 {
        let attached = self.store.attach(&[session.key]).await.unwrap().pop().unwrap();
        let hint = Hint { key: session.key, version: attached.session.version, attachment: attached.attachment };
        if let Some(before) = attached.taken_over_from {
            self.bus.take_over(&before, hint);
        }
        attached.attachment
    }

    /// A phone scans at this node.
    async fn scan(&self, session: &Session) -> Session {
        let ann = PhoneUser { id: "ann".into(), name: None, picture: None };
        let Step::To(next) = session.scan(&ann, CODE, session.created_at).unwrap() else {
            panic!("not scanned before")
        };
        let Replaced::Written(waits) = replace(&*self.store, &next).await else { panic!("nobody else writes") };
        let change = Change { session: Arc::new(next), waits, since: Stopwatch::start() };
        self.bus.announce(&change);
        Session::clone(&change.session)
    }
}

/// What is true of any bus.
async fn conforms(here: &mut Node) {
    for _ in 0..100 {
        let session = session_of_now(&*here.store).await;
        let attachment = here.attach(&session).await;
        let scanned = here.scan(&session).await;
        assert_eq!(here.hears().await, Heard::Changed(Box::new(scanned), attachment), "the session itself");
    }
    here.hears_nothing();
}

/// What is true, while nothing fails, of any bus between nodes.
async fn conforms_between(here: &mut Node, there: &mut Node) {
    conforms(here).await;
    for _ in 0..100 {
        let session = session_of_now(&*here.store).await;
        let attachment = there.attach(&session).await;
        here.scan(&session).await;
        assert_eq!(there.hears().await, Heard::Hint(Hint { key: session.key, version: 2, attachment }));
        let attachment = here.attach(&session).await;
        assert_eq!(there.hears().await, Heard::Hint(Hint { key: session.key, version: 2, attachment }), "taken over");
    }
    // Nobody waits for it, and nobody hears.
    let session = session_of_now(&*here.store).await;
    here.scan(&session).await;
    // What is said after it is the next that is heard.
    let session = session_of_now(&*here.store).await;
    let attachment = there.attach(&session).await;
    here.scan(&session).await;
    assert_eq!(there.hears().await, Heard::Hint(Hint { key: session.key, version: 2, attachment }));
    here.hears_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bus_of_one_process_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("bus.db").display());
    let store = Arc::new(SqliteStore::open(&url, Clock::system()).unwrap());
    conforms(&mut Node::new(store, Arc::new(LocalBus::default()), Arc::default())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_as_a_bus_conforms() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (mut here, mut there) = (Node::shared(&url, None).await, Node::shared(&url, None).await);
    conforms_between(&mut here, &mut there).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_as_a_bus_conforms() {
    let service = services::Postgres::shared().await;
    let (url, redis) = (service.database().await, services::Redis::start());
    let redis_url = redis.url();
    let (mut here, mut there) =
        (Node::shared(&url, Some(&redis_url)).await, Node::shared(&url, Some(&redis_url)).await);
    conforms_between(&mut here, &mut there).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_was_gone_is_back_by_itself_and_says_so() {
    let service = services::Postgres::start().await;
    let (url, redis) = (service.database().await, services::Redis::start());
    let mut by_redis = Node::shared(&url, Some(&redis.url())).await;
    redis.kill();
    until("the bus is gone", async || !by_redis.metrics.is_bus_connected()).await;
    // Nobody waits for it.
    let session = session_of_now(&*by_redis.store).await;
    by_redis.bus.take_over(&NodeName::random(), Hint { key: session.key, version: 1, attachment: 1 });
    redis.run();
    assert_eq!(by_redis.hears().await, Heard::MayHaveMissed);
    let mut other = Node::shared(&url, Some(&redis.url())).await;
    conforms_between(&mut by_redis, &mut other).await;

    let mut by_postgres = Node::shared(&url, None).await;
    service.restart().await;
    assert_eq!(by_postgres.hears().await, Heard::MayHaveMissed);
    assert!(by_postgres.metrics.is_bus_connected());
}

#[test]
fn what_is_no_url_of_redis_is_refused_by_name_and_without_its_password() {
    for bad in ["redis", "http://localhost", "redis://:hunter2@localhost:port"] {
        let refused = RedisBus::check_url(bad).unwrap_err().to_string();
        assert!(refused.starts_with("bus_url: ") && !refused.contains("hunter2"), "{refused}");
    }
}
