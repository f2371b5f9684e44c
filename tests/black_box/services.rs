//! A Postgres and a Redis of the tests' own, from Debian's packages, which the tests may stop, kill and freeze.

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

use crate::real_time::{sleep_millis, until};

/// Runs a command in the shell, and ends it, by the signal named first, when the shell's input ends: when the test does,
/// however it does.
const KEEPER: &str = r#"
    signal=$1; shift
    "$@" >&2 & child=$!
    echo $child
    read ignored
    kill -CONT $child 2>/dev/null
    kill -$signal $child 2>/dev/null
    wait $child
"#;

/// A program that goes when this does.
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
        drop(self.keeper.wait());
    }
}

/// Sends a signal to each of these processes.
pub fn signal(name: &str, pids: &[u32]) {
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    // One of them may have ended meanwhile.
    Command::new("kill").arg(format!("-{name}")).args(pids).stderr(Stdio::null()).status().unwrap();
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A Postgres server.
pub struct Postgres {
    running: Mutex<Option<Kept>>,
    pub port: u16,
    dir: TempDir,
    databases: AtomicU32,
}

impl Postgres {
    /// One of this test's own, to be stopped, killed and frozen.
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
        let made = init.current_dir("/").output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let postgres = Self { running: Mutex::new(None), port: free_port(), dir, databases: AtomicU32::new(0) };
        postgres.run();
        postgres.answers().await;
        postgres
    }

    /// One that tests share, each with a database of its own.
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

    /// Stops it as an operator does, and starts it again.
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

    /// Lets all of its processes stand still.
    pub fn freeze(&self) {
        signal("STOP", &self.processes());
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        signal("CONT", &self.processes());
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgres://qrlogin@127.0.0.1:{}/{database}", self.port)
    }

    /// Where the nodes that use it keep their keys.
    pub fn keys(&self) -> PathBuf {
        self.dir.path().join("keys")
    }

    /// The URL of a new, empty database.
    pub async fn database(&self) -> String {
        self.database_with("").await
    }

    /// As the last, made with these options of `CREATE DATABASE`.
    pub async fn database_with(&self, options: &str) -> String {
        let name = format!("test_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let client = connect(&self.url_of("postgres")).await.unwrap();
        client.batch_execute(&format!("CREATE DATABASE {name} {options}")).await.unwrap();
        self.url_of(&name)
    }
}

/// A connection for the test's own questions.
pub async fn connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Postgres refuses to run as root: then it runs as the user of Debian's package.
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

/// A program of Debian's package, which keeps those of several versions side by side.
fn program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut programs: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    programs.retain(|program| program.exists());
    programs.sort();
    programs.pop().unwrap_or_else(|| name.into())
}

/// A Redis server.
pub struct Redis {
    running: Mutex<Option<Kept>>,
    port: u16,
    dir: TempDir,
}

impl Redis {
    pub fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("qrlogin-redis-").tempdir().unwrap();
        let redis = Self { running: Mutex::new(None), port: free_port(), dir };
        redis.run();
        redis
    }

    pub fn run(&self) {
        let (port, dir) = (self.port.to_string(), self.dir.path().to_str().unwrap());
        let command = ["redis-server", "--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir", dir];
        let kept = Kept::start(&command, "TERM", &self.dir.path().join("log"), None);
        *self.running.lock().unwrap() = Some(kept);
    }

    /// Ends it without a warning.
    pub fn kill(&self) {
        let kept = self.running.lock().unwrap().take().unwrap();
        signal("KILL", &[kept.pid]);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Gives a user, whose password is `swordfish`, these permissions (`ACL SETUSER`). Returns the URL for that user.
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
