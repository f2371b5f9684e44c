//! The `qrlogin` program, started and stopped as an operator does it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use qrlogin_testing::harness::{Answer, SECRET};
use qrlogin_testing::program::{Program, TimeLimit, qrlogin, run, signal};
use qrlogin_testing::real_time::within;
use qrlogin_testing::test;
use serde_json::{Value, json};

/// Asserts that the program refuses to start, with exit code 1 and an error that contains all `parts`.
fn refused(command: &mut Command, parts: &[&str]) {
    let (status, _, stderr) = run(command);
    assert_eq!(status.code(), Some(1), "{stderr}");
    for part in parts {
        assert!(stderr.contains(part), "'{part}' is missing in: {stderr}");
    }
}

#[test]
fn unusable_setting_prevents_the_start_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let serve =
        |arguments: &[&str]| qrlogin(dir.path(), &[&["serve", "--ops-listen", "127.0.0.1:0"], arguments].concat());
    refused(&mut serve(&["--set", "sesion.ttl=3"]), &["--set", "unknown key 'sesion.ttl'"]);
    refused(serve(&[]).env("QRLOGIN_SESSION__TTL", "3"), &["QRLOGIN_SESSION__TTL", "unknown key 'session.ttl'"]);
    refused(&mut serve(&["--config", "missing.toml"]), &["missing.toml"]);
    refused(
        &mut serve(&["--listen", "127.0.0.1:0", "--database-url", "sqlite:///proc/no/x.db"]),
        &["database_url", "/proc/no/x.db"],
    );
    refused(serve(&["--listen", "127.0.0.1:0"]).env_remove("QRLOGIN_APP_AUTH__HMAC_SECRET"), &["app_auth.hmac_secret"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(&mut serve(&["--listen", &address]), &["listen", &address, "in use"]);
    std::fs::write(dir.path().join("qrlogin.toml"), "[token]\nttl = 1\n").unwrap();
    refused(&mut serve(&[]), &["qrlogin.toml", "'token.ttl'", "ttl_seconds"]);
    refused(&mut qrlogin(dir.path(), &["check-config"]), &["qrlogin.toml", "'token.ttl'"]);
    refused(&mut qrlogin(dir.path(), &["demo", "--listen", "0.0.0.0:0"]), &["listen", "--lan"]);
}

#[test]
fn settings_are_checked_and_printed_with_secrets_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let (status, stdout, _) = run(&mut qrlogin(dir.path(), &["check-config"]));
    assert!(status.success() && stdout.contains("can be used"), "{stdout}");
    let (status, shown, _) = run(qrlogin(dir.path(), &["print-config"]).env("QRLOGIN_SESSION__TTL_SECONDS", "120"));
    assert!(status.success() && shown.contains("ttl_seconds = 120") && !shown.contains(SECRET), "{shown}");
    // The output is a valid configuration file.
    std::fs::write(dir.path().join("again.toml"), &shown).unwrap();
    let (_, again, stderr) =
        run(qrlogin(dir.path(), &["print-config", "--config", "again.toml"])
            .env_remove("QRLOGIN_APP_AUTH__HMAC_SECRET"));
    assert_eq!(again, shown, "{stderr}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no other file was created");
}

#[test]
fn version_and_commands_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let (_, version, _) = run(&mut qrlogin(dir.path(), &["--version"]));
    assert_eq!(version.trim(), format!("qrlogin {}", env!("CARGO_PKG_VERSION")));
    let (_, help, _) = run(&mut qrlogin(dir.path(), &["--help"]));
    for command in ["serve", "demo", "check-config", "print-config", "gen-token", "login"] {
        assert!(help.contains(command), "{help}");
    }
}

#[test]
async fn serve_accepts_trial_tokens_and_stops_on_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(&dir, "info");
    let (status, token, _) = run(&mut qrlogin(dir.path(), &["gen-token", "--user", "ann", "--name", "Ann"]));
    assert!(status.success());
    let session = program.generate().await;
    let scan = program.post("/v1/qr-login/scan", Some(token.trim()), json!({ "code": session["code"] })).await.unwrap();
    assert_eq!(scan.status, 200);
    let shown = program.status(&session).await;
    assert_eq!((&shown["status"], &shown["user"]["name"]), (&json!("scanned"), &json!("Ann")));
    for (path, expected) in [("livez", "ok\n"), ("readyz", "ok\n")] {
        let answer = program.http.get(format!("{}/{path}", program.ops)).send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), expected);
    }
    let url = format!("{}{}", program.base.replace("http", "ws"), session["ws_path"].as_str().unwrap());
    let connecting = tokio_tungstenite::connect_async(url);
    let (waiting, _) = within("the handshake is answered", connecting).await.unwrap();
    let (status, log) = program.terminate();
    assert_eq!(status.code(), Some(0));
    drop(waiting);
    let last: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "stopped");
}

#[test]
async fn reason_for_a_refused_app_token_is_logged_at_debug_without_the_token() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(&dir, "debug");
    let session = program.generate().await;
    let token = qrlogin_testing::keys::app_token(json!({ "sub": "ann", "exp": 1 }));
    let scan = program.post("/v1/qr-login/scan", Some(&token), json!({ "code": session["code"] })).await.unwrap();
    assert_eq!(scan.refusal(), "401 invalid_token");
    program.until_logged("\"app token refused\"").await;
    let (_, log) = program.terminate();
    let line = log.lines().find(|line| line.contains("app token refused")).unwrap();
    let line: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&line["level"], &line["reason"]), (&json!("DEBUG"), &json!("expired")));
    assert!(token.split('.').all(|part| !log.contains(part)));
}

#[test]
async fn demo_answers_only_under_its_own_host_names() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = qrlogin(dir.path(), &["demo", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"])
        .env("QRLOGIN_LOG__FORMAT", "json")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _limit = TimeLimit::of(&demo);
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(BufReader::new(demo.stderr.as_mut().unwrap()).read_line(&mut line).unwrap() > 0);
    }
    let listening: Value = serde_json::from_str(&line).unwrap();
    let address = listening["public"].as_str().unwrap();
    let port = address.rsplit(':').next().unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked_as = async |host: &str, path: &str, upgrade: bool| {
        let mut request = http.get(format!("http://{address}{path}")).header("host", host);
        if upgrade {
            let fields = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
            request = fields.into_iter().fold(request, |request, (name, value)| request.header(name, value));
            request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        }
        Answer::of(request.send().await.unwrap()).await
    };
    for host in ["localhost", "LocalHost", "127.0.0.1", "[::1]"] {
        assert_eq!(asked_as(&format!("{host}:{port}"), "/", false).await.status, 200, "{host}");
        assert_eq!(asked_as(host, "/", false).await.status, 200, "{host}");
    }
    let unknown = format!("/v1/ws/qr/{}", "A".repeat(43));
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.1", "a b"] {
        for (path, upgrade) in [
            ("/", false),
            ("/q/x", false),
            ("/demo/provider/authorize", false),
            ("/openapi.json", false),
            (&*unknown, true),
        ] {
            let answer = asked_as(&format!("{host}:{port}"), path, upgrade).await;
            assert_eq!(answer.refusal(), "403 forbidden_host", "{host}{path}");
        }
    }
    signal(demo.id(), "TERM");
    assert_eq!(demo.wait().unwrap().code(), Some(0));
}

#[test]
fn demo_removes_its_files_when_interrupted() {
    let (dir, temp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arguments = ["demo", "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    let mut child = qrlogin(dir.path(), &arguments)
        .env("TMPDIR", temp.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _limit = TimeLimit::of(&child);
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0);
    }
    assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut greeting = String::new();
    child.stdout.take().unwrap().read_to_string(&mut greeting).unwrap();
    assert!(greeting.starts_with("Open http://localhost:"), "{greeting}");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    for left in [dir, temp] {
        assert_eq!(std::fs::read_dir(left.path()).unwrap().count(), 0);
    }
}
