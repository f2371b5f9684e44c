//! Signing keys that are added and removed while the server runs.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use qrlogin_testing::harness::{Answer, Seen, Server, Session, token_in, verified};
use qrlogin_testing::keys::new_signing_key;
use qrlogin_testing::real_time::until;
use qrlogin_testing::services::Postgres;
use qrlogin_testing::test;

/// Adds a signing key to the server's directory, with a later modification time than all others there. Returns its
/// file.
fn add_key(server: &Server, name: &str) -> PathBuf {
    let other = tempfile::tempdir().unwrap();
    let key = new_signing_key(other.path());
    let keys = server.dir().join("keys");
    let modified = |entry: fs::DirEntry| entry.metadata().unwrap().modified().unwrap();
    let newest = fs::read_dir(&keys).unwrap().map(|entry| modified(entry.unwrap())).max().unwrap();
    let file = keys.join(name);
    fs::copy(key.file, &file).unwrap();
    let later = newest + std::time::Duration::from_secs(1);
    fs::File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();
    file
}

/// Advances the clock by ten seconds, and waits until the server publishes this number of keys.
async fn reads_keys(server: &Server, published: usize) {
    server.hands.advance_seconds(10);
    until("the keys are read", async || published_keys(server).await == published).await;
}

async fn published_keys(server: &Server) -> usize {
    server.get("/.well-known/jwks.json").await.body["keys"].as_array().unwrap().len()
}

async fn confirmed(server: &Server) -> Session {
    let session = server.generate().await;
    assert_eq!(server.phone("ann").confirm(&session).await.status, 200);
    session
}

/// Returns the id of the key that signs a login which is confirmed now.
async fn signing(server: &Server) -> String {
    let answer = server.status(&confirmed(server).await).await;
    let token = answer.body["web_token"].as_str().unwrap();
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

/// Adds a key, confirms a login under it, and removes the key. Returns the session, and the key's file and content.
async fn confirmed_under_a_removed_key(server: &Server) -> (Session, PathBuf, Vec<u8>) {
    let first = signing(server).await;
    let file = add_key(server, "removed.pem");
    reads_keys(server, 2).await;
    server.hands.advance_seconds(10);
    until("the added key signs", async || signing(server).await != first).await;
    let session = confirmed(server).await;
    let key = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    reads_keys(server, 1).await;
    assert_eq!(signing(server).await, first);
    (session, file, key)
}

#[test]
async fn requests_for_a_token_whose_key_is_missing_do_not_hasten_the_use_of_an_added_key() {
    let server = Server::start_with(|settings| settings.session.claim_seconds = 600).await;
    let (session, ..) = confirmed_under_a_removed_key(&server).await;
    let first = signing(&server).await;
    // The next periodic reading is ten seconds away.
    add_key(&server, "added.pem");
    for second in 0..9 {
        assert_eq!(server.status(&session).await.refusal(), "500 internal");
        assert_eq!(published_keys(&server).await, 2);
        assert_eq!(signing(&server).await, first, "after {second} s");
        server.hands.advance_seconds(1);
    }
    // The next periodic reading is less than ten seconds after the one that found the key, and the one after it is
    // more.
    reads_keys(&server, 2).await;
    server.hands.advance_seconds(10);
    until("the added key signs", async || signing(&server).await != first).await;
    server.stop().await;
}

const FAILED: &str = "the token cannot be made";

fn is_internal_error(answer: &Answer) -> bool {
    let detail = answer.body["detail"].as_str().unwrap();
    let is_problem = answer.header("content-type") == "application/problem+json";
    is_problem && answer.refusal() == "500 internal" && detail.starts_with(FAILED)
}

/// Reads an event stream to its end and returns its text.
async fn events(server: &Server, session: &Session) -> String {
    let request = server.http.get(format!("{}/v1/sse/qr", server.base)).header("x-qr-session", &session.id);
    request.send().await.unwrap().text().await.unwrap()
}

async fn poll(server: &Server, session: &Session) -> Answer {
    server.get(&format!("/v1/qr-login/status/{}?wait=20&version=1", session.id)).await
}

fn is_closed_for_internal_error(events: &str) -> bool {
    events.ends_with(&format!("event: close\ndata: {{\"code\":1011,\"reason\":\"{FAILED}\"}}\n\n"))
}

#[test]
async fn browser_that_returns_while_the_key_is_missing_gets_an_internal_error_and_later_its_token() {
    let server = Server::start_with(|settings| settings.session.claim_seconds = 600).await;
    let (session, file, key) = confirmed_under_a_removed_key(&server).await;
    let closed = Seen::Close(1011, FAILED.to_owned());
    assert_eq!(server.browser(&session).await.rest().await, std::slice::from_ref(&closed));
    assert_eq!(server.acknowledging_browser(&session).await.rest().await, [closed]);
    let text = events(&server, &session).await;
    assert!(is_closed_for_internal_error(&text), "{text}");
    server.until_active(0).await;
    assert_eq!((server.closed("internal").await, server.closed("unavailable").await), (3, 0));
    for answer in [server.status(&session).await, poll(&server, &session).await] {
        assert!(is_internal_error(&answer), "{answer:?}");
    }

    fs::write(&file, key).unwrap();
    server.hands.advance_seconds(1);
    let seen = server.browser(&session).await.rest().await;
    assert_eq!(verified(&server, &token_in(&seen).unwrap()).await["sub"], "ann");
    assert_eq!(seen.last(), Some(&Seen::Close(1000, String::new())));
    server.stop().await;
}

#[test(needs(Postgres))]
async fn waiting_browser_whose_token_cannot_be_made_gets_an_internal_error_and_later_its_token() {
    let postgres = Postgres::shared().await;
    let (url, keys) = (postgres.database().await, tempfile::tempdir().unwrap());
    let decides = Server::node(&url, None, postgres.keys(), |bus| bus).await;
    // The nodes share the secret of the codes, and not the signing key.
    fs::copy(postgres.keys().join("codes.key"), keys.path().join("codes.key")).unwrap();
    let waits = Server::node(&url, None, keys.path().to_owned(), |bus| bus).await;
    let sessions = [waits.generate().await, waits.generate().await, waits.generate().await];
    let mut browser = waits.browser(&sessions[0]).await;
    browser.frame("pending").await;
    let deciding = async {
        waits.until_active(3).await;
        for session in &sessions {
            assert_eq!(decides.phone("ann").confirm(session).await.status, 200);
        }
    };
    let (text, answer, ()) = tokio::join!(events(&waits, &sessions[1]), poll(&waits, &sessions[2]), deciding);
    assert_eq!(browser.rest().await, [Seen::Close(1011, FAILED.to_owned())]);
    assert!(is_closed_for_internal_error(&text), "{text}");
    assert!(is_internal_error(&answer), "{answer:?}");
    waits.until_active(0).await;
    assert_eq!((waits.closed("internal").await, waits.closed("unavailable").await), (3, 0));

    fs::copy(postgres.keys().join("web-token.pem"), keys.path().join("other.pem")).unwrap();
    for session in &sessions {
        until("the token is made", async || waits.status(session).await.body["web_token"].is_string()).await;
    }
    waits.stop().await;
    decides.stop().await;
}
