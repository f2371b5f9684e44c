//! Background tasks of the server. Each holds a [`Vital`](crate::system::shutdown::Vital), so a panic in one of them
//! stops the server in order.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use crate::geo::Geo;
use crate::hub::Hub;
use crate::login::Logins;
use crate::metrics::Metrics;
use crate::store::Store;
use crate::system::clock::Clock;
use crate::system::memory;
use crate::system::reload::Reload;
use crate::system::shutdown::Shutdown;
use crate::telemetry::warnings::Warnings;
use crate::token::{AppAuth, Minter, PUBLISH_TIME};

/// Time between two sweeps of ended sessions and records, in seconds.
const SWEEP_SECONDS: u32 = 10;
/// Time between two checks of the store, and of the memory, in seconds.
const TIDY_SECONDS: u32 = 1;
/// Time between two checks of the MaxMind files, in seconds.
const LOCATIONS_SECONDS: u32 = 60;
/// Minimum peak of waiting connections after which free memory is returned to the system.
const MANY_BROWSERS: i64 = 1000;
/// Minimum peak of requests per second after which free memory is returned to the system.
const MANY_REQUESTS: u64 = 500;

/// What the background tasks work on.
pub(crate) struct TaskParts {
    pub(crate) logins: Arc<Logins>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) minter: Arc<Minter>,
    pub(crate) geo: Arc<Geo>,
    pub(crate) app_auth: Arc<AppAuth>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
}

/// Spawns all background tasks. They run until they are aborted.
pub(crate) fn spawn(parts: TaskParts, reload: Reload, shutdown: &Shutdown) -> Vec<JoinHandle<()>> {
    let TaskParts { logins, hub, store, minter, geo, app_auth, metrics, clock } = parts;
    vec![
        tokio::spawn(shutdown.vital("hub").with(hub.clone().run())),
        tokio::spawn(shutdown.vital("undelivered changes").with(hub.search_undelivered())),
        tokio::spawn(shutdown.vital("sweep").with(sweep(logins, clock.clone()))),
        tokio::spawn(shutdown.vital("store").with(tidy(store, clock.clone()))),
        tokio::spawn(shutdown.vital("memory").with(give_memory_back(metrics, clock.clone()))),
        tokio::spawn(shutdown.vital("keys").with(refresh_keys_often(minter.clone(), clock.clone()))),
        tokio::spawn(shutdown.vital("locations").with(refresh_locations(geo.clone(), clock))),
        tokio::spawn(shutdown.vital("reload").with(reload_when_asked(reload, minter, geo, app_auth.clone()))),
        tokio::spawn(shutdown.vital("app keys").with(async move { app_auth.keep_fresh().await })),
    ]
}

/// Deletes the rows of ended sessions and records every [`SWEEP_SECONDS`].
async fn sweep(logins: Arc<Logins>, clock: Clock) {
    let failures = Warnings::default();
    loop {
        clock.sleep_seconds(SWEEP_SECONDS).await;
        if let Err(error) = logins.sweep().await
            && let Some(count) = failures.count(clock.steady())
        {
            warn!(event = "sweep failed", %error, count, "the rows of ended sessions and records are kept until a sweep succeeds");
        }
    }
}

/// Reads the directory of signing keys every [`PUBLISH_TIME`], so that a key which is added needs no restart.
async fn refresh_keys_often(minter: Arc<Minter>, clock: Clock) {
    loop {
        clock.sleep(PUBLISH_TIME).await;
        refresh_keys(&minter).await;
    }
}

async fn refresh_keys(minter: &Arc<Minter>) {
    let minter = minter.clone();
    // The directory may be on a network file system.
    drop(tokio::task::spawn_blocking(move || minter.refresh_keys()).await);
}

/// Reads the signing keys, the MaxMind files and the keys of app tokens again, on each request of `reload`.
async fn reload_when_asked(reload: Reload, minter: Arc<Minter>, geo: Arc<Geo>, app_auth: Arc<AppAuth>) {
    loop {
        reload.asked().await;
        refresh_keys(&minter).await;
        let geo = geo.clone();
        drop(tokio::task::spawn_blocking(move || geo.refresh()).await);
        app_auth.refresh().await;
        info!(event = "reloaded");
    }
}

/// Reads the MaxMind files again when they have changed, as operators replace them every week or so.
async fn refresh_locations(geo: Arc<Geo>, clock: Clock) {
    while geo.is_set() {
        clock.sleep_seconds(LOCATIONS_SECONDS).await;
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
            store.maintain().await
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
        let have_closed = most_active >= MANY_BROWSERS && active <= most_active / 2;
        let is_over = most_answered >= MANY_REQUESTS && just_answered <= most_answered / 8;
        if have_closed || is_over {
            drop(tokio::task::spawn_blocking(memory::give_back).await);
            (most_active, most_answered) = (active, just_answered);
        }
    }
}
