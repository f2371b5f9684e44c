//! Signals. The program ends in time even if its log is not read, and at once on a second signal. It reads its keys and
//! its log level again on SIGHUP.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::connect_async;

use qrlogin_testing::harness::http_client;
use qrlogin_testing::keys::app_token;
use qrlogin_testing::program::{Program, SERVE, TimeLimit, ended, qrlogin, signal};
use qrlogin_testing::real_time::{now, sleep_millis, within};
use qrlogin_testing::test;

/// A server whose log is not read after it has logged its addresses.
struct ServerWithUnreadLog {
    child: Child,
    base: String,
    /// Kept open without being read.
    _log: BufReader<std::process::ChildStderr>,
}

impl ServerWithUnreadLog {
    fn serve(dir: &tempfile::TempDir, format: &str) -> Self {
        Self::start(&mut qrlogin(dir.path(), &SERVE), format)
    }

    fn start(command: &mut Command, format: &str) -> Self {
        let mut child = command
            .args(["--set", "limits.enabled=false", "--set", "log.level=trace"])
            .env("QRLOGIN_LOG__FORMAT", format)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let limit = TimeLimit::of(&child);
        let mut log = BufReader::with_capacity(64, child.stderr.take().unwrap());
        let base = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0);
            if line.contains("listening") {
                let address = line.split("public").nth(1).unwrap().trim_start_matches(['=', '"', ':']);
                let end = address.find(|letter: char| !letter.is_ascii_digit() && !".:".contains(letter)).unwrap();
                break format!("http://{}", &address[..end]);
            }
        };
        drop(limit);
        Self { child, base, _log: log }
    }

    /// Sends this signal and returns the time until the process has ended.
    fn end_by(&mut self, name: &str) -> Duration {
        let sent = now();
        signal(self.child.id(), name);
        ended(&mut self.child);
        sent.elapsed()
    }
}

#[test]
async fn server_with_an_unread_log_serves_logins_and_ends_on_a_signal() {
    for (format, name) in [("text", "TERM"), ("json", "INT")] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = ServerWithUnreadLog::serve(&dir, format);
        let http = http_client();
        let post = async |path: &str, token: Option<&str>, body: serde_json::Value| {
            let mut request = http.post(format!("{}{path}", server.base)).json(&body);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            request.send().await.unwrap().json::<serde_json::Value>().await.unwrap()
        };
        let mut waiting = Vec::new();
        // At `trace`, these sessions log several times the 64 KiB that a pipe holds.
        for _ in 0..300 {
            let session = post("/v1/qr-login/generate", None, json!({})).await;
            let url = format!("{}{}", server.base.replace("http", "ws"), session["ws_path"].as_str().unwrap());
            waiting.push(within("the handshake is answered", connect_async(url)).await.unwrap().0);
        }
        let session = post("/v1/qr-login/generate", None, json!({})).await;
        let token = app_token(json!({ "sub": "ann" }));
        let confirmed = post("/v1/qr-login/confirm", Some(&token), json!({ "code": session["code"] })).await;
        assert_eq!(confirmed["status"], "confirmed");
        let took = server.end_by(name);
        assert!(took < Duration::from_secs(10), "{format}, SIG{name}: {took:?}");
    }
}

#[test]
async fn second_signal_ends_the_program_at_once() {
    let dir = tempfile::tempdir().unwrap();
    // An introspection endpoint that accepts connections and answers nothing. The request is handled for three seconds.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = qrlogin(dir.path(), &SERVE);
    command.env_remove("QRLOGIN_APP_AUTH__HMAC_SECRET");
    let url = format!("app_auth.introspection_url=http://{}/", silent.local_addr().unwrap());
    let mut server = ServerWithUnreadLog::start(command.args(["--set", &url]), "text");
    let mut phone = std::net::TcpStream::connect(server.base.trim_start_matches("http://")).unwrap();
    let scan = "POST /v1/qr-login/scan HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n\
                Content-Type: application/json\r\nContent-Length: 39\r\n\r\n{\"code\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAA\"}";
    std::io::Write::write_all(&mut phone, scan.as_bytes()).unwrap();
    silent.set_nonblocking(true).unwrap();
    let silent = tokio::net::TcpListener::from_std(silent).unwrap();
    let (_introspection, _) = within("the token is introspected", silent.accept()).await.unwrap();
    signal(server.child.id(), "TERM");
    sleep_millis(1500).await;
    assert!(server.child.try_wait().unwrap().is_none(), "it waits for the request that is being handled");
    let took = server.end_by("TERM");
    assert!(took < Duration::from_secs(1), "{took:?}: the request would have been handled for longer");
}

#[test(needs(Openssl))]
async fn sighup_rereads_the_keys_and_the_log_level() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("qrlogin.toml");
    let level = |level: &str| fs::write(&config, format!("[log]\nlevel = \"{level}\"\n")).unwrap();
    level("info");
    let program = Program::serve_without_level(&dir);
    let jwks = async || {
        let answer = program.http.get(format!("{}/.well-known/jwks.json", program.base)).send().await.unwrap();
        answer.json::<serde_json::Value>().await.unwrap()["keys"].as_array().unwrap().len()
    };
    assert_eq!(jwks().await, 1);
    let key = Command::new("openssl").args(["genpkey", "-algorithm", "ed25519"]).output().unwrap();
    fs::write(dir.path().join("keys/second.pem"), key.stdout).unwrap();
    level("debug");
    signal(program.id(), "HUP");
    program.until_logged("\"reloaded\"").await;
    assert_eq!(jwks().await, 2);
    program.generate().await;
    program.until_logged("\"answered\"").await;

    fs::write(&config, "[log]\nlvl = 3\n").unwrap();
    signal(program.id(), "HUP");
    program.until_logged("'log.lvl'").await;
    program.generate().await;
    let (status, _) = program.terminate();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn demo_removes_its_files_when_its_terminal_is_closed() {
    let (dir, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut demo = qrlogin(dir.path(), &["demo", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"])
        .env("TMPDIR", temp.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let limit = TimeLimit::of(&demo);
    let mut log = BufReader::new(demo.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0);
    }
    signal(demo.id(), "HUP");
    drop(limit);
    assert_eq!(ended(&mut demo).code(), Some(0));
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}
