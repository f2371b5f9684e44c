//! The crates `openidconnect` and `oauth2` as clients, unmodified.

use std::cell::RefCell;
use std::time::Duration;

use chrono::{DateTime, Utc};
use oauth2::basic::BasicClient;
use oauth2::{
    DeviceAuthorizationUrl, DeviceCodeErrorResponseType, RequestTokenError, StandardDeviceAuthorizationResponse,
    TokenUrl,
};
use openidconnect::core::{CoreAuthenticationFlow, CoreClient, CoreProviderMetadata, CoreUserInfoClaims};
use openidconnect::{
    AccessTokenHash, AuthorizationCode, ClientId, ClientSecret, CsrfToken, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    OAuth2TokenResponse as _, PkceCodeChallenge, RedirectUrl, Scope, TokenResponse as _,
};
use qrlogin::session::Timestamp;
use qrlogin_testing::harness::{Server, Session};
use qrlogin_testing::test;

use super::{REDIRECT_URI, WEB, WEB_SECRET, opened, phone, server, value, went_on};
use crate::approve::visitor::{PUBLIC_URL, Visitor};

/// Sends a request for [`PUBLIC_URL`] to the server, as a proxy in front of it does.
async fn sent(server: &Server, mut request: HttpRequest) -> Result<HttpResponse, reqwest::Error> {
    let url = request.uri().to_string();
    let path = url.strip_prefix(PUBLIC_URL).unwrap_or_else(|| panic!("a URL of another server: {url}"));
    *request.uri_mut() = format!("{}{path}", server.base).parse().unwrap();
    let received = server.http.execute(request.try_into()?).await?;
    let mut response = HttpResponse::new(Vec::new());
    *response.status_mut() = received.status();
    response.headers_mut().clone_from(received.headers());
    *response.body_mut() = received.bytes().await?.into();
    Ok(response)
}

/// Returns a date of the server's clock as the crates take it.
fn date(time: Timestamp) -> DateTime<Utc> {
    DateTime::from_timestamp_secs(time.as_seconds()).unwrap()
}

fn scope(name: &str) -> Scope {
    Scope::new(name.to_owned())
}

#[test]
async fn openidconnect_logs_in_verifies_the_id_token_and_refreshes() {
    let server = server(|_| {}).await;
    let http = |request| sent(&server, request);
    let issuer = IssuerUrl::new(PUBLIC_URL.to_owned()).unwrap();
    let metadata = CoreProviderMetadata::discover_async(issuer, &http).await.unwrap();
    let secret = ClientSecret::new(WEB_SECRET.to_owned());
    let client = CoreClient::from_provider_metadata(metadata, ClientId::new(WEB.to_owned()), Some(secret))
        .set_redirect_uri(RedirectUrl::new(REDIRECT_URI.to_owned()).unwrap());
    let (challenge, code_verifier) = PkceCodeChallenge::new_random_sha256();
    let (url, state, nonce) = client
        .authorize_url(CoreAuthenticationFlow::AuthorizationCode, CsrfToken::new_random, Nonce::new_random)
        .add_scopes(["profile", "email", "offline_access"].map(scope))
        .set_pkce_challenge(challenge)
        .url();

    assert_eq!(url.as_str().split('?').next().unwrap(), format!("{PUBLIC_URL}/oauth/authorize"));
    let mut browser = Visitor::new();
    let page = opened(&server, &mut browser, url.query().unwrap()).await;
    assert_eq!(phone(&server).confirm(&page.session).await.status, 200);
    let response = went_on(&server, &mut browser, &page).await;
    assert_eq!(value(&response, "state"), state.secret());

    let code = AuthorizationCode::new(value(&response, "code").to_owned());
    let exchange = client.exchange_code(code).unwrap().set_pkce_verifier(code_verifier);
    let tokens = exchange.request_async(&http).await.unwrap();
    let clock = server.clock.clone();
    let verifier = client.id_token_verifier().set_time_fn(|| date(clock.wall()));
    let id_token = tokens.id_token().unwrap();
    let claims = id_token.claims(&verifier, &nonce).unwrap();
    assert_eq!(claims.subject().as_str(), "ann");
    assert!(id_token.claims(&verifier, &Nonce::new_random()).is_err(), "an ID token of another login");
    let (algorithm, key) = (id_token.signing_alg().unwrap(), id_token.signing_key(&verifier).unwrap());
    let hash = AccessTokenHash::from_token(tokens.access_token(), algorithm, key).unwrap();
    assert_eq!(claims.access_token_hash(), Some(&hash));

    let request = client.user_info(tokens.access_token().clone(), Some(claims.subject().clone())).unwrap();
    let user: CoreUserInfoClaims = request.request_async(&http).await.unwrap();
    assert_eq!(user.email().unwrap().as_str(), "ann@example.org");
    assert_eq!(user.name().unwrap().get(None).unwrap().as_str(), "Ann Example");

    server.hands.advance_seconds(3000);
    let request = client.exchange_refresh_token(tokens.refresh_token().unwrap()).unwrap();
    let refreshed = request.request_async(&http).await.unwrap();
    assert_ne!(refreshed.refresh_token().unwrap().secret(), tokens.refresh_token().unwrap().secret());
    // An ID token of a refresh has no nonce (OpenID Connect Core §12.2).
    let without_nonce = |nonce: Option<&Nonce>| nonce.map_or(Ok(()), |_| Err("a nonce".to_owned()));
    let again = refreshed.id_token().unwrap().claims(&verifier, without_nonce).unwrap();
    assert_eq!((again.subject(), again.auth_time()), (claims.subject(), claims.auth_time()));
    server.stop().await;
}

/// Requests a device code as `tv`, and polls with the crate's own loop, in which a wait advances the server's clock.
/// `during` is called in each wait with its number and the session, and returns the seconds that pass.
async fn poll(
    server: &Server,
    during: impl AsyncFn(usize, Duration, &Session) -> u32,
) -> (Result<String, DeviceCodeErrorResponseType>, Vec<u64>) {
    let http = |request| sent(server, request);
    let client = BasicClient::new(ClientId::new("tv".to_owned()))
        .set_device_authorization_url(
            DeviceAuthorizationUrl::new(format!("{PUBLIC_URL}/oauth/device_authorization")).unwrap(),
        )
        .set_token_uri(TokenUrl::new(format!("{PUBLIC_URL}/oauth/token")).unwrap());
    let request = client.exchange_device_code().add_scope(scope("profile"));
    let device: StandardDeviceAuthorizationResponse = request.request_async(&http).await.unwrap();
    let code = device.verification_uri_complete().unwrap().secret().clone();
    let session = Session { id: device.device_code().secret().clone(), code, ws_path: String::new() };
    let waits = RefCell::new(Vec::new());
    let wait = async |interval: Duration| {
        waits.borrow_mut().push(interval.as_secs());
        let number = waits.borrow().len();
        server.hands.advance_seconds(during(number, interval, &session).await);
    };
    // The limit is the test's: the server is the one to say that a code has expired.
    let limit = Some(Duration::from_secs(3600));
    let polling = client.exchange_device_access_token(&device).set_time_fn(|| date(server.clock.wall()));
    let polled = polling.request_async(&http, &wait, limit).await;
    let polled = polled.map(|tokens| tokens.access_token().secret().clone()).map_err(|error| match error {
        RequestTokenError::ServerResponse(refusal) => refusal.error().clone(),
        other => panic!("{other:?}"),
    });
    (polled, waits.into_inner())
}

/// Returns the seconds of an interval.
fn whole(interval: Duration) -> u32 {
    interval.as_secs().try_into().unwrap()
}

#[test]
async fn oauth2_polls_at_the_interval_until_the_user_decides() {
    let server = server(|_| {}).await;
    let (tokens, waits) = poll(&server, async |number, interval, session| {
        if number == 3 {
            assert_eq!(phone(&server).confirm(session).await.status, 200);
        }
        whole(interval)
    })
    .await;
    assert_eq!(waits, [5, 5, 5], "a client that keeps to the interval is not slowed down");
    let user = server.request(reqwest::Method::GET, "/oauth/userinfo", Some(&tokens.unwrap()), None).await;
    assert_eq!(user.status, 403, "no user information without the scope openid: {user:?}");

    let (refused, waits) = poll(&server, async |_, interval, session| {
        assert_eq!(phone(&server).reject(session).await.status, 200);
        whole(interval)
    })
    .await;
    assert_eq!((refused, waits), (Err(DeviceCodeErrorResponseType::AccessDenied), vec![5]));

    let (expired, waits) = poll(&server, async |_, interval, _| whole(interval)).await;
    assert_eq!((expired, waits.len()), (Err(DeviceCodeErrorResponseType::ExpiredToken), 300 / 5));
    server.stop().await;
}

#[test]
async fn oauth2_recovers_after_it_was_slowed_down() {
    let server = server(|_| {}).await;
    // The first two waits are too short by the server's clock, as with a client whose clock is fast.
    let (tokens, waits) = poll(&server, async |number, interval, session| match number {
        1 | 2 => 3,
        5 => {
            assert_eq!(phone(&server).confirm(session).await.status, 200);
            whole(interval)
        }
        _ => whole(interval),
    })
    .await;
    assert!(tokens.is_ok(), "{tokens:?}");
    assert_eq!(waits, [5, 10, 15, 15, 15]);
    server.stop().await;
}
