//! Refresh tokens, revocation and introspection.

use qrlogin_testing::harness::{Answer, Server, claims_of};
use qrlogin_testing::test;
use serde_json::json;

use super::{code, error, post, redeemed, request, send, server, user_info};

async fn offline(server: &Server) -> Answer {
    let query = request(&[("scope", "openid email offline_access")]);
    redeemed(server, &code(server, &query).await).await
}

async fn refreshed(server: &Server, tokens: &Answer, other: &[(&str, &str)]) -> Answer {
    let token = tokens.body["refresh_token"].as_str().unwrap();
    let parameters = [&[("grant_type", "refresh_token"), ("refresh_token", token)], other].concat();
    post(server, "/oauth/token", &parameters).await
}

#[test]
async fn refresh_token_is_replaced_at_each_use() {
    let server = server(|_| {}).await;
    let first = offline(&server).await;
    let login = claims_of(first.body["id_token"].as_str().unwrap());
    server.hands.advance_seconds(3000);
    let second = refreshed(&server, &first, &[]).await;
    assert_eq!(second.status, 200, "{second:?}");
    assert_ne!(second.body["refresh_token"], first.body["refresh_token"]);
    let claims = claims_of(second.body["id_token"].as_str().unwrap());
    assert_eq!(
        (&claims["auth_time"], &claims["sid"], &claims["sub"]),
        (&login["auth_time"], &login["sid"], &login["sub"])
    );
    assert_eq!(claims["nonce"], json!(null));
    let third = refreshed(&server, &second, &[("scope", "openid")]).await;
    assert_eq!(third.body["scope"], "openid");
    let info = user_info(&server, &third.body["access_token"]).await;
    assert_eq!(info.body, json!({ "sub": "ann" }));
    let answer = refreshed(&server, &third, &[("scope", "openid profile")]).await;
    assert_eq!(error(&answer), (400, "invalid_scope"));
    assert_eq!(refreshed(&server, &third, &[]).await.status, 200, "a refused scope does not use the token up");
    server.stop().await;
}

#[test]
async fn second_use_of_a_refresh_token_ends_the_family() {
    let server = server(|_| {}).await;
    let first = offline(&server).await;
    let second = refreshed(&server, &first, &[]).await;
    assert_eq!(error(&refreshed(&server, &first, &[]).await), (400, "invalid_grant"));
    assert_eq!(error(&refreshed(&server, &second, &[]).await), (400, "invalid_grant"));
    for tokens in [&first, &second] {
        assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 401);
    }
    server.stop().await;
}

#[test]
async fn refresh_token_ends_when_it_is_not_used_for_its_lifetime() {
    let server = server(|settings| settings.oauth.refresh_ttl_seconds = 7200).await;
    let first = offline(&server).await;
    server.hands.advance_seconds(7199);
    let second = refreshed(&server, &first, &[]).await;
    assert_eq!(second.status, 200, "{second:?}");
    server.hands.advance_seconds(7200);
    assert_eq!(error(&refreshed(&server, &second, &[]).await), (400, "invalid_grant"));
    server.stop().await;
}

#[test]
async fn revocation_of_one_token_revokes_all_of_the_login() {
    let server = server(|_| {}).await;
    for name in ["refresh_token", "access_token"] {
        let tokens = offline(&server).await;
        let token = tokens.body[name].as_str().unwrap();
        let foreign = send(&server, "/oauth/revoke", None, &[("client_id", "tv"), ("token", token)]).await;
        assert_eq!(error(&foreign), (400, "unauthorized_client"));
        assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 200);
        assert_eq!(post(&server, "/oauth/revoke", &[("token", token)]).await.status, 200);
        assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 401);
        assert_eq!(error(&refreshed(&server, &tokens, &[]).await), (400, "invalid_grant"));
        assert_eq!(post(&server, "/oauth/revoke", &[("token", token)]).await.status, 200, "it is revoked already");
    }
    assert_eq!(post(&server, "/oauth/revoke", &[("token", "x")]).await.status, 200);
    assert_eq!(error(&post(&server, "/oauth/revoke", &[]).await), (400, "invalid_request"));
    server.stop().await;
}

#[test]
async fn introspection_tells_whether_a_token_is_active() {
    let server = server(|_| {}).await;
    let tokens = offline(&server).await;
    let token = |name: &str| tokens.body[name].as_str().unwrap().to_owned();
    let access = post(&server, "/oauth/introspect", &[("token", &token("access_token"))]).await.body;
    for (claim, expected) in [
        ("active", json!(true)),
        ("client_id", json!("web")),
        ("sub", json!("ann")),
        ("token_type", json!("Bearer")),
        ("scope", json!("openid email offline_access")),
    ] {
        assert_eq!(access[claim], expected);
    }
    let refresh = post(&server, "/oauth/introspect", &[("token", &token("refresh_token"))]).await.body;
    assert_eq!((&refresh["active"], &refresh["sub"]), (&json!(true), &json!("ann")));
    for other in [&token("id_token"), "x", &format!("{}x", token("access_token"))] {
        assert_eq!(post(&server, "/oauth/introspect", &[("token", other)]).await.body, json!({ "active": false }));
    }
    let public = send(&server, "/oauth/introspect", None, &[("client_id", "tv"), ("token", "x")]).await;
    assert_eq!(error(&public), (401, "invalid_client"));
    server.hands.advance_seconds(3600);
    let expired = post(&server, "/oauth/introspect", &[("token", &token("access_token"))]).await;
    assert_eq!(expired.body, json!({ "active": false }));
    server.stop().await;
}
