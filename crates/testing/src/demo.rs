//! The demo as a server in this process, which can be stopped and started again.

use qrlogin::internals::app::{self, Listeners, Parts, Reload, ServeError};
use qrlogin::internals::config::Settings;
use qrlogin::internals::demo::Demo;
use qrlogin::internals::system::clock::{Clock, Hands};
use qrlogin::internals::system::shutdown::Shutdown;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::harness::{SECRET, START};
use crate::real_time::within;

/// A demo server. Each start has the same ports, database, keys and clock. It also verifies app tokens signed with
/// [`SECRET`], for tests in which a site signs them.
pub struct DemoServer {
    settings: Settings,
    demo: Demo,
    clock: Clock,
    /// Moves the server's clock, which starts at [`START`].
    pub hands: Hands,
    running: Option<(Shutdown, JoinHandle<Result<(), ServeError>>)>,
    _dir: TempDir,
}

impl DemoServer {
    /// Starts a demo server on free ports, unless `change` sets others.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.listen.set_port(0);
        settings.ops_listen.set_port(0);
        change(&mut settings);
        let (clock, hands) = Clock::manual(START);
        let listeners = Listeners::bind(&settings).unwrap();
        settings.listen = listeners.public.local_addr().unwrap();
        settings.ops_listen = listeners.ops.local_addr().unwrap();
        let (demo, mut settings) = Demo::new(settings.clone(), settings.listen, dir.path(), None);
        settings.app_auth.hmac_secret = SECRET.into();
        let mut server = Self { settings, demo, clock, hands, running: None, _dir: dir };
        server.run(listeners).await;
        server
    }

    /// Returns the public URL, without a slash at its end.
    pub fn public_url(&self) -> &str {
        self.settings.public_base()
    }

    /// Returns the client id and the client secret of the approve page at the demo's provider.
    pub fn client(&self) -> (&str, &str) {
        (&self.settings.approve.client_id, self.settings.approve.client_secret.expose())
    }

    /// Returns the issuer of the demo's provider.
    pub fn issuer(&self) -> &str {
        &self.settings.approve.issuer
    }

    /// Returns the base URL of the operations port.
    pub fn ops(&self) -> String {
        format!("http://{}", self.settings.ops_listen)
    }

    /// Starts the server after [`Self::stop`].
    pub async fn start(&mut self) {
        let listeners = Listeners::bind(&self.settings).unwrap();
        self.run(listeners).await;
    }

    async fn run(&mut self, listeners: Listeners) {
        let parts = Parts::open(self.settings.clone(), self.clock.clone(), Some(self.demo.clone())).await.unwrap();
        let shutdown = Shutdown::new();
        let running = tokio::spawn(app::run(parts, listeners, shutdown.clone(), Reload::default()));
        self.running = Some((shutdown, running));
    }

    /// Stops the server if it runs, and waits until it has stopped. Panics if it failed.
    pub async fn stop(&mut self) {
        if let Some((shutdown, running)) = self.running.take() {
            shutdown.stop();
            within("the demo server has stopped", running).await.unwrap().unwrap();
        }
    }
}
