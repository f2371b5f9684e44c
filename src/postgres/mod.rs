//! Connections to Postgres, for the store and for the bus.

mod url;

use std::collections::BTreeSet;
use std::fmt;
use std::future::ready;
use std::net::IpAddr;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, poll_fn};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use crate::secret::{HIDDEN, shown_address};
use crate::telemetry::cause::explain;

pub use url::check_url;

/// Time after which an attempt to connect fails, in seconds.
const CONNECT_SECONDS: u64 = 3;
/// Time without traffic after which TCP keepalive probes a connection, and between two probes, in seconds.
const KEEPALIVE_SECONDS: u64 = 10;
/// Settings of each pooled connection, which override those of the server and the role. All statements find single rows
/// by their keys. Without these settings, a plan made while a table was empty could scan it whole when it is full.
const SESSION_SETTINGS: &str = "SET default_transaction_isolation = 'read committed';
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;
    SET statement_timeout = '5s'; SET lock_timeout = '4s'; SET idle_in_transaction_session_timeout = '10s'";

/// Statement that returns an identifier of the Postgres session in which it runs. A process id alone is not enough,
/// because it can be reused, or used on another server behind the same address.
const SESSION_OF_STATEMENT: &str = "SELECT concat(pg_backend_pid(), ' ', \
    (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid())) AS session";

/// The order in which [`Postgres::check_sessions`] queries its two connections. A pooler that takes its sessions in
/// turn gives two of the queries of one connection to different sessions, however many it has.
const PROBE_ORDER: [usize; 6] = [0, 1, 1, 0, 0, 1];
const POOLER_REASON: &str = "leads to PgBouncer, or another pooler, in transaction mode, where the statements of one connection \
    run in different sessions; connect to Postgres itself, or set pool_mode=session for this database in PgBouncer \
    (qrlogin pools its connections itself: database_connections)";
/// Minimum length of a part of the address that is left out of messages, in bytes. Shorter ones occur in other words.
const MIN_HIDDEN_BYTES: usize = 4;
/// Names of users that are no secret and occur in messages.
const PUBLIC_NAMES: [&str; 3] = ["postgres", "qrlogin", "root"];

/// The address of a Postgres server and how to connect to it. Prints without the password.
#[derive(Clone)]
pub struct Postgres {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// Whether the host can be printed. It cannot if the URL is ambiguous, so that what parses as a host may be part of
    /// the password.
    is_plain: bool,
}

/// The asynchronous messages of a connection. Poll it: it drives the connection, and ends with it.
pub type MessageStream = BoxStream<'static, Result<AsyncMessage, tokio_postgres::Error>>;

impl Postgres {
    /// Returns whether a URL has a scheme of Postgres.
    #[must_use]
    pub fn is_url(url: &str) -> bool {
        url.starts_with("postgres://") || url.starts_with("postgresql://")
    }

    /// Parses a connection URL as libpq does (`postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=require`).
    ///
    /// TLS, where it is used, always verifies the certificate of the server against the certificates that the system
    /// trusts, and its name. TLS is used if `sslmode` is `require` or `verify-full`, which mean the same here. It is
    /// also used without `sslmode`, or with `prefer`, if the server offers it and a host of the URL is not this
    /// machine.
    ///
    /// # Errors
    /// The URL is wrong, or the certificates that the system trusts cannot be loaded.
    pub fn parse(url: &str) -> Result<Self, String> {
        let mut config = check_url(url)?;
        config.application_name("qrlogin");
        config.connect_timeout(Duration::from_secs(CONNECT_SECONDS));
        config.keepalives_idle(Duration::from_secs(KEEPALIVE_SECONDS));
        config.keepalives_interval(Duration::from_secs(KEEPALIVE_SECONDS));
        config.keepalives_retries(2);
        // The driver connects to `hostaddr`, if it is given, and not to `host`.
        let is_here =
            config.get_hosts().iter().all(is_this_machine) && config.get_hostaddrs().iter().all(IpAddr::is_loopback);
        if config.get_ssl_mode() == SslMode::Prefer && is_here {
            config.ssl_mode(SslMode::Disable);
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => {
                let trusted = MakeRustlsConnect::with_native_certs();
                Some(trusted.map_err(|errors| format!("no certificates that the system trusts: {errors:?}"))?.0)
            }
        };
        Ok(Self { config, tls, is_plain: shown_address(url) != HIDDEN })
    }

    /// Opens one connection, outside of any pool and without the session settings of a pooled one.
    ///
    /// # Errors
    /// The server does not answer, or refuses the connection.
    pub async fn connect(&self) -> Result<(Client, MessageStream), tokio_postgres::Error> {
        let (client, messages) = match self.tls.clone() {
            Some(tls) => connect(&self.config, tls).await?,
            None => connect(&self.config, NoTls).await?,
        };
        Ok((client, messages))
    }

    /// Checks that each connection has its own Postgres session, by querying the sessions of two connections several
    /// times. Prepared statements, `LISTEN` and session settings depend on that.
    ///
    /// # Errors
    /// A pooler runs the statements of one connection in different sessions.
    pub async fn check_sessions(&self) -> Result<(), String> {
        let sessions = async {
            let [(one, _polled), (other, _other_polled)] = [self.connect().await.ok()?, self.connect().await.ok()?]
                .map(|(client, messages)| {
                    (client, AbortOnDropHandle::new(tokio::spawn(messages.for_each(|_| ready(())))))
                });
            let mut sessions = [BTreeSet::new(), BTreeSet::new()];
            for connection in PROBE_ORDER {
                sessions[connection].insert(session_of([&one, &other][connection]).await?);
            }
            Some(sessions)
        };
        // The store connects next, and reports a server that refuses or does not answer.
        let Some([of_one, of_other]) = within_connect_time(sessions).await else { return Ok(()) };
        let is_own = of_one.len() == 1 && of_other.len() == 1 && of_one != of_other;
        if is_own { Ok(()) } else { Err(POOLER_REASON.to_owned()) }
    }

    /// Returns the text without the password and the options of this address, and without its user if there is no
    /// password: a password may have been written in the user's place.
    #[must_use]
    pub fn without_credentials(&self, text: &str) -> String {
        let password = self.config.get_password().map(String::from_utf8_lossy);
        let user = self.config.get_user().filter(|_| password.is_none());
        let options = self.config.get_options().into_iter().flat_map(|options| options.split([' ', '=']));
        let secrets = password.as_deref().into_iter().chain(user).chain(options);
        let secrets = secrets.filter(|secret| secret.len() >= MIN_HIDDEN_BYTES && !PUBLIC_NAMES.contains(secret));
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN))
    }

    /// Makes a pool of at most this many connections, which are opened when needed.
    ///
    /// # Errors
    /// None that a URL can cause.
    pub fn pool(&self, max_connections: usize) -> Result<Pool, String> {
        // `Fast` is enough: the task of a broken connection has ended, which the pool checks.
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

/// Returns why an operation failed. Names a pooler if its use of sessions is the cause: prepared statements of other
/// connections are there, or the connection's own are not.
pub fn explain_failure(error: &(dyn std::error::Error + 'static)) -> String {
    const OF_POOLERS: [&SqlState; 2] = [&SqlState::INVALID_SQL_STATEMENT_NAME, &SqlState::DUPLICATE_PSTATEMENT];
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let mut codes = causes.by_ref().filter_map(|cause| cause.downcast_ref::<tokio_postgres::Error>()?.code());
    if codes.any(|code| OF_POOLERS.contains(&code)) { POOLER_REASON.to_owned() } else { explain(error) }
}

/// Returns the identifier of the Postgres session, or `None` after an error.
async fn session_of(client: &Client) -> Option<String> {
    let messages = client.simple_query(SESSION_OF_STATEMENT).await.ok()?;
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.try_get("session").ok().flatten().map(ToOwned::to_owned),
        _ => None,
    })
}

/// Returns the output of `work`, or `None` after [`CONNECT_SECONDS`].
#[expect(clippy::disallowed_methods, reason = "waits by the machine's clock, which tests do not move")]
async fn within_connect_time<T>(work: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(CONNECT_SECONDS), work).await.ok().flatten()
}

async fn connect<T>(config: &Config, tls: T) -> Result<(Client, MessageStream), tokio_postgres::Error>
where
    T: MakeTlsConnect<Socket>,
    T::Stream: Send + 'static,
{
    let (client, mut connection): (_, Connection<Socket, T::Stream>) = config.connect(tls).await?;
    Ok((client, poll_fn(move |context| connection.poll_message(context)).boxed()))
}

/// Returns whether a host is a Unix socket or a loopback address.
fn is_this_machine(host: &Host) -> bool {
    match host {
        #[cfg(unix)]
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback()),
    }
}

impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_plain {
            return f.write_str("Postgres (its address is not shown: percent-encode / ? # @ and & in the password)");
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_is_left_out_only_if_every_address_is_this_machine() {
        for (url, mode) in [
            ("postgres://u@localhost/d", SslMode::Disable),
            ("postgres://u@127.0.0.2,[::1]/d", SslMode::Disable),
            ("postgres://u@localhost/d?hostaddr=127.0.0.1", SslMode::Disable),
            ("postgres://u@localhost/d?hostaddr=192.0.2.1", SslMode::Prefer),
            ("postgres://u@localhost,db.example/d", SslMode::Prefer),
            ("postgres://u@localhost/d?sslmode=require", SslMode::Require),
        ] {
            assert_eq!(Postgres::parse(url).unwrap().config.get_ssl_mode(), mode, "{url}");
        }
    }

    #[test]
    fn messages_of_a_server_lose_the_credentials_of_its_address() {
        let text = "role \"hunter2\" does not exist: swordfish, postgres, app.mode";
        for (url, shown) in [
            ("postgres://hunter2@h/d", "role \"(hidden)\" does not exist: swordfish, postgres, app.mode"),
            ("postgres://hunter2:swordfish@h/d", "role \"hunter2\" does not exist: (hidden), postgres, app.mode"),
            ("postgres://postgres@h/d", text),
            (
                "postgres://u:swordfish@h/d?options=-c%20app.mode=hunter2",
                "role \"(hidden)\" does not exist: (hidden), postgres, (hidden)",
            ),
        ] {
            assert_eq!(Postgres::parse(url).unwrap().without_credentials(text), shown, "{url}");
        }
    }

    #[test]
    fn host_is_hidden_if_it_may_be_part_of_the_password() {
        for (url, shown) in [
            ("postgres://u:hunter2@db,db2:5433/d", "Postgres at db,db2:5432,5433"),
            ("postgres://u:hun/ter2#x@db/d", "not shown"),
        ] {
            let postgres =
                Postgres::parse(&format!("{url}{}sslmode=disable", if url.contains('?') { "&" } else { "?" }));
            let printed = format!("{0} {0:?}", postgres.unwrap());
            assert!(printed.contains(shown) && !printed.contains("hunter2") && !printed.contains("ter2"), "{printed}");
        }
    }
}
