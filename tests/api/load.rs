//! `qrlogin load`, against a real server.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

use qrlogin_testing::harness::{Server, hash_secret};
use qrlogin_testing::keys::app_token;
use qrlogin_testing::program::{Program, signal};
use qrlogin_testing::real_time::{sleep_millis, within};
use qrlogin_testing::test;

async fn load(server: &Server, arguments: &[&str]) -> (bool, String, String) {
    load_at(&server.base, &server.app_token(json!({ "sub": "load" })), arguments).await
}

async fn load_at(url: &str, token: &str, arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(qrlogin_testing::program::program());
    command.args(["load", "--url", url, "--token", token]).args(arguments);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = within("the load test has ended", output).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
async fn browsers_wait_and_log_in_and_their_costs_are_reported() {
    let server = Server::start().await;
    let pid = std::process::id().to_string();
    let arguments = ["--browsers", "30", "--logins-per-second", "20", "--seconds", "1", "--pid", &pid, "--json"];
    let (succeeded, out, err) = load(&server, &arguments).await;
    assert!(succeeded, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["browsers"], 30);
    assert_eq!(report["logins"], 20);
    assert_eq!(report["lost"], 0);
    assert_eq!(report["closed"], json!({ "1000": 20, "closed by the tool": 30 }));
    assert_eq!(report["errors"], json!({}));
    assert!(report["handshakes_per_second"].as_f64().unwrap() > 0.0);
    let push = &report["push_micros"];
    assert!(push["p50"].as_u64() > Some(0) && push["max"].as_u64() >= push["p99"].as_u64());
    assert!(report["server"]["resident_waiting"].as_u64() > Some(1 << 20));
    assert!(report["server"]["micros_per_login"].as_f64() > Some(0.0), "{report}");
    server.until_active(0).await;
    assert_eq!(server.closed("decided").await, 20);
    assert_eq!(server.closed("client").await, 30);

    let (succeeded, table, _) = load(&server, &["--browsers", "3", "--logins-per-second", "0", "--seconds", "1"]).await;
    assert!(succeeded && table.contains("browsers waiting") && table.contains("handshakes/s"), "{table}");
    server.stop().await;
}

#[test]
async fn every_transport_is_measured() {
    for (transport, ending) in [("websocket-ack", "1000"), ("sse", "1000"), ("poll", "200 OK")] {
        let server = Server::start().await;
        let counts = ["--browsers", "20", "--logins-per-second", "20", "--seconds", "1", "--json"];
        let (succeeded, out, err) = load(&server, &[&["--transport", transport], &counts[..]].concat()).await;
        assert!(succeeded, "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!([&report["logins"], &report["lost"], &report["errors"]], [&json!(20), &json!(0), &json!({})]);
        assert_eq!(report["closed"], json!({ ending: 20, "closed by the tool": 20 }));
        server.until_active(0).await;
        assert_eq!(server.closed("decided").await, 20);
        assert_eq!(server.closed("client").await, 20);
        server.stop().await;
    }
}

/// Starts a proxy that delays each answer of the server at this address by `late`. Returns the proxy's address.
async fn late_proxy(to: SocketAddr, late: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((browser, _)) = listener.accept().await {
            tokio::spawn(async move {
                let server = TcpStream::connect(to).await.unwrap();
                for stream in [&browser, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                let ((from_browser, to_browser), (from_server, to_server)) =
                    (browser.into_split(), server.into_split());
                tokio::join!(forward(from_browser, to_server, Duration::ZERO), forward(from_server, to_browser, late));
            });
        }
    });
    address
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, late: Duration) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        sleep_millis(late.as_millis().try_into().unwrap()).await;
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

#[test]
async fn known_delay_of_answers_is_measured() {
    for late_millis in [5, 60, 900] {
        let server = Server::start().await;
        let proxy = late_proxy(server.address, Duration::from_millis(late_millis)).await;
        let counts = ["--browsers", "3", "--logins-per-second", "4", "--seconds", "2", "--json"];
        let token = server.app_token(json!({ "sub": "load" }));
        let (succeeded, out, err) = load_at(&format!("http://{proxy}"), &token, &counts).await;
        assert!(succeeded, "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!([&report["logins"], &report["lost"], &report["errors"]], [&json!(8), &json!(0), &json!({})]);
        for figure in ["p50", "p99", "p999", "max"] {
            let micros = report["push_micros"][figure].as_u64().unwrap();
            // A busy machine adds to the delay and never shortens it.
            let expected = late_millis * 1000;
            assert!((expected..expected + 5_000_000).contains(&micros), "{figure}, {late_millis} ms late: {micros} µs");
        }
        server.stop().await;
    }
}

/// Starts a server with two OAuth clients: `web`, whose secret is in a file at the returned path, and `native`, which is
/// public.
async fn server_with_clients() -> (Server, tempfile::NamedTempFile) {
    let secret = "a secret: with 100 % of signs";
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{secret}\n")).unwrap();
    let web = format!(
        r#"id = "web"
        name = "Web"
        redirect_uris = ["https://web.example/callback?a=b"]
        secret_hashes = ["{}"]"#,
        hash_secret(secret).unwrap()
    );
    let native = r#"id = "native"
        name = "Native"
        redirect_uris = ["http://127.0.0.1/callback"]
        auth_method = "none"
        id_token_signed_response_alg = "EdDSA""#;
    let server = Server::start_with(|settings| {
        settings.oauth.clients = vec![toml::from_str(&web).unwrap(), toml::from_str(native).unwrap()];
    });
    (server.await, file)
}

#[test]
async fn browsers_log_in_to_an_oauth_client_on_every_transport() {
    let (server, secret_file) = server_with_clients().await;
    let secret_file = secret_file.path().to_str().unwrap();
    let web = ["--oauth-client", "web", "--oauth-redirect-uri", "https://web.example/callback?a=b"];
    let web = [&web[..], &["--oauth-client-secret-file", secret_file]].concat();
    let native = ["--oauth-client", "native", "--oauth-redirect-uri", "http://127.0.0.1:9/callback"];
    for (transport, client, ending) in [
        ("websocket", &web[..], "1000"),
        ("websocket-ack", &native, "1000"),
        ("sse", &web, "1000"),
        ("poll", &native, "200 OK"),
    ] {
        let counts = ["--browsers", "20", "--logins-per-second", "20", "--seconds", "1", "--json"];
        let (succeeded, out, err) = load(&server, &[client, &["--transport", transport], &counts].concat()).await;
        assert!(succeeded, "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!([&report["logins"], &report["lost"], &report["errors"]], [&json!(20), &json!(0), &json!({})]);
        assert_eq!(report["closed"], json!({ ending: 20, "closed by the tool": 20 }), "{transport}");
        let p50 = |times: &str| report[times]["p50"].as_u64().unwrap();
        assert!(p50("redirect_micros") > p50("push_micros") && p50("token_micros") > 0, "{report}");
        assert!(report["logins_per_second"].as_f64() > Some(0.0), "{report}");
    }
    let wrong = ["--oauth-client", "web", "--oauth-redirect-uri", "https://web.example/callback?a=b"];
    let counts = ["--browsers", "1", "--logins-per-second", "2", "--seconds", "1", "--json"];
    let (_, out, _) = load(&server, &[&wrong[..], &counts].concat()).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["errors"], json!({ "token: the server answered 401: invalid_client": 2 }));
    assert_eq!((&report["logins"], &report["logins_per_second"]), (&json!(2), &json!(0.0)));
    server.stop().await;
}

#[test]
async fn known_delay_of_answers_is_measured_to_the_redirect_and_in_token_requests() {
    for late_millis in [5, 60, 900] {
        let (server, _) = server_with_clients().await;
        let proxy = late_proxy(server.address, Duration::from_millis(late_millis)).await;
        let client = ["--oauth-client", "native", "--oauth-redirect-uri", "http://127.0.0.1/callback"];
        let counts = ["--browsers", "3", "--logins-per-second", "4", "--seconds", "2", "--json"];
        let token = server.app_token(json!({ "sub": "load" }));
        let (succeeded, out, err) = load_at(&format!("http://{proxy}"), &token, &[&client[..], &counts].concat()).await;
        assert!(succeeded, "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!([&report["logins"], &report["lost"], &report["errors"]], [&json!(8), &json!(0), &json!({})]);
        // The redirect needs two answers after the confirmation: the frame, and the redirect itself.
        for (times, answers) in [("push_micros", 1), ("redirect_micros", 2), ("token_micros", 1)] {
            for figure in ["p50", "p99", "p999", "max"] {
                let micros = report[times][figure].as_u64().unwrap();
                let expected = answers * late_millis * 1000;
                let is_expected = (expected..expected + 5_000_000).contains(&micros);
                assert!(is_expected, "{times}, {figure}, {late_millis} ms late: {micros} µs");
            }
        }
        server.stop().await;
    }
}

#[test]
async fn stalled_server_is_measured_without_coordinated_omission() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve_with(&dir, "info", &[("QRLOGIN_LIMITS__ENABLED", "false")]);
    let pid = program.id();
    let stalling = tokio::spawn(async move {
        sleep_millis(2000).await;
        signal(pid, "STOP");
        sleep_millis(1500).await;
        signal(pid, "CONT");
    });
    let token = app_token(json!({ "sub": "load" }));
    let arguments = ["--browsers", "10", "--logins-per-second", "50", "--seconds", "5", "--json"];
    let (succeeded, out, err) = load_at(&program.base, &token, &arguments).await;
    assert!(succeeded, "{err}");
    stalling.await.unwrap();
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!([&report["logins"], &report["lost"], &report["errors"]], [&json!(250), &json!(0), &json!({})]);
    let push = |figure: &str| report["push_micros"][figure].as_u64().unwrap();
    assert!((1_400_000..10_000_000).contains(&push("max")), "{report}");
    // 75 of the 250 logins were due while the server was stopped.
    assert!(push("p99") > 1_200_000 && push("p50") < push("p99"), "{report}");
}

#[test]
async fn errors_are_counted_and_impossible_arguments_refused() {
    let server = Server::start().await;
    let arguments = ["--browsers", "2", "--logins-per-second", "5", "--seconds", "1", "--json", "--token", "nonsense"];
    let output = Command::new(qrlogin_testing::program::program())
        .args(["load", "--url", &server.base])
        .args(arguments)
        .output();
    let report: Value = serde_json::from_slice(&output.await.unwrap().stdout).unwrap();
    assert_eq!(report["logins"], 0);
    assert_eq!(report["errors"], json!({ "scan: the server answered 401: invalid_token": 5 }));

    for (arguments, error) in [
        (["--url", "https://localhost", "--browsers", "1"], "--url: not of the form"),
        (["--url", &server.base, "--browsers", "10000000"], "--browsers: 10000000 need"),
        (["--url", &server.base, "--browsers", &usize::MAX.to_string()], "need"),
        (["--url", &server.base, "--pid", "4194304"], "--pid: "),
        (["--url", &server.base, "--oauth-client", "web"], "--oauth-redirect-uri"),
    ] {
        let arguments = [&["load", "--token", "t"], &arguments[..]].concat();
        let output = Command::new(qrlogin_testing::program::program()).args(&arguments).kill_on_drop(true).output();
        let output = within("the load test has ended", output).await.unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && errors.contains(error), "{arguments:?}: {errors}");
    }
    server.stop().await;
}
