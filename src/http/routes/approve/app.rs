//! The page that says in which app a login is approved.

use axum::http::StatusCode;
use maud::html;

use super::Content;
use crate::http::pages::Language;

/// Returns the page that names the app, with the URLs at which it can be installed.
pub(super) fn page(language: &Language, name: &str, stores: &[String]) -> Content {
    let key = |key: &str| if name.is_empty() { format!("{key}_plain") } else { key.to_owned() };
    let text = |of: &str| language.text_with(&key(of), "{app}", name);
    let body = html! {
        p { (text("app_lead")) }
        @if !stores.is_empty() {
            p.actions {
                @for store in stores {
                    a.button href=(store) rel="noreferrer" { (language.text("get_app")) " (" (host_of(store)) ")" }
                }
            }
        }
    };
    Content { status: StatusCode::OK, title: text("app_title"), kind: "plain", body, goes_on_to: None }
}

/// Returns the host of a URL, which tells one store from another.
fn host_of(url: &str) -> String {
    url::Url::parse(url).ok().and_then(|url| url.host_str().map(ToOwned::to_owned)).unwrap_or_default()
}
