//! A key set or introspection endpoint, and servers that verify app tokens with it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::any;
use futures_util::FutureExt as _;
use futures_util::future::Shared;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use qrlogin_testing::harness::{Answer, Secret, Server, Session, Settings};
use qrlogin_testing::keys::{SigningKey, new_signing_key};

/// A key set or introspection endpoint whose answers the test sets.
#[derive(Clone, Default)]
pub struct Source {
    answer: Arc<Mutex<SourceAnswer>>,
    requests: Arc<AtomicUsize>,
    pub last: Arc<Mutex<(HeaderMap, String)>>,
    held: Arc<Mutex<Option<Release>>>,
}

/// Resolves when the answers are no longer held back.
type Release = Shared<oneshot::Receiver<()>>;

#[derive(Clone, Default)]
pub enum SourceAnswer {
    /// Status 200 with this body.
    Body(String),
    /// This status.
    Status(u16),
    /// No answer.
    #[default]
    None,
    /// Headers and a body without end.
    Endless,
}

impl Source {
    pub async fn start() -> (Self, SocketAddr) {
        let source = Self::default();
        let routes = Router::new().route("/", any(respond)).with_state(source.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (source, address)
    }

    pub fn set_answer(&self, answer: SourceAnswer) {
        *self.answer.lock().unwrap() = answer;
    }

    pub fn set_json(&self, what: Value) {
        self.set_answer(SourceAnswer::Body(what.to_string()));
    }

    /// Holds all answers back until the sender is used.
    pub fn hold(&self) -> oneshot::Sender<()> {
        let (release, released) = oneshot::channel();
        *self.held.lock().unwrap() = Some(released.shared());
        release
    }

    pub fn request_count(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn respond(State(source): State<Source>, headers: HeaderMap, body: String) -> axum::response::Response {
    if body.starts_with("token=qrlogin-trial-") {
        // The server sends this request when it starts. The tests count only requests for phones' tokens.
        let answer = source.answer.lock().unwrap().clone();
        return match answer {
            SourceAnswer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
            _ => json!({ "active": false }).to_string().into_response(),
        };
    }
    source.requests.fetch_add(1, Ordering::SeqCst);
    *source.last.lock().unwrap() = (headers, body);
    let held = source.held.lock().unwrap().clone();
    if let Some(held) = held {
        held.await.unwrap();
    }
    let answer = source.answer.lock().unwrap().clone();
    match answer {
        SourceAnswer::Body(text) => text.into_response(),
        SourceAnswer::Status(status) => (StatusCode::from_u16(status).unwrap(), "{}").into_response(),
        SourceAnswer::None => std::future::pending().await,
        SourceAnswer::Endless => {
            let stream = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1024]));
            axum::body::Body::from_stream(stream).into_response()
        }
    }
}

/// A signing key of the site that issues app tokens.
pub struct Signer {
    pub key: EncodingKey,
    pub kid: String,
    pub public: Value,
}

impl Signer {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let SigningKey { kid, public_jwk, file } = new_signing_key(dir.path());
        let key = EncodingKey::from_ed_pem(&std::fs::read(file).unwrap()).unwrap();
        Self { key, kid, public: public_jwk }
    }

    pub fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.kid.clone());
        encode(&header, claims, &self.key).unwrap()
    }
}

pub async fn by_key_set(address: SocketAddr, change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(|settings| {
        settings.app_auth.hmac_secret = Secret::default();
        settings.app_auth.jwks_url = format!("http://{address}/").into();
        change(settings);
    })
    .await
}

pub async fn scan(server: &Server, session: &Session, token: &str) -> Answer {
    let body = json!({ "code": session.code });
    server.request(Method::POST, "/v1/qr-login/scan", Some(token), Some(body)).await
}
