//! Whatever is stuck, the program ends in its time; and what it is told while it runs, it does.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::connect_async;

use crate::harness::app_token;
use crate::program::{Program, SERVE, qrlogin, signal};
use crate::real_time::{now, sleep_millis};

/// A server whose log nobody reads any more, once it has said where it listens.
struct Unread {
    child: Child,
    base: String,
    /// Kept open, and not read.
    _log: BufReader<std::process::ChildStderr>,
}

impl Unread {
    fn serve(dir: &tempfile::TempDir, format: &str) -> Self {
        let mut child = qrlogin(dir.path(), &SERVE)
            .args(["--set", "limits.enabled=false", "--set", "log.level=trace"])
            .env("QRLOGIN_LOG__FORMAT", format)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
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
        Self { child, base, _log: log }
    }

    /// How long it takes to end after this signal.
    fn ends(&mut self, name: &str) -> Duration {
        let asked = now();
        signal(self.child.id(), name);
        while self.child.try_wait().unwrap().is_none() {
            if asked.elapsed() > Duration::from_secs(30) {
                drop(self.child.kill());
                panic!("it is still running 30 s after SIG{name}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        asked.elapsed()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_log_nobody_reads_logs_people_in_and_ends_when_it_is_asked_to() {
    for (format, name) in [("text", "TERM"), ("json", "INT")] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Unread::serve(&dir, format);
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let post = async |path: &str, token: Option<&str>, body: serde_json::Value| {
            let mut request = http.post(format!("{}{path}", server.base)).json(&body);
            if let Some(token) = token {
                request = request.bearer_auth(token);
            }
            request.send().await.unwrap().json::<serde_json::Value>().await.unwrap()
        };
        let mut waiting = Vec::new();
        // A pipe holds 64 KiB: this is several times that, at `trace`.
        for _ in 0..300 {
            let session = post("/v1/qr-login/generate", None, json!({})).await;
            let url = format!("{}{}", server.base.replace("http", "ws"), session["ws_path"].as_str().unwrap());
            waiting.push(connect_async(url).await.unwrap().0);
        }
        let session = post("/v1/qr-login/generate", None, json!({})).await;
        let token = app_token(json!({ "sub": "ann" }));
        let confirmed = post("/v1/qr-login/confirm", Some(&token), json!({ "code": session["code"] })).await;
        assert_eq!(confirmed["status"], "confirmed");
        let took = server.ends(name);
        assert!(took < Duration::from_secs(10), "{format}, SIG{name}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Unread::serve(&dir, "text");
    // A client that never finishes holds the stopping up.
    let mut slow = std::net::TcpStream::connect(server.base.trim_start_matches("http://")).unwrap();
    std::io::Write::write_all(
        &mut slow,
        b"POST /v1/qr-login/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n",
    )
    .unwrap();
    signal(server.child.id(), "TERM");
    std::thread::sleep(Duration::from_millis(300));
    assert!(server.child.try_wait().unwrap().is_none(), "it waits for what is in flight");
    assert!(server.ends("TERM") < Duration::from_secs(7), "what is in flight would have had eight");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_files_says_so_once_and_goes_on_when_it_has_some() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve_after(&dir, "ulimit -n 64");
    let address = program.base.trim_start_matches("http://").to_owned();
    let held: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    program.until_logged("\"accept failed\"").await;
    // Some go, others come, and fail.
    for stream in held.into_iter().step_by(2) {
        drop(stream);
        sleep_millis(20).await;
    }
    let session = program.generate().await;
    assert_eq!(program.status(&session).await["status"], "pending");
    let (_, log) = program.terminate();
    assert_eq!(log.matches("\"accept failed\"").count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reloads_keys_and_the_log_level_and_ends_nothing() {
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
fn a_demo_whose_terminal_is_closed_leaves_nothing_behind() {
    let (dir, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut demo = qrlogin(dir.path(), &["demo", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"])
        .env("TMPDIR", temp.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(demo.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0);
    }
    signal(demo.id(), "HUP");
    assert_eq!(demo.wait().unwrap().code(), Some(0));
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
}
