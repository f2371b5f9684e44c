//! An authorization server with the device grant (RFC 8628), whose answers the test chooses.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use qrlogin_testing::keys::{SigningKey, new_signing_key};
use qrlogin_testing::real_time::wall_seconds;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use url::form_urlencoded;

/// Id of the client.
pub const CLIENT: &str = "tv";
/// The device code, which is a secret.
pub const DEVICE_CODE: &str = "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS";
/// The code that the user types.
pub const USER_CODE: &str = "WDJB-MJHT";
/// The access token.
pub const ACCESS_TOKEN: &str = "2YotnFZFEjr1zCsicMWpAA";

/// The answers of a server.
pub struct Answers {
    /// Answers by path, each a status and a body. Without an entry, the status is 404.
    pub by_path: BTreeMap<String, (u16, Value)>,
    /// Answers of the token endpoint, in this order. The last one is repeated.
    pub polls: Vec<(u16, Value)>,
}

impl Answers {
    /// Changes members of the answer at a path. A member with the value `null` is removed.
    pub fn change(&mut self, path: &str, members: Value) {
        let answer = self.by_path.get_mut(path).unwrap().1.as_object_mut().unwrap();
        for (name, value) in members.as_object().unwrap() {
            if value.is_null() {
                answer.remove(name);
            } else {
                answer.insert(name.clone(), value.clone());
            }
        }
    }
}

/// A request that the server has received.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    pub authorization: Option<String>,
    pub form: BTreeMap<String, String>,
}

/// The server, and its key of the ID tokens.
pub struct AuthorizationServer {
    pub issuer: String,
    requests: Arc<Mutex<Vec<Received>>>,
    pub dir: TempDir,
}

struct Shared {
    answers: Answers,
    requests: Arc<Mutex<Vec<Received>>>,
}

/// What a test needs to make tokens of a server.
pub struct Issuer {
    pub url: String,
    pub key: SigningKey,
}

impl Issuer {
    /// Returns an ID token with these claims in addition to valid ones, or in their place.
    pub fn id_token(&self, claims: Value) -> String {
        let now = wall_seconds();
        let mut all = json!({
            "iss": self.url, "sub": "248289761001", "aud": CLIENT, "iat": now, "exp": now + 600, "name": "Ada Lovelace",
        });
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        signed(&self.key, &all)
    }

    /// Returns a token response with the ID token, if there is one.
    pub fn tokens(&self, id_token: Option<String>) -> (u16, Value) {
        let mut tokens = json!({
            "access_token": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 3600, "scope": "openid profile",
            "refresh_token": "8xLOxBtZp8", "refresh_expires_in": 1800,
        });
        if let Some(token) = id_token {
            tokens["id_token"] = token.into();
        }
        (200, tokens)
    }
}

/// Signs claims with a key.
pub fn signed(key: &SigningKey, claims: &Value) -> String {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(key.kid.clone());
    let pem = std::fs::read(&key.file).unwrap();
    encode(&header, claims, &EncodingKey::from_ed_pem(&pem).unwrap()).unwrap()
}

/// Returns the claim `at_hash` of an access token. EdDSA with Ed25519 has SHA-512 (OpenID Connect Core 1.0 §3.1.3.6).
pub fn at_hash(token: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, token.as_bytes());
    URL_SAFE_NO_PAD.encode(&hash.as_ref()[..32])
}

/// Returns an error response of OAuth 2.0 (RFC 6749 §5.2).
pub fn error(name: &str) -> (u16, Value) {
    (400, json!({ "error": name }))
}

impl AuthorizationServer {
    /// Starts a server that gives tokens at the first poll. `change` changes its answers.
    pub async fn start(change: impl FnOnce(&mut Answers, &Issuer)) -> Self {
        Self::start_at("", change).await
    }

    /// Like [`Self::start`], with a path in the issuer.
    pub async fn start_at(path: &str, change: impl FnOnce(&mut Answers, &Issuer)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let dir = tempfile::tempdir().unwrap();
        let issuer = Issuer { url: format!("{base}{path}"), key: new_signing_key(&subdirectory(dir.path(), "keys")) };
        let metadata = json!({
            "issuer": issuer.url,
            "token_endpoint": format!("{base}/token"),
            "device_authorization_endpoint": format!("{base}/device_authorization"),
            "jwks_uri": format!("{base}/jwks"),
            "id_token_signing_alg_values_supported": ["RS256", "EdDSA", "an unknown one"],
        });
        let device = json!({
            "device_code": DEVICE_CODE, "user_code": USER_CODE, "verification_uri": format!("{base}/device"),
            "verification_uri_complete": format!("{base}/device?user_code={USER_CODE}"),
            "expires_in": 1800, "interval": 0,
        });
        let by_path = BTreeMap::from([
            (format!("{path}/.well-known/openid-configuration"), (200, metadata)),
            ("/device_authorization".to_owned(), (200, device)),
            ("/jwks".to_owned(), (200, json!({ "keys": [issuer.key.public_jwk] }))),
        ]);
        let polls = vec![issuer.tokens(Some(issuer.id_token(json!({}))))];
        let mut answers = Answers { by_path, polls };
        change(&mut answers, &issuer);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::new(Shared { answers, requests: requests.clone() });
        let router = Router::new().fallback(answer).with_state(shared);
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { issuer: issuer.url, requests, dir }
    }

    /// Returns the requests for a path, in their order.
    pub fn requests(&self, path: &str) -> Vec<Received> {
        self.requests.lock().unwrap().iter().filter(|request| request.path == path).cloned().collect()
    }
}

/// Creates a directory.
pub fn subdirectory(dir: &Path, name: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    let form = form_urlencoded::parse(&body).into_owned().collect();
    let authorization = headers.get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
    let mut requests = shared.requests.lock().unwrap();
    let polls = requests.iter().filter(|request| request.path == "/token").count();
    requests.push(Received { path: path.clone(), authorization, form });
    let answer = match path.as_str() {
        "/token" => shared.answers.polls.get(polls).or(shared.answers.polls.last()),
        path => shared.answers.by_path.get(path),
    };
    let Some((status, body)) = answer else { return StatusCode::NOT_FOUND.into_response() };
    (StatusCode::from_u16(*status).unwrap(), [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}
