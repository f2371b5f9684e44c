//! Logins on the approve page.

use futures_util::future::join_all;
use qrlogin_testing::harness::{Server, claims_of, token_in};
use qrlogin_testing::services::Postgres;
use qrlogin_testing::test;

use super::{PUBLIC_URL, TestProvider, Visitor, back, opened, server, with_provider};

#[test]
async fn user_logs_in_once_and_approves_twice() {
    let provider = TestProvider::start().await;
    provider.change_claims(|claims| claims["department"] = "Research".into());
    let server = server(&provider, |settings| settings.token.claims = vec!["department".to_owned()]).await;
    let mut phone = Visitor::new();
    let (session, mut browser) = server.waiting().await;
    let shown = opened(&server, &provider, &mut phone, &session.code).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (200, "Log in?"));
    // The name is in the provider's user info, and not in its ID token.
    assert!(shown.text.contains("Ann Example"), "{}", shown.text);
    assert_eq!(browser.frame("scanned").await["user"]["name"], "Ann Example");
    let shown = phone.press(&server, &shown, &session.code, ("action", "confirm")).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (200, "You are logged in"));
    let token = token_in(&browser.rest().await).unwrap();
    let claims = claims_of(&token);
    assert_eq!((claims["sub"].as_str(), claims["department"].as_str()), (Some("ann"), Some("Research")));
    let requests = provider.requests();
    assert_eq!(requests, ["configuration", "jwks", "token", "userinfo"]);

    let (session, mut browser) = server.waiting().await;
    let shown = opened(&server, &provider, &mut phone, &session.code).await;
    let shown = phone.press(&server, &shown, &session.code, ("action", "reject")).await;
    assert_eq!(shown.title(), "Login rejected");
    browser.frame("scanned").await;
    browser.frame("rejected").await;
    assert_eq!(provider.requests(), requests, "the second scan needs no login");
    server.stop().await;
}

#[test]
async fn visitor_by_a_link_of_another_site_is_asked_before_the_scan() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let mut phone = Visitor::new();
    let known = server.generate().await;
    opened(&server, &provider, &mut phone, &known.code).await;
    for site in [Some("cross-site"), Some("same-site"), None] {
        let session = server.generate().await;
        phone.site = site;
        let shown = opened(&server, &provider, &mut phone, &session.code).await;
        assert_eq!(shown.title(), "Continue to the login");
        assert_eq!(server.status(&session).await.body["status"], "pending");
        let shown = phone.press(&server, &shown, &session.code, ("action", "continue")).await;
        assert_eq!(shown.title(), "Log in?");
        assert_eq!(server.status(&session).await.body["status"], "scanned");
    }
    server.stop().await;
}

#[test]
async fn number_is_picked_on_the_page() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |settings| settings.session.number_matching = true).await;
    let mut phone = Visitor::new();
    for is_right in [true, false] {
        let (session, mut browser) = server.waiting().await;
        let shown = opened(&server, &provider, &mut phone, &session.code).await;
        let number = browser.frame("scanned").await["number"].as_str().unwrap().to_owned();
        let choices: Vec<_> = shown
            .text
            .match_indices(r#"name="number" value=""#)
            .map(|(at, found)| shown.text[at + found.len()..][..2].to_owned())
            .collect();
        assert_eq!(choices.len(), 3);
        let picked = choices.iter().find(|choice| (**choice == number) == is_right).unwrap();
        let shown = phone.press(&server, &shown, &session.code, ("number", picked)).await;
        let title = if is_right { "You are logged in" } else { "Wrong number" };
        assert_eq!(shown.title(), title);
        browser.frame(if is_right { "confirmed" } else { "rejected" }).await;
    }
    server.stop().await;
}

#[test]
async fn rotated_code_stays_good_while_its_user_logs_in() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |settings| settings.session.rotate_seconds = 10).await;
    let mut phone = Visitor::new();
    let session = server.generate().await;
    let shown = phone.open(&server, &format!("/q/{}", session.code)).await;
    let answer = provider.log_in(&shown.elsewhere.unwrap());
    server.hands.advance_seconds(60);
    let shown = back(&server, &mut phone, &answer).await;
    assert_eq!(shown.title(), "Log in?");
    let shown = phone.press(&server, &shown, &session.code, ("action", "confirm")).await;
    assert_eq!(shown.title(), "You are logged in");
    // Another phone that opens the old code only now is refused.
    let session = server.generate().await;
    server.hands.advance_seconds(60);
    let shown = opened(&server, &provider, &mut Visitor::new(), &session.code).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (410, "Code expired"));
    server.stop().await;
}

#[test]
async fn session_that_expires_during_the_login_gets_a_page() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let mut phone = Visitor::new();
    let session = server.generate().await;
    let shown = phone.open(&server, &format!("/q/{}", session.code)).await;
    let answer = provider.log_in(&shown.elsewhere.unwrap());
    server.hands.advance_seconds(301);
    let shown = back(&server, &mut phone, &answer).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (410, "Code expired"));
    server.stop().await;
}

#[test]
async fn session_that_the_browser_cancelled_gets_a_page_in_the_visitors_language() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let mut phone = Visitor::new();
    for (language, title) in [
        ("en", "Login cancelled"),
        ("de", "Anmeldung abgebrochen"),
        ("es", "Inicio de sesión cancelado"),
        ("zh-CN", "登录已取消"),
    ] {
        let session = server.generate().await;
        server.cancel(&session).await;
        phone.language = language;
        let shown = opened(&server, &provider, &mut phone, &session.code).await;
        assert_eq!((shown.status.as_u16(), shown.title()), (410, title));
    }
    server.stop().await;
}

#[test]
async fn provider_that_fails_or_rotates_its_keys_loses_no_login() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let mut phone = Visitor::new();
    let session = server.generate().await;
    let path = format!("/q/{}", session.code);
    provider.set_down(true);
    let shown = phone.open(&server, &path).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (503, "The login page does not answer"));
    assert!(shown.text.contains(&format!(r#"href="{path}""#)), "{}", shown.text);
    provider.set_down(false);
    // The failure is remembered for two seconds.
    server.hands.advance_seconds(2);
    let authorize = phone.open(&server, &path).await.elsewhere.unwrap();
    let answer = provider.log_in(&authorize);
    provider.set_down(true);
    let shown = back(&server, &mut phone, &answer).await;
    assert_eq!(shown.status, 503);
    provider.set_down(false);
    // The keys that the server knows are no longer those of the provider. It fetches them again, at most once in ten
    // seconds.
    provider.rotate_keys();
    server.hands.advance_seconds(11);
    let shown = opened(&server, &provider, &mut phone, &session.code).await;
    assert_eq!(shown.title(), "Log in?");
    let shown = phone.press(&server, &shown, &session.code, ("action", "confirm")).await;
    assert_eq!(shown.title(), "You are logged in");
    server.stop().await;
}

#[test]
async fn visitors_of_a_provider_that_does_not_answer_share_one_wait() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let session = server.generate().await;
    let path = format!("/q/{}", session.code);
    provider.set_silent(true);
    let visits = (0..4).map(|_| async { Visitor::new().open(&server, &path).await });
    for shown in join_all(visits).await {
        assert_eq!((shown.status.as_u16(), shown.title()), (503, "The login page does not answer"));
        assert!(shown.text.contains(&format!(r#"href="{path}""#)), "{}", shown.text);
    }
    assert_eq!(provider.requests(), ["configuration"]);
    assert_eq!(server.status(&session).await.body["status"], "pending");
    provider.set_silent(false);
    server.hands.advance_seconds(2);
    let mut phone = Visitor::new();
    let authorize = phone.open(&server, &path).await.elsewhere.unwrap();
    let answer = provider.log_in(&authorize);
    // It stops answering between the login and the exchange of its code.
    provider.set_silent(true);
    let shown = back(&server, &mut phone, &answer).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (503, "The login page does not answer"));
    provider.set_silent(false);
    let shown = opened(&server, &provider, &mut phone, &session.code).await;
    let shown = phone.press(&server, &shown, &session.code, ("action", "confirm")).await;
    assert_eq!(shown.title(), "You are logged in");
    server.stop().await;
}

#[test]
async fn visitors_go_on_with_old_metadata_while_the_provider_does_not_answer() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |settings| settings.session.ttl_seconds = 3600).await;
    let known = server.generate().await;
    opened(&server, &provider, &mut Visitor::new(), &known.code).await;
    server.hands.advance_seconds(3601);
    let fetches = || provider.requests().iter().filter(|request| *request == "configuration").count();
    assert_eq!(fetches(), 1);
    provider.set_silent(true);
    let session = server.generate().await;
    let path = format!("/q/{}", session.code);
    let visits = (0..4).map(|_| async { Visitor::new().open(&server, &path).await });
    assert!(join_all(visits).await.iter().all(|shown| shown.elsewhere.is_some()));
    assert_eq!(fetches(), 2);
    server.stop().await;
}

#[test]
async fn visitor_at_another_host_is_redirected_to_the_public_url_at_most_once() {
    let provider = TestProvider::start().await;
    let direct = server(&provider, |_| {}).await;
    let proxied = server(&provider, |settings| settings.trusted_proxies = vec!["127.0.0.1".to_owned()]).await;
    for (server, host, is_redirected) in [
        (&direct, "login.example", false),
        (&direct, "LOGIN.Example:8443", false),
        (&direct, "127.0.0.1:8080", true),
        (&direct, "evil.example", true),
        (&proxied, "upstream", false),
    ] {
        let session = server.generate().await;
        let mut phone = Visitor::new();
        phone.host = host;
        // The host stays the same after the redirect, as behind a proxy that replaces it and is not trusted.
        let shown = phone.open(server, &format!("/q/{}", session.code)).await;
        let authorize = shown.elsewhere.unwrap();
        assert!(authorize.starts_with(&provider.issuer), "{host}: {authorize}");
        let mut expected = vec![authorize.clone()];
        if is_redirected {
            expected.insert(0, format!("{PUBLIC_URL}/q/{}?redirected", session.code));
        }
        assert_eq!(shown.redirects, expected, "{host}");
        // With the cookies of a login, nothing is redirected.
        assert_eq!(back(server, &mut phone, &provider.log_in(&authorize)).await.title(), "Log in?", "{host}");
        assert!(phone.open(server, &format!("/q/{}", session.code)).await.redirects.is_empty(), "{host}");
    }
    direct.stop().await;
    proxied.stop().await;
}

#[test]
async fn login_that_is_too_old_is_repeated() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |settings| settings.app_auth.max_age_seconds = 120).await;
    let mut phone = Visitor::new();
    let session = server.generate().await;
    let shown = phone.open(&server, &format!("/q/{}", session.code)).await;
    let authorize = shown.elsewhere.unwrap();
    assert!(authorize.contains("max_age=120") && !authorize.contains("prompt="), "{authorize}");
    assert_eq!(back(&server, &mut phone, &provider.log_in(&authorize)).await.title(), "Log in?");
    server.hands.advance_seconds(121);
    let shown = phone.open(&server, &format!("/q/{}", session.code)).await;
    let authorize = shown.elsewhere.unwrap();
    assert!(authorize.contains("prompt=login"), "{authorize}");
    // A provider that does not ask again gives the same `auth_time`.
    let shown = back(&server, &mut phone, &provider.log_in(&authorize)).await;
    assert_eq!(shown.title(), "You did not log in");
    server.stop().await;
}

#[test]
async fn user_who_switches_or_logs_out_is_forgotten() {
    let provider = TestProvider::start().await;
    let server = server(&provider, |_| {}).await;
    let mut phone = Visitor::new();
    let session = server.generate().await;
    let shown = opened(&server, &provider, &mut phone, &session.code).await;
    let shown = phone.press(&server, &shown, &session.code, ("action", "switch")).await;
    assert!(shown.text.contains("prompt=login") && shown.text.contains(r#"http-equiv="refresh""#), "{}", shown.text);
    let shown = phone.open(&server, &format!("/q/{}", session.code)).await;
    back(&server, &mut phone, &provider.log_in(&shown.elsewhere.unwrap())).await;

    let shown = phone.post(&server, "/q/logout", String::new(), PUBLIC_URL).await;
    assert!(shown.text.contains(&format!("{}/logout?id_token_hint=", provider.issuer)), "{}", shown.text);
    assert!(phone.open(&server, &format!("/q/{}", session.code)).await.elsewhere.is_some());
    assert_eq!(phone.open(&server, "/q/logged-out").await.title(), "You are logged out");
    server.stop().await;
}

#[test(needs(Postgres))]
async fn provider_may_send_the_user_back_to_another_node() {
    let provider = TestProvider::start().await;
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    let keys = tempfile::tempdir().unwrap();
    // Both nodes follow the clock of the machine, by which the provider's tokens have expired or are not yet valid.
    provider.change_claims(|claims| {
        let now = qrlogin_testing::real_time::wall_seconds();
        for (claim, value) in [("iat", now), ("exp", now + 600), ("auth_time", now)] {
            claims[claim] = value.into();
        }
    });
    let node = async || {
        Server::node_with(
            &url,
            None,
            keys.path().join("keys"),
            |bus| bus,
            |settings| with_provider(settings, &provider),
        )
        .await
    };
    let (here, there) = (node().await, node().await);
    let mut phone = Visitor::new();
    let session = here.generate().await;
    let shown = phone.open(&here, &format!("/q/{}", session.code)).await;
    let shown = back(&there, &mut phone, &provider.log_in(&shown.elsewhere.unwrap())).await;
    assert_eq!(shown.title(), "Log in?");
    let shown = phone.press(&here, &shown, &session.code, ("action", "confirm")).await;
    assert_eq!(shown.title(), "You are logged in");
    assert_eq!(there.status(&session).await.body["status"], "confirmed");
}
