//! Concurrent events. Each race runs many times, on all cores and over real sockets.

use std::collections::HashSet;

use futures_util::future::{join, join_all};
use serde_json::json;

use qrlogin_testing::harness::{Browser, Seen, Server, Session, token_in, verified};
use qrlogin_testing::test;

const ROUNDS: usize = 100;

/// Returns the only token that the browsers of a session received. Panics unless there is exactly one.
fn only_token(all_seen: &[Vec<Seen>]) -> String {
    let tokens: HashSet<_> = all_seen.iter().filter_map(|seen| token_in(seen)).collect();
    assert_eq!(tokens.len(), 1, "{all_seen:?}");
    tokens.into_iter().next().unwrap()
}

#[test]
async fn confirmation_before_during_or_after_the_handshake_is_delivered() {
    let server = Server::start().await;
    let ann = server.phone("ann");
    for round in 0..ROUNDS {
        let session = server.generate().await;
        let seen = match round % 4 {
            0 => {
                ann.confirm(&session).await;
                server.browser(&session).await.rest().await
            }
            1 => {
                let browser = server.browser(&session).await;
                ann.confirm(&session).await;
                browser.rest().await
            }
            _ => {
                let (browser, confirm) = join(server.browser(&session), ann.confirm(&session)).await;
                assert_eq!(confirm.status, 200);
                browser.rest().await
            }
        };
        only_token(&[seen]);
    }
    server.until_active(0).await;
    assert_eq!(server.closed("decided").await, i64::try_from(ROUNDS).unwrap());
    server.stop().await;
}

#[test]
async fn newer_connection_receives_the_token_after_every_kind_of_end_of_the_older() {
    let server = Server::start().await;
    let ann = server.phone("ann");
    for round in 0..ROUNDS {
        let session = server.generate().await;
        let older = server.browser(&session).await;
        let newer = server.browser(&session).await;
        let closing = async { if round % 2 == 0 { older.close(1001).await } else { older.reset() } };
        let ((), confirm) = join(closing, ann.confirm(&session)).await;
        assert_eq!(confirm.status, 200);
        only_token(&[newer.rest().await]);
    }
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn concurrent_scans_and_confirmations_of_two_users_have_one_winner() {
    let server = Server::start().await;
    let phones = [server.phone("ann"), server.phone("bob")];
    for _ in 0..ROUNDS / 5 {
        let session = server.generate().await;
        let browser = server.browser(&session).await;
        let (a, b) = join(phones[0].scan(&session), phones[1].scan(&session)).await;
        let mut scans = [a.refusal(), b.refusal()];
        scans.sort();
        assert_eq!(scans, ["200", "409 already_scanned"]);

        let confirms = join_all((0..50).map(|index| phones[index % 2].confirm(&session))).await;
        let winner = confirms.iter().position(|answer| answer.status == 200).unwrap() % 2;
        for (index, answer) in confirms.iter().enumerate() {
            let refusal = answer.refusal();
            if index % 2 == winner {
                assert_eq!(refusal, "200");
            } else {
                assert!(["403 wrong_user", "409 already_decided"].contains(&refusal.as_str()), "{refusal}");
            }
        }
        let token = only_token(&[browser.rest().await]);
        assert_eq!(verified(&server, &token).await["sub"], ["ann", "bob"][winner]);
    }
    server.stop().await;
}

#[test]
async fn confirmation_and_rejection_exclude_each_other() {
    let server = Server::start().await;
    let ann = server.phone("ann");
    for _ in 0..ROUNDS {
        let session = server.generate().await;
        let browser = server.browser(&session).await;
        let (confirm, reject) = join(ann.confirm(&session), ann.reject(&session)).await;
        let seen = browser.rest().await;
        match (confirm.refusal().as_str(), reject.refusal().as_str()) {
            ("200", "409 already_decided") => drop(only_token(&[seen])),
            ("409 already_decided", "200") => assert_eq!(last_status(&seen), "rejected"),
            both => panic!("{both:?}"),
        }
    }
    server.stop().await;
}

#[test]
async fn confirmation_and_cancellation_exclude_each_other() {
    let server = Server::start().await;
    let ann = server.phone("ann");
    for _ in 0..ROUNDS {
        let session = server.generate().await;
        let browser = server.browser(&session).await;
        let (confirm, cancel) = join(ann.confirm(&session), server.cancel(&session)).await;
        let seen = browser.rest().await;
        match (confirm.refusal().as_str(), cancel.refusal().as_str()) {
            ("200", "409 already_decided") => drop(only_token(&[seen])),
            ("410 cancelled", "200") => assert_eq!(last_status(&seen), "cancelled"),
            both => panic!("{both:?}"),
        }
    }
    server.stop().await;
}

#[test]
async fn confirmation_and_expiry_exclude_each_other() {
    let server = Server::start().await;
    for round in 0..ROUNDS {
        let session = server.generate().await;
        let browser = server.browser(&session).await;
        let ann = server.phone("ann");
        server.hands.advance_millis(299_999);
        let passing = async {
            for _ in 0..round % 7 {
                tokio::task::yield_now().await;
            }
            server.hands.advance_millis(101);
        };
        let (confirm, ()) = join(ann.confirm(&session), passing).await;
        let seen = browser.rest().await;
        let status = server.status(&session).await.body["status"].clone();
        match confirm.refusal().as_str() {
            "200" => {
                only_token(&[seen]);
                assert_eq!(status, "confirmed");
            }
            "410 expired" => {
                assert_eq!(last_status(&seen), "expired");
                assert_eq!(status, "expired");
            }
            other => panic!("{other}"),
        }
    }
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn connection_count_is_exact_after_concurrent_connects_and_ends() {
    let server = Server::start().await;
    let session = server.generate().await;
    let coming_and_going = (0..60).map(|index| {
        let (server, session) = (&server, &session);
        async move {
            match Browser::open(server, &session.ws_path, None).await {
                Ok(browser) if index % 3 == 0 => browser.reset(),
                Ok(browser) if index % 3 == 1 => browser.close(1000).await,
                Ok(browser) => drop(browser.rest().await),
                Err(status) => panic!("{status}"),
            }
        }
    });
    let everyone = join_all(coming_and_going);
    let deciding = async {
        // The newest connection waits until the session is decided.
        server.phone("ann").confirm(&session).await
    };
    let (_, confirm) = join(everyone, deciding).await;
    assert_eq!(confirm.status, 200);
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn disconnect_of_the_phone_during_confirm_undoes_nothing() {
    let server = Server::start().await;
    for round in 0..ROUNDS {
        let session = server.generate().await;
        let browser = server.browser(&session).await;
        disconnect_during_confirm(&server, &session, round).await;
        // This confirmation succeeds whether or not the first one did.
        let confirm = server.phone("ann").confirm(&session).await;
        assert_eq!(confirm.status, 200);
        only_token(&[browser.rest().await]);
    }
    server.stop().await;
}

async fn disconnect_during_confirm(server: &Server, session: &Session, turns: usize) {
    use tokio::io::AsyncWriteExt as _;
    let body = json!({ "code": session.code }).to_string();
    let head = format!(
        "POST /v1/qr-login/confirm HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\n\r\n{body}",
        server.phone("ann").token,
        body.len()
    );
    let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..turns * 3 {
        tokio::task::yield_now().await;
    }
    stream.set_zero_linger().unwrap();
}

fn last_status(seen: &[Seen]) -> String {
    let frames = seen.iter().rev().find_map(|seen| match seen {
        Seen::Frame(frame) => frame["status"].as_str(),
        _ => None,
    });
    frames.unwrap_or_default().to_owned()
}
