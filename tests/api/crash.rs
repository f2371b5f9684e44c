//! The server is killed while many logins are in progress, and started again on the same database.

use std::collections::HashMap;
use std::process::Command;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use qrlogin_testing::harness::claims_of;
use qrlogin_testing::keys::{self, new_signing_key};
use qrlogin_testing::program::{Program, qrlogin, run};
use qrlogin_testing::real_time::{until, within};
use qrlogin_testing::test;

const LOGINS: usize = 120;

fn app_token(user: usize) -> String {
    keys::app_token(json!({ "sub": format!("user {user}") }))
}

/// Runs one login until the server is gone. Returns whether the phone received 200, and the browser's token if it
/// arrived.
async fn login(program: &Program, user: usize, session: &Value) -> (bool, Option<String>) {
    let url = format!("{}{}", program.base.replace("http", "ws"), session["ws_path"].as_str().unwrap());
    let Ok((mut socket, _)) = within("the handshake ends", tokio_tungstenite::connect_async(url)).await else {
        return (false, None);
    };
    let confirm =
        program.post("/v1/qr-login/confirm", Some(&app_token(user)), json!({ "code": session["code"] })).await;
    let confirmed = confirm.is_ok_and(|answer| answer.status == 200);
    // The browser answers no Close, so nothing is acknowledged and every login remains to be delivered.
    let mut token = None;
    while let Some(Ok(message)) = within("a browser receives a message or its end", socket.next()).await {
        if let Message::Text(text) = message {
            let frame: Value = serde_json::from_str(&text).unwrap();
            if let Some(web_token) = frame["web_token"].as_str() {
                token = Some(web_token.to_owned());
                break;
            }
        }
    }
    (confirmed, token)
}

#[test]
async fn confirmed_logins_survive_a_kill_and_an_added_signing_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut program = Program::serve(&dir, "warn,qrlogin::app=info");
    let mut sessions = Vec::new();
    for _ in 0..LOGINS {
        sessions.push(program.generate().await);
    }
    let before = {
        let program = &program;
        let logins = join_all(sessions.iter().enumerate().map(|(user, session)| login(program, user, session)));
        let mut logins = std::pin::pin!(logins);
        // Kill the server as soon as thirty logins are in the database.
        let thirty = async {
            until("thirty logins are confirmed", async || {
                let metrics = program.http.get(format!("{}/metrics", program.ops)).send().await.unwrap();
                let metrics = metrics.text().await.unwrap();
                let line = metrics
                    .lines()
                    .find_map(|line| line.strip_prefix(r#"qrlogin_sessions_total{outcome="confirmed"} "#));
                line.unwrap().parse::<usize>().unwrap() >= 30
            })
            .await;
        };
        let finished = tokio::select! {
            biased;
            () = thirty => None,
            finished = &mut logins => Some(finished),
        };
        assert!(Command::new("kill").args(["-KILL", &program.id().to_string()]).status().unwrap().success());
        match finished {
            Some(finished) => finished,
            None => logins.await,
        }
    };
    program.kill();

    // Add a newer key, as an operator does.
    let other = tempfile::tempdir().unwrap();
    let key = new_signing_key(&other.path().join("keys"));
    std::fs::copy(key.file, dir.path().join("keys/a-newer.pem")).unwrap();
    let (status, ..) = run(&mut qrlogin(dir.path(), &["check-config"]));
    assert!(status.success());

    let program = Program::serve(&dir, "warn,qrlogin::app=info");
    let mut tokens: HashMap<String, usize> = HashMap::new();
    let mut delivered = 0;
    for (user, (session, (confirmed, earlier))) in sessions.iter().zip(before).enumerate() {
        let now = program.status(session).await;
        let again = program.status(session).await;
        assert_eq!(now["web_token"], again["web_token"]);
        let Some(token) = now["web_token"].as_str() else {
            assert!(!confirmed && earlier.is_none(), "a confirmed login is lost: {now}");
            continue;
        };
        delivered += 1;
        if let Some(earlier) = earlier {
            assert_eq!(token, earlier, "minted twice, with different content");
        }
        assert_eq!(claims_of(token)["sub"], format!("user {user}"));
        assert_eq!(tokens.insert(token.to_owned(), user), None);
    }
    assert!(delivered >= 30);
    // New logins are signed with the new key.
    let session = program.generate().await;
    program.post("/v1/qr-login/confirm", Some(&app_token(1)), json!({ "code": session["code"] })).await.unwrap();
    let newest = program.status(&session).await["web_token"].as_str().unwrap().to_owned();
    assert_ne!(newest.split('.').next(), tokens.keys().next().unwrap().split('.').next(), "another kid");
    assert_eq!(program.terminate().0.code(), Some(0));
}
