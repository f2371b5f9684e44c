//! Single sign-on in one browser, and the logout that ends it.

use qrlogin_testing::harness::claims_of;
use qrlogin_testing::test;

use super::{code, opened, phone, received, redeemed, request, server, value, went_on};
use crate::approve::visitor::Visitor;
use qrlogin_testing::harness::Server;

pub async fn logged_in(server: &Server, browser: &mut Visitor) -> String {
    let page = opened(server, browser, &request(&[])).await;
    phone(server).confirm(&page.session).await;
    let response = went_on(server, browser, &page).await;
    let tokens = redeemed(server, value(&response, "code")).await;
    tokens.body["id_token"].as_str().unwrap().to_owned()
}

pub async fn asked(server: &Server, browser: &mut Visitor, other: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    let shown = browser.open(server, &format!("/oauth/authorize?{}", request(other))).await;
    shown.elsewhere.is_some().then(|| received(&shown))
}

#[test]
async fn second_login_in_the_same_browser_needs_no_scan_if_the_setting_says_so() {
    for ttl_seconds in [0, 600] {
        let server = server(|settings| settings.sso.ttl_seconds = ttl_seconds).await;
        let mut browser = Visitor::new();
        let first = claims_of(&logged_in(&server, &mut browser).await);
        server.hands.advance_seconds(100);
        let second = asked(&server, &mut browser, &[("scope", "openid profile")]).await;
        assert_eq!(second.is_some(), ttl_seconds > 0);
        if let Some(response) = second {
            let tokens = redeemed(&server, value(&response, "code")).await;
            let claims = claims_of(tokens.body["id_token"].as_str().unwrap());
            assert_eq!((&claims["sub"], &claims["auth_time"]), (&first["sub"], &first["auth_time"]));
            assert_eq!(claims["name"], "Ann Example");
            for (name, asks) in
                [("prompt", "login"), ("prompt", "consent"), ("prompt", "select_account"), ("max_age", "99")]
            {
                assert_eq!(asked(&server, &mut browser, &[(name, asks)]).await, None, "{name}={asks}");
            }
            assert!(asked(&server, &mut browser, &[("max_age", "101")]).await.is_some());
            assert!(asked(&server, &mut browser, &[("prompt", "none")]).await.is_some());
            let other = asked(&server, &mut Visitor::new(), &[("prompt", "none")]).await.unwrap();
            assert_eq!(value(&other, "error"), "login_required");
            server.hands.advance_seconds(500);
            assert_eq!(asked(&server, &mut browser, &[]).await, None, "it has ended");
        }
        server.stop().await;
    }
}

#[test]
async fn logout_of_a_client_ends_single_sign_on() {
    let server = server(|settings| settings.sso.ttl_seconds = 600).await;
    let mut browser = Visitor::new();
    let id_token = logged_in(&server, &mut browser).await;
    let out = "https://web.example/out";
    for (hint, uri) in
        [("x", out), (id_token.as_str(), "https://evil.example/"), (id_token.as_str(), "https://web.example/out/")]
    {
        let query = crate::approve::provider::query(&[("id_token_hint", hint), ("post_logout_redirect_uri", uri)]);
        let shown = browser.open(&server, &format!("/oauth/logout?{query}")).await;
        assert_eq!((shown.status.as_u16(), shown.elsewhere.is_none()), (400, true));
    }
    // Without an ID token, another site may have sent the user here.
    let query = crate::approve::provider::query(&[("client_id", "web"), ("post_logout_redirect_uri", out)]);
    let shown = browser.open(&server, &format!("/oauth/logout?{query}")).await;
    assert_eq!(shown.title(), "Log out?");
    assert!(asked(&server, &mut browser, &[]).await.is_some());
    let query = crate::approve::provider::query(&[
        ("id_token_hint", &id_token),
        ("post_logout_redirect_uri", out),
        ("state", "x"),
    ]);
    let cookies = browser.cookies.clone();
    let shown = browser.open(&server, &format!("/oauth/logout?{query}")).await;
    assert_eq!(shown.elsewhere.as_deref(), Some("https://web.example/out?state=x"));
    assert_eq!(asked(&server, &mut browser, &[]).await, None);
    browser.cookies = cookies;
    assert_eq!(asked(&server, &mut browser, &[]).await, None, "the cookie is of no use any more");
    server.stop().await;
}

#[test]
async fn another_user_than_the_hint_names_is_login_required() {
    let server = server(|_| {}).await;
    let tokens = redeemed(&server, &code(&server, &request(&[])).await).await;
    let hint = tokens.body["id_token"].as_str().unwrap();
    for (user, error) in [("ann", ""), ("bob", "login_required")] {
        let mut browser = Visitor::new();
        let page = opened(&server, &mut browser, &request(&[("id_token_hint", hint)])).await;
        server.phone(user).confirm(&page.session).await;
        let response = went_on(&server, &mut browser, &page).await;
        assert_eq!(value(&response, "error"), error);
    }
    server.stop().await;
}
