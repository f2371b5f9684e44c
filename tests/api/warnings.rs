//! Faults of services and files that the server depends on. Each is warned of at the default log level, with its cause
//! and its consequence, at the start and while the server runs, at most once a minute.

use std::fs;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::token_source::{Source, SourceAnswer};
use qrlogin_testing::program::{Program, SERVE, qrlogin, run, signal};
use qrlogin_testing::real_time::{sleep_millis, until};
use qrlogin_testing::services::{Postgres, Redis, connect, free_port};
use qrlogin_testing::test;

/// Returns the warnings with this event.
fn warnings(program: &Program, event: &str) -> Vec<Value> {
    let log = program.log();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter(|line| line["event"] == event && line["level"] == "WARN").collect()
}

/// Waits for the first warning with this event and returns its line.
async fn warned(program: &Program, event: &str) -> String {
    until(event, async || {
        sleep_millis(20).await;
        !warnings(program, event).is_empty()
    })
    .await;
    warnings(program, event)[0].to_string()
}

fn node(dir: &TempDir, database_url: &str, bus_url: &str) -> Program {
    let environment = [("QRLOGIN_DATABASE_URL", database_url), ("QRLOGIN_BUS_URL", bus_url)];
    Program::serve_with(dir, "info", &environment)
}

async fn is_connected(program: &Program) -> bool {
    program.metric("qrlogin_bus_connected").await == "1"
}

#[test(needs(Postgres, Redis))]
async fn unusable_redis_is_warned_of_at_the_start() {
    let (postgres, redis) = (Postgres::shared().await, Redis::start());
    let all = ["allchannels", "+@all"];
    let mute = redis.permit("mute", &[&all[..], &["-publish"]].concat()).await;
    let deaf = redis.permit("deaf", &[&all[..], &["-subscribe"]].concat()).await;
    let no_channel = redis.permit("nochannel", &["+@all", "resetchannels"]).await;
    let wrong_password = mute.replace("swordfish", "hunter2");
    let wrong_user = mute.replace("mute", "unknown");
    let refused = format!("redis://127.0.0.1:{}", free_port());
    let cases = [
        ("without PUBLISH", &mute, &["NoPerm", "publish"][..]),
        ("without SUBSCRIBE", &deaf, &["NoPerm", "subscribe"]),
        ("without the channels", &no_channel, &["NoPerm", "channel"]),
        ("a wrong password", &wrong_password, &["assword"]),
        ("an unknown user", &wrong_user, &["assword"]),
        ("nothing that listens", &refused, &["refused"]),
        ("an unknown host", &"redis://redis.invalid".to_owned(), &[]),
        ("another protocol", &format!("redis://127.0.0.1:{}", postgres.port), &[]),
    ];
    let database = &postgres.database().await;
    join_all(cases.map(|(name, url, words)| async move {
        let dir = tempfile::tempdir().unwrap();
        let program = node(&dir, database, url);
        let line = warned(&program, "bus not connected").await;
        for word in [&["\"setting\":\"bus_url\"", "two seconds later"][..], words].concat() {
            assert!(line.contains(word), "{name}: '{word}' is missing in {line}");
        }
        assert!(!is_connected(&program).await, "{name}");
        // The server connects again and again, without another warning.
        sleep_millis(8000).await;
        let log = program.log();
        assert_eq!(warnings(&program, "bus not connected").len(), 1, "{name}: {log}");
        assert!(!log.contains("swordfish") && !log.contains("hunter2"), "{name}: {log}");
        assert!(!is_connected(&program).await, "{name}");
    }))
    .await;
}

#[test(needs(Postgres, Redis))]
async fn permissions_that_redis_revokes_and_grants_are_detected_while_the_server_runs() {
    let (postgres, redis) = (Postgres::shared().await, Redis::start());
    let url = redis.permit("node", &["allchannels", "+@all"]).await;
    let dir = tempfile::tempdir().unwrap();
    let program = node(&dir, &postgres.database().await, &url);
    until("the bus is connected", async || is_connected(&program).await).await;
    redis.permit("node", &["-publish"]).await;
    let line = warned(&program, "bus not connected").await;
    assert!(line.contains("publish"), "{line}");
    assert!(!is_connected(&program).await);
    redis.permit("node", &["+publish"]).await;
    until("the bus is connected again", async || is_connected(&program).await).await;
    until("that is logged", async || program.log().matches("\"bus connected\"").count() == 2).await;
}

#[test(needs(Postgres))]
async fn postgres_that_refuses_the_listening_connection_is_warned_of() {
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    let admin = connect(&url).await.unwrap();
    admin.batch_execute("CREATE ROLE few LOGIN SUPERUSER").await.unwrap();
    let few = url.replace("qrlogin@", "few@");
    let dir = tempfile::tempdir().unwrap();
    let environment = [("QRLOGIN_DATABASE_URL", few.as_str()), ("QRLOGIN_DATABASE_CONNECTIONS", "1")];
    let program = Program::serve_with(&dir, "info", &environment);
    until("the bus is connected", async || is_connected(&program).await).await;
    // Connection limits do not apply to superusers.
    let take_listener = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE usename = 'few' AND (query LIKE 'NOTIFY%' OR query LIKE 'LISTEN%' OR query = '')";
    admin.batch_execute("ALTER ROLE few NOSUPERUSER CONNECTION LIMIT 0").await.unwrap();
    let terminated = admin.query(take_listener, &[]).await.unwrap();
    assert!(!terminated.is_empty());
    let line = warned(&program, "bus not connected").await;
    assert!(line.contains("\"setting\":\"database_url\"") && line.contains("two seconds later"), "{line}");
    assert!(!is_connected(&program).await);
    admin.batch_execute("ALTER ROLE few CONNECTION LIMIT -1").await.unwrap();
    until("the bus is connected again", async || is_connected(&program).await).await;
}

#[test(needs(Postgres))]
async fn database_that_is_not_utf8_is_refused() {
    let postgres = Postgres::shared().await;
    let dir = tempfile::tempdir().unwrap();
    for encoding in ["SQL_ASCII", "LATIN1", "EUC_JP"] {
        let url = postgres.database_with(&format!("ENCODING '{encoding}' TEMPLATE template0")).await;
        let (status, _, stderr) = run(qrlogin(dir.path(), &SERVE).env("QRLOGIN_DATABASE_URL", &url));
        assert_eq!(status.code(), Some(1), "{stderr}");
        for word in ["database_url", encoding, "must be UTF8"] {
            assert!(stderr.contains(word), "'{word}' is missing in: {stderr}");
        }
    }
}

/// Starts a server that verifies app tokens by this setting.
fn verifying(dir: &TempDir, setting: &str, url: &str) -> Program {
    let environment = [("QRLOGIN_APP_AUTH__HMAC_SECRET", ""), (setting, url)];
    Program::serve_with(dir, "info", &environment)
}

#[test]
async fn unusable_source_of_app_tokens_is_warned_of_once_a_minute() {
    let refused = format!("http://127.0.0.1:{}/", free_port());
    let (forbidding, address) = Source::start().await;
    forbidding.set_answer(SourceAnswer::Status(401));
    let forbidden = format!("http://{address}/");
    let (empty, address) = Source::start().await;
    empty.set_json(json!({ "keys": [{ "kty": "oct", "kid": "shared", "k": "AA" }] }));
    let no_key = format!("http://{address}/");
    let (keys, introspection) = ("QRLOGIN_APP_AUTH__JWKS_URL", "QRLOGIN_APP_AUTH__INTROSPECTION_URL");
    let cases = [
        (keys, &refused, "keys of app tokens not fetched", &["app_auth.jwks_url", "refused", "503"]),
        (keys, &forbidden, "keys of app tokens not fetched", &["app_auth.jwks_url", "401 Unauthorized", "503"]),
        (keys, &no_key, "no keys of app tokens", &["app_auth.jwks_url", "\"published\":1", "refused with 401"]),
        (introspection, &refused, "app token not introspected", &["app_auth.introspection_url", "refused", "503"]),
        (introspection, &forbidden, "app token not introspected", &["app_auth.introspection_url", "401", "503"]),
    ];
    join_all(cases.map(|(setting, url, event, words)| async move {
        let dir = tempfile::tempdir().unwrap();
        let program = verifying(&dir, setting, url);
        let line = warned(&program, event).await;
        for word in words {
            assert!(line.contains(word), "'{word}' is missing in {line}");
        }
        // Requests and reloads meet the same fault.
        for number in 0..5 {
            let session = program.generate().await;
            let token = format!("{}.{number}", "eyJhbGciOiJFZERTQSJ9.e30");
            let body = json!({ "code": session["code"] });
            let answer = program.post("/v1/qr-login/scan", Some(&token), body).await.unwrap();
            assert!([401, 503].contains(&answer.status.as_u16()));
            signal(program.id(), "HUP");
        }
        program.until_logged("\"reloaded\"").await;
        sleep_millis(1000).await;
        assert_eq!(warnings(&program, event).len(), 1, "{}", program.log());
    }))
    .await;
}

#[test]
async fn introspection_endpoint_is_warned_of_if_it_accepts_any_token() {
    let (source, address) = Source::start().await;
    source.set_json(json!({ "active": false }));
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://{address}/");
    let program = verifying(&dir, "QRLOGIN_APP_AUTH__INTROSPECTION_URL", &url);
    sleep_millis(1000).await;
    assert!(!program.log().contains("WARN"), "{}", program.log());

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let routes = axum::Router::new().fallback(async || json!({ "active": true, "sub": "ann" }).to_string());
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let dir = tempfile::tempdir().unwrap();
    let program = verifying(&dir, "QRLOGIN_APP_AUTH__INTROSPECTION_URL", &url);
    let line = warned(&program, "app tokens not verified").await;
    assert!(line.contains("accepts any token"), "{line}");
}

#[test]
async fn invalid_geoip_files_and_signing_keys_are_warned_of_once_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    crate::geolocation::write_city_file(&dir.path().join("city.mmdb"));
    let program = Program::serve_with(&dir, "info", &[("QRLOGIN_GEOIP__CITY_FILE", "city.mmdb")]);
    fs::write(dir.path().join("city.mmdb"), "no database").unwrap();
    fs::write(dir.path().join("keys/broken.pem"), "no key").unwrap();
    for reloads in 1..=4 {
        signal(program.id(), "HUP");
        until("it has reloaded", async || {
            sleep_millis(20).await;
            program.log().matches("\"reloaded\"").count() == reloads
        })
        .await;
    }
    for (event, words) in [
        ("database not read", ["geoip.city_file", "not a MaxMind database", "read before"]),
        ("keys not read", ["token.key_dir", "broken.pem", "stay as they were"]),
    ] {
        assert_eq!(warnings(&program, event).len(), 1, "{}", program.log());
        let line = warnings(&program, event)[0].to_string();
        for word in words {
            assert!(line.contains(word), "'{word}' is missing in {line}");
        }
    }
}

#[test]
async fn refused_oauth_client_is_warned_of_once_a_minute_without_its_secret() {
    let dir = tempfile::tempdir().unwrap();
    let hash = qrlogin_testing::harness::hash_secret("the secret of a web application").unwrap();
    let client = "[[oauth.clients]]\nid = 'charts'\nname = 'Charts'\nredirect_uris = ['https://charts.example/cb']\n";
    fs::write(dir.path().join("qrlogin.toml"), format!("{client}secret_hashes = ['{hash}']\n")).unwrap();
    let program = Program::serve_with(&dir, "info", &[]);
    for _ in 0..3 {
        let request =
            program.http.post(format!("{}/oauth/token", program.base)).basic_auth("charts", Some("swordfish"));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        assert_eq!(request.body("grant_type=refresh_token").send().await.unwrap().status(), 401);
    }
    let line = warned(&program, "client refused").await;
    assert!(line.contains("charts") && line.contains("its credentials are wrong"), "{line}");
    assert_eq!(warnings(&program, "client refused").len(), 1);
    assert!(!program.log().contains("swordfish"), "{}", program.log());
    drop(program);

    let program = Program::serve_with(&dir, "info", &[]);
    let query = "client_id=charts&response_type=code&redirect_uri=https://charts.example/wrong?state=swordfish";
    let page = program.http.get(format!("{}/oauth/authorize?{query}", program.base)).send().await.unwrap();
    assert_eq!(page.status(), 400);
    let line = warned(&program, "client refused").await;
    assert!(line.contains("charts") && line.contains("'https://charts.example/wrong' is not registered"), "{line}");
    assert!(!program.log().contains("swordfish"), "{}", program.log());
}
