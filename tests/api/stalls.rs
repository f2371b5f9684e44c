//! A store that stalls. A change that is requested meanwhile happens once or not at all, and requests that do not need
//! the store are not delayed.

use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use qrlogin::session::SessionId;
use rusqlite::Connection;

use qrlogin_testing::harness::{Browser, Seen, Server, http_client};
use qrlogin_testing::random;
use qrlogin_testing::real_time::{until, within};
use qrlogin_testing::services::Postgres;
use qrlogin_testing::test;

/// Opens a second connection to the server's database, as another process does.
fn foreign(server: &Server) -> Connection {
    Connection::open(server.dir().join("test.db")).unwrap()
}

fn state(connection: &Connection) -> String {
    connection.query_row("SELECT state FROM sessions", [], |row| row.get(0)).unwrap()
}

#[test]
async fn decision_abandoned_during_a_lock_is_not_made_and_the_next_one_is_delivered() {
    let server = Server::start().await;
    let (session, mut browser) = server.waiting().await;
    let other = foreign(&server);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let ann = server.phone("ann");
    let passing = async {
        // Reads are answered.
        assert_eq!(server.status(&session).await.body["status"], "pending");
        assert_eq!(server.get("/.well-known/jwks.json").await.status, 200);
        for _ in 0..6 {
            server.hands.advance_seconds(1);
            server.active().await;
        }
    };
    let (confirmed, ()) = tokio::join!(ann.confirm(&session), passing);
    assert_eq!(confirmed.refusal(), "503 unavailable");
    other.execute_batch("COMMIT").unwrap();
    // A later write has been done, so the abandoned one would have been done before it.
    server.generate().await;
    assert_eq!(server.status(&session).await.body["status"], "pending");
    assert_eq!(ann.confirm(&session).await.status, 200);
    browser.frame("confirmed").await;
    drop(browser);
    server.stop().await;
}

#[test]
async fn decisions_wait_for_the_lock_of_another_process_and_are_then_delivered() {
    let server = Server::start().await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(server.waiting().await);
    }
    let other = foreign(&server);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let ann = server.phone("ann");
    let confirms = join_all(waiting.iter().map(|(session, _)| ann.confirm(session)));
    let releasing = async {
        for _ in 0..4 {
            server.hands.advance_seconds(1);
            server.active().await;
        }
        other.execute_batch("COMMIT").unwrap();
    };
    let (answers, ()) = tokio::join!(confirms, releasing);
    assert!(answers.iter().all(|answer| answer.status == 200));
    for (_, mut browser) in waiting {
        browser.frame("confirmed").await;
    }
    server.stop().await;
}

#[test]
async fn change_written_by_another_process_is_delivered_within_two_seconds() {
    let server = Server::start_with(|settings| settings.session.heartbeat_seconds = 3600).await;
    let (_, mut browser) = server.waiting().await;
    let other = foreign(&server);
    assert_eq!(state(&other), "pending");
    other.execute("UPDATE sessions SET state = 'rejected', user_id = 'ann', version = version + 1", []).unwrap();
    let rejected = browser.frame("rejected");
    let passing = async {
        for _ in 0..8 {
            server.hands.advance_millis(250);
            server.active().await;
        }
        for _ in 0..2000 {
            server.active().await;
        }
    };
    tokio::select! {
        biased;
        _ = rejected => {}
        () = passing => panic!("the change was not found"),
    }
    drop(browser);
    server.stop().await;
}

#[test]
async fn handshakes_that_wait_for_the_store_delay_no_other_request() {
    let server = Server::start().await;
    let held = server.store.attach_gate.write().await;
    let paths: Vec<_> =
        (0..300).map(|_| format!("/v1/ws/qr/{}", *SessionId::from_random(random::bytes()).expose())).collect();
    let made_up = join_all(paths.iter().map(|path| Browser::open(&server, path, None)));
    let others = async {
        until("handshakes wait", async || server.store.attached.load(Ordering::SeqCst) >= 8).await;
        for _ in 0..20 {
            // Each request uses a new connection, which the acceptor has to accept.
            let fresh = http_client();
            let jwks = fresh.get(format!("{}/.well-known/jwks.json", server.base)).send().await.unwrap();
            assert_eq!(jwks.status(), 200);
        }
        drop(held);
    };
    let (made_up, ()) = tokio::join!(made_up, others);
    assert!(made_up.into_iter().all(|browser| browser.err() == Some(404)));
    server.stop().await;
}

#[test]
async fn unreadable_row_fails_only_its_own_connection() {
    let server = Server::start().await;
    let broken = server.generate().await;
    let other = foreign(&server);
    let set = "UPDATE sessions SET state = 'confirmed', user_id = 'ann', decided_at = 1, claimable_until = 2,
                   token_grant = 'nonsense', version = 2";
    assert_eq!(other.execute(set, []).unwrap(), 1);
    let sessions = join_all((0..30).map(|_| server.generate())).await;
    let (first, last) = sessions.split_at(8);
    // Occupy the eight queries that may run at a time. The browsers that connect meanwhile are read in one query.
    let held = server.store.read_gate.write().await;
    let mut asking = Vec::new();
    for (asked, session) in first.iter().enumerate() {
        asking.push(tokio::spawn(Browser::send(Browser::request(&server, &session.ws_path, None))));
        until("a handshake waits", async || server.store.reads.load(Ordering::SeqCst) > asked).await;
    }
    let last = join_all(last.iter().chain([&broken]).map(|session| Browser::open(&server, &session.ws_path, None)));
    let releasing = async {
        for _ in 0..50 {
            server.active().await;
        }
        drop(held);
    };
    let (mut browsers, ()) = tokio::join!(last, releasing);
    assert_eq!(browsers.pop().unwrap().err(), Some(503));
    for browser in browsers {
        browser.unwrap().frame("pending").await;
    }
    for browser in asking {
        within("a handshake ends", browser).await.unwrap().unwrap().frame("pending").await;
    }
    server.stop().await;
}

#[test(needs(Postgres))]
async fn request_that_does_not_wait_supersedes_no_connection_at_another_node() {
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    let nodes = [
        Server::node(&url, None, postgres.keys(), |bus| bus).await,
        Server::node(&url, None, postgres.keys(), |bus| bus).await,
    ];
    let [here, there] = &nodes;
    let (session, mut browser) = here.waiting().await;
    // A poll with an outdated version is answered at once, and so is a HEAD request for a stream.
    let poll = there.get(&format!("/v1/qr-login/status/{}?wait=20&version=0", session.id)).await;
    assert_eq!((poll.status.as_u16(), &poll.body["status"]), (200, &"pending".into()));
    let head = there.http.head(format!("{}/v1/sse/qr/{}", there.base, session.id)).send().await.unwrap();
    assert_eq!(head.status(), 200);
    assert_eq!(there.phone("ann").confirm(&session).await.status, 200);
    let seen = browser.next().await;
    assert!(matches!(&seen, Seen::Frame(frame) if frame["status"] == "confirmed"), "{seen:?}");
    drop(browser);
    for node in nodes {
        node.stop().await;
    }
}
