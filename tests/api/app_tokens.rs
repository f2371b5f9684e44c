//! App tokens: verification by a JWK Set, the checks of their claims, and the maximum age of a login on the phone.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::token_source::{Signer, Source, SourceAnswer, by_key_set, scan};
use qrlogin_testing::harness::{Server, claims_of as unverified_claims};
use qrlogin_testing::keys::app_token;
use qrlogin_testing::program::{Program, signal};
use qrlogin_testing::real_time::{until, wall_seconds};
use qrlogin_testing::test;

fn claims_of(server: &Server, user: &str) -> Value {
    json!({ "sub": user, "exp": server.clock.now().as_seconds() + 600 })
}

#[test]
async fn keys_of_a_jwk_set_are_accepted_only_with_their_own_algorithms() {
    let (source, address) = Source::start().await;
    let signer = Signer::new();
    let x = signer.public["x"].as_str().unwrap();
    // The set also holds keys that cannot be used. They are skipped.
    source.set_json(json!({ "keys": [
        { "kty": "oct", "kid": "shared", "k": "c3dvcmRmaXNo" },
        { "kty": "QUANTUM", "kid": "future" },
        "no key at all",
        { "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "for encryption", "use": "enc" },
        { "kty": "OKP", "crv": "Ed25519", "x": x, "kid": "confused", "alg": "HS256" },
        signer.public,
    ] }));
    let server = by_key_set(address, |settings| {
        settings.app_auth.issuer = "https://site.example".to_owned();
        settings.app_auth.audience = "qrlogin".to_owned();
    })
    .await;
    let session = server.generate().await;
    let now = server.clock.now().as_seconds();
    let good = json!({ "sub": "ann", "iss": "https://site.example", "aud": ["qrlogin"], "exp": now + 60 });
    let with = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signer.sign(&claims)
    };
    let named = |kid: &str, algorithm: Algorithm, key: &EncodingKey| {
        let mut header = Header::new(algorithm);
        header.kid = Some(kid.to_owned());
        encode(&header, &good, key).unwrap()
    };
    let critical = {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(signer.kid.clone());
        header.crit = Some(vec!["exp".to_owned()]);
        encode(&header, &good, &signer.key).unwrap()
    };
    let public = EncodingKey::from_base64_secret(&x.replace('-', "+").replace('_', "/"))
        .or_else(|_| EncodingKey::from_base64_secret(&format!("{}=", x.replace('-', "+").replace('_', "/"))));
    for (what, token) in [
        ("the public key as an HMAC secret", named(&signer.kid, Algorithm::HS256, &public.unwrap())),
        ("a symmetric key of the set", named("shared", Algorithm::HS256, &EncodingKey::from_secret(b"swordfish"))),
        ("a key for encryption", named("for encryption", Algorithm::EdDSA, &signer.key)),
        ("a key whose algorithm is not its kind's", named("confused", Algorithm::EdDSA, &signer.key)),
        ("an unknown key", named("unknown", Algorithm::EdDSA, &signer.key)),
        ("another's signature", {
            let mut header = Header::new(Algorithm::EdDSA);
            header.kid = Some(signer.kid.clone());
            encode(&header, &good, &Signer::new().key).unwrap()
        }),
        ("a demand that is not understood", critical),
        ("another issuer", with("iss", json!("https://other.example"))),
        ("a list of issuers", with("iss", json!(["https://site.example"]))),
        ("another audience", with("aud", json!("other"))),
        ("expired", with("exp", json!(now))),
        ("not yet valid", with("nbf", json!(now + 30))),
        ("no expiry", with("exp", Value::Null)),
    ] {
        assert_eq!(scan(&server, &session, &token).await.refusal(), "401 invalid_token", "{what}");
    }
    assert_eq!(scan(&server, &session, &signer.sign(&good)).await.status, 200);
    server.stop().await;
}

#[test]
async fn rotated_key_is_fetched_and_unknown_keys_cause_one_fetch_in_ten_seconds() {
    let (source, address) = Source::start().await;
    let (old, new) = (Signer::new(), Signer::new());
    source.set_json(json!({ "keys": [old.public] }));
    let server = by_key_set(address, |_| {}).await;
    let session = server.generate().await;
    let by = |signer: &Signer| signer.sign(&claims_of(&server, "ann"));
    assert_eq!(scan(&server, &session, &by(&old)).await.status, 200);

    source.set_json(json!({ "keys": [old.public, new.public] }));
    server.hands.advance_seconds(10);
    assert_eq!(scan(&server, &session, &by(&new)).await.status, 200);
    assert_eq!(scan(&server, &session, &by(&old)).await.status, 200);
    let asked = source.request_count();
    for _ in 0..20 {
        assert_eq!(scan(&server, &session, &by(&Signer::new())).await.refusal(), "401 invalid_token");
    }
    assert_eq!(source.request_count(), asked, "one fetch in ten seconds");
    server.hands.advance_seconds(10);
    assert_eq!(scan(&server, &session, &by(&Signer::new())).await.refusal(), "401 invalid_token");
    assert_eq!(source.request_count(), asked + 1);

    // A withdrawn key is refused after the next periodic fetch, which no token causes.
    source.set_json(json!({ "keys": [new.public] }));
    server.hands.advance_seconds(280);
    let session = server.generate().await;
    until("the withdrawn key is refused", async || {
        server.hands.advance_millis(100);
        scan(&server, &session, &by(&old)).await.status == 401
    })
    .await;
    assert_eq!(scan(&server, &session, &by(&new)).await.status, 200);
    server.stop().await;
}

#[test]
async fn known_keys_are_used_and_unknown_keys_answered_with_503_while_the_source_is_down() {
    let (source, address) = Source::start().await;
    let signer = Signer::new();
    source.set_answer(SourceAnswer::Status(500));
    let server = by_key_set(address, |settings| settings.session.ttl_seconds = 3600).await;
    let session = server.generate().await;
    let token = |signer: &Signer| {
        let exp = server.clock.now().as_seconds() + 3 * 86_400;
        signer.sign(&json!({ "sub": "ann", "exp": exp }))
    };
    let early = scan(&server, &session, &token(&signer)).await;
    assert_eq!(early.refusal(), "503 unavailable", "no keys have been fetched yet");
    assert!(early.header("retry-after").parse::<u32>().unwrap() > 0);
    assert!(early.header("www-authenticate").is_empty());

    source.set_json(json!({ "keys": [signer.public] }));
    server.hands.advance_seconds(15);
    until("the keys are fetched again", async || scan(&server, &session, &token(&signer)).await.status == 200).await;
    for down in [
        SourceAnswer::Status(500),
        SourceAnswer::Body("swordfish".to_owned()),
        SourceAnswer::Status(302),
        SourceAnswer::Endless,
    ] {
        source.set_answer(down);
        server.hands.advance_seconds(300);
        assert_eq!(scan(&server, &session, &token(&signer)).await.status, 200);
        until("an unknown key is answered with 503", async || {
            server.hands.advance_seconds(10);
            scan(&server, &session, &token(&Signer::new())).await.refusal() == "503 unavailable"
        })
        .await;
    }
    server.hands.advance_seconds(20 * 3600);
    let session = server.generate().await;
    assert_eq!(scan(&server, &session, &token(&signer)).await.status, 200, "known keys are used for a day");
    server.hands.advance_seconds(4 * 3600);
    let session = server.generate().await;
    assert_eq!(
        scan(&server, &session, &token(&signer)).await.refusal(),
        "503 unavailable",
        "known keys are not used for more than a day"
    );
    server.stop().await;
}

#[test]
async fn app_login_older_than_max_age_is_refused_with_a_step_up_challenge() {
    let server = Server::start_with(|settings| settings.app_auth.max_age_seconds = 300).await;
    let session = server.generate().await;
    let now = server.clock.now().as_seconds();
    for old in [json!({ "sub": "ann", "auth_time": now - 301 }), json!({ "sub": "ann" })] {
        for verb in ["scan", "confirm", "reject"] {
            let (path, body) = (format!("/v1/qr-login/{verb}"), json!({ "code": session.code }));
            let answer = server.request(Method::POST, &path, Some(&server.app_token(old.clone())), Some(body)).await;
            assert_eq!(answer.refusal(), "401 insufficient_user_authentication");
            let challenge = answer.header("www-authenticate");
            assert!(challenge.starts_with(r#"Bearer error="insufficient_user_authentication", "#), "{challenge}");
            assert!(challenge.ends_with(r#", max_age="300""#), "{challenge}");
            assert_eq!(answer.body["max_age"], 300);
        }
    }
    let unusable = server.app_token(json!({ "sub": "ann", "auth_time": "yesterday" }));
    assert_eq!(scan(&server, &session, &unusable).await.refusal(), "401 invalid_token");
    let fresh = server.app_token(json!({ "sub": "ann", "auth_time": now - 300 }));
    assert_eq!(scan(&server, &session, &fresh).await.status, 200);
    server.stop().await;
}

#[test]
async fn jwk_set_longer_than_512_kib_is_not_read() {
    for (bytes, expected) in [(512 * 1024, 200), (512 * 1024 + 1, 503)] {
        let (source, address) = Source::start().await;
        let signer = Signer::new();
        let keys = json!({ "keys": [signer.public] }).to_string();
        source.set_answer(SourceAnswer::Body(" ".repeat(bytes - keys.len()) + &keys));
        let server = by_key_set(address, |_| {}).await;
        let session = server.generate().await;
        let token = signer.sign(&claims_of(&server, "ann"));
        assert_eq!(scan(&server, &session, &token).await.status, expected, "{bytes}");
        server.stop().await;
    }
}

#[test]
async fn sighup_refetches_the_jwk_set_and_a_skipped_key_is_warned_of_once() {
    let (source, address) = Source::start().await;
    let signer = Signer::new();
    source.set_json(json!({ "keys": [{ "kty": "QUANTUM", "kid": "future" }] }));
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://{address}/");
    let environment = [("QRLOGIN_APP_AUTH__HMAC_SECRET", ""), ("QRLOGIN_APP_AUTH__JWKS_URL", &url)];
    let program = Program::serve_with(&dir, "info", &environment);
    program.until_logged("future").await;
    for times in 2..5 {
        if times == 4 {
            source.set_json(json!({ "keys": [{ "kty": "QUANTUM", "kid": "future" }, signer.public] }));
        }
        signal(program.id(), "HUP");
        until("the set is fetched", async || source.request_count() == times).await;
    }
    let session = program.generate().await;
    let claims = json!({ "sub": "ann", "exp": wall_seconds() + 60 });
    let body = json!({ "code": session["code"] });
    let scanned = program.post("/v1/qr-login/scan", Some(&signer.sign(&claims)), body).await.unwrap();
    assert_eq!(scanned.status, 200);
    let (_, log) = program.terminate();
    assert_eq!(log.matches("future").count(), 1, "{log}");
    let line = log.lines().find(|line| line.contains("future")).unwrap();
    for part in ["\"WARN\"", "app_auth.jwks_url", "kty is not"] {
        assert!(line.contains(part), "'{part}' is missing in {line}");
    }
}

#[test]
async fn nbf_has_a_leeway_of_five_seconds() {
    let server = Server::start().await;
    let session = server.generate().await;
    let from = |seconds: i64| {
        let nbf = server.clock.now().as_seconds() + seconds;
        server.app_token(json!({ "sub": "ann", "nbf": nbf }))
    };
    assert_eq!(scan(&server, &session, &from(6)).await.refusal(), "401 invalid_token");
    assert_eq!(scan(&server, &session, &from(5)).await.status, 200);
    server.stop().await;
}

#[test]
async fn control_characters_are_refused_in_the_user_id_and_removed_from_displayed_claims() {
    let servers = [Server::start().await, {
        Server::start_with(|settings| settings.app_auth.user_claim = "uid".to_owned()).await
    }];
    let sessions = [servers[0].generate().await, servers[1].generate().await];
    let mut cases = 0;
    for control in (0..=0x10FFFF).filter_map(char::from_u32).filter(|letter| letter.is_control()) {
        for text in [format!("{control}ann"), format!("an{control}n"), format!("ann{control}"), control.to_string()] {
            for ((server, session), claim) in servers.iter().zip(&sessions).zip(["sub", "uid"]) {
                let refused = scan(server, session, &server.app_token(json!({ claim: text }))).await;
                assert_eq!(refused.refusal(), "401 invalid_token", "{claim} {text:?}");
                let detail = refused.body["detail"].as_str().unwrap();
                assert!(detail.contains(&format!("'{claim}'")) && detail.contains("control character"), "{detail}");
                cases += 1;
            }
            let (server, session) = (&servers[0], servers[0].generate().await);
            let picture = format!("https://a.example/{text}");
            let token = server.app_token(json!({ "sub": "ann", "name": text, "picture": picture }));
            assert_eq!(scan(server, &session, &token).await.status, 200, "{text:?}");
            let user = server.status(&session).await.body["user"].clone();
            let expected = match text.replace(control, "").as_str() {
                "" => Value::Null,
                name => json!({ "name": name }),
            };
            assert_eq!(user, expected, "{text:?}");
            cases += 1;
        }
    }
    assert_eq!(cases, 65 * 4 * 3);
    for server in servers {
        server.stop().await;
    }
}

#[test]
async fn skipped_keys_without_a_kid_are_named_by_their_position_in_the_set() {
    let (source, address) = Source::start().await;
    let signer = Signer::new();
    source.set_json(json!({ "keys": [
        signer.public,
        { "kty": "QUANTUM" },
        "no key",
        { "kty": "QUANTUM", "kid": 7 },
        { "kty": "QUANTUM", "kid": "" },
        { "kty": "QUANTUM", "kid": "future" },
    ] }));
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://{address}/");
    let environment = [("QRLOGIN_APP_AUTH__HMAC_SECRET", ""), ("QRLOGIN_APP_AUTH__JWKS_URL", &url)];
    let program = Program::serve_with(&dir, "info", &environment);
    program.until_logged("future").await;
    signal(program.id(), "HUP");
    program.until_logged("\"reloaded\"").await;
    let (_, log) = program.terminate();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let skipped = lines.filter(|line| line["event"] == "key of app tokens skipped");
    let named: Vec<_> = skipped.map(|line| line["key"].as_str().unwrap().to_owned()).collect();
    let expected = ["key 2 of the set", "key 3 of the set", "key 4 of the set", "key 5 of the set", "future"];
    assert_eq!(named, expected, "each once: {log}");
}

#[test]
async fn claims_that_are_passed_on_are_refused_with_control_characters_at_any_depth() {
    let server = Server::start_with(|settings| {
        settings.token.claims = vec!["email".to_owned(), "groups".to_owned()];
    })
    .await;
    let session = server.generate().await;
    let scanned = async |claims: Value| {
        let mut claims = claims;
        claims["sub"] = json!("ann");
        scan(&server, &session, &server.app_token(claims)).await
    };
    for (claim, value) in [
        ("email", json!("a\0b")),
        ("email", json!("a\u{1b}[2J")),
        ("email", json!("a\u{85}b")),
        ("groups", json!(["staff", "a\u{7f}"])),
        ("groups", json!([[{ "names": { "deep\u{8}": 1 } }]])),
        ("groups", json!([[{ "names": { "deep": [null, true, 1, "\u{b}"] } }]])),
    ] {
        let refused = scanned(json!({ claim: value })).await;
        assert_eq!(refused.refusal(), "401 invalid_token", "{value}");
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("'{claim}'")) && detail.contains("control character"), "{value}: {detail}");
    }
    assert_eq!(server.metric("qrlogin_app_tokens_refused_total{reason=\"claim\"}").await, 6);
    // A claim that is not passed on may have any content.
    assert_eq!(scanned(json!({ "locale": "a\0b" })).await.status, 200);
    let kept = json!({ "email": "a@a.example", "groups": [{ "note\t": "two\r\nlines" }, 7, null] });
    assert_eq!(scanned(kept.clone()).await.status, 200);
    let mut claims = kept.clone();
    claims["sub"] = json!("ann");
    let (token, body) = (server.app_token(claims), json!({ "code": session.code }));
    let confirm = server.request(Method::POST, "/v1/qr-login/confirm", Some(&token), Some(body)).await;
    assert_eq!(confirm.status, 200);
    let answer = server.status(&session).await;
    let passed_on = unverified_claims(answer.body["web_token"].as_str().unwrap());
    assert_eq!((&passed_on["email"], &passed_on["groups"]), (&kept["email"], &kept["groups"]));
    server.stop().await;
}

#[test(needs(Postgres))]
async fn token_with_nul_is_refused_or_stored_without_it_on_postgres() {
    let (_postgres, nodes) = crate::many_nodes::nodes(1, None).await;
    let server = &nodes[0];
    let session = server.generate().await;
    let mut browser = server.browser(&session).await;
    browser.frame("pending").await;
    let refused = scan(server, &session, &app_token(json!({ "sub": "a\0nn" }))).await;
    assert_eq!(refused.refusal(), "401 invalid_token");
    assert!(refused.body["detail"].as_str().unwrap().contains("'sub'"), "{}", refused.body);
    let claims = json!({ "sub": "ann", "name": "An\0n", "picture": "https://a.example/\0" });
    assert_eq!(scan(server, &session, &app_token(claims)).await.status, 200);
    assert_eq!(browser.frame("scanned").await["user"], json!({ "name": "Ann" }));
}
