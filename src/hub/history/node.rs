//! The server of a history: the real hub and use cases on the model of a store.

use std::path::Path;
use std::sync::{Arc, Weak};

use tokio::runtime::Runtime;

use super::machine::Machine;
use super::model::ModelStore;
use super::socket::ServerEnd;
use super::{CLAIM_SECONDS, InjectedFault, TTL_SECONDS};
use crate::cluster::bus::{Bus as _, Listener, LocalBus};
use crate::hub::poller::PollerHandle;
use crate::hub::{Hub, HubParts};
use crate::login::{Codes, LoginParts, Logins, PendingCount, Policy};
use crate::metrics::Metrics;
use crate::session::{CodeSecret, CodeUrl, Rotation};
use crate::store::BatchingReader;
use crate::system::clock::Clock;
use crate::system::shutdown::Shutdown;
use crate::token::{KeyRing, Minter};

/// A server, until its next restart.
pub(super) struct Node {
    pub(super) store: Arc<ModelStore>,
    pub(super) logins: Arc<Logins>,
    pub(super) hub: Arc<Hub<ServerEnd>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) runtime: Runtime,
}

impl Node {
    pub(super) fn start(
        machine: &Arc<Machine>,
        clock: &Clock,
        fault: InjectedFault,
        is_numbered: bool,
        keys: &Path,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let within = runtime.enter();
        let store = Arc::new(ModelStore::new(machine.clone(), clock.clone(), fault, is_numbered));
        let (bus, metrics) = (Arc::new(LocalBus::default()), Arc::new(Metrics::new()));
        let shutdown = Shutdown::new();
        let minter =
            Minter::new(KeyRing::open(keys, clock.clone()).unwrap(), "i".to_owned(), "a".to_owned(), 60, Vec::new());
        let codes = Arc::new(codes());
        let logins = Arc::new(Logins::new(LoginParts {
            store: store.clone(),
            reader: BatchingReader::new(store.clone(), shutdown.vital("reader")),
            bus: bus.clone(),
            clock: clock.clone(),
            minter: Arc::new(minter),
            codes: codes.clone(),
            policy: Policy { ttl_seconds: TTL_SECONDS, claim_seconds: CLAIM_SECONDS, heartbeat_seconds: 3600 },
            pending: PendingCount::new(0, TTL_SECONDS),
            metrics: metrics.clone(),
        }));
        let (_, poller) = PollerHandle::prepare().unwrap();
        let parts = HubParts {
            logins: logins.clone(),
            store: store.clone(),
            codes,
            clock: clock.clone(),
            metrics: metrics.clone(),
            heartbeat_seconds: 3600,
            quota: None,
        };
        let hub = Arc::new(Hub::<ServerEnd>::new(parts, (), poller));
        let listener: Weak<dyn Listener> = Arc::<Hub<ServerEnd>>::downgrade(&hub);
        bus.listen(listener);
        drop((runtime.spawn(hub.clone().run()), runtime.spawn(hub.clone().search_undelivered())));
        drop(within);
        Self { store, logins, hub, metrics, runtime }
    }

    /// Runs all tasks as far as they can.
    pub(super) fn run_tasks(&self) {
        self.runtime.block_on(async {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        });
    }
}

/// Returns the codes of all sessions, which do not rotate.
pub(super) fn codes() -> Codes {
    Codes {
        secret: CodeSecret::new([7; 32]),
        rotation: Rotation::NONE,
        compares_numbers: false,
        code_url: CodeUrl::under("https://a.example"),
    }
}
