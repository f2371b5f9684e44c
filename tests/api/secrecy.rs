//! Secrets appear neither in the log and the metrics nor in the database and refusals.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use qrlogin_testing::harness::SECRET;
use qrlogin_testing::keys::app_token;
use qrlogin_testing::program::Program;
use qrlogin_testing::real_time::within;
use qrlogin_testing::test;

#[test]
async fn secrets_are_absent_from_the_log_the_metrics_the_database_and_refusals() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(&dir, "trace");
    let app_token = app_token(json!({ "sub": "ann", "name": "Ann" }));
    let mut secrets = vec![SECRET.to_owned(), app_token.clone(), app_token.rsplit('.').next().unwrap().to_owned()];
    let mut refusals = Vec::new();
    let mut session_keys = Vec::new();

    for ending in ["confirm", "reject", "cancel", "leave"] {
        let session = program.generate().await;
        let id = session["session_id"].as_str().unwrap().to_owned();
        session_keys.push(qrlogin::session::SessionId::parse(&id).unwrap().key().to_string());
        secrets.push(id.clone());
        let mut request =
            format!("{}/v1/ws/qr/{id}", program.base.replace("http", "ws")).into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "qrlogin.ack".parse().unwrap());
        let (mut socket, _) =
            within("the handshake is answered", tokio_tungstenite::connect_async(request)).await.unwrap();
        let body = json!({ "code": session["code"] });
        match ending {
            "cancel" => drop(program.post("/v1/qr-login/cancel", None, json!({ "session_id": id })).await.unwrap()),
            "leave" => drop(socket.close(None).await),
            verb => {
                program.post("/v1/qr-login/scan", Some(&app_token), body.clone()).await.unwrap();
                program.post(&format!("/v1/qr-login/{verb}"), Some(&app_token), body.clone()).await.unwrap();
                // Malformed requests are where secrets most easily get into error texts.
                let wrong = json!({ "session_id": [id], "code": [session["code"]] });
                refusals.push(program.post("/v1/qr-login/ack", None, wrong.clone()).await.unwrap());
                refusals.push(program.post("/v1/qr-login/scan", Some(&format!("{app_token}x")), body).await.unwrap());
                refusals.push(program.post(&format!("/v1/qr-login/status/{id}/x"), None, wrong).await.unwrap());
            }
        }
        while let Some(Ok(message)) = within("the browser receives a message or its end", socket.next()).await {
            let Message::Text(text) = message else { continue };
            let frame: Value = serde_json::from_str(&text).unwrap();
            if let Some(web_token) = frame["web_token"].as_str() {
                secrets.push(web_token.to_owned());
                secrets.push(web_token.rsplit('.').next().unwrap().to_owned());
                socket.send(Message::text("ack")).await.unwrap();
            }
        }
    }
    let metrics = program.http.get(format!("{}/metrics", program.ops)).send().await.unwrap().text().await.unwrap();
    // The write-ahead log is included, as on a stolen disk of a running server.
    let mut stored = Vec::new();
    for file in ["qrlogin.db", "qrlogin.db-wal"] {
        stored.extend(std::fs::read(dir.path().join(file)).unwrap());
    }
    let (status, log) = program.terminate();
    assert!(status.success());

    assert!(secrets.len() >= 9, "four ids, a token and their signatures");
    let outputs = [
        ("the log", log.clone()),
        ("the metrics", metrics),
        ("the database", String::from_utf8_lossy(&stored).into_owned()),
        ("a refusal", refusals.iter().map(|answer| answer.body.to_string()).collect()),
    ];
    for (output, text) in outputs {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{output} holds {secret}");
        }
    }
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log has its most detailed level");
    for session_key in session_keys {
        let events: Vec<_> = log.lines().filter(|line| line.contains(&session_key)).collect();
        for event in ["generated", "connected", "status pushed", "disconnected"] {
            assert!(events.iter().any(|line| line.contains(event)), "{event} is missing in {events:?}");
        }
        assert!(events.iter().filter(|line| line.contains("connected")).all(|line| line.contains("active")));
    }
}
