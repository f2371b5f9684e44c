//! The delivery of a session change to a waiting connection: the message, the turn on the connection's record, and the
//! write to the socket.

use std::io::{self, Read as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use criterion::{BatchSize, Criterion};
use qrlogin::internals::cluster::bus::{Listener as _, LocalBus};
use qrlogin::internals::hub::{Hub, HubParts, NewConnection, Transport};
use qrlogin::internals::login::{AttachedSession, Codes, LoginParts, Logins, PendingCount, Policy};
use qrlogin::internals::metrics::{Metrics, Stopwatch};
use qrlogin::internals::store::{BatchingReader, SqliteStore, Store};
use qrlogin::internals::system::clock::Clock;
use qrlogin::internals::system::shutdown::Shutdown;
use qrlogin::internals::token::{KeyRing, Minter};
use qrlogin::session::{CodeSecret, CodeUrl, Rotation, Session, SessionId, State};
use tokio::runtime::Runtime;

use crate::session::{pending, user};

/// Time between two heartbeats, in seconds. It is longer than a benchmark.
const HEARTBEAT_SECONDS: u32 = 3600;

/// Returns a hub over a store in this directory. Must be called within a runtime.
fn hub(directory: &Path, clock: &Clock) -> Arc<Hub> {
    let (shutdown, metrics) = (Shutdown::new(), Arc::new(Metrics::new()));
    let url = format!("sqlite://{}", directory.join("hub.db").display());
    let store: Arc<dyn Store> = Arc::new(SqliteStore::open(&url, clock.clone()).expect("a store"));
    let keys = KeyRing::open(&directory.join("keys"), clock.clone()).expect("signing keys");
    let codes = Arc::new(Codes {
        secret: CodeSecret::new([1; 32]),
        rotation: Rotation::NONE,
        compares_numbers: false,
        code_url: CodeUrl::under("https://login.example"),
    });
    let logins = Arc::new(Logins::new(LoginParts {
        store: store.clone(),
        reader: BatchingReader::new(store.clone(), shutdown.vital("reader")),
        bus: Arc::new(LocalBus::default()),
        clock: clock.clone(),
        minter: Arc::new(Minter::new(keys, "iss".to_owned(), "aud".to_owned(), 3600, Vec::new())),
        codes: codes.clone(),
        policy: Policy { ttl_seconds: 300, claim_seconds: 60, heartbeat_seconds: HEARTBEAT_SECONDS },
        pending: PendingCount::new(0, 300),
        metrics: metrics.clone(),
    }));
    let heartbeat_seconds = HEARTBEAT_SECONDS;
    let parts = HubParts { logins, store, codes, clock: clock.clone(), metrics, heartbeat_seconds, quota: None };
    Hub::start(parts, shutdown.vital("poller")).expect("a hub")
}

/// Returns the server's end of a connection whose other end reads everything.
fn socket_that_is_read() -> io::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut browser = TcpStream::connect(listener.local_addr()?)?;
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while browser.read(&mut buffer).is_ok_and(|length| length > 0) {}
    });
    let (socket, _) = listener.accept()?;
    socket.set_nonblocking(true)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

pub fn benchmarks(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a directory");
    let runtime = Runtime::new().expect("a runtime");
    let _within = runtime.enter();
    let clock = Clock::system();
    let hub = hub(directory.path(), &clock);
    let session = pending(SessionId::from_random([7; 32]).key(), clock.now());
    let connection = NewConnection {
        socket: mio::net::TcpStream::from_std(socket_that_is_read().expect("a connection")),
        response: Vec::new(),
        early: Vec::new(),
        transport: Transport::WebSocket { acknowledges: false },
        permit: None,
    };
    let read_at = clock.now();
    let found = AttachedSession { session: session.clone(), read_at, attachment: 0, superseded_node: None };
    hub.register(session.key).expect("an open hub").open(connection, &found);

    // Each version is delivered once, so each iteration has the next one.
    let mut version = session.version;
    let mut next = || {
        version += 1;
        Arc::new(Session { version, state: State::Scanned(user()), scanned_at: Some(read_at), ..session.clone() })
    };
    criterion.bench_function("hub/deliver_change", |bencher| {
        let deliver = |session: Arc<Session>| hub.clone().changed(&session, 0, Stopwatch::start());
        bencher.iter_batched(&mut next, deliver, BatchSize::SmallInput);
    });
    hub.stop();
}
