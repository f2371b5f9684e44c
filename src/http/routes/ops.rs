//! The routes of the second port, for the operator's tools: probes and metrics.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;

use crate::metrics::Metrics;
use crate::store::Store;
use crate::system::shutdown::Shutdown;

/// State of the operator's routes.
#[derive(Clone)]
pub struct OpsState {
    /// Store, which `/readyz` asks.
    pub store: Arc<dyn Store>,
    /// Metrics that `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// Signal to stop, with which `/readyz` fails.
    pub shutdown: Shutdown,
}

/// Returns the routes `/livez`, `/readyz` and `/metrics`.
pub fn routes(state: OpsState) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state)
}

/// Answers 200 if a load balancer should send requests to this node: it is not stopping, and its store answers.
async fn ready(State(state): State<OpsState>) -> (StatusCode, String) {
    if state.shutdown.is_stopping() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    }
    match state.store.ping().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

async fn metrics(State(state): State<OpsState>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], state.metrics.render())
}
