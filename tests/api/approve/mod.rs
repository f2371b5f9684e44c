//! The page at the URL in the QR code: the approve page with an OpenID provider, and what is there without one.

mod browsers;
mod page;
pub mod provider;
mod refusals;
pub mod visitor;
mod without_provider;

use qrlogin_testing::harness::{Secret, Server, Settings};

use provider::{CLIENT_ID, CLIENT_SECRET, TestProvider};
use visitor::{PUBLIC_URL, Shown, Visitor};

/// Configures the approve page with this provider.
pub fn with_provider(settings: &mut Settings, provider: &TestProvider) {
    settings.public_url = PUBLIC_URL.to_owned();
    settings.app_auth.hmac_secret = Secret::default();
    settings.approve.issuer = provider.issuer.clone();
    settings.approve.client_id = CLIENT_ID.to_owned();
    settings.approve.client_secret = CLIENT_SECRET.into();
}

/// Starts a server whose users log in at this provider.
async fn server(provider: &TestProvider, change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(|settings| {
        with_provider(settings, provider);
        change(settings);
    })
    .await
}

/// Opens the page of a code, and logs in at the provider if the page asks for it.
pub async fn opened(server: &Server, provider: &TestProvider, visitor: &mut Visitor, code: &str) -> Shown {
    let shown = visitor.open(server, &format!("/q/{code}")).await;
    match &shown.elsewhere {
        Some(authorize) => back(server, visitor, &provider.log_in(authorize)).await,
        None => shown,
    }
}

/// Comes back from the provider, with the query of its redirect.
async fn back(server: &Server, visitor: &mut Visitor, query: &str) -> Shown {
    // The provider's redirect is a navigation from another site.
    let site = visitor.site.replace("cross-site");
    let shown = visitor.open(server, &format!("/q/callback?{query}")).await;
    visitor.site = site;
    shown
}
