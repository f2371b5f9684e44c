//! Origins that may use the browser routes.

use reqwest::Method;
use serde_json::json;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use qrlogin_testing::harness::{Answer, Browser, Server};
use qrlogin_testing::test;

const SAME: &str = "https://login.example";
const LISTED: &str = "https://shop.example:8443";
const FOREIGN: &str = "https://evil.example";

async fn server() -> Server {
    Server::start_with(|settings| {
        settings.public_url = format!("{SAME}/");
        settings.allowed_origins = vec![LISTED.to_owned()];
    })
    .await
}

async fn call(server: &Server, method: Method, path: &str, headers: &[(&'static str, &str)]) -> Answer {
    let mut request = server.http.request(method.clone(), format!("{}{path}", server.base));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if method == Method::POST {
        request = request.json(&json!({ "session_id": "x" }));
    }
    Answer::of(request.send().await.unwrap()).await
}

#[test]
async fn foreign_origin_is_refused_on_every_browser_route_without_effect() {
    let server = server().await;
    let session = server.generate().await;
    let routes = [
        (Method::POST, "/v1/qr-login/generate".to_owned()),
        (Method::GET, format!("/v1/qr-login/status/{}", session.id)),
        (Method::POST, "/v1/qr-login/ack".to_owned()),
        (Method::POST, "/v1/qr-login/cancel".to_owned()),
        (Method::GET, session.ws_path.clone()),
    ];
    for (method, path) in routes {
        for origin in
            [FOREIGN, "null", "https://login.example.evil.example", "http://login.example", "https://shop.example"]
        {
            let answer = call(&server, method.clone(), &path, &[("origin", origin)]).await;
            assert_eq!(answer.refusal(), "403 forbidden_origin", "{method} {path} from {origin}");
            assert!(!answer.headers.contains_key("access-control-allow-origin"));
        }
        for origin in [SAME, LISTED] {
            let answer = call(&server, method.clone(), &path, &[("origin", origin)]).await;
            assert_ne!(answer.status, 403, "{method} {path} from {origin}");
            assert_eq!(answer.header("access-control-allow-origin"), origin);
        }
    }
    let mut request =
        format!("{}{}", server.base.replace("http", "ws"), session.ws_path).into_client_request().unwrap();
    request.headers_mut().insert("origin", FOREIGN.parse().unwrap());
    assert_eq!(Browser::send(request).await.err(), Some(403));
    assert_eq!(server.active().await, 0);
    server.stop().await;
}

#[test]
async fn own_origin_does_not_depend_on_the_host_header() {
    let server = server().await;
    let host = [("host", "evil.example"), ("origin", FOREIGN)];
    assert_eq!(call(&server, Method::POST, "/v1/qr-login/generate", &host).await.refusal(), "403 forbidden_origin");
    let behind_a_proxy = [("host", "10.0.0.7:8080"), ("origin", SAME)];
    let answer = call(&server, Method::POST, "/v1/qr-login/generate", &behind_a_proxy).await;
    assert_eq!(answer.status, 201);
    assert!(answer.body["qr_url"].as_str().unwrap().starts_with("https://login.example/q/"));
    server.stop().await;
}

#[test]
async fn request_without_origin_is_accepted_unless_sec_fetch_site_is_foreign() {
    let server = server().await;
    let generate = "/v1/qr-login/generate";
    assert_eq!(call(&server, Method::POST, generate, &[]).await.status, 201);
    assert_eq!(call(&server, Method::POST, generate, &[("sec-fetch-site", "same-origin")]).await.status, 201);
    for site in ["cross-site", "same-site", "none"] {
        let answer = call(&server, Method::POST, generate, &[("sec-fetch-site", site)]).await;
        assert_eq!(answer.refusal(), "403 forbidden_origin", "{site}");
    }
    server.stop().await;

    let strict = Server::start_with(|settings| settings.allow_missing_origin = false).await;
    assert_eq!(call(&strict, Method::POST, generate, &[]).await.refusal(), "403 forbidden_origin");
    assert_eq!(call(&strict, Method::POST, generate, &[("origin", "http://localhost:8080")]).await.status, 201);
    strict.stop().await;
}

#[test]
async fn preflight_succeeds_for_allowed_origins_only() {
    let server = server().await;
    let ask = |origin| {
        let request = server.http.request(Method::OPTIONS, format!("{}/v1/qr-login/generate", server.base));
        let request = request.header("origin", origin).header("access-control-request-method", "POST");
        request.header("access-control-request-headers", "content-type,x-qr-session").send()
    };
    let listed = Answer::of(ask(LISTED).await.unwrap()).await;
    assert!(listed.status.is_success());
    assert_eq!(listed.header("access-control-allow-origin"), LISTED);
    assert!(listed.header("access-control-allow-headers").contains("x-qr-session"));
    let foreign = Answer::of(ask(FOREIGN).await.unwrap()).await;
    assert!(!foreign.headers.contains_key("access-control-allow-origin"));
    server.stop().await;
}

#[test]
async fn star_matches_one_label_and_schemes_of_native_shells_are_accepted() {
    const SHELLS: [&str; 4] = ["capacitor://localhost", "app://.", "tauri://localhost", "ionic://localhost"];
    let server = Server::start_with(|settings| {
        settings.public_url = SAME.to_owned();
        settings.allowed_origins =
            ["https://*.shop.example"].iter().chain(&SHELLS).map(|text| (*text).to_owned()).collect();
    })
    .await;
    let session = server.generate().await;
    let path = format!("/v1/qr-login/status/{}", session.id);
    let upgraded = async |origin: &str| {
        let mut request = Browser::request(&server, &session.ws_path, None);
        request.headers_mut().insert("origin", origin.parse().unwrap());
        Browser::send(request).await.map(drop)
    };
    for origin in ["https://a.shop.example", "https://b.shop.example", SAME].iter().chain(&SHELLS) {
        let answer = call(&server, Method::GET, &path, &[("origin", origin)]).await;
        assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, *origin));
        assert_eq!(upgraded(origin).await, Ok(()), "{origin}");
    }
    for origin in [
        "https://shop.example",
        "https://a.b.shop.example",
        "http://a.shop.example",
        "app://x",
        "capacitor://localhost:1",
    ] {
        assert_eq!(call(&server, Method::GET, &path, &[("origin", origin)]).await.refusal(), "403 forbidden_origin");
        assert_eq!(upgraded(origin).await, Err(403), "{origin}");
    }
    server.stop().await;
}
