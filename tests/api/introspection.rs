//! App tokens that an introspection endpoint verifies (RFC 7662).

use std::net::SocketAddr;

use futures_util::future::join_all;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::token_source::{Source, SourceAnswer, scan};
use qrlogin_testing::harness::{Answer, Secret, Server, Session, Settings};
use qrlogin_testing::real_time::until;
use qrlogin_testing::test;

async fn by_introspection(address: SocketAddr, change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(|settings| {
        settings.app_auth.hmac_secret = Secret::default();
        settings.app_auth.introspection_url = format!("http://{address}/").into();
        settings.app_auth.introspection_client_id = "qr login".to_owned();
        settings.app_auth.introspection_client_secret = "p:ss".into();
        change(settings);
    })
    .await
}

#[test]
async fn introspection_decides_and_its_answer_is_cached() {
    let (source, address) = Source::start().await;
    let server = by_introspection(address, |settings| settings.token.claims = vec!["email".to_owned()]).await;
    let session = server.generate().await;
    let exp = server.clock.now().as_seconds() + 5;
    source.set_json(json!({ "active": true, "sub": "ann", "name": "Ann", "email": "ann@example.com", "exp": exp }));
    assert_eq!(scan(&server, &session, "opaque+token/ of=the&app").await.status, 200);
    let (headers, body) = source.last.lock().unwrap().clone();
    assert_eq!(headers["authorization"], "Basic cXIrbG9naW46cCUzQXNz", "RFC 6749 §2.3.1");
    assert_eq!(headers["content-type"], "application/x-www-form-urlencoded");
    assert_eq!(body, "token=opaque%2Btoken%2F+of%3Dthe%26app&token_type_hint=access_token");

    // An answer is cached for ten seconds at most, and not beyond the token's expiry.
    assert_eq!(scan(&server, &session, "opaque+token/ of=the&app").await.status, 200);
    assert_eq!(source.request_count(), 1);
    server.hands.advance_seconds(5);
    assert_eq!(scan(&server, &session, "opaque+token/ of=the&app").await.refusal(), "401 invalid_token");
    server.hands.advance_seconds(5);
    source.set_json(json!({ "active": true, "sub": "ann" }));
    let body = json!({ "code": session.code });
    let confirm = server.request(Method::POST, "/v1/qr-login/confirm", Some("opaque+token/ of=the&app"), Some(body));
    assert_eq!(confirm.await.status, 200);
    assert_eq!(source.request_count(), 2);
    server.stop().await;
}

/// Scans from a phone at this address, as a trusted proxy reports it.
async fn scan_from(server: &Server, session: &Session, token: &str, address: &str) -> Answer {
    let request = server.http.post(format!("{}/v1/qr-login/scan", server.base)).bearer_auth(token);
    let request = request.header("x-forwarded-for", address).json(&json!({ "code": session.code }));
    Answer::of(request.send().await.unwrap()).await
}

#[test]
async fn concurrent_requests_with_one_token_share_one_introspection() {
    let (source, address) = Source::start().await;
    let server = by_introspection(address, |_| {}).await;
    let session = server.generate().await;
    let release = source.hold();
    let scans = join_all((0..60).map(|_| scan(&server, &session, "opaque")));
    let answering = async {
        until("the endpoint is asked", async || source.request_count() == 1).await;
        // Requests that arrive after this answer are served from the cache.
        source.set_json(json!({ "active": true, "sub": "ann" }));
        release.send(()).unwrap();
    };
    let (answers, ()) = tokio::join!(scans, answering);
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(source.request_count(), 1);
    server.stop().await;
}

#[test]
async fn client_with_many_tokens_does_not_delay_the_introspection_of_others() {
    let (source, address) = Source::start().await;
    let server = by_introspection(address, |settings| settings.trusted_proxies = vec!["127.0.0.1".to_owned()]).await;
    let session = server.generate().await;
    let release = source.hold();
    source.set_json(json!({ "active": true, "sub": "ann" }));
    let tokens: Vec<_> = (0..40).map(|number| format!("foreign {number}")).collect();
    let foreign = join_all(tokens.iter().map(|token| scan_from(&server, &session, token, "192.0.2.1")));
    let honest = async {
        until("eight foreign tokens are introspected", async || source.request_count() == 8).await;
        let honest = scan_from(&server, &session, "honest", "192.0.2.2");
        let asked = until("the honest token is introspected", async || source.request_count() == 9);
        let rest = async {
            asked.await;
            // A token that has waited for its introspection for two seconds is refused.
            server.hands.advance_seconds(2);
            // Some requests may arrive only now, and wait for two seconds from now on.
            for _ in 0..100 {
                server.metrics().await;
            }
            server.hands.advance_seconds(2);
            until("the others are refused", async || server.metrics().await.contains("reason=\"unavailable\"} 32"))
                .await;
            release.send(()).unwrap();
        };
        tokio::join!(honest, rest).0
    };
    let (foreign, honest) = tokio::join!(foreign, honest);
    assert_eq!(honest.status, 200);
    let refused: Vec<_> = foreign.iter().filter(|answer| answer.refusal() == "503 unavailable").collect();
    assert_eq!(refused.len(), 32);
    assert!(refused.iter().all(|answer| !answer.header("retry-after").is_empty()));
    assert_eq!(source.request_count(), 9);
    server.stop().await;
}

#[test]
async fn introspection_answers_other_than_active_true_are_refused() {
    let (source, address) = Source::start().await;
    let server = by_introspection(address, |settings| settings.app_auth.audience = "qrlogin".to_owned()).await;
    let session = server.generate().await;
    let now = server.clock.now().as_seconds();
    let yes = json!({ "active": true, "sub": "ann", "aud": "qrlogin" });
    let with = |name: &str, value: Value| {
        let mut answer = yes.clone();
        answer[name] = value;
        SourceAnswer::Body(answer.to_string())
    };
    for (number, (answer, expected)) in [
        (SourceAnswer::Body(json!({ "active": false }).to_string()), "401 invalid_token"),
        (with("active", json!(false)), "401 invalid_token"),
        (with("aud", json!("other")), "401 invalid_token"),
        (with("sub", Value::Null), "401 invalid_token"),
        (with("exp", json!(now)), "401 invalid_token"),
        (with("nbf", json!(now + 30)), "401 invalid_token"),
        (with("active", json!("true")), "503 unavailable"),
        (with("active", Value::Null), "503 unavailable"),
        (SourceAnswer::Body("yes".to_owned()), "503 unavailable"),
        (SourceAnswer::Body("[true]".to_owned()), "503 unavailable"),
        (SourceAnswer::Status(500), "503 unavailable"),
        (SourceAnswer::Status(401), "503 unavailable"),
        (SourceAnswer::Endless, "503 unavailable"),
        (SourceAnswer::None, "503 unavailable"),
    ]
    .into_iter()
    .enumerate()
    {
        source.set_answer(answer);
        assert_eq!(scan(&server, &session, &format!("token {number}")).await.refusal(), expected, "{number}");
    }
    assert_eq!(server.status(&session).await.body["version"], 1);
    source.set_json(yes);
    // Failures are not cached.
    assert_eq!(scan(&server, &session, "token 10").await.status, 200);
    // A `web_token` is refused without an introspection.
    let asked = source.request_count();
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some("qrlogin+jwt".to_owned());
    let web_token = encode(&header, &json!({ "sub": "ann" }), &EncodingKey::from_secret(b"x")).unwrap();
    assert_eq!(scan(&server, &session, &web_token).await.refusal(), "401 invalid_token");
    assert_eq!(source.request_count(), asked);
    server.stop().await;
}
