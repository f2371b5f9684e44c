//! OpenID Connect and OAuth: clients whose users log in by QR code.

mod attacks;
mod authorization_code;
mod client_authentication;
mod conformance;
mod device;
mod errors;
mod logout;
mod metadata;
mod races;
mod refresh_tokens;
mod rust_clients;
mod single_sign_on;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use qrlogin_testing::harness::{Answer, OAuthClientSettings, Server, Session, Settings, hash_secret};
use serde_json::Value;
use url::form_urlencoded;

use crate::approve::provider::query;
use crate::approve::visitor::{PUBLIC_URL, Shown, Visitor};

/// Client id of the web application.
const WEB: &str = "web";
/// Client secret of the web application.
const WEB_SECRET: &str = "the secret of the web app";
/// Redirect URI of the web application.
const REDIRECT_URI: &str = "https://web.example/callback";
/// Code verifier and challenge of RFC 7636, appendix B.
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
/// Grant type of devices.
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

/// Returns the settings of a client.
fn client(toml: &str) -> OAuthClientSettings {
    toml::from_str(toml).unwrap()
}

/// Starts a server with two clients: `web`, with a secret and all grants, and `tv`, a public device.
async fn server(change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(|settings| {
        with_clients(settings);
        change(settings);
    })
    .await
}

fn with_clients(settings: &mut Settings) {
    settings.public_url = PUBLIC_URL.to_owned();
    let hash = hash_secret(WEB_SECRET).unwrap();
    settings.oauth.clients = vec![
        client(&format!(
            r#"id = "web"
            name = "Web App"
            redirect_uris = ["{REDIRECT_URI}"]
            post_logout_redirect_uris = ["https://web.example/out"]
            grant_types = ["authorization_code", "refresh_token", "device_code"]
            scopes = ["openid", "profile", "email", "offline_access"]
            secret_hashes = ["{hash}"]"#
        )),
        client(
            r#"id = "tv"
            name = "TV"
            auth_method = "none"
            grant_types = ["device_code"]
            id_token_signed_response_alg = "EdDSA""#,
        ),
    ];
}

/// Returns the query of an authorization request of `web`, with other or more parameters. An empty value removes a
/// parameter.
fn request(other: &[(&str, &str)]) -> String {
    let mut parameters = vec![
        ("client_id", WEB),
        ("redirect_uri", REDIRECT_URI),
        ("response_type", "code"),
        ("scope", "openid profile email"),
        ("state", "a state"),
        ("nonce", "a nonce"),
        ("code_challenge", CHALLENGE),
        ("code_challenge_method", "S256"),
    ];
    parameters.retain(|(name, _)| !other.iter().any(|(changed, _)| changed == name));
    parameters.extend(other.iter().filter(|(_, value)| !value.is_empty()));
    query(&parameters)
}

/// A page of an authorization request, and what a phone needs to approve it.
struct Page {
    shown: Shown,
    /// Session that the page waits for.
    session: Session,
    /// Path to which the page goes on.
    next: String,
}

/// Opens the page of an authorization request.
async fn opened(server: &Server, browser: &mut Visitor, query: &str) -> Page {
    let shown = browser.open(server, &format!("/oauth/authorize?{query}")).await;
    assert_eq!(shown.status, 200, "{shown:?}");
    let attribute = |name: &str| {
        let (_, rest) = shown.text.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name}: {shown:?}"));
        rest.split('"').next().unwrap().replace("&quot;", "\"")
    };
    let session: Value = serde_json::from_str(&attribute("session")).unwrap();
    let text = |field: &str| session[field].as_str().unwrap().to_owned();
    let session = Session { id: text("session_id"), code: text("code"), ws_path: text("ws_path") };
    Page { next: attribute("data-next"), session, shown }
}

/// Goes on from the page, and returns the parameters that the client receives.
async fn went_on(server: &Server, browser: &mut Visitor, page: &Page) -> Vec<(String, String)> {
    let shown = browser.open(server, &page.next).await;
    received(&shown)
}

/// Returns the parameters that a client receives in the query of its redirect URI.
fn received(shown: &Shown) -> Vec<(String, String)> {
    let to = shown.elsewhere.as_deref().unwrap_or_else(|| panic!("no redirect: {shown:?}"));
    let (uri, query) = to.split_once('?').unwrap();
    assert_eq!(uri, REDIRECT_URI);
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// Returns the value of a received parameter, or an empty text.
fn value<'a>(parameters: &'a [(String, String)], name: &str) -> &'a str {
    parameters.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// Logs `ann` in to `web`, and returns the authorization code.
async fn code(server: &Server, query: &str) -> String {
    let mut browser = Visitor::new();
    let page = opened(server, &mut browser, query).await;
    assert_eq!(phone(server).confirm(&page.session).await.status, 200);
    value(&went_on(server, &mut browser, &page).await, "code").to_owned()
}

/// Returns the phone of a user with claims for all scopes.
fn phone(server: &Server) -> qrlogin_testing::harness::Phone<'_> {
    let mut phone = server.phone("ann");
    phone.token = server.app_token(serde_json::json!({
        "sub": "ann", "name": "Ann Example", "email": "ann@example.org", "email_verified": true,
        "preferred_username": "ann", "secret": "not for clients",
    }));
    phone
}

/// Sends a form to an endpoint, with the credentials of `web`.
async fn post(server: &Server, path: &str, parameters: &[(&str, &str)]) -> Answer {
    send(server, path, Some((WEB, WEB_SECRET)), parameters).await
}

/// Sends a form to an endpoint, with the credentials of a client or none.
async fn send(server: &Server, path: &str, credentials: Option<(&str, &str)>, parameters: &[(&str, &str)]) -> Answer {
    let mut request = server.http.post(format!("{}{path}", server.base)).body(query(parameters));
    request = request.header("content-type", "application/x-www-form-urlencoded");
    if let Some((id, secret)) = credentials {
        request = request.basic_auth(id, Some(secret));
    }
    Answer::of(request.send().await.unwrap()).await
}

/// Exchanges a code for tokens.
async fn redeemed(server: &Server, code: &str) -> Answer {
    let parameters = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", REDIRECT_URI),
        ("code_verifier", VERIFIER),
    ];
    post(server, "/oauth/token", &parameters).await
}

/// Returns the status and `error` of an answer, which every error has with a description.
fn error(answer: &Answer) -> (u16, &str) {
    assert!(answer.body["error_description"].is_string(), "{answer:?}");
    assert_eq!(answer.header("cache-control"), "no-store");
    (answer.status.as_u16(), answer.body["error"].as_str().unwrap())
}

/// Returns the status of the UserInfo endpoint for an access token.
async fn user_info(server: &Server, access_token: &Value) -> Answer {
    server.request(reqwest::Method::GET, "/oauth/userinfo", access_token.as_str(), None).await
}

/// Returns the first half of a SHA-256 in base64url.
fn half_sha256(text: &str) -> String {
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16])
}
