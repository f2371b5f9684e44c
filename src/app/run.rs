//! The run of the server: assembly, serving, and the stop in order.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::{Listeners, Parts, ServeError};
use crate::cluster::bus::Listener;
use crate::config::{LimitSettings, Settings};
use crate::http::{self, AppParts, AppState, ClientLimits, OpsState};
use crate::hub::{Hub, HubParts};
use crate::limits::{ConnectionQuota, Limits, PerMinute};
use crate::login::{Codes, LoginParts, Logins, PendingCount, Policy};
use crate::oauth::{Deliveries, OAuth, OAuthParts};
use crate::session::Rotation;
use crate::store::{BatchingReader, Store};
use crate::system::clock::Clock;
use crate::system::reload::Reload;
use crate::system::shutdown::Shutdown;
use crate::tasks::{self, TaskParts};
use crate::token::{KeyRing, Minter};

/// Time for open requests and connections to end after the drain, in seconds.
const STOP_SECONDS: u64 = 8;
/// Maximum time from the end of `shutdown.drain_seconds` to the end of the process, in seconds. The hub closes its
/// connections within 20 seconds, however many there are. Closing the store and the log takes at most 2 seconds.
pub const MAX_STOP_SECONDS: u64 = 20 + STOP_SECONDS + 2;

/// The parts of a running server that its stop needs.
struct Server {
    settings: Settings,
    clock: Clock,
    store: Arc<dyn Store>,
    logins: Arc<Logins>,
    hub: Arc<Hub>,
    upgrades: TaskTracker,
    /// Deliveries of tokens to OAuth clients.
    deliveries: Option<Arc<Deliveries>>,
    background: Vec<JoinHandle<()>>,
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
    let metrics = parts.metrics.clone();
    let (server, state) = assemble(parts, &shutdown, reload)?;
    let Server { settings, clock, store, .. } = &server;
    if let (Ok(public), Ok(ops)) = (listeners.public.local_addr(), listeners.ops.local_addr()) {
        info!(event = "listening", %public, %ops, public_url = settings.public_base());
    }
    let header_seconds = settings.limits.header_seconds;
    // The operator's port stays open to the end, so that `/readyz` and `/metrics` show the server stopping.
    let ops_shutdown = Shutdown::new();
    let ops_routes = http::ops_routes(OpsState { store: store.clone(), metrics, shutdown: shutdown.clone() });
    let ops = http::serve_ops(listeners.ops, ops_routes, header_seconds, clock.clone(), ops_shutdown.clone());
    let ops = tokio::spawn(ops);
    let routes = http::routes(state.clone());
    let public = http::serve_public(listeners.public, routes, &state, header_seconds, clock.clone(), shutdown.clone());
    let public = tokio::spawn(public.map_err(ServeError::Threads)?);

    shutdown.asked().await;
    info!(event = "stopping", drain_seconds = settings.shutdown.drain_seconds);
    clock.sleep_seconds(settings.shutdown.drain_seconds).await;
    server.hub.close().await;
    shutdown.close();
    server.stop(public, ops, &ops_shutdown).await;
    info!(event = "stopped");
    shutdown.failed().map_or(Ok(()), |part| Err(ServeError::Failed(part)))
}

impl Server {
    /// Stops a server whose hub has drained.
    async fn stop(self, public: JoinHandle<()>, ops: JoinHandle<()>, ops_shutdown: &Shutdown) {
        let in_order = async {
            drop(public.await);
            self.upgrades.close();
            self.upgrades.wait().await;
            self.hub.emptied().await;
            self.logins.changes_ended().await;
            if let Some(deliveries) = self.deliveries {
                deliveries.ended().await;
            }
            ops_shutdown.close();
            drop(ops.await);
        };
        if within_seconds(STOP_SECONDS, in_order).await.is_none() {
            warn!(event = "stopped in a hurry", "work that was not finished within {STOP_SECONDS} s is abandoned");
        }
        self.hub.stop();
        for task in self.background {
            task.abort();
        }
        if within_seconds(1, self.store.close()).await.is_none() {
            warn!(event = "store not closed");
        }
    }
}

/// Assembles the server from its parts, and spawns its background tasks.
fn assemble(parts: Parts, shutdown: &Shutdown, reload: Reload) -> Result<(Server, AppState), ServeError> {
    let Parts {
        settings,
        clock,
        metrics,
        store,
        bus,
        keys,
        code_secret,
        app_auth,
        clients,
        sealer,
        approval,
        geo,
        demo,
    } = parts;
    let keys = Arc::new(keys);
    let minter = Arc::new(minter(keys.clone(), &settings));
    let codes = Arc::new(Codes {
        secret: code_secret,
        rotation: Rotation { period_seconds: settings.session.rotate_seconds },
        compares_numbers: settings.session.number_matching,
        code_url: settings.code_url(),
    });
    let logins = Arc::new(Logins::new(LoginParts {
        store: store.clone(),
        reader: BatchingReader::new(store.clone(), shutdown.vital("reader")),
        bus: bus.clone(),
        clock: clock.clone(),
        minter: minter.clone(),
        codes: codes.clone(),
        policy: policy(&settings),
        pending: pending(&settings),
        metrics: metrics.clone(),
    }));
    let app_auth = Arc::new(app_auth.with_passed_on(settings.passed_on_claims()).with_own_keys(keys));
    let limits = client_limits(&settings.limits, &clock);
    let hub_parts = HubParts {
        logins: logins.clone(),
        store: store.clone(),
        codes: codes.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
        heartbeat_seconds: settings.session.heartbeat_seconds,
        quota: limits.sockets.clone(),
    };
    let hub = Hub::start(hub_parts, shutdown.vital("poller")).map_err(ServeError::Threads)?;
    let listener: Weak<dyn Listener> = Arc::<Hub>::downgrade(&hub);
    bus.listen(listener);
    let oauth = sealer.filter(|_| !clients.is_empty()).map(|sealer| {
        let parts = OAuthParts {
            clients: clients.clone(),
            logins: logins.clone(),
            codes: codes.clone(),
            store: store.clone(),
            minter: minter.clone(),
            sealer: sealer.clone(),
            clock: clock.clone(),
        };
        (OAuth::new(&settings, parts), sealer)
    });
    let deliveries = oauth.as_ref().map(|(oauth, _)| oauth.deliveries.clone());
    let (geo, upgrades) = (Arc::new(geo), TaskTracker::new());
    let state = AppState::new(
        &settings,
        AppParts {
            logins: logins.clone(),
            hub: hub.clone(),
            codes,
            minter: minter.clone(),
            app_auth: app_auth.clone(),
            approval,
            oauth,
            clients,
            limits,
            geo: geo.clone(),
            clock: clock.clone(),
            metrics: metrics.clone(),
            demo,
            shutdown: shutdown.clone(),
            upgrades: upgrades.clone(),
        },
    );
    let task_parts = TaskParts {
        logins: logins.clone(),
        hub: hub.clone(),
        store: store.clone(),
        minter,
        geo,
        app_auth,
        metrics,
        clock: clock.clone(),
    };
    let background = tasks::spawn(task_parts, reload, shutdown);
    Ok((Server { settings, clock, store, logins, hub, upgrades, deliveries, background }, state))
}

fn minter(keys: Arc<KeyRing>, settings: &Settings) -> Minter {
    let or_public = |value: &str| if value.is_empty() { settings.public_base() } else { value }.to_owned();
    let token = &settings.token;
    Minter::new(keys, or_public(&token.issuer), or_public(&token.audience), token.ttl_seconds, token.claims.clone())
}

const fn policy(settings: &Settings) -> Policy {
    let session = &settings.session;
    Policy {
        ttl_seconds: session.ttl_seconds,
        claim_seconds: session.claim_seconds,
        heartbeat_seconds: session.heartbeat_seconds,
    }
}

fn pending(settings: &Settings) -> PendingCount {
    let limit = if settings.limits.enabled { settings.limits.pending_sessions } else { 0 };
    PendingCount::new(limit, settings.session.ttl_seconds)
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
