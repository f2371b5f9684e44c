//! The URL in the QR code without a provider: a page that names the app, an app link, or another page.

use qrlogin_testing::harness::{Server, Settings};
use qrlogin_testing::test;
use serde_json::json;

use super::Visitor;

async fn server(change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(change).await
}

#[test]
async fn page_names_the_app_in_the_visitors_language() {
    let server = server(|settings| {
        settings.approve.app_name = "Example & Co".to_owned();
        settings.approve.app_stores = vec!["https://apps.apple.com/app/id1".to_owned()];
    })
    .await;
    let session = server.generate().await;
    for (language, title) in [
        ("en", "Open Example &amp; Co"),
        ("de-CH,de;q=0.9", "Example &amp; Co öffnen"),
        ("es", "Abra Example &amp; Co"),
        ("zh", "打开 Example &amp; Co"),
    ] {
        let mut phone = Visitor::new();
        phone.language = language;
        let shown = phone.open(&server, &format!("/q/{}", session.code)).await;
        assert_eq!((shown.status.as_u16(), shown.title()), (200, title));
        assert!(shown.text.contains(r#"href="https://apps.apple.com/app/id1""#), "{}", shown.text);
    }
    assert_eq!(server.status(&session).await.body["status"], "pending");
    server.stop().await;
}

#[test]
async fn page_without_settings_says_what_to_do() {
    let server = server(|_| {}).await;
    let session = server.generate().await;
    let shown = Visitor::new().open(&server, &format!("/q/{}", session.code)).await;
    assert_eq!((shown.status.as_u16(), shown.title()), (200, "Open the app"));
    assert_eq!(server.get("/.well-known/assetlinks.json").await.status, 404);
    server.stop().await;
}

#[test]
async fn apps_claim_the_urls_by_their_association_files() {
    let fingerprint = ["AB"; 32].join(":");
    let server = server(|settings| {
        settings.public_url = "https://example.com/login".to_owned();
        settings.approve.app_links =
            vec!["ABCDE12345.com.example.app".to_owned(), format!("com.example.app/{}", fingerprint.to_lowercase())];
    })
    .await;
    let apple = server.get("/.well-known/apple-app-site-association").await;
    let details = json!([{ "appIDs": ["ABCDE12345.com.example.app"], "components": [{ "/": "/login/q/*" }] }]);
    assert_eq!(apple.body, json!({ "applinks": { "details": details } }));
    assert_eq!(apple.header("content-type"), "application/json");
    let android = server.get("/.well-known/assetlinks.json").await.body;
    assert_eq!(android[0]["relation"], json!(["delegate_permission/common.handle_all_urls"]));
    assert_eq!(android[0]["target"]["package_name"], "com.example.app");
    assert_eq!(android[0]["target"]["sha256_cert_fingerprints"], json!([fingerprint]));
    server.stop().await;
}

#[test]
async fn url_of_the_sites_own_page_is_in_the_code() {
    let server = server(|settings| {
        settings.approve.url = "https://www.example.com/approve#{code}".to_owned();
    })
    .await;
    let generated = server.post("/v1/qr-login/generate", json!({})).await.body;
    let (code, url) = (generated["code"].as_str().unwrap(), generated["qr_url"].as_str().unwrap());
    assert_eq!(url, format!("https://www.example.com/approve#{code}"));
    // Codes of before the setting lead to the page as well.
    let shown = Visitor::new().open(&server, &format!("/q/{code}")).await;
    assert_eq!((shown.status.as_u16(), shown.elsewhere.as_deref()), (302, Some(url)));
    // A phone may send the URL as it was scanned.
    let token = server.app_token(json!({ "sub": "ann" }));
    let body = json!({ "code": url });
    let scanned = server.request(reqwest::Method::POST, "/v1/qr-login/scan", Some(&token), Some(body)).await;
    assert_eq!(scanned.status, 200, "{}", scanned.body);
    server.stop().await;
}
