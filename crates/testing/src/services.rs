//! Postgres and Redis servers of the tests' own, from Debian's packages. Tests may stop, kill and freeze them.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use crate::needs::find_program;
use crate::program::{TimeLimit, run};
use crate::real_time::{sleep_millis, until, within};

/// Shell script that runs a command and ends it with a signal, its first argument, when the script's input ends. The
/// input also ends when the test process dies.
const KEEPER: &str = r#"
    signal=$1; shift
    "$@" >&2 & child=$!
    echo $child
    read ignored
    kill -CONT $child 2>/dev/null
    kill -$signal $child 2>/dev/null
    wait $child
"#;

/// A process that ends when this value is dropped or the test process ends.
struct Kept {
    keeper: Child,
    pid: u32,
}

impl Kept {
    fn start(command: &[&str], end_by: &str, log: &Path, user: Option<(u32, u32)>) -> Self {
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        let mut keeper = Command::new("sh");
        keeper.args(["-c", KEEPER, "keeper", end_by]).args(command);
        keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).current_dir("/");
        if let Some((user, group)) = user {
            keeper.uid(user).gid(group);
        }
        let mut keeper = keeper.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { keeper, pid: line.trim().parse().unwrap() }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _limit = TimeLimit::of(&self.keeper);
        drop(self.keeper.wait());
    }
}

/// Sends a signal to each of these processes.
pub fn signal(name: &str, pids: &[u32]) {
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    // A process may have ended meanwhile; ignore the error.
    Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status().unwrap();
}

/// Returns a port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A Postgres server with a data directory of its own.
pub struct Postgres {
    running: Mutex<Option<Kept>>,
    /// Port of the server on 127.0.0.1.
    pub port: u16,
    dir: TempDir,
    databases: AtomicU32,
}

impl Postgres {
    /// Starts a server that one test may stop, kill and freeze.
    pub async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("qrlogin-postgres-").tempdir().unwrap();
        let user = postgres_user();
        if let Some((user, group)) = user {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let data = dir.path().join("data");
        let mut init = Command::new(program("initdb"));
        init.args([
            "-D",
            data.to_str().unwrap(),
            "-U",
            "qrlogin",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]);
        if let Some((user, group)) = user {
            init.uid(user).gid(group);
        }
        let (status, _, errors) = run(init.current_dir("/"));
        assert!(status.success(), "{errors}");
        let postgres = Self { running: Mutex::new(None), port: free_port(), dir, databases: AtomicU32::new(0) };
        postgres.run();
        postgres.answers().await;
        postgres
    }

    /// Returns the server that tests share. Each test creates a database of its own.
    pub async fn shared() -> Arc<Self> {
        static SHARED: OnceLock<tokio::sync::Mutex<Weak<Postgres>>> = OnceLock::new();
        let mut shared = SHARED.get_or_init(tokio::sync::Mutex::default).lock().await;
        if let Some(postgres) = shared.upgrade() {
            return postgres;
        }
        let postgres = Arc::new(Self::start().await);
        *shared = Arc::downgrade(&postgres);
        postgres
    }

    fn run(&self) {
        let (data, port) = (self.dir.path().join("data"), self.port.to_string());
        let program = program("postgres");
        let command =
            [program.to_str().unwrap(), "-D", data.to_str().unwrap(), "-p", &port, "-h", "127.0.0.1", "-k", ""];
        let settings = ["-c", "fsync=off", "-c", "max_connections=200", "-c", "shared_buffers=64MB"];
        let command: Vec<_> = command.into_iter().chain(settings).collect();
        let kept = Kept::start(&command, "QUIT", &self.dir.path().join("log"), postgres_user());
        *self.running.lock().unwrap() = Some(kept);
    }

    async fn answers(&self) {
        for _ in 0..2000 {
            if let Ok(client) = connect(&self.url_of("postgres")).await
                && client.simple_query("SELECT 1").await.is_ok()
            {
                return;
            }
            sleep_millis(10).await;
        }
        panic!("Postgres does not answer: {}", fs::read_to_string(self.dir.path().join("log")).unwrap());
    }

    /// Stops the server by SIGQUIT, Postgres's immediate shutdown, and starts it again.
    pub async fn restart(&self) {
        drop(self.running.lock().unwrap().take());
        self.run();
        self.answers().await;
    }

    fn processes(&self) -> Vec<u32> {
        let pid = self.running.lock().unwrap().as_ref().unwrap().pid;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        std::iter::once(pid).chain(children.split_whitespace().map(|child| child.parse().unwrap())).collect()
    }

    /// Freezes all processes of the server (SIGSTOP).
    pub fn freeze(&self) {
        signal("STOP", &self.processes());
    }

    /// Resumes all processes of the server (SIGCONT).
    pub fn thaw(&self) {
        signal("CONT", &self.processes());
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://qrlogin@127.0.0.1:{}/{database}", self.port)
    }

    /// Returns the directory in which the nodes on this server keep their keys.
    pub fn keys(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    /// Creates an empty database and returns its URL.
    pub async fn database(&self) -> String {
        self.database_with("").await
    }

    /// Like [`Self::database`], with these options of `CREATE DATABASE`.
    pub async fn database_with(&self, options: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let client = connect(&self.url_of("postgres")).await.unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name} {options}")).await.unwrap();
        self.url_of(&name)
    }
}

/// Opens a connection for the test's own queries.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = within("Postgres accepts a connection", tokio_postgres::connect(url, NoTls)).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Returns the user and the group to run Postgres as, if they are not the test's own. Postgres refuses to run as root,
/// so tests that run as root use the user of Debian's package.
fn postgres_user() -> Option<(u32, u32)> {
    let id = |flag: &str, user: &[&str]| {
        let output = Command::new("id").arg(flag).args(user).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().ok()
    };
    if id("-u", &[]) != Some(0) {
        return None;
    }
    let of = |flag| id(flag, &["postgres"]).expect("Debian's postgresql package makes a user postgres");
    Some((of("-u"), of("-g")))
}

/// Returns the path of a program. Panics if it is not installed.
fn program(name: &str) -> PathBuf {
    find_program(name).unwrap_or_else(|| panic!("{name} is not installed"))
}

/// A PgBouncer in front of a Postgres server.
pub struct PgBouncer {
    _running: Kept,
    port: u16,
    _dir: TempDir,
}

impl PgBouncer {
    /// Starts a pooler with these lines of settings.
    pub fn start(postgres: &Postgres, settings: &str) -> Self {
        let (dir, port) = (tempfile::Builder::new().prefix("qrlogin-pgbouncer-").tempdir().unwrap(), free_port());
        let file = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=qrlogin\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n{settings}\n",
            postgres.port
        );
        fs::write(&file, text).unwrap();
        let user = postgres_user();
        if let Some((user, group)) = user {
            chown(dir.path(), Some(user), Some(group)).unwrap();
        }
        let pgbouncer = program("pgbouncer");
        let command = [pgbouncer.to_str().unwrap(), file.to_str().unwrap()];
        let running = Kept::start(&command, "TERM", &dir.path().join("log"), user);
        Self { _running: running, port, _dir: dir }
    }

    /// Returns the URL of a database behind the pooler, which has this URL in front of it.
    pub async fn url(&self, database: &str) -> String {
        let name = database.rsplit('/').next().unwrap();
        let url = format!("postgres://qrlogin@127.0.0.1:{}/{name}", self.port);
        until("PgBouncer answers", async || connect(&url).await.is_ok()).await;
        url
    }
}

/// A Redis server with a directory of its own.
pub struct Redis {
    running: Mutex<Option<Kept>>,
    port: u16,
    dir: TempDir,
}

impl Redis {
    /// Starts a server that one test may kill.
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("qrlogin-redis-").tempdir().unwrap();
        let redis = Self { running: Mutex::new(None), port: free_port(), dir };
        redis.run();
        redis
    }

    /// Starts the server after [`Self::kill`].
    pub fn run(&self) {
        let (port, dir) = (self.port.to_string(), self.dir.path().to_str().unwrap());
        let command = ["redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir", dir];
        let kept = Kept::start(&command, "TERM", &self.dir.path().join("log"), None);
        *self.running.lock().unwrap() = Some(kept);
    }

    /// Kills the server (SIGKILL).
    pub fn kill(&self) {
        let kept = self.running.lock().unwrap().take().unwrap();
        signal("KILL", &[kept.pid]);
    }

    /// Returns the server's URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Creates or changes a user with the password `swordfish` and these permissions (`ACL SETUSER`). Returns the URL
    /// for that user.
    pub async fn permit(&self, user: &str, rules: &[&str]) -> String {
        let client = redis::Client::open(self.url()).unwrap();
        until("Redis answers", async || client.get_multiplexed_async_connection().await.is_ok()).await;
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(user).arg("on").arg(">swordfish").arg(rules);
        command.query_async::<()>(&mut connection).await.unwrap();
        format!("redis://{user}:swordfish@127.0.0.1:{}", self.port)
    }
}
