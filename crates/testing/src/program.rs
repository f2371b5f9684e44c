//! The `qrlogin` program as a process.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answer, SECRET, http_client};
use crate::real_time::{now, sleep_millis};

/// Arguments that serve on free ports.
pub const SERVE: [&str; 5] = ["serve", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];

/// Returns the path of the program, which Cargo names in the environment of the tests.
pub fn program() -> String {
    std::env::var("CARGO_BIN_EXE_qrlogin").expect("Cargo sets CARGO_BIN_EXE_qrlogin for the tests")
}

/// Returns a command that runs the program in `dir`. Its only environment variable is the secret of the app tokens.
pub fn qrlogin(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).current_dir(dir).env_clear().env("QRLOGIN_APP_AUTH__HMAC_SECRET", SECRET);
    command
}

/// Runs a command to its end. Returns its status and what it printed on both outputs. Kills the command after 30
/// seconds.
pub fn run(command: &mut Command) -> (ExitStatus, String, String) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let limit = TimeLimit::of(&child);
    let output = child.wait_with_output().unwrap();
    drop(limit);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status, text(output.stdout), text(output.stderr))
}

/// Sends a signal to the process.
pub fn signal(id: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Waits until a process has ended, and returns its exit status. Kills the process and panics after 30 seconds.
pub fn ended(child: &mut Child) -> ExitStatus {
    let started = now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if started.elapsed() > Duration::from_secs(30) {
            drop(child.kill());
            panic!("the process {} has not ended within 30 s", child.id());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kills a process that has not ended 30 seconds later, so that a test that waits for its output or its end fails
/// instead of hanging. The process is not killed after this value is dropped.
pub struct TimeLimit(#[expect(dead_code, reason = "its drop ends the thread")] mpsc::Sender<()>);

impl TimeLimit {
    /// Limits the time of a process.
    pub fn of(child: &Child) -> Self {
        let (sender, dropped) = mpsc::channel();
        let id = child.id();
        std::thread::spawn(move || {
            if dropped.recv_timeout(Duration::from_secs(30)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("the process {id} has not ended within 30 s");
                signal(id, "KILL");
            }
        });
        Self(sender)
    }
}

/// A running `qrlogin serve`.
pub struct Program {
    child: Child,
    /// Base URL of the public port.
    pub base: String,
    /// Base URL of the operations port.
    pub ops: String,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    /// The client with which the test calls the program.
    pub http: reqwest::Client,
}

impl Program {
    /// Starts the program on free ports, with its database and keys in `dir`. Returns once it listens.
    pub fn serve(dir: &TempDir, log_level: &str) -> Self {
        Self::serve_with(dir, log_level, &[])
    }

    /// Like [`Self::serve`], with additional environment variables.
    pub fn serve_with(dir: &TempDir, log_level: &str, environment: &[(&str, &str)]) -> Self {
        Self::start(dir, &[&[("QRLOGIN_LOG__LEVEL", log_level)], environment].concat())
    }

    /// Like [`Self::serve`], with the log level of the configuration file.
    pub fn serve_without_level(dir: &TempDir) -> Self {
        Self::start(dir, &[])
    }

    /// Starts the program from a shell that has run the command `before`.
    pub fn serve_after(dir: &TempDir, before: &str) -> Self {
        let mut command = Command::new("sh");
        let run = format!("{before} && exec \"$0\" \"$@\"");
        command.args(["-c", &run, &program()]).args(SERVE).current_dir(dir.path());
        command.env("QRLOGIN_APP_AUTH__HMAC_SECRET", SECRET);
        Self::listening(&mut command)
    }

    fn start(dir: &TempDir, environment: &[(&str, &str)]) -> Self {
        Self::listening(qrlogin(dir.path(), &SERVE).envs(environment.iter().copied()))
    }

    fn listening(command: &mut Command) -> Self {
        let mut child = command.env("QRLOGIN_LOG__FORMAT", "json").stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let (collected, (found, listening)) = (log.clone(), mpsc::channel());
        let reader = std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).unwrap() > 0 {
                collected.lock().unwrap().push_str(&line);
                let line = std::mem::take(&mut line);
                if line.contains("\"listening\"") {
                    // The receiver waits for the first such line only.
                    drop(found.send(line));
                }
            }
        });
        let Ok(listening) = listening.recv_timeout(Duration::from_secs(30)) else {
            drop(child.kill());
            panic!("the program has not logged that it listens: {}", log.lock().unwrap());
        };
        let listening: Value = serde_json::from_str(&listening).unwrap();
        assert_eq!(listening["event"], "listening");
        let address = |name: &str| format!("http://{}", listening[name].as_str().unwrap());
        let (base, ops) = (address("public"), address("ops"));
        let http = http_client();
        Self { child, base, ops, log, reader: Some(reader), http }
    }

    /// Sends a POST request with `body` as JSON.
    pub async fn post(&self, path: &str, token: Option<&str>, body: Value) -> Result<Answer, reqwest::Error> {
        let mut request = self.http.post(format!("{}{path}", self.base)).json(&body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        Ok(Answer::of(request.send().await?).await)
    }

    /// Creates a session. Returns the answer.
    pub async fn generate(&self) -> Value {
        self.post("/v1/qr-login/generate", None, json!({})).await.unwrap().body
    }

    /// Returns the answer of `status` for the session, which is an answer of `generate`.
    pub async fn status(&self, session: &Value) -> Value {
        let path = format!("{}/v1/qr-login/status/{}", self.base, session["session_id"].as_str().unwrap());
        Answer::of(self.http.get(path).send().await.unwrap()).await.body
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns what the program has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Returns the value of a metric without labels.
    pub async fn metric(&self, name: &str) -> String {
        let text = self.http.get(format!("{}/metrics", self.ops)).send().await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name}: {text}")).to_owned()
    }

    /// Waits until the log contains `text`. Panics after ten seconds.
    pub async fn until_logged(&self, text: &str) {
        for _ in 0..500 {
            if self.log.lock().unwrap().contains(text) {
                return;
            }
            sleep_millis(20).await;
        }
        panic!("'{text}' is not logged:\n{}", self.log.lock().unwrap());
    }

    /// Kills the process (SIGKILL) and waits until it has ended.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits until the process has ended. Returns its exit status and its log.
    pub fn terminate(self) -> (ExitStatus, String) {
        signal(self.child.id(), "TERM");
        self.ended()
    }

    /// Waits until the process has ended. Returns its exit status and its log.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = ended(&mut self.child);
        self.reader.take().unwrap().join().unwrap();
        let log = std::mem::take(&mut *self.log.lock().unwrap());
        (status, log)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // The process may have ended already; ignore the errors.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
