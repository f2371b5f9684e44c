//! Every refusal, by its status and problem code. A refused call changes nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use qrlogin_testing::harness::{Answer, SECRET, Server, Session};
use qrlogin_testing::keys::{app_token_signed, new_signing_key};
use qrlogin_testing::real_time::within;
use qrlogin_testing::test;

const NEVER_WAS: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAA";

async fn is_untouched(server: &Server, session: &Session) {
    let status = server.status(session).await.body;
    assert_eq!((&status["status"], &status["version"]), (&json!("pending"), &json!(1)));
}

#[test]
async fn invalid_bodies_and_media_types_are_refused() {
    let server = Server::start().await;
    let session = server.generate().await;
    let token = server.phone("ann").token;
    let send = async |path: &str, kind: Option<&str>, body: &str| {
        let mut request = server.http.post(format!("{}/v1/qr-login/{path}", server.base)).bearer_auth(&token);
        if let Some(kind) = kind {
            request = request.header("content-type", kind);
        }
        Answer::of(request.body(body.to_owned()).send().await.unwrap()).await.refusal()
    };
    let good = json!({ "code": session.code }).to_string();
    let json = Some("application/json");
    for path in ["scan", "confirm", "reject"] {
        for body in [
            "",
            "{",
            "not json",
            "[]",
            r#"["x"]"#,
            "null",
            "{}",
            r#"{"code":7}"#,
            r#"{"code":null}"#,
            r#"{"code":["x"]}"#,
            "\u{0}",
        ] {
            assert_eq!(send(path, json, body).await, "400 invalid_request", "{path} {body}");
        }
        for kind in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/jsonx")] {
            assert_eq!(send(path, kind, &good).await, "415 unsupported_media_type", "{path} {kind:?}");
        }
    }
    for path in ["ack", "cancel"] {
        assert_eq!(send(path, json, r#"{"session_id":1}"#).await, "400 invalid_request");
        assert_eq!(send(path, None, r#"{"session_id":"x"}"#).await, "415 unsupported_media_type");
    }
    for body in [r#"{"client_info":7}"#, "[]", " [null]", r#""x""#] {
        assert_eq!(send("generate", json, body).await, "400 invalid_request", "{body}");
    }
    assert_eq!(send("generate", json, "null").await, "201", "as no body at all");
    for kind in [None, json, Some("application/octet-stream"), Some("application/x-www-form-urlencoded")] {
        assert_eq!(send("generate", kind, "").await, "201", "no body, whatever its type would be: {kind:?}");
    }
    assert_eq!(
        send("generate", json, &format!(r#"{{"client_info":"{}"}}"#, "é".repeat(257))).await,
        "400 invalid_request"
    );
    assert_eq!(send("generate", json, &format!(r#"{{"client_info":"{}"}}"#, "é".repeat(256))).await, "201");
    assert_eq!(send("generate", Some("text/plain"), "{}").await, "415 unsupported_media_type");
    is_untouched(&server, &session).await;
    server.stop().await;
}

#[test]
async fn problems_have_the_form_of_rfc_9457() {
    let server = Server::start().await;
    let answer = server.post("/v1/qr-login/cancel", json!({ "session_id": NEVER_WAS })).await;
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(
        answer.body,
        json!({
            "type": "about:blank", "title": "Not Found", "status": 404, "code": "not_found",
            "detail": "there is no such session or code"
        })
    );
    assert_eq!(server.get("/nowhere").await.refusal(), "404 not_found");
    assert_eq!(server.get("/v1/qr-login/scan").await.refusal(), "405 method_not_allowed");
    assert_eq!(server.get("/").await.refusal(), "404 not_found", "serve has no demo page");
    assert_eq!(server.post("/demo/provider/token", json!({})).await.refusal(), "404 not_found");
    server.stop().await;
}

#[test]
async fn body_over_the_limit_is_read_to_its_end_and_refused_with_413() {
    let server = Server::start().await;
    let long = vec![b' '; 1024 * 1024];
    for path in ["generate", "scan", "nowhere"] {
        let request = server.http.post(format!("{}/v1/qr-login/{path}", server.base));
        let answer =
            Answer::of(request.header("content-type", "application/json").body(long.clone()).send().await.unwrap());
        assert_eq!(answer.await.refusal(), "413 payload_too_large", "{path}");
    }
    // A client that sends the whole body before it reads.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /v1/qr-login/confirm HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        long.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    within("the server reads", stream.write_all(&long)).await.unwrap();
    let mut answer = String::new();
    within("the server answers and closes", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    // A client that sends `Expect: 100-continue` is refused before it sends the body.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head.replace("host", "expect: 100-continue\r\nhost").as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the server answers and closes", stream.read_to_string(&mut answer)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    server.stop().await;
}

#[test]
async fn invalid_app_tokens_are_refused() {
    let server = Server::start_with(|settings| {
        settings.app_auth.issuer = "https://site.example".to_owned();
        settings.app_auth.audience = "qrlogin".to_owned();
    })
    .await;
    let session = server.generate().await;
    let now = server.clock.now().as_seconds();
    let claims = |change: Value| {
        let mut claims = json!({ "sub": "ann", "iss": "https://site.example", "aud": "qrlogin", "exp": now + 60 });
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims
    };
    let signed = |change: Value| server.app_token(claims(change));
    let spelled = |header: Value, claims: Value, signature: &str| {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.{signature}", part(header), part(claims))
    };
    let good = signed(json!({}));
    let (unsigned, signature) = good.rsplit_once('.').unwrap();
    let foreign = app_token_signed(b"another secret of thirty-two bytes or so", &claims(json!({})));

    let refused = [
        ("not a JWT", "swordfish".to_owned()),
        ("alg none", spelled(json!({ "alg": "none" }), claims(json!({})), "")),
        ("alg none, signed all the same", spelled(json!({ "alg": "none" }), claims(json!({})), signature)),
        ("alg HS512", spelled(json!({ "alg": "HS512" }), claims(json!({})), signature)),
        ("alg EdDSA", spelled(json!({ "alg": "EdDSA" }), claims(json!({})), signature)),
        ("no signature", format!("{unsigned}.")),
        ("another secret's", foreign),
        ("expired this second", signed(json!({ "exp": now }))),
        ("without exp", signed(json!({ "exp": null }))),
        ("exp that is no number", signed(json!({ "exp": "tomorrow" }))),
        ("not yet valid", signed(json!({ "nbf": now + 30 }))),
        ("another issuer's", signed(json!({ "iss": "https://other.example" }))),
        ("without issuer", signed(json!({ "iss": null }))),
        ("for another audience", signed(json!({ "aud": "other" }))),
        ("without audience", signed(json!({ "aud": null }))),
        ("without a user", signed(json!({ "sub": null }))),
        ("with an empty user", signed(json!({ "sub": "" }))),
        ("with a user that is no name", signed(json!({ "sub": ["ann"] }))),
    ];
    for verb in ["scan", "confirm", "reject"] {
        let path = format!("/v1/qr-login/{verb}");
        for (what, token) in &refused {
            let body = Some(json!({ "code": session.code }));
            let answer = server.request(Method::POST, &path, Some(token), body).await;
            assert_eq!(answer.refusal(), "401 invalid_token", "{verb} {what}");
            assert!(answer.header("www-authenticate").starts_with("Bearer error="), "{what}");
        }
        let missing = server.post(&path, json!({ "code": session.code })).await;
        assert_eq!((missing.refusal().as_str(), missing.header("www-authenticate")), ("401 invalid_token", "Bearer"));
    }
    is_untouched(&server, &session).await;
    for (what, token) in [
        ("as it should be", good),
        ("valid in a moment, by a clock a little ahead", signed(json!({ "nbf": now + 3 }))),
        ("for several audiences", signed(json!({ "aud": ["other", "qrlogin"] }))),
    ] {
        let body = Some(json!({ "code": session.code }));
        assert_eq!(server.request(Method::POST, "/v1/qr-login/scan", Some(&token), body).await.status, 200, "{what}");
    }
    server.stop().await;
}

#[test]
async fn web_token_is_refused_as_an_app_token_even_if_its_key_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    let public = dir.path().join("public.pem");
    // The worst possible configuration: app tokens are verified with the key that signs the web tokens.
    let key = new_signing_key(&keys);
    let x = URL_SAFE_NO_PAD.decode(key.public_jwk["x"].as_str().unwrap()).unwrap();
    let spki = [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00], &x[..]].concat();
    std::fs::write(&public, pem::encode(&pem::Pem::new("PUBLIC KEY", spki))).unwrap();

    let giving = Server::start_with(|settings| settings.token.key_dir = keys.clone()).await;
    let session = giving.generate().await;
    giving.phone("ann").confirm(&session).await;
    let web_token = giving.status(&session).await.body["web_token"].as_str().unwrap().to_owned();
    let trusting = Server::start_with(|settings| {
        settings.app_auth.hmac_secret = Default::default();
        settings.app_auth.public_key_file = public;
    })
    .await;
    for server in [giving, trusting] {
        let session = server.generate().await;
        let body = Some(json!({ "code": session.code }));
        let answer = server.request(Method::POST, "/v1/qr-login/scan", Some(&web_token), body).await;
        assert_eq!(answer.refusal(), "401 invalid_token");
        is_untouched(&server, &session).await;
        server.stop().await;
    }
}

#[test]
async fn unknown_session_ids_and_codes_are_not_found() {
    let server = Server::start().await;
    let session = server.generate().await;
    let ann = server.phone("ann");
    let well_formed = URL_SAFE_NO_PAD.encode([7; 32]);
    for id in [well_formed.as_str(), &session.code, "x", "%00", &"A".repeat(5000)] {
        assert_eq!(server.get(&format!("/v1/qr-login/status/{id}")).await.refusal(), "404 not_found", "{id}");
        for call in ["ack", "cancel"] {
            let answer = server.post(&format!("/v1/qr-login/{call}"), json!({ "session_id": id })).await;
            assert_eq!(answer.refusal(), "404 not_found", "{call} {id}");
        }
    }
    assert_eq!(server.get("/v1/qr-login/status").await.refusal(), "400 invalid_request", "the header is missing");
    for code in [NEVER_WAS, &session.id, "", "x"] {
        let unknown = Session { code: code.to_owned(), ..session.clone() };
        for verb in ["scan", "confirm", "reject"] {
            assert_eq!(ann.call(verb, &unknown).await.refusal(), "404 not_found", "{verb} {code}");
        }
    }
    is_untouched(&server, &session).await;
    server.stop().await;
}

#[test]
async fn calls_that_the_state_does_not_permit_are_refused() {
    let server = Server::start().await;
    let (ann, bob) = (server.phone("ann"), server.phone("bob"));

    let session = server.generate().await;
    ann.scan(&session).await;
    assert_eq!(bob.scan(&session).await.refusal(), "409 already_scanned");
    assert_eq!(bob.confirm(&session).await.refusal(), "403 wrong_user");
    assert_eq!(bob.reject(&session).await.refusal(), "403 wrong_user");
    assert_eq!(server.ack(&session).await.refusal(), "409 not_decided");
    assert_eq!(server.status(&session).await.body["version"], 2);

    ann.confirm(&session).await;
    assert_eq!(ann.reject(&session).await.refusal(), "409 already_decided");
    assert_eq!(bob.scan(&session).await.refusal(), "409 already_decided");
    assert_eq!(bob.confirm(&session).await.refusal(), "409 already_decided");
    assert_eq!(server.cancel(&session).await.refusal(), "409 already_decided");
    assert_eq!(server.status(&session).await.body["version"], 3);

    let rejected = server.generate().await;
    ann.reject(&rejected).await;
    assert_eq!(ann.confirm(&rejected).await.refusal(), "409 already_decided");
    assert_eq!(server.ack(&rejected).await.refusal(), "409 already_decided");

    let cancelled = server.generate().await;
    server.cancel(&cancelled).await;
    for verb in ["scan", "confirm", "reject"] {
        assert_eq!(ann.call(verb, &cancelled).await.refusal(), "410 cancelled");
    }
    assert_eq!(server.cancel(&cancelled).await.status, 200);

    let (pending, scanned) = (server.generate().await, server.generate().await);
    ann.scan(&scanned).await;
    server.hands.advance_seconds(300);
    for session in [&pending, &scanned] {
        for verb in ["scan", "confirm", "reject"] {
            assert_eq!(ann.call(verb, session).await.refusal(), "410 expired");
        }
        assert_eq!(server.cancel(session).await.refusal(), "410 expired");
        assert_eq!(server.ack(session).await.refusal(), "410 expired");
    }
    server.stop().await;
}

#[test]
async fn request_that_is_no_valid_upgrade_is_refused() {
    let server = Server::start().await;
    let session = server.generate().await;
    let plain = server.get(&session.ws_path).await;
    assert_eq!(plain.refusal(), "426 upgrade_required");
    assert_eq!((plain.header("upgrade"), plain.header("sec-websocket-version")), ("websocket", "13"));

    let upgrade = async |version: &str, key: &str| {
        let request = server.http.get(format!("{}{}", server.base, session.ws_path));
        let request = request.header("connection", "Upgrade").header("upgrade", "websocket");
        let request = request.header("sec-websocket-version", version).header("sec-websocket-key", key);
        Answer::of(request.send().await.unwrap()).await.refusal()
    };
    assert_eq!(upgrade("8", "dGhlIHNhbXBsZSBub25jZQ==").await, "426 upgrade_required");
    assert_eq!(upgrade("13", "c2hvcnQ=").await, "400 invalid_request");
    assert_eq!(upgrade("13", "not base64").await, "400 invalid_request");
    assert_eq!(server.active().await, 0);
    server.stop().await;
}

#[test(needs(Openssl))]
async fn each_key_type_accepts_only_its_own_algorithm() {
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    let dir = tempfile::tempdir().unwrap();
    let openssl = |arguments: &[&str]| {
        let done = std::process::Command::new("openssl").args(arguments).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "rsa"]);
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "ec"]);
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "ed"]);
    let read = |name: &str| std::fs::read(dir.path().join(name)).unwrap();
    let keys = [
        (Algorithm::RS256, "rsa", EncodingKey::from_rsa_pem(&read("rsa")).unwrap()),
        (Algorithm::ES256, "ec", EncodingKey::from_ec_pem(&read("ec")).unwrap()),
        (Algorithm::EdDSA, "ed", EncodingKey::from_ed_pem(&read("ed")).unwrap()),
    ];
    for (algorithm, name, key) in &keys {
        let public = format!("{name}.pub");
        openssl(&["pkey", "-in", name, "-pubout", "-out", &public]);
        let server = Server::start_with(|settings| {
            settings.app_auth.hmac_secret = Default::default();
            settings.app_auth.public_key_file = dir.path().join(&public);
        })
        .await;
        let session = server.generate().await;
        let claims = json!({ "sub": "ann", "exp": server.clock.now().as_seconds() + 60 });
        let scan = async |token: String| {
            let body = Some(json!({ "code": session.code }));
            server.request(Method::POST, "/v1/qr-login/scan", Some(&token), body).await.refusal()
        };
        for (other, _, other_key) in keys.iter().filter(|(other, ..)| other != algorithm) {
            let token = encode(&Header::new(*other), &claims, other_key).unwrap();
            assert_eq!(scan(token).await, "401 invalid_token", "{other:?} for {algorithm:?}");
        }
        // Key confusion: the public key, which anyone can fetch, is used as an HMAC secret.
        let confused =
            encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&read(&public))).unwrap();
        assert_eq!(scan(confused).await, "401 invalid_token");
        assert_eq!(
            scan(server.app_token(json!({ "sub": "ann" }))).await,
            "401 invalid_token",
            "{SECRET} is not trusted here"
        );
        is_untouched(&server, &session).await;
        assert_eq!(scan(encode(&Header::new(*algorithm), &claims, key).unwrap()).await, "200", "{algorithm:?}");
        server.stop().await;
    }
}
