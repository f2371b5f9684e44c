//! JWK Sets and tokens in the shapes that the documentation of identity providers shows. Each token is accepted, or
//! refused for the right reason.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::provider_keys::{Key, encoded};
use crate::token_source::{Source, SourceAnswer, by_key_set, scan};
use qrlogin_testing::harness::{START, Secret, Server};
use qrlogin_testing::keys::app_token_signed;
use qrlogin_testing::program::{Program, qrlogin, run, signal};
use qrlogin_testing::real_time::wall_seconds;
use qrlogin_testing::test;

const fn good() -> Option<&'static str> {
    None
}

const fn refused(reason: &'static str) -> Option<&'static str> {
    Some(reason)
}

#[test]
async fn tokens_of_each_identity_provider_are_accepted_or_refused_with_the_expected_reason() {
    let [rsa, next, other] = [Key::rsa(), Key::rsa(), Key::rsa()];
    let [p256, p384, p521, ed] = [Key::ec("P-256"), Key::ec("P-384"), Key::ec("P-521"), Key::ed()];
    let now = START.as_seconds();
    let sig = |kid: &str, alg: &str| json!({ "kid": kid, "alg": alg, "use": "sig" });
    let with_certificate =
        |kid: &str| json!({ "kid": kid, "alg": "RS256", "use": "sig", "x5t": "dGh1bWI", "x5c": ["MIIC"] });
    let entra = |kid: &str| json!({ "kid": kid, "use": "sig", "x5t": kid, "x5c": ["MIIC"], "issuer": "https://login.microsoftonline.com/t/v2.0" });
    let encryption = rsa.jwk(json!({ "kid": "enc", "use": "enc", "alg": "RSA-OAEP", "x5c": ["MIIC"] }));
    let short = json!({ "kty": "RSA", "kid": "short", "use": "sig", "e": "AQAB", "n": encoded(&[0xC5; 128]) });
    let header = |kid: &str, alg: &str| json!({ "alg": alg, "kid": kid, "typ": "JWT" });
    let unsigned = |header: Value| {
        let claims = json!({ "sub": "ann", "exp": now + 60 });
        format!("{}.{}.", encoded(header.to_string().as_bytes()), encoded(claims.to_string().as_bytes()))
    };
    let confused = { app_token_signed(p256.pem().as_bytes(), &json!({ "sub": "ann", "exp": now + 60 })) };
    let auth0 = vec![rsa.jwk(with_certificate("current")), next.jwk(with_certificate("next"))];
    let keycloak = vec![encryption.clone(), rsa.jwk(with_certificate("sig"))];
    let azure = vec![rsa.jwk(entra("a")), next.jwk(entra("b"))];
    let ping = vec![
        rsa.jwk(sig("r", "RS256")),
        p256.jwk(sig("e256", "ES256")),
        p384.jwk(sig("e384", "ES384")),
        p521.jwk(sig("e512", "ES512")),
    ];
    let one_kid =
        vec![rsa.jwk(json!({ "kid": "same", "use": "sig" })), p256.jwk(json!({ "kid": "same", "use": "sig" }))];
    let supabase = vec![p256.jwk(json!({ "kid": "s", "alg": "ES256", "key_ops": ["verify"], "ext": true }))];
    let any_rsa = vec![rsa.jwk(json!({ "kid": "k", "use": "sig" }))];

    let table: Vec<(&str, Vec<Value>, String, Option<&str>)> = vec![
        ("Auth0", auth0.clone(), rsa.token(header("current", "RS256"), now), good()),
        ("Auth0, after a rotation", auth0.clone(), next.token(header("next", "RS256"), now), good()),
        ("Auth0, another's signature", auth0, next.token(header("current", "RS256"), now), refused("signature")),
        ("Keycloak", keycloak.clone(), rsa.token(header("sig", "RS256"), now), good()),
        ("Keycloak, its encryption key", keycloak, rsa.token(header("enc", "RS256"), now), refused("unknown_key")),
        ("Keycloak, PS256", vec![rsa.jwk(sig("p", "PS256"))], rsa.token(header("p", "PS256"), now), good()),
        (
            "Keycloak, another alg than the key's",
            vec![rsa.jwk(sig("p", "PS256"))],
            rsa.token(header("p", "RS256"), now),
            refused("signature"),
        ),
        (
            "Keycloak, ES512",
            vec![encryption, p521.jwk(sig("e", "ES512"))],
            p521.token(header("e", "ES512"), now),
            good(),
        ),
        ("Keycloak, EdDSA", vec![ed.jwk(sig("d", "EdDSA"))], ed.token(header("d", "EdDSA"), now), good()),
        (
            "Entra ID",
            azure.clone(),
            rsa.token(json!({ "alg": "RS256", "kid": "a", "x5t": "a", "typ": "JWT" }), now),
            good(),
        ),
        ("AzureAD, no kid", azure.clone(), next.token(json!({ "alg": "RS256", "typ": "JWT" }), now), good()),
        ("AzureAD, no kid, another's key", azure, other.token(json!({ "alg": "RS256" }), now), refused("signature")),
        (
            "Cognito",
            vec![rsa.jwk(sig("id", "RS256")), next.jwk(sig("access", "RS256"))],
            next.token(header("access", "RS256"), now),
            good(),
        ),
        ("Cognito, alg none", vec![rsa.jwk(sig("id", "RS256"))], unsigned(header("id", "none")), refused("signature")),
        (
            "Firebase",
            vec![rsa.jwk(sig("f1", "RS256")), next.jwk(sig("f2", "RS256"))],
            rsa.token(header("f1", "RS256"), now),
            good(),
        ),
        (
            "Firebase, an hour later",
            vec![rsa.jwk(sig("f1", "RS256"))],
            rsa.token_of(header("f1", "RS256"), json!({ "sub": "ann", "exp": now - 1 })),
            refused("expired"),
        ),
        ("Supabase", supabase.clone(), p256.token(header("s", "ES256"), now), good()),
        ("Supabase, HS256 with the public key", supabase, confused, refused("signature")),
        (
            "Clerk",
            vec![rsa.jwk(sig("ins_1", "RS256"))],
            rsa.token(json!({ "alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": "ins_1", "typ": "JWT" }), now),
            good(),
        ),
        ("Ping, ES384", ping.clone(), p384.token(header("e384", "ES384"), now), good()),
        ("Ping, another curve's alg", ping, p256.token(header("e256", "ES384"), now), refused("signature")),
        ("LibreGraph, PS256", any_rsa.clone(), rsa.token(header("k", "PS256"), now), good()),
        ("an RSA key without alg, PS384", any_rsa.clone(), rsa.token(header("k", "PS384"), now), good()),
        ("an RSA key without alg, PS512", any_rsa.clone(), rsa.token(header("k", "PS512"), now), good()),
        ("an RSA key without alg, RS384", any_rsa.clone(), rsa.token(header("k", "RS384"), now), good()),
        ("an RSA key without alg, RS512", any_rsa, rsa.token(header("k", "RS512"), now), good()),
        ("two keys of one kid, the first", one_kid.clone(), rsa.token(header("same", "RS256"), now), good()),
        ("two keys of one kid, the second", one_kid, p256.token(header("same", "ES256"), now), good()),
        (
            "a P-384 key without alg",
            vec![p384.jwk(json!({ "kid": "e" }))],
            p384.token(header("e", "ES384"), now),
            good(),
        ),
        (
            "a P-521 key without alg",
            vec![p521.jwk(json!({ "kid": "e" }))],
            p521.token(header("e", "ES512"), now),
            good(),
        ),
        (
            "Ed25519 by its own name (RFC 9864)",
            vec![ed.jwk(sig("d", "Ed25519"))],
            ed.token(header("d", "Ed25519"), now),
            good(),
        ),
        ("an RSA key of 1,024 bits", vec![short], rsa.token(header("short", "RS256"), now), refused("unknown_key")),
        (
            "a key that is not for verifying",
            vec![rsa.jwk(json!({ "kid": "k", "key_ops": ["encrypt"] }))],
            rsa.token(header("k", "RS256"), now),
            refused("unknown_key"),
        ),
    ];
    for (name, keys, token, reason) in table {
        let (source, address) = Source::start().await;
        source.set_json(json!({ "keys": keys }));
        let server = by_key_set(address, |_| {}).await;
        let session = server.generate().await;
        let answer = scan(&server, &session, &token).await;
        assert_eq!(answer.status.as_u16(), if reason.is_some() { 401 } else { 200 }, "{name}: {}", answer.body);
        if let Some(reason) = reason {
            let counted = server.metric(&format!("qrlogin_app_tokens_refused_total{{reason=\"{reason}\"}}")).await;
            assert_eq!(counted, 1, "{name}: {}", answer.body);
        }
        server.stop().await;
    }
}

#[test]
async fn key_file_accepts_every_algorithm_of_its_key_type() {
    let now = START.as_seconds();
    for (key, algorithms) in [
        (Key::rsa(), &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
        (Key::ec("P-256"), &["ES256"]),
        (Key::ec("P-384"), &["ES384"]),
        (Key::ec("P-521"), &["ES512"]),
        (Key::ed(), &["EdDSA", "Ed25519"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key.pem");
        std::fs::write(&file, key.pem()).unwrap();
        let server = Server::start_with(|settings| {
            settings.app_auth.hmac_secret = Secret::default();
            settings.app_auth.public_key_file = file;
        })
        .await;
        for algorithm in algorithms {
            let session = server.generate().await;
            let token = key.token(json!({ "alg": algorithm }), now);
            assert_eq!(scan(&server, &session, &token).await.status, 200, "{algorithm}");
        }
        let session = server.generate().await;
        for bad in ["HS256", "none", "ES999"] {
            let token = key.token(json!({ "alg": bad }), now);
            assert_eq!(scan(&server, &session, &token).await.status, 401, "{bad}");
        }
        server.stop().await;
    }
}

#[test]
async fn sighup_rereads_the_key_file_and_keeps_the_old_key_if_it_is_broken() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key.pem");
    let (first, second) = (Key::ed(), Key::ec("P-256"));
    std::fs::write(&file, first.pem()).unwrap();
    let environment = [("QRLOGIN_APP_AUTH__HMAC_SECRET", ""), ("QRLOGIN_APP_AUTH__PUBLIC_KEY_FILE", "key.pem")];
    let program = Program::serve_with(&dir, "info", &environment);
    let now = wall_seconds();
    let scanned_by = async |token: String| {
        let session = program.generate().await;
        program
            .post("/v1/qr-login/scan", Some(&token), json!({ "code": session["code"] }))
            .await
            .unwrap()
            .status
            .as_u16()
    };
    let by_first = async || scanned_by(first.token(json!({ "alg": "EdDSA" }), now)).await;
    let by_second = async || scanned_by(second.token(json!({ "alg": "ES256" }), now)).await;
    assert_eq!((by_first().await, by_second().await), (200, 401));
    std::fs::write(&file, "no key").unwrap();
    signal(program.id(), "HUP");
    program.until_logged("\"key of app tokens not read\"").await;
    assert_eq!((by_first().await, by_second().await), (200, 401));
    std::fs::write(&file, second.pem()).unwrap();
    signal(program.id(), "HUP");
    program.until_logged("\"key of app tokens read again\"").await;
    assert_eq!((by_first().await, by_second().await), (401, 200));
}

/// Returns other ways in which the value of a member is published: with padding, in the standard alphabet, and broken
/// into lines. A number also has spellings with additional zero octets before it, and without those that its length
/// demands.
fn spellings(value: &str, is_number: bool) -> Vec<String> {
    let octets = URL_SAFE_NO_PAD.decode(value).unwrap();
    let standard = STANDARD.encode(&octets);
    let lines: Vec<_> = standard.as_bytes().chunks(16).map(|line| str::from_utf8(line).unwrap()).collect();
    let mut all = vec![
        value.to_owned(),
        URL_SAFE.encode(&octets),
        standard.clone(),
        STANDARD_NO_PAD.encode(&octets),
        lines.join("\r\n"),
    ];
    if is_number {
        all.extend([1, 2, 5].map(|zeros| encoded(&[&vec![0; zeros][..], &octets].concat())));
        let first = octets.iter().position(|octet| *octet != 0).unwrap();
        all.push(encoded(&octets[first..]));
    }
    all
}

#[test]
async fn jwk_members_are_accepted_in_every_spelling() {
    let now = START.as_seconds();
    // A key with a coordinate that begins with a zero octet, as one key in 128 has.
    let short = std::iter::repeat_with(|| Key::ec("P-256")).find(|key| {
        let Key::Ec(_, pair) = key else { unreachable!() };
        let point = pair.public_key().as_ref();
        point[1] == 0 || point[33] == 0
    });
    let keys = [
        (Key::rsa(), "RS256"),
        (Key::ec("P-256"), "ES256"),
        (short.unwrap(), "ES256"),
        (Key::ec("P-384"), "ES384"),
        (Key::ec("P-521"), "ES512"),
        (Key::ed(), "EdDSA"),
    ];
    let (mut published, mut tokens) = (Vec::new(), Vec::new());
    for (key, algorithm) in &keys {
        let jwk = key.jwk(json!({}));
        for member in ["n", "e", "x", "y"] {
            let Some(value) = jwk[member].as_str() else { continue };
            for spelling in spellings(value, jwk["kty"] != "OKP") {
                let kid = published.len().to_string();
                let mut spelled = jwk.clone();
                spelled["kid"] = json!(kid);
                spelled[member] = json!(spelling);
                published.push(spelled);
                let token = key.token(json!({ "alg": algorithm, "kid": kid }), now);
                tokens.push((token, format!("{algorithm}, {member}: {spelling:?}")));
            }
        }
    }
    assert_eq!(tokens.len(), 5 * 2 * 9 + 5);
    let (source, address) = Source::start().await;
    source.set_answer(SourceAnswer::Body(format!("\u{FEFF}{}", json!({ "keys": published }))));
    let server = by_key_set(address, |_| {}).await;
    for (token, what) in tokens {
        let session = server.generate().await;
        let answer = scan(&server, &session, &token).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.body);
    }
    server.stop().await;
}

/// Runs `check-config` with `keys.pem` as the key file. Returns whether it succeeds, and what it prints on standard
/// error.
fn check_key_file(dir: &Path) -> (bool, String) {
    let mut command = qrlogin(dir, &["check-config", "--set", "app_auth.public_key_file=keys.pem"]);
    let (status, _, printed) = run(command.env_remove("QRLOGIN_APP_AUTH__HMAC_SECRET"));
    (status.success(), printed)
}

#[test(needs(Openssl))]
async fn every_key_of_a_key_file_is_used_and_other_pem_blocks_are_refused() {
    let keys = [(Key::ec("P-256"), "ES256"), (Key::rsa(), "RS256"), (Key::ec("P-256"), "ES256"), (Key::ed(), "EdDSA")];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.pem");
    let text: String = keys.iter().map(|(key, _)| key.pem()).collect();
    std::fs::write(&file, format!("\u{FEFF}{text}")).unwrap();
    let server = Server::start_with(|settings| {
        settings.app_auth.hmac_secret = Secret::default();
        settings.app_auth.public_key_file.clone_from(&file);
    })
    .await;
    let now = START.as_seconds();
    for (key, algorithm) in &keys {
        let session = server.generate().await;
        assert_eq!(scan(&server, &session, &key.token(json!({ "alg": algorithm }), now)).await.status, 200);
    }
    let session = server.generate().await;
    let other = Key::ec("P-256").token(json!({ "alg": "ES256" }), now);
    assert_eq!(scan(&server, &session, &other).await.status, 401);
    server.stop().await;
    let certificate = pem::encode(&pem::Pem::new("CERTIFICATE", *b"no key"));
    let openssl = |arguments: &[&str]| {
        let done = std::process::Command::new("openssl").args(arguments).current_dir(dir.path()).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    };
    let rsa_of =
        |bits: &str| openssl(&["genpkey", "-algorithm", "RSA", "-pkeyopt", &format!("rsa_keygen_bits:{bits}")]);
    let (private, short) = (rsa_of("2048"), rsa_of("1024"));
    std::fs::write(dir.path().join("short"), short).unwrap();
    for (text, part) in [
        (private, "block 1"),
        (openssl(&["pkey", "-in", "short", "-pubout"]), "2,048 to 8,192 bits"),
        (format!("{text}{certificate}"), "block 5"),
        (format!("{text}-----BEGIN PUBLIC KEY-----\nMFkw"), "block 5"),
        (format!("{}{text}", &text[..60]), "block 1"),
        (String::new(), "public key in PEM form"),
        (keys[0].0.pem().repeat(17), "more than 16 keys"),
    ] {
        std::fs::write(&file, text).unwrap();
        let (is_valid, error) = check_key_file(dir.path());
        assert!(!is_valid && error.contains("app_auth.public_key_file") && error.contains(part), "{error}");
    }
}

#[test]
fn key_file_writable_by_others_is_refused_and_key_file_writable_by_its_group_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys.pem");
    std::fs::write(&file, Key::ed().pem()).unwrap();
    for (mode, is_used, is_warned_of) in [
        (0o600, true, false),
        (0o444, true, false),
        (0o644, true, false),
        (0o664, true, true),
        (0o646, false, false),
        (0o666, false, false),
        (0o602, false, false),
    ] {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let (is_valid, printed) = check_key_file(dir.path());
        assert_eq!(is_valid, is_used, "{mode:o}: {printed}");
        assert_eq!(printed.contains("chmod"), !is_used || is_warned_of, "{mode:o}: {printed}");
        if !is_used || is_warned_of {
            for part in ["app_auth.public_key_file", "keys.pem", "log in as any user"] {
                assert!(printed.contains(part), "'{part}' is missing in: {printed}");
            }
        }
    }
}
