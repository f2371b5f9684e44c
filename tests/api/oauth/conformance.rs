//! What the conformance suite of the OpenID Foundation tests in its basic plan, in both response modes. The table of its
//! tests is docs/conformance.md.

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use qrlogin_testing::harness::{Answer, Phone, Server, claims_of};
use qrlogin_testing::test;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    DEVICE_CODE, REDIRECT_URI, WEB, WEB_SECRET, device, error, half_sha256, opened, post, received, request, send,
    server, user_info, value,
};
use crate::approve::visitor::{PUBLIC_URL, Shown, Visitor};

/// Response modes: that of the basic plan, and that of the form-post plan.
const MODES: [&str; 2] = ["", "form_post"];

/// Starts a server with a client as the suite needs it: without PKCE, with all scopes, and with single sign-on.
pub async fn suite_server() -> Server {
    server(|settings| {
        settings.sso.ttl_seconds = 20_000;
        let client = &mut settings.oauth.clients[0];
        client.require_pkce = false;
        client.scopes.extend(["address", "phone"].map(str::to_owned));
    })
    .await
}

/// Returns a request as the suite sends it, with other or more parameters.
fn plain(mode: &str, other: &[(&str, &str)]) -> String {
    let without_pkce = [("code_challenge", ""), ("code_challenge_method", ""), ("response_mode", mode)];
    let kept = without_pkce.into_iter().filter(|(name, _)| !other.iter().any(|(changed, _)| changed == name));
    request(&kept.chain(other.iter().copied()).collect::<Vec<_>>())
}

/// Returns the phone of a user who has a value for each standard claim that the tests look at.
fn phone(server: &Server) -> Phone<'_> {
    let mut phone = server.phone("ann");
    phone.token = server.app_token(json!({
        "sub": "ann", "name": "Ann Example", "preferred_username": "ann", "email": "ann@example.org",
        "email_verified": true, "address": { "country": "Wonderland" }, "phone_number": "+1 555 0100",
        "phone_number_verified": false,
    }));
    phone
}

/// Returns the parameters that the client receives in this response mode.
fn answered(shown: &Shown, mode: &str) -> Vec<(String, String)> {
    if mode.is_empty() {
        return received(shown);
    }
    let (_, form) = shown.text.split_once("<form").unwrap_or_else(|| panic!("no form: {shown:?}"));
    assert!(form.contains(&format!(r#"method="post" action="{REDIRECT_URI}""#)), "{form}");
    let inputs = form.split(r#"type="hidden" name=""#).skip(1).map(|input| {
        let (name, rest) = input.split_once(r#"" value=""#).unwrap();
        (name.to_owned(), rest.split('"').next().unwrap().replace("&quot;", "\"").replace("&amp;", "&"))
    });
    inputs.collect()
}

/// Asks for an authorization, and scans the code if the page asks for it. Returns whether it did, and the answer.
async fn authorized(server: &Server, browser: &mut Visitor, query: &str, mode: &str) -> (bool, Vec<(String, String)>) {
    let shown = browser.open(server, &format!("/oauth/authorize?{query}")).await;
    if !shown.text.contains("<qr-login") {
        return (false, answered(&shown, mode));
    }
    let page = opened(server, browser, query).await;
    assert_eq!(phone(server).confirm(&page.session).await.status, 200);
    (true, answered(&browser.open(server, &page.next).await, mode))
}

async fn redeemed(server: &Server, code: &str) -> Answer {
    let parameters = [("grant_type", "authorization_code"), ("code", code), ("redirect_uri", REDIRECT_URI)];
    post(server, "/oauth/token", &parameters).await
}

/// Logs in with these parameters. Returns whether the user had to scan, and the tokens.
async fn logged_in(server: &Server, browser: &mut Visitor, mode: &str, other: &[(&str, &str)]) -> (bool, Answer) {
    let (asked, response) = authorized(server, browser, &plain(mode, other), mode).await;
    assert_eq!(value(&response, "state"), "a state", "{response:?}");
    assert_eq!(value(&response, "iss"), PUBLIC_URL);
    let tokens = redeemed(server, value(&response, "code")).await;
    assert_eq!(tokens.status, 200, "{tokens:?}");
    (asked, tokens)
}

fn id_claims(tokens: &Answer) -> Value {
    claims_of(tokens.body["id_token"].as_str().unwrap())
}

/// Verifies a token with the published key that it names. Returns its claims.
async fn verified(server: &Server, token: &str, algorithm: Algorithm, audience: &str) -> Value {
    let keys: JwkSet = serde_json::from_value(server.get("/.well-known/jwks.json").await.body).unwrap();
    let header = decode_header(token).unwrap();
    let key = DecodingKey::from_jwk(keys.find(header.kid.as_deref().unwrap()).unwrap()).unwrap();
    let mut validation = Validation::new(algorithm);
    validation.set_audience(&[audience]);
    validation.set_issuer(&[PUBLIC_URL]);
    // The clock of the tests is not that of the machine.
    validation.validate_exp = false;
    decode(token, &key, &validation).unwrap().claims
}

#[test]
async fn code_flow_gives_the_tokens_that_the_specification_requires() {
    let server = suite_server().await;
    for mode in MODES {
        let (_, tokens) = logged_in(&server, &mut Visitor::new(), mode, &[("scope", "openid")]).await;
        assert_eq!((tokens.header("cache-control"), tokens.header("pragma")), ("no-store", "no-cache"));
        assert_eq!((&tokens.body["token_type"], &tokens.body["expires_in"]), (&json!("Bearer"), &json!(3600)));
        let claims = id_claims(&tokens);
        let now = server.clock.wall().as_seconds();
        for (name, expected) in [
            ("iss", json!(PUBLIC_URL)),
            ("aud", json!(WEB)),
            ("sub", json!("ann")),
            ("nonce", json!("a nonce")),
            ("iat", json!(now)),
            ("at_hash", json!(half_sha256(tokens.body["access_token"].as_str().unwrap()))),
            ("name", json!(null)),
            ("email", json!(null)),
        ] {
            assert_eq!(claims[name], expected, "{name}");
        }
        assert!(claims["exp"].as_i64().unwrap() > now);
    }
    server.stop().await;
}

#[test]
async fn id_token_is_signed_with_a_published_key_which_it_names() {
    let server = suite_server().await;
    for mode in MODES {
        let (_, tokens) = logged_in(&server, &mut Visitor::new(), mode, &[]).await;
        let claims = verified(&server, tokens.body["id_token"].as_str().unwrap(), Algorithm::RS256, WEB).await;
        assert_eq!(claims["sub"], "ann");
    }
    let tv = device::begun(&server).await;
    phone(&server).confirm(&device::session(&tv)).await;
    let code = tv["device_code"].as_str().unwrap();
    let form = [("client_id", "tv"), ("grant_type", DEVICE_CODE), ("device_code", code)];
    let tokens = send(&server, "/oauth/token", None, &form).await;
    let claims = verified(&server, tokens.body["id_token"].as_str().unwrap(), Algorithm::EdDSA, "tv").await;
    assert_eq!(claims["sub"], "ann");
    server.stop().await;
}

#[test]
async fn user_info_is_read_by_get_and_by_post_with_the_token_in_the_header_or_in_the_body() {
    let server = suite_server().await;
    for mode in MODES {
        let (_, tokens) = logged_in(&server, &mut Visitor::new(), mode, &[]).await;
        let token = tokens.body["access_token"].as_str().unwrap();
        let by_get = server.request(Method::GET, "/oauth/userinfo", Some(token), None).await;
        let by_header = server.request(Method::POST, "/oauth/userinfo", Some(token), None).await;
        let by_body = send(&server, "/oauth/userinfo", None, &[("access_token", token)]).await;
        for answer in [by_get, by_header, by_body] {
            assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/json"));
            assert_eq!(answer.body["sub"], id_claims(&tokens)["sub"]);
        }
        // A token in the query would be in logs (RFC 9700 §4.3.2).
        let by_query = server.request(Method::GET, &format!("/oauth/userinfo?access_token={token}"), None, None).await;
        assert_eq!(by_query.status, 401);
    }
    server.stop().await;
}

#[test]
async fn request_without_nonce_gives_an_id_token_without_nonce() {
    let server = suite_server().await;
    for mode in MODES {
        let (_, tokens) = logged_in(&server, &mut Visitor::new(), mode, &[("nonce", "")]).await;
        assert_eq!(id_claims(&tokens)["nonce"], json!(null));
    }
    server.stop().await;
}

#[test]
async fn each_scope_gives_its_claims_in_any_order() {
    let server = suite_server().await;
    let all = ["name", "preferred_username", "email", "email_verified", "address", "phone_number"];
    for mode in MODES {
        for (scope, expected) in [
            ("openid profile", vec!["name", "preferred_username"]),
            ("openid email", vec!["email", "email_verified"]),
            ("openid address", vec!["address"]),
            ("openid phone", vec!["phone_number"]),
            ("openid profile email address phone", all.to_vec()),
            ("phone address email profile openid", all.to_vec()),
        ] {
            let (_, tokens) = logged_in(&server, &mut Visitor::new(), mode, &[("scope", scope)]).await;
            let info = user_info(&server, &tokens.body["access_token"]).await.body;
            for claim in all {
                assert_eq!(info.get(claim).is_some(), expected.contains(&claim), "{scope}: {claim}");
            }
        }
    }
    server.stop().await;
}

#[test]
async fn parameters_that_the_server_does_not_act_on_are_no_errors() {
    let server = suite_server().await;
    for mode in MODES {
        for parameter in [
            ("display", "page"),
            ("display", "popup"),
            ("extra", "foobar"),
            ("login_hint", "buffy@login.example"),
            ("ui_locales", "se"),
            ("claims_locales", "se"),
            ("acr_values", "urn:qrlogin:acr:qr"),
            ("acr_values", "1 2"),
            ("claims", r#"{"userinfo":{"name":{"essential":true}}}"#),
        ] {
            let (asked, tokens) = logged_in(&server, &mut Visitor::new(), mode, &[parameter]).await;
            assert!(asked);
            assert_eq!(id_claims(&tokens)["acr"], "urn:qrlogin:acr:qr");
            assert_eq!(user_info(&server, &tokens.body["access_token"]).await.body["name"], "Ann Example");
        }
    }
    let query = plain("", &[("ui_locales", "se de en")]);
    let shown = Visitor::new().open(&server, &format!("/oauth/authorize?{query}")).await;
    assert_eq!(shown.title(), "Bei Web App anmelden");
    server.stop().await;
}

#[test]
async fn second_authorization_asks_the_user_if_the_request_says_so() {
    let server = suite_server().await;
    for mode in MODES {
        for parameter in [("prompt", "login"), ("max_age", "1")] {
            let mut browser = Visitor::new();
            let (_, first) = logged_in(&server, &mut browser, mode, &[]).await;
            server.hands.advance_seconds(1);
            let (asked, second) = logged_in(&server, &mut browser, mode, &[parameter]).await;
            assert!(asked, "{parameter:?}");
            let times = [first, second].map(|tokens| id_claims(&tokens)["auth_time"].as_i64().unwrap());
            assert!(times[0] < times[1], "{times:?}");
        }
    }
    server.stop().await;
}

#[test]
async fn second_authorization_does_not_ask_the_user_if_the_first_one_is_recent() {
    let server = suite_server().await;
    for mode in MODES {
        let mut browser = Visitor::new();
        let (_, first) = logged_in(&server, &mut browser, mode, &[("max_age", "15000")]).await;
        server.hands.advance_seconds(2);
        let hint = first.body["id_token"].as_str().unwrap();
        for parameters in
            [&[("prompt", "none")][..], &[("max_age", "10000")], &[("prompt", "none"), ("id_token_hint", hint)]]
        {
            let (asked, second) = logged_in(&server, &mut browser, mode, parameters).await;
            assert!(!asked, "{parameters:?}");
            for claim in ["auth_time", "sub"] {
                assert_eq!(id_claims(&second)[claim], id_claims(&first)[claim]);
            }
        }
    }
    server.stop().await;
}

#[test]
async fn errors_reach_the_client_in_its_response_mode() {
    let server = suite_server().await;
    for mode in MODES {
        for (name, wrong, expected) in [
            ("prompt", "none", "login_required"),
            ("response_type", "", "invalid_request"),
            (
                "request",
                "eyJhbGciOiJub25lIn0.eyJyZWRpcmVjdF91cmkiOiJodHRwczovL2V2aWwuZXhhbXBsZSJ9.",
                "request_not_supported",
            ),
            ("request_uri", "https://web.example/request", "request_uri_not_supported"),
        ] {
            let (_, response) = authorized(&server, &mut Visitor::new(), &plain(mode, &[(name, wrong)]), mode).await;
            assert_eq!((value(&response, "error"), value(&response, "state")), (expected, "a state"), "{name}");
            assert_eq!((value(&response, "iss"), value(&response, "code")), (PUBLIC_URL, ""));
        }
        let wrong = plain(mode, &[("redirect_uri", "https://web.example/another")]);
        let shown = Visitor::new().open(&server, &format!("/oauth/authorize?{wrong}")).await;
        assert_eq!((shown.status.as_u16(), shown.title()), (400, "Wrong address"));
    }
    server.stop().await;
}

#[test]
async fn code_is_refused_the_second_time_at_once_and_after_thirty_seconds() {
    let server = suite_server().await;
    for (mode, pause_seconds) in MODES.into_iter().flat_map(|mode| [(mode, 0), (mode, 30)]) {
        let (_, response) = authorized(&server, &mut Visitor::new(), &plain(mode, &[]), mode).await;
        let tokens = redeemed(&server, value(&response, "code")).await;
        server.hands.advance_seconds(pause_seconds);
        assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 200);
        assert_eq!(error(&redeemed(&server, value(&response, "code")).await), (400, "invalid_grant"));
        assert_eq!(user_info(&server, &tokens.body["access_token"]).await.status, 401);
    }
    server.stop().await;
}

#[test]
async fn request_can_be_a_post() {
    let server = suite_server().await;
    for mode in MODES {
        let shown = Visitor::new().post(&server, "/oauth/authorize", plain(mode, &[]), "https://web.example").await;
        let to = shown.redirects[0].clone();
        assert_eq!((shown.status.as_u16(), shown.title()), (200, "Log in to Web App"));
        let (_, query) = to.split_once('?').unwrap();
        let (_, response) = authorized(&server, &mut Visitor::new(), query, mode).await;
        assert_eq!(redeemed(&server, value(&response, "code")).await.status, 200);
    }
    server.stop().await;
}

#[test]
async fn client_can_send_its_secret_in_the_body() {
    let server = suite_server().await;
    for mode in MODES {
        let (_, response) = authorized(&server, &mut Visitor::new(), &plain(mode, &[]), mode).await;
        let parameters = [
            ("client_id", WEB),
            ("client_secret", WEB_SECRET),
            ("grant_type", "authorization_code"),
            ("code", value(&response, "code")),
            ("redirect_uri", REDIRECT_URI),
        ];
        let tokens = send(&server, "/oauth/token", None, &parameters).await;
        assert_eq!(id_claims(&tokens)["sub"], "ann");
    }
    server.stop().await;
}

#[test]
async fn refresh_token_gives_new_tokens_and_works_for_its_client_only() {
    let server = server(|settings| {
        let client = &mut settings.oauth.clients[0];
        client.require_pkce = false;
        let (id, redirect_uris) = ("other".to_owned(), vec!["https://other.example/callback".to_owned()]);
        let other = super::OAuthClientSettings { id, redirect_uris, ..client.clone() };
        settings.oauth.clients.push(other);
    })
    .await;
    for mode in MODES {
        let more = [("scope", "openid offline_access"), ("prompt", "consent")];
        let (_, first) = logged_in(&server, &mut Visitor::new(), mode, &more).await;
        let token = first.body["refresh_token"].as_str().unwrap();
        assert!(token.bytes().all(|byte| (0x20..=0x7E).contains(&byte)));
        let form = [("grant_type", "refresh_token"), ("refresh_token", token)];
        let foreign = send(&server, "/oauth/token", Some(("other", WEB_SECRET)), &form).await;
        assert_eq!(error(&foreign), (400, "invalid_grant"));
        let second = post(&server, "/oauth/token", &form).await;
        assert_eq!(second.status, 200, "{second:?}");
        for claim in ["iss", "sub", "aud", "auth_time"] {
            assert_eq!(id_claims(&second)[claim], id_claims(&first)[claim]);
        }
        assert_eq!(user_info(&server, &second.body["access_token"]).await.status, 200);
    }
    server.stop().await;
}

#[test]
async fn request_with_pkce_succeeds() {
    let server = suite_server().await;
    for mode in MODES {
        let pkce = [("code_challenge", super::CHALLENGE), ("code_challenge_method", "S256")];
        let (_, response) = authorized(&server, &mut Visitor::new(), &plain(mode, &pkce), mode).await;
        assert_eq!(super::redeemed(&server, value(&response, "code")).await.status, 200);
    }
    server.stop().await;
}
