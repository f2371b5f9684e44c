//! Tokens are given once, whoever asks for them at the same time, and also when an answer is lost.

use std::process::Command;
use std::sync::Arc;

use futures_util::future::join_all;
use qrlogin_testing::harness::{Answer, Browser, Server, hash_secret};
use qrlogin_testing::keys;
use qrlogin_testing::program::Program;
use qrlogin_testing::real_time::{sleep_millis, until, within_seconds};
use qrlogin_testing::services::Postgres;
use qrlogin_testing::test;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::device::{begun, polled, session};
use super::{
    DEVICE_CODE, PUBLIC_URL, REDIRECT_URI, WEB, WEB_SECRET, code, error, phone, post, redeemed, request, server,
    user_info, with_clients,
};
use crate::approve::provider::{TestProvider, query};
use crate::approve::visitor::Visitor;
use crate::approve::{self, with_provider};

/// Number of logins of a race.
const LOGINS: usize = 500;
/// Number of logins that are in progress at a time.
const CONCURRENT: usize = 10;
/// Number of logins during which a server is killed.
const LOGINS_OF_A_KILL: usize = 120;

/// Starts two nodes on one database of Postgres. The first value has what must be kept as long as they run.
async fn two_nodes() -> ((TempDir, Arc<Postgres>), Server, Server) {
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    let keys = tempfile::tempdir().unwrap();
    let node = async || Server::node_with(&url, None, keys.path().join("keys"), |bus| bus, with_clients).await;
    let (here, there) = (node().await, node().await);
    ((keys, postgres), here, there)
}

/// Polls until the device gets an answer other than that it must wait. `pushed` ends when the device is told to collect.
async fn collected(server: &Server, device: &Value, pushed: impl Future<Output = ()>) -> Answer {
    pushed.await;
    loop {
        let answer = polled(server, device).await;
        let error = answer.body["error"].as_str().unwrap_or_default();
        if error != "authorization_pending" && error != "slow_down" {
            return answer;
        }
    }
}

#[test]
async fn device_code_is_exchanged_once_by_polls_and_push_that_race() {
    let provider = TestProvider::start().await;
    let server = server(|settings| with_provider(settings, &provider)).await;
    // The user has logged in on the approve page before.
    let mut user = Visitor::new();
    approve::opened(&server, &provider, &mut user, &server.generate().await.code).await;
    let login = async |number: usize| {
        let device = begun(&server).await;
        let session = session(&device);
        let mut socket = Browser::open(&server, &session.ws_path, None).await.unwrap();
        socket.frame("pending").await;
        let pushed = async move {
            socket.frame("scanned").await;
            socket.frame("confirmed").await;
        };
        let decided = async {
            let mut user = user.clone();
            // The user opens the URL of the QR code with the camera, or types the code.
            if number.is_multiple_of(2) {
                let form = query(&[("user_code", device["user_code"].as_str().unwrap())]);
                let shown = user.post(&server, "/device", form, PUBLIC_URL).await;
                assert!(shown.text.contains(session.code.as_str()), "{shown:?}");
                user.site = Some("same-origin");
            }
            let code = session.code.rsplit('/').next().unwrap();
            let shown = user.open(&server, &format!("/q/{code}")).await;
            assert!(shown.text.contains("TV asks for"), "{shown:?}");
            let shown = user.press(&server, &shown, code, ("action", "confirm")).await;
            assert_eq!(shown.title(), "You are logged in");
        };
        let (by_push, by_poll, by_another, ()) = tokio::join!(
            collected(&server, &device, pushed),
            collected(&server, &device, async {}),
            collected(&server, &device, async {}),
            decided,
        );
        let answers = [by_push, by_poll, by_another];
        let given = answers.iter().filter(|answer| answer.status == 200).count();
        assert_eq!(given, 1, "{answers:?}");
        let refused =
            answers.iter().filter(|answer| answer.status != 200).all(|answer| error(answer) == (400, "invalid_grant"));
        assert!(refused, "{answers:?}");
        let tokens = answers.iter().find(|answer| answer.status == 200).unwrap();
        assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 200);
    };
    let numbers: Vec<_> = (0..LOGINS).collect();
    for some in numbers.chunks(CONCURRENT) {
        join_all(some.iter().map(|number| login(*number))).await;
    }
    server.until_active(0).await;
    server.stop().await;
}

#[test]
async fn code_is_exchanged_at_most_once_by_requests_that_race() {
    let server = server(|_| {}).await;
    for _ in 0..50 {
        let code = code(&server, &request(&[])).await;
        let answers = join_all((0..6).map(|_| redeemed(&server, &code))).await;
        let given: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
        // Each other request is a replay, which revokes the tokens, before they are issued or afterwards.
        assert!(given.len() <= 1, "{answers:?}");
        for tokens in given {
            assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 401);
        }
        let refused = answers.iter().filter(|answer| answer.status != 200);
        assert!(refused.map(error).all(|refused| refused == (400, "invalid_grant")), "{answers:?}");
        assert_eq!(error(&redeemed(&server, &code).await), (400, "invalid_grant"));
    }
    server.stop().await;
}

#[test]
async fn lost_answer_of_the_store_loses_no_login() {
    let server = server(|_| {}).await;
    let device = begun(&server).await;
    phone(&server).confirm(&session(&device)).await;
    server.store.lose_answers(true);
    assert_eq!(error(&polled(&server, &device).await), (400, "authorization_pending"));
    server.store.lose_answers(false);
    let tokens = polled(&server, &device).await;
    assert_eq!(tokens.status, 200, "{tokens:?}");
    assert_eq!(error(&polled(&server, &device).await), (400, "invalid_grant"));

    // The server itself repeats the exchange of a code and of a refresh token.
    let code = code(&server, &request(&[("scope", "openid offline_access")])).await;
    let tokens = with_a_lost_answer(&server, redeemed(&server, &code)).await;
    assert_eq!(tokens.status, 200, "{tokens:?}");
    let refresh = async |tokens: &Answer| {
        let token = tokens.body["refresh_token"].as_str().unwrap().to_owned();
        post(&server, "/oauth/token", &[("grant_type", "refresh_token"), ("refresh_token", &token)]).await
    };
    let next = with_a_lost_answer(&server, refresh(&tokens)).await;
    assert_eq!(next.status, 200, "{next:?}");
    assert_eq!(refresh(&next).await.status, 200);
    server.stop().await;
}

#[test(needs(Postgres))]
async fn login_whose_answer_was_lost_with_a_node_is_given_by_another_one() {
    let (_kept, here, there) = two_nodes().await;
    let device = begun(&here).await;
    phone(&here).confirm(&session(&device)).await;
    here.store.lose_answers(true);
    assert_eq!(error(&polled(&here, &device).await), (400, "authorization_pending"));
    // The other node does not know that the first one has not answered, and waits for some seconds.
    assert_eq!(error(&polled(&there, &device).await), (400, "authorization_pending"));
    let mut tokens = polled(&there, &device).await;
    until("the other node takes over", async || {
        tokens = polled(&there, &device).await;
        tokens.body["error"] != "authorization_pending"
    })
    .await;
    assert_eq!(tokens.status, 200, "{tokens:?}");
    here.store.lose_answers(false);
    // The first node learns that the tokens were given when the other one has noted that.
    let mut again = polled(&here, &device).await;
    until("the delivery is noted", async || {
        again = polled(&here, &device).await;
        again.body["error"] != "authorization_pending"
    })
    .await;
    assert_eq!(error(&again), (400, "invalid_grant"));
}

#[test(needs(Postgres))]
async fn login_is_not_given_again_by_another_node_after_its_own_has_stopped() {
    let (_kept, here, there) = two_nodes().await;
    let device = begun(&here).await;
    phone(&here).confirm(&session(&device)).await;
    assert_eq!(polled(&here, &device).await.status, 200);
    // The node stops before the delivery would be noted otherwise.
    here.stop().await;
    assert_eq!(error(&polled(&there, &device).await), (400, "invalid_grant"));
    there.stop().await;
}

#[test(needs(Postgres))]
async fn tokens_of_an_answer_that_another_node_gives_again_are_refused() {
    let (_kept, here, there) = two_nodes().await;
    let refresh = async |server: &Server, tokens: &Answer| {
        let token = tokens.body["refresh_token"].as_str().unwrap().to_owned();
        post(server, "/oauth/token", &[("grant_type", "refresh_token"), ("refresh_token", &token)]).await
    };
    // The first node answers and cannot note it, as if it had been killed.
    let code = code(&here, &request(&[("scope", "openid offline_access")])).await;
    let lost = redeemed(&here, &code).await;
    assert_eq!(user_info(&here, &lost.body["access_token"]).await.status, 200);
    here.store.fail(true);
    let mut tokens = redeemed(&there, &code).await;
    assert_eq!(
        (user_info(&there, &lost.body["access_token"]).await.status.as_u16(), tokens.status.as_u16()),
        (401, 200)
    );
    // So is the answer to a refresh, whose tokens end the family if they are used nevertheless.
    here.store.fail(false);
    let lost = refresh(&here, &tokens).await;
    here.store.fail(true);
    tokens = refresh(&there, &tokens).await;
    assert_eq!((lost.status.as_u16(), tokens.status.as_u16()), (200, 200));
    here.store.fail(false);
    assert_eq!(user_info(&here, &lost.body["access_token"]).await.status, 401);
    assert_eq!(user_info(&here, &tokens.body["access_token"]).await.status, 200);
    assert_eq!(error(&refresh(&here, &lost).await), (400, "invalid_grant"));
    assert_eq!(user_info(&here, &tokens.body["access_token"]).await.status, 401);
}

#[test(needs(Postgres))]
async fn delivery_is_noted_after_an_outage_of_the_store() {
    let (_kept, here, there) = two_nodes().await;
    let device = begun(&here).await;
    phone(&here).confirm(&session(&device)).await;
    assert_eq!(polled(&here, &device).await.status, 200);
    here.store.fail(true);
    here.hands.advance_seconds(1);
    // The other node learns from the store alone that the device has its tokens.
    assert_eq!(error(&polled(&there, &device).await), (400, "authorization_pending"));
    here.store.fail(false);
    let mut again = polled(&there, &device).await;
    until("the delivery is noted", async || {
        here.hands.advance_seconds(1);
        again = polled(&there, &device).await;
        again.body["error"] != "authorization_pending"
    })
    .await;
    assert_eq!(error(&again), (400, "invalid_grant"));
}

/// Returns the answer to a request whose first write in the store is answered with an error.
async fn with_a_lost_answer(server: &Server, request: impl Future<Output = Answer>) -> Answer {
    let lost = server.store.lost_answers();
    server.store.lose_answers(true);
    let mut request = std::pin::pin!(request);
    loop {
        tokio::select! {
            biased;
            answer = &mut request => return answer,
            () = sleep_millis(20) => {}
        }
        if server.store.lost_answers() > lost {
            server.store.lose_answers(false);
            server.hands.advance_seconds(1);
        }
    }
}

/// A login whose client was answered before the server was killed, or not.
struct Begun {
    device: Value,
    given: bool,
}

#[test]
async fn login_whose_answer_was_lost_with_the_server_is_given_after_the_restart() {
    let dir = tempfile::tempdir().unwrap();
    let settings = format!(
        "[[oauth.clients]]\nid = 'tv'\nname = 'TV'\nauth_method = 'none'\ngrant_types = ['device_code']\n\
         [[oauth.clients]]\nid = '{WEB}'\nname = 'Web'\nredirect_uris = ['{REDIRECT_URI}']\nsecret_hashes = ['{}']\n",
        hash_secret(WEB_SECRET).unwrap()
    );
    std::fs::write(dir.path().join("qrlogin.toml"), settings).unwrap();
    let mut program = Program::serve_with(&dir, "warn,qrlogin::app=info", &[("QRLOGIN_LIMITS__ENABLED", "false")]);
    let form = async |program: &Program, path: &str, parameters: &[(&str, &str)]| {
        let request = program.http.post(format!("{}{path}", program.base)).body(query(parameters));
        let sent = request.header("content-type", "application/x-www-form-urlencoded").send().await;
        match sent {
            Ok(response) => Some(Answer::of(response).await),
            Err(_) => None,
        }
    };
    let poll = async |program: &Program, device: &Value| {
        let code = device["device_code"].as_str().unwrap();
        form(program, "/oauth/token", &[("client_id", "tv"), ("grant_type", DEVICE_CODE), ("device_code", code)]).await
    };
    let mut devices = Vec::new();
    for user in 0..LOGINS_OF_A_KILL {
        let device = form(&program, "/oauth/device_authorization", &[("client_id", "tv")]).await.unwrap().body;
        let token = keys::app_token(json!({ "sub": format!("user {user}") }));
        let code = json!({ "code": device["verification_uri_complete"] });
        assert_eq!(program.post("/v1/qr-login/confirm", Some(&token), code).await.unwrap().status, 200);
        devices.push(device);
    }
    let given = std::sync::atomic::AtomicUsize::new(0);
    let logins = {
        let program = &program;
        let collect = async |device: Value| {
            let answer = poll(program, &device).await;
            let is_given = answer.is_some_and(|answer| answer.status == 200);
            if is_given {
                given.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            }
            Begun { device, given: is_given }
        };
        let killed = async {
            until("thirty devices have their tokens", async || given.load(std::sync::atomic::Ordering::SeqCst) >= 30)
                .await;
            assert!(Command::new("kill").args(["-KILL", &program.id().to_string()]).status().unwrap().success());
        };
        tokio::join!(join_all(devices.into_iter().map(collect)), killed).0
    };
    program.kill();
    let program = Program::serve_with(&dir, "warn,qrlogin::app=info", &[("QRLOGIN_LIMITS__ENABLED", "false")]);
    let mut late = 0;
    for Begun { device, given } in &logins {
        if *given {
            continue;
        }
        late += 1;
        // A device polls on. What another node has begun is taken over after some seconds.
        let tokens = within_seconds(30, "the device gets its tokens", async {
            loop {
                let answer = poll(&program, device).await.unwrap();
                if answer.body["error"] != "authorization_pending" {
                    return answer;
                }
                sleep_millis(200).await;
            }
        })
        .await;
        assert_eq!(tokens.status, 200, "{tokens:?}");
        assert_eq!(poll(&program, device).await.unwrap().status, 400);
    }
    assert!(late > 0, "all devices had their tokens before the server was killed");
    assert_eq!(program.terminate().0.code(), Some(0));
}
