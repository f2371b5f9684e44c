//! The association files with which apps claim the URLs in QR codes: Apple's universal links and Android's app links.

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};

use super::ApprovePages;
use crate::config::AppLink;
use crate::http::JsonResponse;

/// Returns the routes of the association files of the apps in `approve.app_links`. Without an app there are none.
pub(crate) fn routes<S: Clone + Send + Sync + 'static>(pages: &ApprovePages) -> Router<S> {
    let mut routes = Router::new();
    let apple = apple(&pages.app_links, pages.base.path());
    let android = android(&pages.app_links);
    for (path, document) in
        [("/.well-known/apple-app-site-association", apple), ("/.well-known/assetlinks.json", android)]
    {
        if let Some(document) = document {
            routes = routes.route(path, get(async move || JsonResponse(StatusCode::OK, document.clone())));
        }
    }
    routes
}

/// Returns Apple's file (Supporting Associated Domains), or `None` without an app of Apple.
fn apple(apps: &[AppLink], base: &str) -> Option<Value> {
    let ids: Vec<_> = apps
        .iter()
        .filter_map(|app| match app {
            AppLink::Apple(id) => Some(id),
            AppLink::Android { .. } => None,
        })
        .collect();
    let paths = format!("{base}/q/*");
    (!ids.is_empty()).then(|| json!({ "applinks": { "details": [{ "appIDs": ids, "components": [{ "/": paths }] }] } }))
}

/// Returns Android's file (Digital Asset Links), or `None` without an app of Android.
fn android(apps: &[AppLink]) -> Option<Value> {
    let statements: Vec<_> = apps
        .iter()
        .filter_map(|app| match app {
            AppLink::Android { package, fingerprint } => Some(json!({
                "relation": ["delegate_permission/common.handle_all_urls"],
                "target": {
                    "namespace": "android_app",
                    "package_name": package,
                    "sha256_cert_fingerprints": [fingerprint],
                },
            })),
            AppLink::Apple(_) => None,
        })
        .collect();
    (!statements.is_empty()).then_some(Value::Array(statements))
}
