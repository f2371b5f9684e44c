//! The load tool, against a real server.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::Server;

async fn load(server: &Server, arguments: &[&str]) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_qrlogin"))
        .args(["load", "--url", &server.base, "--token", &server.app_token(json!({ "sub": "load" }))])
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_opens_browsers_logs_in_and_says_what_it_took() {
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

#[tokio::test(flavor = "multi_thread")]
async fn its_browsers_wait_for_events_or_poll_too() {
    for (transport, ending) in [("sse", "1000"), ("poll", "200 OK")] {
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

#[tokio::test(flavor = "multi_thread")]
async fn it_counts_what_goes_wrong_and_refuses_what_it_cannot_do() {
    let server = Server::start().await;
    let arguments = ["--browsers", "2", "--logins-per-second", "5", "--seconds", "1", "--json", "--token", "nonsense"];
    let output =
        Command::new(env!("CARGO_BIN_EXE_qrlogin")).args(["load", "--url", &server.base]).args(arguments).output();
    let report: Value = serde_json::from_slice(&output.await.unwrap().stdout).unwrap();
    assert_eq!(report["logins"], 0);
    assert_eq!(report["errors"], json!({ "scan: the server answered 401: invalid_token": 5 }));

    for (arguments, complaint) in [
        (["--url", "https://localhost", "--browsers", "1"], "--url: 'https://localhost'"),
        (["--url", &server.base, "--browsers", "10000000"], "--browsers: 10000000 need"),
        (["--url", &server.base, "--pid", "4194304"], "--pid: "),
    ] {
        let arguments = [&["load", "--token", "t"], &arguments[..]].concat();
        let output = Command::new(env!("CARGO_BIN_EXE_qrlogin")).args(&arguments).output().await.unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && complaints.contains(complaint), "{arguments:?}: {complaints}");
    }
    server.stop().await;
}
