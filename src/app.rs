//! Assembly of the server: chooses the implementations from the settings, starts them, and stops them in order.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};
use url::Url;

use crate::cluster::bus::{Bus, BusUrlError, Listener, LocalBus, PostgresBus, RedisBus};
use crate::cluster::node::NodeName;
use crate::config::{AppAuthSettings, LimitSettings, Settings, is_loopback};
use crate::demo::Demo;
use crate::geo::{Geo, GeoError};
use crate::http::{self, App, AppParts, ClientLimits};
use crate::hub::Hub;
use crate::limits::{ConnectionQuota, Limits, PerMinute};
use crate::login::{Codes, Faults, Logins, Pending, Policy};
use crate::metrics::Metrics;
use crate::postgres::{self, Postgres};
use crate::session::{CodeSecret, Rotation};
use crate::store::{BatchingReader, OpenError, PostgresSetup, PostgresStore, SqliteStore, Store};
use crate::system::clock::Clock;
use crate::system::memory;
use crate::system::shutdown::Shutdown;
use crate::telemetry::warnings::Warnings;
use crate::token::{
    AppAuth, AppAuthError, KeyError, KeyRing, Minter, PUBLISH_TIME, open_code_secret, read_code_secret,
};

/// Time for open requests and connections to end after the drain, in seconds.
const STOP_SECONDS: u64 = 8;
/// Maximum time from the end of `shutdown.drain_seconds` to the end of the process, in seconds. The hub closes its
/// connections within 20 seconds, however many there are. Closing the store and the log takes at most 2 seconds.
pub const MAX_STOP_SECONDS: u64 = 20 + STOP_SECONDS + 2;
/// Maximum number of connections that the system queues until they are accepted. The system may have a lower limit.
const BACKLOG: u32 = 4096;
/// Time between two sweeps of ended sessions, in seconds.
const SWEEP_SECONDS: u32 = 10;
/// Time between two checks of the store, and of the memory, in seconds.
const TIDY_SECONDS: u32 = 1;
/// Time between two looks at the MaxMind files, in seconds.
const PLACES_SECONDS: u32 = 60;
/// Minimum peak of waiting connections after which free memory is returned to the system.
const MANY_BROWSERS: i64 = 1000;
/// Minimum peak of requests per second after which free memory is returned to the system.
const MANY_REQUESTS: u64 = 500;

/// An error that keeps the server from starting, or that has stopped it. Texts name the setting that is the cause, if
/// any.
#[derive(Debug, Error)]
pub enum ServeError {
    /// No way to verify app tokens is configured.
    #[error(
        "app_auth: nothing is set to verify app tokens with; set app_auth.hmac_secret (QRLOGIN_APP_AUTH__HMAC_SECRET), \
         app_auth.public_key_file, app_auth.jwks_url or app_auth.introspection_url"
    )]
    NoAppAuth,
    /// The configured way to verify app tokens cannot be used.
    #[error(transparent)]
    AppAuth(#[from] AppAuthError),
    /// A MaxMind database cannot be used.
    #[error(transparent)]
    Geo(#[from] GeoError),
    /// The signing keys or the secret of the codes cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The database cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A setting holds the text that `print-config` shows in place of a secret.
    #[error("{0}: holds '(hidden)', which print-config shows in place of a secret; set the secret itself")]
    HiddenSecret(&'static str),
    /// `bus_url` cannot be used.
    #[error(transparent)]
    Bus(#[from] BusUrlError),
    /// `bus_url` is set with an SQLite database, which serves only one node.
    #[error(
        "bus_url: is for nodes that share a Postgres; an SQLite database has one node (set database_url, or leave it out)"
    )]
    BusOfOne,
    /// A thread or the means to poll sockets (epoll) cannot be created.
    #[error("the system does not let us wait for sockets: {0}")]
    Threads(io::Error),
    /// The server cannot listen on an address.
    #[error("{key}: cannot listen on {address}: {source}")]
    Listen {
        /// Key of the setting.
        key: &'static str,
        /// Value of the setting.
        address: SocketAddr,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// A vital part has panicked, see [`Vital`](crate::system::shutdown::Vital).
    #[error("a part of the server has failed: {0}")]
    Failed(&'static str),
}

/// The opened parts of a server, from which [`run`] assembles it.
pub struct Parts {
    /// All settings of the server.
    pub settings: Settings,
    /// Source of the time, which follows a shared store.
    pub clock: Clock,
    /// Counters and gauges of `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Store of the sessions.
    pub store: Arc<dyn Store>,
    /// Bus that carries session changes between nodes.
    pub bus: Arc<dyn Bus>,
    /// Keys that sign `web_token`.
    pub keys: KeyRing,
    /// Secret that authenticates codes.
    pub code_secret: CodeSecret,
    /// Verifier of app tokens.
    pub app_auth: AppAuth,
    /// Locations and networks of client addresses.
    pub geo: Geo,
    /// Users and secret of the demo; `None` in `serve`.
    pub demo: Option<Demo>,
}

/// A handle that makes the running server read its keys and MaxMind files again. Clones refer to the same server.
#[derive(Debug, Clone, Default)]
pub struct Reload {
    asked: Arc<Notify>,
}

impl Reload {
    /// Requests a reload. A request during a reload causes one more after it.
    pub fn ask(&self) {
        self.asked.notify_one();
    }
}

/// The bound listening sockets of the server.
pub struct Listeners {
    /// Listener for browsers and phones.
    pub public: std::net::TcpListener,
    /// Listener for the operator's tools: health checks and metrics.
    pub ops: TcpListener,
}

impl Listeners {
    /// Binds the addresses of the settings `listen` and `ops_listen`.
    ///
    /// # Errors
    /// Returns [`ServeError::Listen`] if an address cannot be bound, for example because its port is in use.
    pub fn bind(settings: &Settings) -> Result<Self, ServeError> {
        let public = bind("listen", settings.listen, |listener| listener.into_std())?;
        Ok(Self { public, ops: bind("ops_listen", settings.ops_listen, Ok)? })
    }
}

fn bind<T>(
    key: &'static str,
    address: SocketAddr,
    wrap: impl FnOnce(TcpListener) -> io::Result<T>,
) -> Result<T, ServeError> {
    let listen = || {
        let socket = if address.is_ipv6() { TcpSocket::new_v6() } else { TcpSocket::new_v4() }?;
        socket.set_reuseaddr(true)?;
        // Accepted connections inherit the size.
        socket.set_send_buffer_size(http::SEND_BUFFER_BYTES)?;
        socket.bind(address)?;
        wrap(socket.listen(BACKLOG)?)
    };
    listen().map_err(|source| ServeError::Listen { key, address, source })
}

impl Parts {
    /// Opens the keys, the databases and the bus that the settings name. With a shared store, the parts use the store's
    /// clock in place of `clock`.
    ///
    /// # Errors
    /// Returns an error for the first part that cannot be opened.
    pub async fn open(settings: Settings, clock: Clock, demo: Option<Demo>) -> Result<Self, ServeError> {
        check_urls(&settings)?;
        let keys = KeyRing::open(&settings.token.key_dir, clock.clone())?;
        let code_secret = open_code_secret(&settings.token.key_dir)?;
        let geo = Geo::open(&settings.geoip.city_file, &settings.geoip.asn_file)?;
        let metrics = Arc::new(Metrics::new());
        let app_auth = app_auth(&settings.app_auth, &clock)?;
        let (clock, store, bus) = if Postgres::is_url(settings.database_url.expose()) {
            open_shared(&settings, &metrics).await?
        } else {
            let store: Arc<dyn Store> = Arc::new(SqliteStore::open(settings.database_url.expose(), clock.clone())?);
            let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
            (clock, store, bus)
        };
        Ok(Self { settings, clock, metrics, store, bus, keys, code_secret, app_auth, geo, demo })
    }
}

/// Checks for what [`Parts::open`] would refuse, without opening the ports or the database, and without a request.
/// Creates nothing.
///
/// # Errors
/// Returns an error for the first setting that cannot be used.
pub fn check(settings: &Settings, clock: &Clock) -> Result<(), ServeError> {
    check_urls(settings)?;
    app_auth(&settings.app_auth, clock)?;
    KeyRing::check(&settings.token.key_dir, clock.clone())?;
    read_code_secret(&settings.token.key_dir)?;
    Geo::open(&settings.geoip.city_file, &settings.geoip.asn_file)?;
    Ok(())
}

/// Checks that no setting holds the text that `print-config` shows for a secret, and that `database_url` and `bus_url`
/// can be used, each by itself and together.
///
/// # Errors
/// Returns an error for the first setting that cannot be used.
pub fn check_urls(settings: &Settings) -> Result<(), ServeError> {
    if let Some((key, _)) = settings.secrets().into_iter().find(|(_, secret)| secret.is_hidden()) {
        return Err(ServeError::HiddenSecret(key));
    }
    let (database_url, bus_url) = (settings.database_url.expose(), settings.bus_url.expose());
    if Postgres::is_url(database_url) {
        postgres::check_url(database_url).map_err(OpenError::UrlPart)?;
        if !bus_url.is_empty() {
            RedisBus::check_url(bus_url)?;
        }
        return Ok(());
    }
    check_sqlite_url(database_url).map_err(|reason| OpenError::UrlPart(reason.to_owned()))?;
    SqliteStore::check_url(database_url)?;
    if bus_url.is_empty() { Ok(()) } else { Err(ServeError::BusOfOne) }
}

/// Checks the form of a URL that is not one of Postgres. Refuses a server's address behind `sqlite://`, which would
/// otherwise become the name of a file.
fn check_sqlite_url(url: &str) -> Result<(), &'static str> {
    match url.strip_prefix("sqlite://") {
        Some(file) if file.split_once('@').is_some_and(|(credentials, _)| credentials.contains(':')) => Err(
            "is an sqlite:// URL with a user and a password; sqlite:// takes the name of a file, postgres:// a server",
        ),
        Some(_) => Ok(()),
        None if !url.contains("://") && url.contains('=') => {
            Err("is in libpq's keyword form; write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE")
        }
        None => Err("is not of the form sqlite://FILE or postgres://USER:PASSWORD@HOST/DATABASE"),
    }
}

/// Opens the clock, the store and the bus of a node that shares a Postgres with others.
async fn open_shared(
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Result<(Clock, Arc<dyn Store>, Arc<dyn Bus>), ServeError> {
    let (node, clock) = (NodeName::random(), Clock::shared());
    let postgres = Postgres::parse(settings.database_url.expose()).map_err(OpenError::UrlPart)?;
    postgres.check_sessions().await.map_err(OpenError::UrlPart)?;
    let sends_notifications = settings.bus_url.is_empty();
    let bus: Arc<dyn Bus> = if sends_notifications {
        Arc::new(PostgresBus::new(postgres.clone(), node.clone(), metrics.clone()))
    } else {
        Arc::new(RedisBus::new(settings.bus_url.expose(), node.clone(), metrics.clone())?)
    };
    info!(event = "node", name = %node, store = %postgres);
    let max_connections = settings.database_connections;
    let setup = PostgresSetup { node, clock: clock.clone(), max_connections, sends_notifications };
    let store = Arc::new(PostgresStore::open(&postgres, setup).await?);
    Ok((clock, store, bus))
}

/// Returns the verifier of app tokens that the settings describe.
///
/// # Errors
/// Returns [`ServeError::NoAppAuth`] if none is configured, and [`ServeError::AppAuth`] if it cannot be used.
pub fn app_auth(settings: &AppAuthSettings, clock: &Clock) -> Result<AppAuth, ServeError> {
    let secret = settings.hmac_secret.expose().as_bytes();
    let mut app_auth = if !secret.is_empty() {
        AppAuth::hmac(secret)
    } else if settings.public_key_file != Path::new("") {
        AppAuth::public_key_file(&settings.public_key_file)?
    } else if let Ok(url) = Url::parse(settings.jwks_url.expose()) {
        let is_loopback = is_loopback(&url);
        AppAuth::key_set(url, is_loopback, clock.clone())?
    } else if let Ok(url) = Url::parse(settings.introspection_url.expose()) {
        let is_loopback = is_loopback(&url);
        let (id, secret) = (&settings.introspection_client_id, settings.introspection_client_secret.expose());
        let client = (!id.is_empty()).then_some((id.as_str(), secret));
        AppAuth::introspection(url, is_loopback, client, clock.clone())?
    } else {
        return Err(ServeError::NoAppAuth);
    };
    if !settings.issuer.is_empty() {
        app_auth = app_auth.with_issuer(&settings.issuer);
    }
    if !settings.audience.is_empty() {
        app_auth = app_auth.with_audience(&settings.audience);
    }
    Ok(app_auth.with_user_claim(&settings.user_claim).with_max_age(settings.max_age_seconds))
}

/// Serves until `shutdown` is asked to stop, then stops in order:
///
/// - `/readyz` fails, and the server waits for `shutdown.drain_seconds`, in which load balancers send new clients
///   elsewhere.
/// - The hub drains: it closes the waiting connections in batches.
/// - The public listener closes, and open requests are answered.
/// - The operator's listener and the store close.
///
/// # Errors
/// Returns [`ServeError::Threads`] if a thread cannot be created, and [`ServeError::Failed`] if a vital part has
/// panicked.
pub async fn run(parts: Parts, listeners: Listeners, shutdown: Shutdown, reload: Reload) -> Result<(), ServeError> {
    let Parts { settings, clock, metrics, store, bus, keys, code_secret, app_auth, geo, demo } = parts;
    let or_public = |value: &str| if value.is_empty() { settings.public_base() } else { value }.to_owned();
    let minter = Minter::new(
        keys,
        or_public(&settings.token.issuer),
        or_public(&settings.token.audience),
        settings.token.ttl_seconds,
        settings.token.claims.clone(),
    );
    let codes = Codes {
        secret: code_secret,
        rotation: Rotation { period_seconds: settings.session.rotate_seconds },
        compares_numbers: settings.session.number_matching,
        public_base: settings.public_base().to_owned(),
    };
    let (changes, upgrades) = (TaskTracker::new(), TaskTracker::new());
    let logins = Arc::new(Logins {
        store: store.clone(),
        reader: BatchingReader::new(store.clone(), shutdown.vital("reader")),
        bus: bus.clone(),
        clock: clock.clone(),
        minter,
        codes,
        policy: Policy {
            ttl_seconds: settings.session.ttl_seconds,
            claim_seconds: settings.session.claim_seconds,
            heartbeat_seconds: settings.session.heartbeat_seconds,
        },
        pending: Pending::new(
            if settings.limits.enabled { settings.limits.pending_sessions } else { 0 },
            settings.session.ttl_seconds,
        ),
        metrics: metrics.clone(),
        changes: changes.clone(),
        faults: Faults::default(),
    });
    let app_auth = Arc::new(app_auth.with_passed_on(settings.token.claims.clone()));
    let limits = client_limits(&settings.limits, &clock);
    let hub = Hub::start(logins.clone(), limits.sockets.clone(), shutdown.vital("parking"));
    let hub = hub.map_err(ServeError::Threads)?;
    let listener: Weak<dyn Listener> = Arc::<Hub>::downgrade(&hub);
    bus.listen(listener);
    let geo = Arc::new(geo);
    let app = App::new(
        &settings,
        AppParts {
            logins: logins.clone(),
            hub: hub.clone(),
            app_auth: app_auth.clone(),
            limits,
            geo: geo.clone(),
            demo,
            shutdown: shutdown.clone(),
            upgrades: upgrades.clone(),
        },
    );

    let background = [
        tokio::spawn(shutdown.vital("deadlines").with(hub.clone().run())),
        tokio::spawn(shutdown.vital("sweep").with(sweep(logins.clone(), clock.clone()))),
        tokio::spawn(shutdown.vital("tidy").with(tidy(store.clone(), clock.clone()))),
        tokio::spawn(shutdown.vital("memory").with(give_memory_back(metrics, clock.clone()))),
        tokio::spawn(shutdown.vital("untold").with(hub.clone().search_undelivered())),
        tokio::spawn(shutdown.vital("keys").with(look_for_keys(logins.clone(), clock.clone()))),
        tokio::spawn(shutdown.vital("places").with(look_for_places(geo.clone(), clock.clone()))),
        tokio::spawn(shutdown.vital("reload").with(when_asked(reload, logins.clone(), geo, app_auth.clone()))),
        tokio::spawn(shutdown.vital("app keys").with(async move { app_auth.keep_fresh().await })),
    ];
    if let (Ok(public), Ok(ops)) = (listeners.public.local_addr(), listeners.ops.local_addr()) {
        info!(event = "listening", %public, %ops, public_url = settings.public_base());
    }
    let header_seconds = settings.limits.header_seconds;
    // The operator's port stays open to the end, so that `/readyz` and `/metrics` show the server stopping.
    let ops_shutdown = Shutdown::new();
    let ops = http::serve_ops(
        listeners.ops,
        http::ops_routes(app.clone()),
        header_seconds,
        clock.clone(),
        ops_shutdown.clone(),
    );
    let ops = tokio::spawn(ops);
    let public = http::serve_public(listeners.public, http::routes(app.clone()), app, shutdown.clone());
    let public = tokio::spawn(public.map_err(ServeError::Threads)?);

    shutdown.asked().await;
    info!(event = "stopping", drain_seconds = settings.shutdown.drain_seconds);
    clock.sleep_seconds(settings.shutdown.drain_seconds).await;
    hub.close().await;
    shutdown.close();
    let in_order = async {
        drop(public.await);
        upgrades.close();
        upgrades.wait().await;
        hub.emptied().await;
        changes.close();
        changes.wait().await;
        ops_shutdown.close();
        drop(ops.await);
    };
    if within_seconds(STOP_SECONDS, in_order).await.is_none() {
        warn!(event = "stopped in a hurry", "not everyone let go in {STOP_SECONDS} s");
    }
    hub.stop();
    for task in background {
        task.abort();
    }
    if within_seconds(1, store.close()).await.is_none() {
        warn!(event = "store not closed");
    }
    info!(event = "stopped");
    shutdown.failed().map_or(Ok(()), |part| Err(ServeError::Failed(part)))
}

fn client_limits(settings: &LimitSettings, clock: &Clock) -> ClientLimits {
    if !settings.enabled {
        return ClientLimits::default();
    }
    let per_minute = PerMinute {
        generate: settings.generate_per_minute,
        scan: settings.scan_per_minute,
        wrong_codes: settings.wrong_codes_per_minute,
        status: settings.status_per_minute,
        websocket_opens: settings.websocket_opens_per_minute,
    };
    ClientLimits {
        rates: Some(Limits::new(per_minute, clock)),
        sockets: Some(ConnectionQuota::new(settings.sockets_per_address, settings.sockets)),
    }
}

/// Waits for `future`, for at most `seconds` of the runtime's own timer. Returns `None` if it took longer.
#[expect(clippy::disallowed_methods, reason = "a stop keeps its time limit under a manual clock too")]
async fn within_seconds<F: Future>(seconds: u64, future: F) -> Option<F::Output> {
    tokio::time::timeout(Duration::from_secs(seconds), future).await.ok()
}

async fn sweep(logins: Arc<Logins>, clock: Clock) {
    let failures = Warnings::default();
    loop {
        clock.sleep_seconds(SWEEP_SECONDS).await;
        if let Err(error) = logins.sweep().await
            && let Some(count) = failures.count(clock.steady())
        {
            warn!(event = "sweep failed", %error, count, "the rows of ended sessions are kept until a sweep succeeds");
        }
    }
}

/// Reads the directory of signing keys every [`PUBLISH_TIME`], so that a key which is added needs no restart.
async fn look_for_keys(logins: Arc<Logins>, clock: Clock) {
    loop {
        clock.sleep(PUBLISH_TIME).await;
        refresh_keys(&logins).await;
    }
}

async fn refresh_keys(logins: &Arc<Logins>) {
    let logins = logins.clone();
    // The directory may be on a network file system.
    drop(tokio::task::spawn_blocking(move || logins.minter.refresh_keys()).await);
}

/// Reads the signing keys, the MaxMind files and the keys of app tokens again, on each request of `reload`.
async fn when_asked(reload: Reload, logins: Arc<Logins>, geo: Arc<Geo>, app_auth: Arc<AppAuth>) {
    loop {
        reload.asked.notified().await;
        refresh_keys(&logins).await;
        let geo = geo.clone();
        drop(tokio::task::spawn_blocking(move || geo.refresh()).await);
        app_auth.refresh().await;
        info!(event = "reloaded");
    }
}

/// Reads the MaxMind files again when they have changed, as operators replace them every week or so.
async fn look_for_places(geo: Arc<Geo>, clock: Clock) {
    while geo.is_set() {
        clock.sleep_seconds(PLACES_SECONDS).await;
        let geo = geo.clone();
        drop(tokio::task::spawn_blocking(move || geo.refresh()).await);
    }
}

/// Runs the store's housekeeping, and checks that a store of one node can still be written. Logs a failure once until
/// its reason changes, and logs its end.
async fn tidy(store: Arc<dyn Store>, clock: Clock) {
    let mut failing = None;
    loop {
        clock.sleep_seconds(TIDY_SECONDS).await;
        let done = async {
            // A shared store needs no ping, because each node queries it every 1.5 seconds.
            if !store.is_shared() {
                store.ping().await?;
            }
            store.tidy().await
        };
        match (done.await.map_err(|error| error.to_string()), &failing) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                info!(event = "store in order again");
                failing = None;
            }
            (Err(reason), Some(known)) if reason == *known => {}
            (Err(reason), _) => {
                error!(event = "store not in order", %reason);
                failing = Some(reason);
            }
        }
    }
}

/// Returns free memory to the system when half of many connections have closed, or when a flood of requests has ended.
async fn give_memory_back(metrics: Arc<Metrics>, clock: Clock) {
    let (mut most_active, mut most_answered, mut answered_before) = (0, 0, 0);
    loop {
        clock.sleep_seconds(TIDY_SECONDS).await;
        let (active, answered) = (metrics.active_connections(), metrics.requests_answered());
        let just_answered = answered - std::mem::replace(&mut answered_before, answered);
        most_active = most_active.max(active);
        most_answered = most_answered.max(just_answered);
        let have_left = most_active >= MANY_BROWSERS && active <= most_active / 2;
        let has_passed = most_answered >= MANY_REQUESTS && just_answered <= most_answered / 8;
        if have_left || has_passed {
            drop(tokio::task::spawn_blocking(memory::give_back).await);
            (most_active, most_answered) = (active, just_answered);
        }
    }
}
