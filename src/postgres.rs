//! How Postgres is reached: for the store, and for the bus.

use std::fmt;
use std::future::ready;
use std::net::IpAddr;
use std::str::FromStr as _;
use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, poll_fn};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;
use zeroize::Zeroizing;

use crate::cause::explain;
use crate::secret::{HIDDEN, shown_address};

/// A server that has not answered a new connection after this long is said not to.
const CONNECT_SECONDS: u64 = 3;
/// Silence on a connection after which the network is asked whether the other end is still there.
const KEEPALIVE_SECONDS: u64 = 10;
/// What our statements rely on, whatever the server or the role is set up with. They find single rows by their keys; a
/// plan that was made while a table was empty must never read it whole when it is full.
const SESSION_SETTINGS: &str = "SET default_transaction_isolation = 'read committed';
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off;
    SET statement_timeout = '5s'; SET lock_timeout = '4s'; SET idle_in_transaction_session_timeout = '10s'";

/// Parameters of a URL that the driver reads.
const PARAMETERS: [&str; 19] = [
    "user",
    "password",
    "dbname",
    "options",
    "application_name",
    "sslmode",
    "sslnegotiation",
    "host",
    "hostaddr",
    "port",
    "connect_timeout",
    "tcp_user_timeout",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];
/// Parameters that only libpq reads.
const LIBPQ_PARAMETERS: [&str; 12] = [
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslcompression",
    "ssl_min_protocol_version",
    "gssencmode",
    "krbsrvname",
    "passfile",
    "service",
    "client_encoding",
];
/// Which session a statement runs in. A process id alone may be used again, or by another server behind one address.
const SESSION_OF_STATEMENT: &str = "SELECT concat(pg_backend_pid(), ' ', \
    (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()))";

/// Where a Postgres server is, and how it is spoken to. Prints without the password.
#[derive(Clone)]
pub struct Postgres {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// Whether the URL can be read in one way only, so that what is taken for a host is no part of a password.
    is_plain: bool,
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
    /// the system trusts, and its name. It is used where `sslmode` says `require` or `verify-full`, which are the same
    /// here, or says nothing and the server offers it; not within one machine, unless it is required.
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
        Ok(Self { config, tls, is_plain: shown_address(url) != HIDDEN })
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

    /// Checks that each connection has a session of its own, by the sessions of two connections in turn. Our statements
    /// are prepared, and `LISTEN` and the settings of a session last as long as the session.
    ///
    /// # Errors
    /// A pooler gives each transaction another session.
    pub async fn check_sessions(&self) -> Result<(), String> {
        let (Ok(one), Ok(other)) = (self.connect().await, self.connect().await) else {
            // The store connects next, and reports why that fails.
            return Ok(());
        };
        let [(one, _polled), (other, _other_polled)] = [one, other]
            .map(|(client, messages)| (client, AbortOnDropHandle::new(tokio::spawn(messages.for_each(|_| ready(()))))));
        let sessions = async {
            Some([
                session_of(&one).await?,
                session_of(&other).await?,
                session_of(&one).await?,
                session_of(&other).await?,
            ])
        };
        // A server that does not answer is reported by the store too.
        let Some([first, second, first_again, second_again]) = in_time(sessions).await else { return Ok(()) };
        if first == first_again && second == second_again && first != second {
            return Ok(());
        }
        Err("leads to PgBouncer, or another pooler, in transaction mode, where the statements of one connection run in \
             different sessions; connect to Postgres itself, or set pool_mode=session for this database in PgBouncer \
             (qrlogin pools its connections itself: database_connections)"
            .to_owned())
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
/// What is wrong with it, without quoting it.
pub fn check_url(url: &str) -> Result<Config, String> {
    let credentials =
        url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(credentials, _)| credentials);
    let user = credentials.and_then(|credentials| credentials.split(':').next()).unwrap_or_default();
    if user.contains(['/', '?', '#']) {
        return Err("has an @ behind its host; write it as %40".to_owned());
    }
    let config = Config::from_str(&for_driver(url)?).map_err(|error| explain(&error))?;
    if config.get_hosts().is_empty() {
        return Err("names no host".to_owned());
    }
    // Only the first @ ends the password, for libpq too. The rest of it would be looked up as a host.
    if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
        return Err("has more than one @; in a user or a password, write it as %40".to_owned());
    }
    Ok(config)
}

/// A URL as the driver takes it, which does not know all that libpq does.
fn for_driver(url: &str) -> Result<Zeroizing<String>, String> {
    // As the driver does: credentials end at the first @, and the parameters begin at the first ? after them.
    let hosts_at = url.find('@').map_or(0, |at| at + 1);
    let Some(query_at) = url[hosts_at..].find('?').map(|at| hosts_at + at) else {
        return Ok(Zeroizing::new(url.to_owned()));
    };
    let mut rewritten = Zeroizing::new(String::with_capacity(url.len()));
    rewritten.push_str(&url[..query_at]);
    let mut separator = '?';
    for parameter in url[query_at + 1..].split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or("has a parameter without a value")?;
        let value = match (name, value) {
            ("sslmode", "verify-full") => "require",
            ("sslmode", "verify-ca" | "allow") => {
                return Err(format!(
                    "sslmode={value} is not supported; sslmode=require and sslmode=verify-full both verify the server's \
                     certificate, against those that the system trusts, and its name"
                ));
            }
            ("sslmode", "disable" | "prefer" | "require") => value,
            ("sslmode", _) => return Err("sslmode is none of disable, prefer, require, verify-full".to_owned()),
            // What is always done.
            ("sslrootcert", "system") => continue,
            ("sslrootcert", _) => {
                return Err(
                    "sslrootcert is not supported; add the certificate to those that the system trusts, or name \
                            its file in the environment variable SSL_CERT_FILE"
                        .to_owned(),
                );
            }
            (name, _) if LIBPQ_PARAMETERS.contains(&name) => {
                return Err(format!("{name} is not supported; leave it out"));
            }
            (name, value) if PARAMETERS.contains(&name) => value,
            // It is not named: it may be the rest of a password.
            _ => {
                return Err("has an unknown parameter; in a password, write & as %26, ? as %3F and # as %23".to_owned());
            }
        };
        rewritten.push(separator);
        rewritten.push_str(name);
        rewritten.push('=');
        rewritten.push_str(value);
        separator = '&';
    }
    Ok(rewritten)
}

async fn session_of(client: &Client) -> Option<String> {
    let messages = client.simple_query(SESSION_OF_STATEMENT).await.ok()?;
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
        _ => None,
    })
}

#[expect(clippy::disallowed_methods, reason = "nothing a test would want to move")]
async fn in_time<T>(work: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(CONNECT_SECONDS), work).await.ok().flatten()
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
    fn sslmode_is_read_as_libpq_has_it_or_refused_by_name() {
        let mode = |parameters: &str| {
            check_url(&format!("postgres://u:p@h/d{parameters}")).map(|config| config.get_ssl_mode())
        };
        for (parameters, expected) in [
            ("", SslMode::Prefer),
            ("?sslmode=disable", SslMode::Disable),
            ("?sslmode=prefer", SslMode::Prefer),
            ("?sslmode=require", SslMode::Require),
            ("?sslmode=verify-full", SslMode::Require),
            ("?sslmode=verify-full&sslrootcert=system", SslMode::Require),
            ("?sslrootcert=system&connect_timeout=3&sslmode=verify-full", SslMode::Require),
        ] {
            assert_eq!(mode(parameters), Ok(expected), "{parameters}");
        }
        for (parameters, parts) in [
            ("?sslmode=verify-ca", &["sslmode=verify-ca", "sslmode=require", "name"][..]),
            ("?sslmode=allow", &["sslmode=allow"]),
            ("?sslmode=hunter2", &["sslmode is none of"]),
            ("?sslmode=verify-full&sslrootcert=/hunter2.pem", &["sslrootcert", "SSL_CERT_FILE"]),
            ("?sslkey=hunter2", &["sslkey is not supported"]),
            ("?password=a&hunter2=c", &["unknown parameter"]),
            ("?hunter2", &["without a value"]),
            ("?port=hunter2", &["port"]),
        ] {
            let reason = mode(parameters).unwrap_err();
            assert!(parts.iter().all(|part| reason.contains(part)) && !reason.contains("hunter2"), "{reason}");
        }
    }

    #[test]
    fn a_host_is_shown_only_if_it_cannot_be_a_part_of_the_password() {
        for (url, shown) in [
            ("postgres://u:hunter2@db,db2:5433/d", "Postgres at db,db2:5432,5433"),
            ("postgres://u:hun/ter2#x@db/d", "not shown"),
            ("postgres://db:5432/d?password=x@hunter2", "not shown"),
        ] {
            let postgres =
                Postgres::parse(&format!("{url}{}sslmode=disable", if url.contains('?') { "&" } else { "?" }));
            let printed = format!("{0} {0:?}", postgres.unwrap());
            assert!(printed.contains(shown) && !printed.contains("hunter2") && !printed.contains("ter2"), "{printed}");
        }
        for url in ["postgres://u:hun@ter2@db/d", "postgres://db/d?password=hun@ter2"] {
            let reason = check_url(url).unwrap_err();
            assert!(reason.contains("%40") && !reason.contains("ter2"), "{reason}");
        }
    }
}
