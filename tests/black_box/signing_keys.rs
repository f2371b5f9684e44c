//! Signing keys that are added and removed while the server runs.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use qrlogin::clock::Clock;
use qrlogin::token::KeyRing;
use serde_json::Value;

use crate::harness::{Server, Session};
use crate::real_time::until;

/// Adds a signing key to the server's directory, newer than all others there. Returns its file.
fn add_key(server: &Server, name: &str) -> PathBuf {
    let other = tempfile::tempdir().unwrap();
    drop(KeyRing::open(other.path(), Clock::system()).unwrap());
    let keys = server.dir().join("keys");
    let modified = |entry: fs::DirEntry| entry.metadata().unwrap().modified().unwrap();
    let newest = fs::read_dir(&keys).unwrap().map(|entry| modified(entry.unwrap())).max().unwrap();
    let file = keys.join(name);
    fs::copy(other.path().join("web-token.pem"), &file).unwrap();
    let later = newest + std::time::Duration::from_secs(1);
    fs::File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();
    file
}

/// Lets ten seconds pass, and waits until the server publishes this number of keys.
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

/// The id of the key that signs a login which is confirmed now.
async fn signing(server: &Server) -> String {
    let answer = server.status(&confirmed(server).await).await;
    let token = answer.body["web_token"].as_str().unwrap();
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

/// Adds a key, confirms a login under it, and removes the key. Returns the login, and the key's file and content.
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

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_a_token_whose_key_is_missing_do_not_hasten_an_added_key() {
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
    // The periodic reading that follows is less than ten seconds after the first, and the one after it is more.
    reads_keys(&server, 2).await;
    server.hands.advance_seconds(10);
    until("the added key signs", async || signing(&server).await != first).await;
    server.stop().await;
}
