//! How Postgres is reached: for the store, and for the bus.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr as _;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, poll_fn};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::cause::explain;

/// A server that has not answered a new connection after this long is said not to.
const CONNECT_SECONDS: u64 = 3;
/// Silence on a connection after which the network is asked whether the other end is still there.
const KEEPALIVE_SECONDS: u64 = 10;
/// What our statements rely on, whatever the server or the role is set up with. They find single rows by their keys; a
/// plan that was made while a table was empty must never read it whole when it is full.
const SESSION_SETTINGS: &str = "SET default_transaction_isolation = 'read committed';
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;
    SET statement_timeout = '5s'; SET lock_timeout = '4s'; SET idle_in_transaction_session_timeout = '10s'";

/// Where a Postgres server is, and how it is spoken to. Prints without the password.
#[derive(Clone)]
pub struct Postgres {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

/// What a connection says besides its answers. To be polled for anything to go on; ends with the connection.
pub type Messages = BoxStream<'static, Result<AsyncMessage, tokio_postgres::Error>>;

impl Postgres {
    /// Whether this is a URL of Postgres (and not of another store).
    #[must_use]
    pub fn is_url(url: &str) -> bool {
        url.starts_with("postgres://") || url.starts_with("postgresql://")
    }

    /// Reads a URL as libpq has it (`postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=require`).
    ///
    /// The network is not trusted: TLS, where it is used, always verifies the server's certificate against those that
    /// the system trusts. It is used where `sslmode` says `require`, or says nothing and the server offers it; not
    /// within one machine, unless it is required.
    ///
    /// # Errors
    /// What is wrong with it, or that the system trusts no certificates.
    pub fn parse(url: &str) -> Result<Self, String> {
        let mut config = check_url(url)?;
        config.application_name("qrlogin");
        config.connect_timeout(Duration::from_secs(CONNECT_SECONDS));
        config.keepalives_idle(Duration::from_secs(KEEPALIVE_SECONDS));
        config.keepalives_interval(Duration::from_secs(KEEPALIVE_SECONDS));
        config.keepalives_retries(2);
        if config.get_ssl_mode() == SslMode::Prefer && config.get_hosts().iter().all(is_this_machine) {
            config.ssl_mode(SslMode::Disable);
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => {
                let trusted = MakeRustlsConnect::with_native_certs();
                Some(trusted.map_err(|errors| format!("no certificates that the system trusts: {errors:?}"))?.0)
            }
        };
        Ok(Self { config, tls })
    }

    /// Opens one connection, set up as our statements need it.
    ///
    /// # Errors
    /// The server does not answer, or does not let us in.
    pub async fn connect(&self) -> Result<(Client, Messages), tokio_postgres::Error> {
        let (client, messages) = match self.tls.clone() {
            Some(tls) => connect(&self.config, tls).await?,
            None => connect(&self.config, NoTls).await?,
        };
        Ok((client, messages))
    }

    /// Connections for statements, opened when they are needed, at most this many.
    ///
    /// # Errors
    /// None that a URL can cause.
    pub fn pool(&self, max_connections: usize) -> Result<Pool, String> {
        // What is broken is seen at once: its task has ended.
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match self.tls.clone() {
            Some(tls) => Manager::from_config(self.config.clone(), tls, recycling),
            None => Manager::from_config(self.config.clone(), NoTls, recycling),
        };
        let set_up = Hook::async_fn(|client, _| {
            Box::pin(async move { client.batch_execute(SESSION_SETTINGS).await.map_err(HookError::Backend) })
        });
        let pool = Pool::builder(manager)
            .max_size(max_connections)
            .runtime(Runtime::Tokio1)
            .create_timeout(Some(Duration::from_secs(CONNECT_SECONDS)))
            .post_create(set_up);
        pool.build().map_err(|error| error.to_string())
    }
}

/// Reads a URL without asking anything of the system.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<Config, String> {
    let config = Config::from_str(url).map_err(|error| explain(&error))?;
    if config.get_hosts().is_empty() {
        return Err("names no host".to_owned());
    }
    Ok(config)
}

async fn connect<T>(config: &Config, tls: T) -> Result<(Client, Messages), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection): (_, Connection<Socket, T::Stream>) = config.connect(tls).await?;
    Ok((client, poll_fn(move |context| connection.poll_message(context)).boxed()))
}

fn is_this_machine(host: &Host) -> bool {
    match host {
        #[cfg(unix)]
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> = self
            .config
            .get_hosts()
            .iter()
            .map(|host| match host {
                #[cfg(unix)]
                Host::Unix(path) => path.display().to_string(),
                Host::Tcp(name) => name.clone(),
            })
            .collect();
        let ports: Vec<_> = self.config.get_ports().iter().map(u16::to_string).collect();
        write!(f, "Postgres at {}:{}", hosts.join(","), ports.join(","))
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
