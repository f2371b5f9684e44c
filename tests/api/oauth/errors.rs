//! Errors of the endpoints: RFC 6749 §4.1.2.1 and §5.2, RFC 6750 §3.1, RFC 7009 §2.2.1, RFC 7662 §2.3, RFC 8628 §3.5.

use qrlogin_testing::harness::{Answer, Server};
use qrlogin_testing::test;
use reqwest::{Body, Method};

use super::{DEVICE_CODE, WEB, WEB_SECRET, code, error, post, received, redeemed, request, send, server, value};
use crate::approve::visitor::{PUBLIC_URL, Visitor};

const ENDPOINTS: [&str; 4] = ["/oauth/token", "/oauth/device_authorization", "/oauth/introspect", "/oauth/revoke"];

async fn sent(server: &Server, path: &str, content_type: Option<&str>, body: impl Into<Body>) -> Answer {
    let mut request = server.http.post(format!("{}{path}", server.base)).basic_auth(WEB, Some(WEB_SECRET)).body(body);
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    Answer::of(request.send().await.unwrap()).await
}

#[test]
async fn body_that_is_not_a_form_of_single_parameters_is_an_invalid_request() {
    let server = server(|_| {}).await;
    let form = "grant_type=authorization_code&token=x";
    let repeated = format!("{form}&scope=openid&scope=profile");
    let long = format!("{form}&x={}", "x".repeat(8192));
    for path in ENDPOINTS {
        for (content_type, body) in [
            (Some("application/json"), r#"{"grant_type":"authorization_code","token":"x"}"#),
            (Some("text/plain"), form),
            (None, form),
            (Some("application/x-www-form-urlencoded"), &repeated),
            (Some("application/x-www-form-urlencoded"), &long),
        ] {
            let answer = sent(&server, path, content_type, body.to_owned()).await;
            assert_eq!(error(&answer), (400, "invalid_request"), "{path} {content_type:?}");
        }
        let not_utf8 = [form.as_bytes(), b"\xff"].concat();
        let answer = sent(&server, path, Some("application/x-www-form-urlencoded"), not_utf8).await;
        assert_eq!(error(&answer), (400, "invalid_request"), "{path}");
        let got = server.request(Method::GET, path, None, None).await;
        assert_eq!(got.status, 405, "{path}");
    }
    let answer = sent(&server, "/oauth/revoke", Some("Application/X-WWW-Form-URLencoded; charset=UTF-8"), form);
    assert_eq!(answer.await.status, 200);
    server.stop().await;
}

#[test]
async fn client_is_refused_a_grant_that_it_does_not_have() {
    let server = server(|settings| {
        let web = settings.oauth.clients[0].clone();
        let (id, grant_types) = ("sign-in".to_owned(), web.grant_types[..1].to_vec());
        let scopes = vec!["openid".to_owned()];
        settings.oauth.clients.push(super::OAuthClientSettings { id, grant_types, scopes, ..web });
    })
    .await;
    let credentials = Some(("sign-in", WEB_SECRET));
    let answer = send(&server, "/oauth/device_authorization", credentials, &[]).await;
    assert_eq!(error(&answer), (400, "unauthorized_client"));
    for (client, grant, parameter) in [
        (credentials, DEVICE_CODE, ("device_code", "x")),
        (credentials, "refresh_token", ("refresh_token", "x")),
        (Some(("tv", "")), "refresh_token", ("refresh_token", "x")),
        (Some(("tv", "")), "authorization_code", ("code", "x")),
    ] {
        let answer = send(&server, "/oauth/token", client, &[("grant_type", grant), parameter]).await;
        assert_eq!(error(&answer), (400, "unauthorized_client"), "{client:?} {grant}");
    }
    let query = request(&[("client_id", "tv")]);
    let shown = Visitor::new().open(&server, &format!("/oauth/authorize?{query}")).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (400, "Wrong address"), "a device has no redirect URI");
    server.stop().await;
}

#[test]
async fn token_endpoint_names_what_is_wrong() {
    let server = server(|_| {}).await;
    for (parameters, expected) in [
        (&[][..], "invalid_request"),
        (&[("grant_type", "client_credentials")], "unsupported_grant_type"),
        (&[("grant_type", "implicit")], "unsupported_grant_type"),
        (&[("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer")], "unsupported_grant_type"),
        (&[("grant_type", "refresh_token")], "invalid_request"),
        (&[("grant_type", "refresh_token"), ("refresh_token", "x")], "invalid_grant"),
        (&[("grant_type", DEVICE_CODE)], "invalid_request"),
        (&[("grant_type", DEVICE_CODE), ("device_code", "x")], "invalid_grant"),
    ] {
        let answer = post(&server, "/oauth/token", parameters).await;
        assert_eq!(error(&answer), (400, expected), "{parameters:?}");
        assert_eq!(answer.header("pragma"), "no-cache");
    }
    let offline = request(&[("scope", "openid offline_access")]);
    let tokens = redeemed(&server, &code(&server, &offline).await).await;
    let token = tokens.body["refresh_token"].as_str().unwrap();
    for scope in ["openid email", "admin", " "] {
        let form = [("grant_type", "refresh_token"), ("refresh_token", token), ("scope", scope)];
        assert_eq!(error(&post(&server, "/oauth/token", &form).await), (400, "invalid_scope"), "{scope}");
    }
    // A code is no refresh token, and the reverse.
    let code = code(&server, &request(&[])).await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", code.as_str())];
    assert_eq!(error(&post(&server, "/oauth/token", &form).await), (400, "invalid_grant"));
    assert_eq!(error(&redeemed(&server, token).await), (400, "invalid_grant"));
    server.stop().await;
}

#[test]
async fn device_authorization_names_what_is_wrong() {
    let server = server(|_| {}).await;
    let answer = post(&server, "/oauth/device_authorization", &[("scope", "admin")]).await;
    assert_eq!(error(&answer), (400, "invalid_scope"));
    let answer = send(&server, "/oauth/device_authorization", None, &[("scope", "openid")]).await;
    assert_eq!(error(&answer), (401, "invalid_client"));
    server.store.fail(true);
    let answer = post(&server, "/oauth/device_authorization", &[]).await;
    assert_eq!(error(&answer), (503, "temporarily_unavailable"));
    assert_eq!(answer.header("retry-after"), "1");
    server.stop().await;
}

#[test]
async fn introspection_and_revocation_need_a_client_and_a_token() {
    let server = server(|_| {}).await;
    for path in ["/oauth/introspect", "/oauth/revoke"] {
        assert_eq!(error(&send(&server, path, None, &[("token", "x")]).await), (401, "invalid_client"), "{path}");
        let wrong = Some((WEB, "a wrong secret of enough length"));
        assert_eq!(error(&send(&server, path, wrong, &[("token", "x")]).await), (401, "invalid_client"), "{path}");
        assert_eq!(error(&post(&server, path, &[]).await), (400, "invalid_request"), "{path}");
        // A hint of the wrong kind changes nothing (RFC 7009 §2.1).
        let hinted = [("token", "x"), ("token_type_hint", "refresh_token")];
        assert_eq!(post(&server, path, &hinted).await.status, 200, "{path}");
    }
    server.stop().await;
}

#[test]
async fn user_info_answers_wrong_tokens_as_bearer_tokens() {
    let server = server(|_| {}).await;
    let tokens = redeemed(&server, &code(&server, &request(&[])).await).await;
    let token = tokens.body["access_token"].as_str().unwrap();
    let get = |token| server.request(Method::GET, "/oauth/userinfo", token, None);
    let without = get(None).await;
    assert_eq!((without.status.as_u16(), without.header("www-authenticate")), (401, "Bearer"));
    for wrong in ["x", &token[..token.len() - 4], tokens.body["id_token"].as_str().unwrap()] {
        let answer = get(Some(wrong)).await;
        assert_eq!(error(&answer), (401, "invalid_token"));
        assert_eq!(answer.header("www-authenticate"), r#"Bearer error="invalid_token""#);
    }
    let request = server.http.post(format!("{}/oauth/userinfo", server.base)).bearer_auth(token);
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    let twice = Answer::of(request.body(format!("access_token={token}")).send().await.unwrap()).await;
    assert_eq!(error(&twice), (400, "invalid_request"));
    server.hands.advance_seconds(3600);
    assert_eq!(error(&get(Some(token)).await), (401, "invalid_token"), "it has expired");
    server.stop().await;
}

#[test]
async fn outage_of_the_store_is_told_to_the_client_of_an_authorization_request() {
    let server = server(|_| {}).await;
    server.store.fail(true);
    let shown = Visitor::new().open(&server, &format!("/oauth/authorize?{}", request(&[]))).await;
    let response = received(&shown);
    assert_eq!((value(&response, "error"), value(&response, "state")), ("temporarily_unavailable", "a state"));
    assert_eq!(value(&response, "iss"), PUBLIC_URL);
    server.stop().await;
}
