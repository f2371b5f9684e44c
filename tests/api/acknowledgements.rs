//! Acknowledgements. A login is delivered again, always with the same token, until the token is acknowledged.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use qrlogin_testing::harness::{Browser, Seen, Server, Session, token_in};
use qrlogin_testing::keys::app_token;
use qrlogin_testing::program::{Program, signal};
use qrlogin_testing::real_time::{sleep_millis, within};
use qrlogin_testing::test;

/// Returns a confirmed session, and the token that `status` returns for it.
async fn confirmed(server: &Server) -> (Session, String) {
    let session = server.generate().await;
    server.phone("ann").confirm(&session).await;
    let token = server.status(&session).await.body["web_token"].as_str().unwrap().to_owned();
    (session, token)
}

async fn is_claimed(server: &Server, session: &Session) -> bool {
    server.status(session).await.body["claimed"] == json!(true)
}

async fn delivered(server: &Server, session: &Session) -> Option<String> {
    token_in(&server.browser(session).await.rest().await)
}

#[test]
async fn close_1000_after_the_token_is_an_acknowledgement() {
    let server = Server::start().await;
    let (session, token) = confirmed(&server).await;
    assert_eq!(delivered(&server, &session).await, Some(token));
    assert!(is_claimed(&server, &session).await);

    let seen = server.browser(&session).await.rest().await;
    assert_eq!(seen[0], Seen::Frame(json!({ "status": "confirmed", "claimed": true })));
    assert_eq!(seen[1], Seen::Close(1000, String::new()));
    server.stop().await;
}

#[test]
async fn unacknowledged_token_is_delivered_again() {
    let server = Server::start().await;
    let (session, token) = confirmed(&server).await;

    // A connection that is reset at the moment of the delivery.
    server.browser(&session).await.reset();
    // A page that is leaving closes with 1001, and may not have read what was sent to it.
    let mut leaving = server.browser(&session).await.raw().await;
    let close = CloseFrame { code: CloseCode::Away, reason: "".into() };
    leaving.send(Message::Close(Some(close))).await.unwrap();
    let ending = async { while let Some(Ok(_)) = leaving.next().await {} };
    within("the connection ends after the browser's Close", ending).await;
    // A connection that ends without a Close from the browser.
    drop(server.browser(&session).await.into_tcp());
    server.until_active(0).await;

    assert!(!is_claimed(&server, &session).await);
    assert_eq!(delivered(&server, &session).await, Some(token));
    assert!(is_claimed(&server, &session).await);
    server.stop().await;
}

#[test]
async fn acknowledgement_takes_effect_before_an_immediate_reconnect() {
    let server = Server::start().await;
    for _ in 0..50 {
        let (session, _) = confirmed(&server).await;
        let mut browser = server.browser(&session).await;
        browser.frame("confirmed").await;
        // The browser answers the Close, and reconnects without waiting for the server to read that.
        let message = within("the browser receives a Close", browser.socket.next()).await;
        assert!(matches!(message, Some(Ok(Message::Close(_)))));
        browser.socket.flush().await.unwrap();
        assert_eq!(delivered(&server, &session).await, None);
    }
    server.stop().await;
}

#[test]
async fn ack_subprotocol_acknowledges_by_a_message() {
    let server = Server::start().await;
    let (session, _) = confirmed(&server).await;
    let mut browser = server.acknowledging_browser(&session).await;
    assert_eq!(browser.subprotocol.as_deref(), Some("qrlogin.ack"));
    browser.frame("confirmed").await;
    assert!(!is_claimed(&server, &session).await, "the server waits for the message");
    browser.socket.send(Message::text("ack")).await.unwrap();
    browser.closed(1000).await;
    assert!(is_claimed(&server, &session).await);
    server.stop().await;
}

#[test]
async fn ack_subprotocol_without_the_message_acknowledges_nothing() {
    let server = Server::start().await;
    let (session, token) = confirmed(&server).await;
    let mut browser = server.acknowledging_browser(&session).await;
    browser.frame("confirmed").await;
    browser.socket.send(Message::text("something else")).await.unwrap();
    // The answer of `status` follows the frame, so the wait for the acknowledgement has begun.
    assert!(!is_claimed(&server, &session).await);
    assert_eq!(server.advance_until_received(&mut browser).await, Seen::Close(1000, String::new()));
    server.until_active(0).await;
    assert!(!is_claimed(&server, &session).await);
    assert_eq!(delivered(&server, &session).await, Some(token));
    server.stop().await;
}

#[test]
async fn ack_call_acknowledges_a_token() {
    let server = Server::start().await;
    let session = server.generate().await;
    assert_eq!(server.ack(&session).await.refusal(), "409 not_decided");
    server.phone("ann").confirm(&session).await;
    for _ in 0..2 {
        assert_eq!(server.ack(&session).await.status, 204);
    }
    assert_eq!(delivered(&server, &session).await, None);
    server.stop().await;
}

#[test]
async fn unclaimed_login_can_be_claimed_past_the_session_deadline_and_until_its_own() {
    let server = Server::start().await;
    let session = server.generate().await;
    server.hands.advance_millis(299_999);
    server.phone("ann").confirm(&session).await;
    let token = server.status(&session).await.body["web_token"].as_str().unwrap().to_owned();

    server.hands.advance_millis(59_999);
    let status = server.status(&session).await.body;
    assert_eq!(status["web_token"], token.as_str());
    assert_eq!(status["expires_in"], 3600 - 59);
    Browser::open(&server, &session.ws_path, None).await.unwrap().reset();
    server.until_active(0).await;

    server.hands.advance_millis(1);
    assert_eq!(server.status(&session).await.body["status"], "expired");
    let seen = server.browser(&session).await.rest().await;
    assert_eq!(seen[0], Seen::Frame(json!({ "status": "expired", "message": "QR code expired" })));
    assert_eq!(server.ack(&session).await.refusal(), "410 expired");
    server.stop().await;
}

#[test]
async fn acknowledgement_while_the_server_drains_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(&dir, "info");
    let session = program.generate().await;
    let url = format!("{}{}", program.base.replace("http", "ws"), session["ws_path"].as_str().unwrap());
    let connecting = tokio_tungstenite::connect_async(url);
    let (mut browser, _) = within("the handshake is answered", connecting).await.unwrap();
    let token = app_token(json!({ "sub": "ann" }));
    let confirmed = program.post("/v1/qr-login/confirm", Some(&token), json!({ "code": session["code"] })).await;
    assert_eq!(confirmed.unwrap().status, 200);
    signal(program.id(), "TERM");
    program.until_logged("\"stopping\"").await;
    sleep_millis(300).await;
    // The browser answers the Close that follows its token.
    let ending = async { while let Some(Ok(_)) = browser.next().await {} };
    within("the connection ends after the Close", ending).await;
    let (status, _) = program.ended();
    assert_eq!(status.code(), Some(0));
    let program = Program::serve(&dir, "info");
    assert_eq!(program.status(&session).await["claimed"], json!(true));
}
