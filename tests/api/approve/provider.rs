//! An OpenID provider whose answers the test sets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use qrlogin_testing::harness::START;
use qrlogin_testing::keys::{SigningKey, new_signing_key};
use serde_json::{Value, json};
use tempfile::TempDir;
use url::form_urlencoded;

/// Client id of the server at the provider.
pub const CLIENT_ID: &str = "the qrlogin client";
/// Client secret of the server at the provider.
pub const CLIENT_SECRET: &str = "a client secret: with a colon";

/// The provider. Its users are those whose codes the test makes.
#[derive(Clone)]
pub struct TestProvider {
    /// The issuer.
    pub issuer: String,
    state: Arc<Mutex<ProviderState>>,
}

struct ProviderState {
    issuer: String,
    _dir: TempDir,
    key: SigningKey,
    /// Number of the key, which grows when the keys are rotated.
    keys: usize,
    /// `nonce` and PKCE challenge of the codes that have been given out.
    codes: HashMap<String, (String, String)>,
    /// Changes the claims of the ID token.
    change: fn(&mut Value),
    /// Whether ID tokens are unsigned.
    is_unsigned: bool,
    /// Whether every request is answered with 503.
    is_down: bool,
    /// Whether requests get no response.
    is_silent: bool,
    /// Whether the metadata say that each response to the browser has `iss` (RFC 9207).
    promises_issuer: bool,
    requests: Vec<String>,
}

impl TestProvider {
    /// Starts a provider on a port of its own.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let key = new_signing_key(&dir.path().join("0"));
        let state = ProviderState {
            issuer: issuer.clone(),
            _dir: dir,
            key,
            keys: 0,
            codes: HashMap::new(),
            change: |_| {},
            is_unsigned: false,
            is_down: false,
            is_silent: false,
            promises_issuer: false,
            requests: Vec::new(),
        };
        let provider = Self { issuer, state: Arc::new(Mutex::new(state)) };
        let routes = Router::new()
            .route("/.well-known/openid-configuration", get(configuration))
            .route("/jwks", get(jwks))
            .route("/token", post(token))
            .route("/userinfo", get(user_info))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        provider
    }

    /// Logs a user in, as the provider's own page does: returns the query of the redirect to the server.
    ///
    /// `authorize` is the URL to which the server has sent the user.
    pub fn log_in(&self, authorize: &str) -> String {
        let parameters = parameters(authorize);
        assert_eq!(parameters["client_id"], CLIENT_ID);
        assert_eq!(parameters["response_type"], "code");
        assert_eq!(parameters["code_challenge_method"], "S256");
        assert!(parameters["scope"].split(' ').any(|scope| scope == "openid"));
        let mut state = self.state.lock().unwrap();
        let code = format!("code {}", state.codes.len());
        state.codes.insert(code.clone(), (parameters["nonce"].clone(), parameters["code_challenge"].clone()));
        query(&[("code", &code), ("state", &parameters["state"]), ("iss", &state.issuer)])
    }

    /// Changes the claims of the ID tokens from now on.
    pub fn change_claims(&self, change: fn(&mut Value)) {
        self.state.lock().unwrap().change = change;
    }

    /// Sets whether ID tokens are unsigned.
    pub fn set_unsigned(&self, is_unsigned: bool) {
        self.state.lock().unwrap().is_unsigned = is_unsigned;
    }

    /// Sets whether the provider answers every request with 503.
    pub fn set_down(&self, is_down: bool) {
        self.state.lock().unwrap().is_down = is_down;
    }

    /// Sets whether requests get no response.
    pub fn set_silent(&self, is_silent: bool) {
        self.state.lock().unwrap().is_silent = is_silent;
    }

    /// Makes the metadata say that each response to the browser has `iss`.
    pub fn promise_issuer(&self) {
        self.state.lock().unwrap().promises_issuer = true;
    }

    /// Replaces the signing key.
    pub fn rotate_keys(&self) {
        let mut state = self.state.lock().unwrap();
        state.keys += 1;
        state.key = new_signing_key(&state._dir.path().join(state.keys.to_string()));
    }

    /// Returns the paths of the requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

/// Returns the parameters of a URL's query.
pub fn parameters(url: &str) -> HashMap<String, String> {
    let query = url.split_once('?').map_or("", |(_, query)| query);
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Returns a query with these parameters.
pub fn query(parameters: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish()
}

async fn configuration(State(provider): State<TestProvider>) -> Response {
    answer(&provider, "configuration", |state| {
        let issuer = &state.issuer;
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/jwks"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
            "end_session_endpoint": format!("{issuer}/logout"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256", "EdDSA", "none"],
            "authorization_response_iss_parameter_supported": state.promises_issuer,
        })
    })
    .await
}

async fn jwks(State(provider): State<TestProvider>) -> Response {
    answer(&provider, "jwks", |state| json!({ "keys": [state.key.public_jwk] })).await
}

async fn user_info(State(provider): State<TestProvider>) -> Response {
    answer(&provider, "userinfo", |_| json!({ "sub": "ann", "name": "Ann Example" })).await
}

async fn token(State(provider): State<TestProvider>, headers: axum::http::HeaderMap, body: String) -> Response {
    let form: HashMap<String, String> = form_urlencoded::parse(body.as_bytes()).into_owned().collect();
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    // RFC 6749 §2.3.1: id and secret are form-encoded before they are put into the header.
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let expected = format!("{}:{}", encoded(CLIENT_ID), encoded(CLIENT_SECRET));
    let expected = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(expected));
    assert_eq!(authorization, Some(expected));
    let used = provider.state.lock().unwrap().codes.remove(&form["code"]);
    let Some((nonce, challenge)) = used else {
        return (StatusCode::BAD_REQUEST, json!({ "error": "invalid_grant" }).to_string()).into_response();
    };
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, form["code_verifier"].as_bytes());
    assert_eq!(URL_SAFE_NO_PAD.encode(digest), challenge, "the verifier is that of the challenge");
    answer(&provider, "token", |state| {
        let mut claims = json!({
            "iss": state.issuer, "aud": CLIENT_ID, "sub": "ann", "nonce": nonce,
            "iat": START.as_seconds(), "exp": START.as_seconds() + 600, "auth_time": START.as_seconds(),
        });
        (state.change)(&mut claims);
        json!({ "access_token": "opaque", "token_type": "Bearer", "id_token": id_token(state, &claims) })
    })
    .await
}

fn id_token(state: &ProviderState, claims: &Value) -> String {
    if state.is_unsigned {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        return format!("{}.{}.", part(json!({ "alg": "none" })), part(claims.clone()));
    }
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(state.key.kid.clone());
    let pem = std::fs::read(&state.key.file).unwrap();
    encode(&header, claims, &EncodingKey::from_ed_pem(&pem).unwrap()).unwrap()
}

async fn answer(provider: &TestProvider, name: &str, body: impl FnOnce(&ProviderState) -> Value) -> Response {
    let is_silent = {
        let mut state = provider.state.lock().unwrap();
        state.requests.push(name.to_owned());
        state.is_silent
    };
    if is_silent {
        std::future::pending::<()>().await;
    }
    let state = provider.state.lock().unwrap();
    if state.is_down {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    ([("content-type", "application/json")], body(&state).to_string()).into_response()
}
