//! Authentication of clients: secrets (RFC 6749 §2.3) and assertions (RFC 7523).

use qrlogin_testing::harness::{Answer, Server, Settings};
use qrlogin_testing::test;
use serde_json::{Value, json};

use super::{WEB, WEB_SECRET, client, error, post, send, server};
use crate::approve::provider::query;
use crate::approve::visitor::PUBLIC_URL;
use crate::provider_keys::Key;

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A server with two clients, `service` and `other`, that authenticate with a key pair each.
struct Services {
    server: Server,
    key: Key,
    other: Key,
}

impl Services {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (key, other) = (Key::ec("P-256"), Key::ed());
        let add = |settings: &mut Settings, id: &str, key: &Key| {
            let file = dir.path().join(format!("{id}.json"));
            std::fs::write(&file, json!({ "keys": [key.jwk(json!({ "kid": id }))] }).to_string()).unwrap();
            settings.oauth.clients.push(client(&format!(
                "id = '{id}'\nname = 'Service'\nauth_method = 'private_key_jwt'\ngrant_types = ['device_code']\n\
                 jwks_file = '{}'",
                file.display()
            )));
        };
        let server = server(|settings| {
            add(settings, "service", &key);
            add(settings, "other", &other);
        });
        Self { server: server.await, key, other }
    }

    /// Returns valid claims of an assertion of `service`, with a `jti` of its own.
    fn claims(&self, jti: &str) -> Value {
        let exp = self.server.clock.wall().as_seconds() + 60;
        json!({ "iss": "service", "sub": "service", "aud": PUBLIC_URL, "exp": exp, "jti": jti })
    }

    fn signed(&self, claims: Value) -> String {
        self.key.token_of(json!({ "alg": "ES256", "kid": "service" }), claims)
    }

    async fn sent(&self, assertion: &str) -> Answer {
        self.sent_with(assertion, &[("client_assertion_type", JWT_BEARER)]).await
    }

    async fn sent_with(&self, assertion: &str, other: &[(&str, &str)]) -> Answer {
        let parameters = [&[("client_assertion", assertion)], other].concat();
        send(&self.server, "/oauth/device_authorization", None, &parameters).await
    }
}

#[test]
async fn assertion_is_accepted_for_the_issuer_and_for_each_endpoint_once() {
    let services = Services::start().await;
    for (number, path) in
        ["", "/oauth/token", "/oauth/introspect", "/oauth/revoke", "/oauth/device_authorization"].iter().enumerate()
    {
        let mut claims = services.claims(&format!("id {number}"));
        claims["aud"] = format!("{PUBLIC_URL}{path}").into();
        let assertion = services.signed(claims.clone());
        assert_eq!(services.sent(&assertion).await.status, 200, "{path}");
        assert_eq!(error(&services.sent(&assertion).await), (401, "invalid_client"), "the assertion is replayed");
        claims["exp"] = (claims["exp"].as_i64().unwrap() + 1).into();
        assert_eq!(error(&services.sent(&services.signed(claims)).await), (401, "invalid_client"), "its id is reused");
    }
    // RFC 7519 §2 permits fractions of a second.
    let mut claims = services.claims("fraction");
    claims["exp"] = (claims["exp"].as_f64().unwrap() + 0.5).into();
    assert_eq!(services.sent(&services.signed(claims)).await.status, 200);
    // The same id of another client is another one.
    let mut claims = services.claims("id 0");
    (claims["iss"], claims["sub"]) = (json!("other"), json!("other"));
    let assertion = services.other.token_of(json!({ "alg": "EdDSA" }), claims);
    assert_eq!(services.sent(&assertion).await.status, 200);
    services.server.stop().await;
}

#[test]
async fn invalid_assertions_are_refused() {
    let services = Services::start().await;
    let now = services.server.clock.wall().as_seconds();
    for (claim, wrong) in [
        ("aud", json!("https://evil.example")),
        ("aud", json!(format!("{PUBLIC_URL}/"))),
        ("aud", json!(null)),
        ("iss", json!("other")),
        ("iss", json!(null)),
        ("sub", json!("other")),
        ("sub", json!("nobody")),
        ("sub", json!(null)),
        ("exp", json!(now - 61)),
        ("exp", json!(now + 3601)),
        ("exp", json!(i64::MIN)),
        ("exp", json!(i64::MAX)),
        ("exp", json!("never")),
        ("exp", json!(null)),
        ("nbf", json!(now + 61)),
        ("jti", json!(null)),
    ] {
        let mut claims = services.claims(&format!("{claim} {wrong}"));
        claims[claim] = wrong.clone();
        if wrong.is_null() {
            claims.as_object_mut().unwrap().remove(claim);
        }
        let answer = services.sent(&services.signed(claims)).await;
        assert_eq!(error(&answer), (401, "invalid_client"), "{claim}: {wrong}");
    }
    let claims = || services.claims("x");
    let none = services.signed(claims()).split('.').nth(1).unwrap().to_owned();
    let header = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, r#"{"alg":"none"}"#);
    let public = services.key.jwk(json!({ "kid": "service" })).to_string();
    let hmac = jsonwebtoken::encode(
        &jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256),
        &claims(),
        &jsonwebtoken::EncodingKey::from_secret(public.as_bytes()),
    );
    for (what, assertion) in [
        ("alg none", format!("{header}.{none}.")),
        ("the public key as an HMAC secret", hmac.unwrap()),
        ("the key of another client", services.other.token_of(json!({ "alg": "EdDSA" }), claims())),
        ("its kid too", services.other.token_of(json!({ "alg": "EdDSA", "kid": "service" }), claims())),
        ("an unknown kid", services.key.token_of(json!({ "alg": "ES256", "kid": "x" }), claims())),
        ("another algorithm", services.key.token_of(json!({ "alg": "RS256", "kid": "service" }), claims())),
        ("no assertion", "x".to_owned()),
    ] {
        assert_eq!(error(&services.sent(&assertion).await), (401, "invalid_client"), "{what}");
    }
    let assertion = services.signed(claims());
    for (other, expected) in [
        (vec![], (400, "invalid_request")),
        (vec![("client_assertion_type", "urn:ietf:params:oauth:grant-type:saml2-bearer")], (400, "invalid_request")),
        (vec![("client_assertion_type", JWT_BEARER), ("client_secret", WEB_SECRET)], (400, "invalid_request")),
    ] {
        assert_eq!(error(&services.sent_with(&assertion, &other).await), expected, "{other:?}");
    }
    let named = [("client_assertion_type", JWT_BEARER), ("client_id", "other")];
    assert_eq!(
        error(&services.sent_with(&services.signed(services.claims("y")), &named).await),
        (400, "invalid_request")
    );
    // None of the refused requests has used the id up.
    assert_eq!(services.sent(&assertion).await.status, 200);
    services.server.stop().await;
}

#[test]
async fn client_authenticates_in_its_own_way_only() {
    let services = Services::start().await;
    let server = &services.server;
    let device = |credentials, parameters| send(server, "/oauth/device_authorization", credentials, parameters);
    for (credentials, parameters, expected) in [
        (None, &[][..], (401, "invalid_client")),
        (None, &[("client_id", "nobody")], (401, "invalid_client")),
        (None, &[("client_id", WEB)], (401, "invalid_client")),
        (None, &[("client_id", "service")], (401, "invalid_client")),
        (None, &[("client_id", "service"), ("client_secret", WEB_SECRET)], (401, "invalid_client")),
        (None, &[("client_id", WEB), ("client_secret", "a wrong secret of enough length")], (401, "invalid_client")),
        (None, &[("client_id", "tv"), ("client_secret", WEB_SECRET)], (401, "invalid_client")),
        (Some(("tv", WEB_SECRET)), &[], (401, "invalid_client")),
        (Some((WEB, "")), &[], (401, "invalid_client")),
        (Some((WEB, WEB_SECRET)), &[("client_id", "tv")], (400, "invalid_request")),
        (Some((WEB, WEB_SECRET)), &[("client_id", WEB), ("client_secret", WEB_SECRET)], (400, "invalid_request")),
    ] {
        assert_eq!(error(&device(credentials, parameters).await), expected, "{credentials:?} {parameters:?}");
    }
    for field in ["Basic", "Basic !", "Basic dHY", "Bearer x", "basic d2ViOng="] {
        let request = server.http.post(format!("{}/oauth/device_authorization", server.base)).body(query(&[]));
        let request = request.header("authorization", field);
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let answer = Answer::of(request.send().await.unwrap()).await;
        assert_eq!(error(&answer), (401, "invalid_client"), "{field}");
        assert_eq!(answer.header("www-authenticate"), r#"Basic realm="qrlogin""#);
    }
    // Some libraries send an empty secret for a public client.
    assert_eq!(device(Some(("tv", "")), &[]).await.status, 200);
    assert_eq!(post(server, "/oauth/device_authorization", &[("client_id", WEB)]).await.status, 200);
    services.server.stop().await;
}
