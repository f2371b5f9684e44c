//! The HTTP API: the route table, and the layers that every request passes through.

mod acceptor;
mod arrive;
mod layers;
mod outgoing;
mod problem;
mod refused;
mod rewound;
mod routes;
mod server;
mod waiting_response;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Serialize;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;

use crate::config::Settings;
use crate::demo::Demo;
use crate::geo::Geo;
use crate::hub::Hub;
use crate::login::Logins;
use crate::metrics::Metrics;
use crate::system::shutdown::Shutdown;
use crate::telemetry::warnings::Warnings;
use crate::token::AppAuth;
use layers::base::BasePath;
use layers::client::TrustedProxies;
use layers::host::Hosts;
use layers::observe::Observed;
use layers::origin::OriginPolicy;
use layers::risk::Risks;
use layers::{base, body, limit, origin};
use problem::{ApiError, Fault};
use refused::Refused;
use routes::{browser, client_js, demo, event_stream, jwks, openapi, phone, websocket};

pub use acceptor::serve_public;
pub use layers::limit::ClientLimits;
pub use outgoing::SEND_BUFFER_BYTES;
pub use routes::ops::routes as ops_routes;
pub use server::serve_ops;

/// State shared by all handlers.
pub struct App {
    logins: Arc<Logins>,
    hub: Arc<Hub>,
    app_auth: Arc<AppAuth>,
    geo: Arc<Geo>,
    risks: Risks,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    /// Tasks that wait for hyper to return the connection of an upgrade that it has answered.
    upgrades: TaskTracker,
    hosts: Hosts,
    base: BasePath,
    /// `public_url` without trailing slashes.
    public_base: String,
    /// The OpenAPI document, which the first request for it creates.
    description: OnceLock<Bytes>,
    origins: OriginPolicy,
    proxies: TrustedProxies,
    limits: ClientLimits,
    body_bytes: usize,
    header_seconds: u32,
    demo: Option<Demo>,
    /// Rate limit for warnings of browsers that are refused because too many wait for the store.
    handshakes_refused: Warnings,
}

/// The parts from which an [`App`] is created.
pub struct AppParts {
    /// The use-cases of a login.
    pub logins: Arc<Logins>,
    /// The waiting connections.
    pub hub: Arc<Hub>,
    /// Verifies app tokens.
    pub app_auth: Arc<AppAuth>,
    /// Limits on the calls and connections of clients.
    pub limits: ClientLimits,
    /// Locations and networks of addresses.
    pub geo: Arc<Geo>,
    /// The demo's secret and terminal. Without it the demo's routes do not exist.
    pub demo: Option<Demo>,
    /// The signal to stop.
    pub shutdown: Shutdown,
    /// Tracks upgrades whose connections are not yet in the hub.
    pub upgrades: TaskTracker,
}

impl App {
    /// Creates the state of the handlers.
    #[must_use]
    pub fn new(settings: &Settings, parts: AppParts) -> Arc<Self> {
        let AppParts { logins, hub, app_auth, limits, geo, demo, shutdown, upgrades } = parts;
        Arc::new(Self {
            metrics: logins.metrics.clone(),
            logins,
            hub,
            app_auth,
            geo,
            risks: Risks(settings.risk.clone()),
            shutdown,
            upgrades,
            hosts: if demo.is_some() { Hosts::of(settings) } else { Hosts::default() },
            base: BasePath::of(settings),
            public_base: settings.public_base().to_owned(),
            description: OnceLock::new(),
            origins: OriginPolicy::of(settings),
            proxies: TrustedProxies::of(settings),
            limits,
            body_bytes: settings.limits.body_bytes,
            header_seconds: settings.limits.header_seconds,
            demo,
            handshakes_refused: Warnings::default(),
        })
    }
}

/// Returns the routes of the public port, with their layers.
pub fn routes(app: Arc<App>) -> Router {
    let generate = Router::new()
        .route("/v1/qr-login/generate", post(browser::generate))
        .route_layer(from_fn_with_state(app.clone(), limit::generate));
    let status = Router::new()
        .route("/v1/qr-login/status", get(browser::status_by_header))
        .route("/v1/qr-login/status/{session_id}", get(browser::status))
        .route("/v1/qr-login/ack", post(browser::ack))
        .route("/v1/qr-login/cancel", post(browser::cancel))
        .route_layer(from_fn_with_state(app.clone(), limit::status));
    let wait = Router::new()
        .route("/v1/ws/qr", get(websocket::open))
        .route("/v1/ws/qr/{session_id}", get(websocket::open))
        .route("/v1/sse/qr", get(event_stream::open_by_header))
        .route("/v1/sse/qr/{session_id}", get(event_stream::open));
    let browser = generate.merge(status).merge(wait).route_layer(from_fn_with_state(app.clone(), origin::check));
    let phone = Router::new()
        .route("/v1/qr-login/scan", post(phone::scan))
        .route("/v1/qr-login/confirm", post(phone::confirm))
        .route("/v1/qr-login/reject", post(phone::reject));
    let anyone =
        Router::new().route("/.well-known/jwks.json", get(jwks::jwks)).route("/openapi.json", get(openapi::document));

    let mut routes = browser.merge(phone).merge(anyone).merge(client_js::routes());
    if app.demo.is_some() {
        routes = routes.merge(demo::routes(&app));
    }
    let routes = routes
        .fallback(async || ApiError::NotFound)
        .method_not_allowed_fallback(async || ApiError::MethodNotAllowed)
        // One stack of concrete types: each layer added to a `Router` separately costs allocations per request.
        .layer(
            ServiceBuilder::new()
                .layer(from_fn_with_state(app.clone(), answer))
                .layer(origin::cors(&app))
                .layer(from_fn_with_state(app.clone(), accept)),
        )
        .with_state(app.clone());
    base::under_base(&app, routes)
}

/// Counts and logs a request, logs the fault that it met, and adds the header fields of [`EVERY_ANSWER`] that its answer does not have.
async fn answer(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let observed = Observed::of(&request);
    let mut response = next.run(request).await;
    for (name, value) in EVERY_ANSWER {
        response.headers_mut().entry(name).or_insert(value);
    }
    if let Some(fault) = response.extensions_mut().remove::<Fault>() {
        fault.warn(&app);
    }
    observed.answered(&app.metrics, response.status());
    response
}

/// Refuses a request that no route needs to see: one with a bad body, one that the acceptor has refused, and one for a
/// foreign host. The body is read first, because a connection that is closed with unread data is reset, and the client
/// would not read the answer.
async fn accept(State(app): State<Arc<App>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let mut request = body::read(&app, request).await?;
    if let Some(refused) = request.extensions_mut().remove::<Refused>() {
        return Err(refused.into());
    }
    app.hosts.check(request.headers())?;
    Ok(next.run(request).await)
}

/// A JSON answer: its status and the value of its body.
pub(crate) struct Answer<T>(pub(crate) StatusCode, pub(crate) T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.1) {
            Ok(body) => (self.0, [(CONTENT_TYPE, "application/json")], body).into_response(),
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
}

/// Header fields of every answer, unless the route sets other values. An answer can hold secrets or state that changes,
/// so it must not be stored. It is data, so a browser must not execute it, frame it or guess another type. Paths can
/// hold codes and session ids, so a browser must not send a `Referer`.
const EVERY_ANSWER: [(HeaderName, HeaderValue); 5] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
];
