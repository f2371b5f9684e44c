//! Conformance suite of the `Bus` trait, together with the store that the nodes share.

use std::sync::{Arc, Weak};

use qrlogin::internals::cluster::bus::{Announcement, Bus, Listener, LocalBus, PostgresBus, RedisBus};
use qrlogin::internals::cluster::node::{NodeName, Notification};
use qrlogin::internals::metrics::{Metrics, Stopwatch};
use qrlogin::internals::postgres::Postgres;
use qrlogin::internals::store::{PostgresSetup, PostgresStore, SqliteStore, Store};
use qrlogin::internals::system::clock::Clock;
use qrlogin::session::{PhoneUser, Session, Step};
use tokio::sync::mpsc;

use crate::store::fixture::{CODE, Replaced, replace, session_of_now};
use qrlogin_testing::real_time::{until, within};
use qrlogin_testing::services;
use qrlogin_testing::test;

/// A call that the bus has made to its listener.
#[derive(Debug, PartialEq)]
enum Call {
    Changed(Box<Session>, u32),
    Notification(Notification),
    MayHaveLost,
}

/// A listener that records its calls.
struct RecordingListener(mpsc::UnboundedSender<Call>);

impl Listener for RecordingListener {
    fn changed(self: Arc<Self>, session: &Arc<Session>, attachment: u32, _since: Stopwatch) {
        self.0.send(Call::Changed(Box::new(Session::clone(session)), attachment)).unwrap();
    }
    fn notified(self: Arc<Self>, notification: Notification) {
        self.0.send(Call::Notification(notification)).unwrap();
    }
    fn may_have_lost(self: Arc<Self>) {
        self.0.send(Call::MayHaveLost).unwrap();
    }
}

/// A node that consists of its store and its bus only.
struct Node {
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
    metrics: Arc<Metrics>,
    calls: mpsc::UnboundedReceiver<Call>,
    _listener: Arc<RecordingListener>,
}

impl Node {
    fn new(store: Arc<dyn Store>, bus: Arc<dyn Bus>, metrics: Arc<Metrics>) -> Self {
        let (sender, calls) = mpsc::unbounded_channel();
        let listener = Arc::new(RecordingListener(sender));
        let weak: Weak<dyn Listener> = Arc::<RecordingListener>::downgrade(&listener);
        bus.listen(weak);
        Self { store, bus, metrics, calls, _listener: listener }
    }

    async fn shared(url: &str, redis_url: Option<&str>) -> Self {
        let (node, metrics, postgres) = (NodeName::random(), Arc::new(Metrics::new()), Postgres::parse(url).unwrap());
        let sends_notifications = redis_url.is_none();
        let setup =
            PostgresSetup { node: node.clone(), clock: Clock::shared(), max_connections: 4, sends_notifications };
        let store = Arc::new(PostgresStore::open(&postgres, setup).await.unwrap());
        let bus: Arc<dyn Bus> = match redis_url {
            None => Arc::new(PostgresBus::new(postgres, node, metrics.clone())),
            Some(url) => Arc::new(RedisBus::new(url, node, metrics.clone()).unwrap()),
        };
        let mut node = Self::new(store, bus, metrics);
        assert_eq!(node.received().await, Call::MayHaveLost, "reported once the bus listens");
        node
    }

    /// Returns the next call of the bus to its listener.
    async fn received(&mut self) -> Call {
        within("the bus calls its listener", self.calls.recv()).await.unwrap()
    }

    fn received_nothing(&mut self) {
        assert!(self.calls.is_empty(), "{:?}", self.calls.try_recv());
    }

    /// Attaches a browser of the session to this node. The node that had the browser before is notified.
    async fn attach(&self, session: &Session) -> u32 {
        let attached = self.store.attach(&[session.key]).await.unwrap().pop().unwrap();
        let notification =
            Notification { key: session.key, version: attached.session.version, attachment: attached.attachment };
        if let Some(before) = attached.superseded_node {
            self.bus.supersede(&before, notification);
        }
        attached.attachment
    }

    /// Scans the session at this node, as a phone does, and announces the change.
    async fn scan(&self, session: &Session) -> Session {
        let ann = PhoneUser { id: "ann".into(), name: None, picture: None };
        let Step::To(next) = session.scan(&ann, CODE, session.created_at).unwrap() else {
            panic!("not scanned before")
        };
        let Replaced::Written(waits) = replace(&*self.store, &next).await else { panic!("no other write happens") };
        let change = Announcement { session: Arc::new(next), waits, since: Stopwatch::start() };
        self.bus.announce(&change);
        Session::clone(&change.session)
    }
}

/// Checks what every bus does within one node.
async fn conforms(here: &mut Node) {
    for _ in 0..100 {
        let session = session_of_now(&*here.store).await;
        let attachment = here.attach(&session).await;
        let scanned = here.scan(&session).await;
        assert_eq!(here.received().await, Call::Changed(Box::new(scanned), attachment), "the session itself");
    }
    here.received_nothing();
}

/// Checks what every bus between nodes does while nothing fails.
async fn conforms_between(here: &mut Node, there: &mut Node) {
    conforms(here).await;
    for _ in 0..100 {
        let session = session_of_now(&*here.store).await;
        let attachment = there.attach(&session).await;
        here.scan(&session).await;
        assert_eq!(
            there.received().await,
            Call::Notification(Notification { key: session.key, version: 2, attachment })
        );
        let attachment = here.attach(&session).await;
        assert_eq!(
            there.received().await,
            Call::Notification(Notification { key: session.key, version: 2, attachment }),
            "superseded"
        );
    }
    // No browser waits for this session, so no node is notified.
    let session = session_of_now(&*here.store).await;
    here.scan(&session).await;
    // The next notification is the one of the next session, so there was none for this one.
    let session = session_of_now(&*here.store).await;
    let attachment = there.attach(&session).await;
    here.scan(&session).await;
    assert_eq!(there.received().await, Call::Notification(Notification { key: session.key, version: 2, attachment }));
    here.received_nothing();
}

#[test]
async fn local_bus_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", dir.path().join("bus.db").display());
    let store = Arc::new(SqliteStore::open(&url, Clock::system()).unwrap());
    conforms(&mut Node::new(store, Arc::new(LocalBus::default()), Arc::default())).await;
}

#[test(needs(Postgres))]
async fn postgres_bus_conforms() {
    let service = services::Postgres::shared().await;
    let url = service.database().await;
    let (mut here, mut there) = (Node::shared(&url, None).await, Node::shared(&url, None).await);
    conforms_between(&mut here, &mut there).await;
}

#[test(needs(Postgres, Redis))]
async fn redis_bus_conforms() {
    let service = services::Postgres::shared().await;
    let (url, redis) = (service.database().await, services::Redis::start());
    let redis_url = redis.url();
    let (mut here, mut there) =
        (Node::shared(&url, Some(&redis_url)).await, Node::shared(&url, Some(&redis_url)).await);
    conforms_between(&mut here, &mut there).await;
}

#[test(needs(Postgres, Redis))]
async fn bus_reconnects_and_reports_that_notifications_may_be_lost() {
    let service = services::Postgres::start().await;
    let (url, redis) = (service.database().await, services::Redis::start());
    let mut by_redis = Node::shared(&url, Some(&redis.url())).await;
    redis.kill();
    until("the bus is disconnected", async || !by_redis.metrics.is_bus_connected()).await;
    // No node has this name. Sending a notification while the bus is down must not fail.
    let session = session_of_now(&*by_redis.store).await;
    by_redis.bus.supersede(&NodeName::random(), Notification { key: session.key, version: 1, attachment: 1 });
    redis.run();
    assert_eq!(by_redis.received().await, Call::MayHaveLost);
    let mut other = Node::shared(&url, Some(&redis.url())).await;
    conforms_between(&mut by_redis, &mut other).await;

    let mut by_postgres = Node::shared(&url, None).await;
    service.restart().await;
    assert_eq!(by_postgres.received().await, Call::MayHaveLost);
    assert!(by_postgres.metrics.is_bus_connected());
}

#[test]
fn invalid_redis_url_is_refused_without_quoting_its_password() {
    for bad in ["redis", "http://localhost", "redis://:hunter2@localhost:port"] {
        let refused = RedisBus::check_url(bad).unwrap_err().to_string();
        assert!(refused.starts_with("bus_url: ") && !refused.contains("hunter2"), "{refused}");
    }
}
