//! The command `login`, against an authorization server of the test, and against qrlogin itself.

mod authorization_server;
mod servers;

use std::process::ExitStatus;

use futures_util::SinkExt as _;
use qrlogin_testing::keys::new_signing_key;
use qrlogin_testing::program::{qrlogin, run};
use qrlogin_testing::test;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use authorization_server::{
    ACCESS_TOKEN, Answers, AuthorizationServer, CLIENT, DEVICE_CODE, Issuer, USER_CODE, at_hash, error, signed,
    subdirectory,
};

const OPENID_PATH: &str = "/.well-known/openid-configuration";
const OAUTH_PATH: &str = "/.well-known/oauth-authorization-server";

/// A finished run of the command.
struct Run {
    status: ExitStatus,
    stdout: String,
    stderr: String,
}

impl Run {
    /// Runs `login` at the server, with more flags.
    fn of(server: &AuthorizationServer, flags: &[&str]) -> Self {
        let flags = [&["login", "--issuer", &server.issuer, "--client-id", CLIENT], flags].concat();
        let (status, stdout, stderr) = run(&mut qrlogin(server.dir.path(), &flags));
        for secret in [DEVICE_CODE, ACCESS_TOKEN] {
            assert!(!stderr.contains(secret), "{stderr}");
        }
        Self { status, stdout, stderr }
    }

    /// Asserts that the login has succeeded. Returns the token response.
    fn tokens(&self) -> Value {
        assert!(self.status.success(), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Asserts that the login has failed with this exit code and a message that contains `part`, without tokens.
    fn failed(&self, code: i32, part: &str) {
        assert_eq!((self.status.code(), self.stdout.as_str()), (Some(code), ""), "{part}: {}", self.stderr);
        let message = self.stderr.lines().last().unwrap();
        assert!(message.starts_with("qrlogin: ") && message.contains(part), "'{part}' is missing in: {message}");
    }
}

/// Runs a login with changed answers of the server.
async fn login(change: impl FnOnce(&mut Answers, &Issuer)) -> Run {
    Run::of(&AuthorizationServer::start(change).await, &[])
}

#[test]
async fn login_shows_the_code_and_prints_the_tokens() {
    let pending = error("authorization_pending");
    let server = AuthorizationServer::start(|answers, _| answers.polls.insert(0, pending)).await;
    let run = Run::of(&server, &[]);
    let tokens = run.tokens();
    assert_eq!((&tokens["access_token"], &tokens["refresh_token"]), (&json!(ACCESS_TOKEN), &json!("8xLOxBtZp8")));
    assert_eq!((&tokens["expires_in"], &tokens["refresh_expires_in"]), (&json!(3600), &json!(1800)));
    assert_eq!(tokens["id_token"].as_str().unwrap().split('.').count(), 3);
    // The QR code, the URL and the code to compare or type (RFC 8628 §3.3.1).
    assert!(run.stderr.lines().filter(|line| line.contains('█')).count() > 10, "{}", run.stderr);
    assert!(run.stderr.contains(&format!("{}/device and enter the code {USER_CODE}\n", server.issuer)));
    assert!(run.stderr.contains("for 30 minutes") && run.stderr.ends_with("Logged in as Ada Lovelace.\n"));
    assert!(!run.stderr.contains('\x1b'), "a file receives no escape sequences");
    let begun = server.requests("/device_authorization");
    assert_eq!((begun[0].form["client_id"].as_str(), begun[0].form["scope"].as_str()), (CLIENT, "openid profile"));
    let polls = server.requests("/token");
    assert_eq!(polls.len(), 2);
    for poll in polls {
        assert_eq!(poll.form["grant_type"], "urn:ietf:params:oauth:grant-type:device_code");
        assert_eq!((poll.form["device_code"].as_str(), poll.form["client_id"].as_str()), (DEVICE_CODE, CLIENT));
        assert_eq!(poll.authorization, None);
    }
}

#[test]
async fn one_token_can_be_printed_alone() {
    let server = AuthorizationServer::start(|_, _| {}).await;
    assert_eq!(Run::of(&server, &["--output", "access-token"]).stdout, format!("{ACCESS_TOKEN}\n"));
    let run = Run::of(&server, &["--output", "id-token"]);
    assert_eq!(run.stdout.trim().split('.').count(), 3, "{}", run.stderr);
    let begun = server.requests("/device_authorization").len();
    Run::of(&server, &["--output", "id-token", "--scope", "profile"]).failed(1, "needs the scope openid");
    assert_eq!(server.requests("/device_authorization").len(), begun);
}

#[test]
async fn final_errors_of_the_server_have_exit_codes() {
    for (name, code, part) in [
        ("access_denied", 3, "rejected"),
        ("expired_token", 4, "expired"),
        ("invalid_grant", 1, "invalid_grant"),
        ("invalid_client", 1, "invalid_client"),
        ("unauthorized_client", 1, "unauthorized_client"),
        ("unsupported_grant_type", 1, "unsupported_grant_type"),
        ("an_unknown_one", 1, "an_unknown_one"),
    ] {
        login(|answers, _| answers.polls = vec![error(name)]).await.failed(code, part);
    }
    for name in ["invalid_client", "invalid_scope", "unauthorized_client"] {
        let run = login(|answers, _| drop(answers.by_path.insert("/device_authorization".into(), error(name)))).await;
        run.failed(1, name);
    }
    let broken = login(|answers, _| answers.polls = vec![(200, json!({ "access_token": 7, "id_token": "" }))]).await;
    broken.failed(1, "is not one of RFC 8628");
}

#[test]
async fn code_that_expires_during_the_polls_ends_the_login() {
    let run = login(|answers, _| {
        answers.change("/device_authorization", json!({ "expires_in": 1 }));
        answers.polls = vec![error("authorization_pending")];
    });
    run.await.failed(4, "expired");
}

#[test]
async fn unavailable_token_endpoint_is_polled_again() {
    for status in [503, 429] {
        let unavailable = (status, json!("not an object"));
        let run = login(|answers, _| answers.polls.insert(0, unavailable)).await;
        assert_eq!(run.tokens()["access_token"], ACCESS_TOKEN);
    }
    login(|answers, _| answers.by_path.get_mut("/device_authorization").unwrap().0 = 503).await.failed(1, "503");
}

#[test]
async fn invalid_id_token_is_refused() {
    let with = async |claims: Value| {
        login(|answers, issuer| answers.polls = vec![issuer.tokens(Some(issuer.id_token(claims)))]).await
    };
    with(json!({ "iss": "https://evil.example" })).await.failed(1, "issuer");
    with(json!({ "aud": "another client" })).await.failed(1, "audience");
    with(json!({ "aud": [CLIENT, "another client"] })).await.failed(1, "audience");
    with(json!({ "exp": 1 })).await.failed(1, "expired");
    with(json!({ "at_hash": at_hash("another token") })).await.failed(1, "at_hash");
    with(json!({ "at_hash": at_hash(ACCESS_TOKEN) })).await.tokens();
    with(json!({ "name": null, "email": "ada@example.org" })).await.tokens();
    login(|answers, issuer| answers.polls = vec![issuer.tokens(None)]).await.failed(1, "there is none");
    let forged = login(|answers, issuer| {
        let dir = tempfile::tempdir().unwrap();
        let mut key = new_signing_key(&subdirectory(dir.path(), "keys"));
        key.kid.clone_from(&issuer.key.kid);
        let claims = qrlogin_testing::harness::claims_of(&issuer.id_token(json!({})));
        answers.polls = vec![issuer.tokens(Some(signed(&key, &claims)))];
    });
    forged.await.failed(1, "Signature verification failed");
    let disallowed = login(|answers, _| {
        answers.change(OPENID_PATH, json!({ "id_token_signing_alg_values_supported": ["RS256"] }));
    });
    disallowed.await.failed(1, "EdDSA");
}

#[test]
async fn login_without_openid_needs_no_id_token_and_no_keys() {
    let server = AuthorizationServer::start(|answers, issuer| {
        answers.polls = vec![issuer.tokens(None)];
        answers.change(OPENID_PATH, json!({ "jwks_uri": null, "id_token_signing_alg_values_supported": null }));
    });
    let server = server.await;
    let run = Run::of(&server, &["--scope", "files  mail"]);
    let tokens = run.tokens();
    assert_eq!((&tokens["access_token"], tokens.get("id_token")), (&json!(ACCESS_TOKEN), None));
    assert_eq!(server.requests("/device_authorization")[0].form["scope"], "files mail");
    assert!(!run.stderr.contains("Logged in as"));
}

#[test]
async fn metadata_of_the_issuer_are_required_and_checked() {
    let oauth = AuthorizationServer::start_at("/tenant", |answers, _| {
        let metadata = answers.by_path.remove("/tenant/.well-known/openid-configuration").unwrap();
        answers.by_path.insert(format!("{OAUTH_PATH}/tenant"), metadata);
    });
    Run::of(&oauth.await, &[]).tokens();
    let with = async |members: Value| login(|answers, _| answers.change(OPENID_PATH, members)).await;
    with(json!({ "issuer": "https://evil.example" })).await.failed(1, "another issuer, https://evil.example");
    with(json!({ "device_authorization_endpoint": null })).await.failed(1, "no device_authorization_endpoint");
    with(json!({ "token_endpoint": null })).await.failed(1, "no token_endpoint");
    with(json!({ "token_endpoint": "http://id.example/token" })).await.failed(1, "plain http");
    with(json!({ "jwks_uri": "http://id.example/jwks" })).await.failed(1, "plain http");
    with(json!({ "jwks_uri": null })).await.failed(1, "no jwks_uri");
    login(|answers, _| drop(answers.by_path.remove(OPENID_PATH))).await.failed(1, "404");
    let mut server = AuthorizationServer::start(|_, _| {}).await;
    server.issuer.push('/');
    Run::of(&server, &[]).tokens();
    for (issuer, part) in
        [("http://id.example", "plain http"), ("id.example", "is not a URL"), ("ftp://a", "not https")]
    {
        server.issuer = issuer.to_owned();
        Run::of(&server, &[]).failed(1, part);
    }
    // Nothing listens on this port.
    server.issuer = "http://127.0.0.1:1".to_owned();
    Run::of(&server, &[]).failed(1, "does not answer");
}

#[test]
async fn client_secret_is_sent_as_the_server_supports_it() {
    for (methods, is_basic) in [
        (json!(null), true),
        (json!(["client_secret_post"]), false),
        (json!(["private_key_jwt", "client_secret_basic", "client_secret_post"]), true),
    ] {
        let server = AuthorizationServer::start(|answers, _| {
            answers.change(OPENID_PATH, json!({ "token_endpoint_auth_methods_supported": methods }));
        });
        let server = server.await;
        std::fs::write(server.dir.path().join("secret"), "a secret+1\n").unwrap();
        Run::of(&server, &["--client-secret-file", "secret"]).tokens();
        for path in ["/device_authorization", "/token"] {
            let request = &server.requests(path)[0];
            // `tv:a+secret%2B1` in base64: both parts are form-encoded first (RFC 6749 §2.3.1).
            let basic = is_basic.then_some("Basic dHY6YStzZWNyZXQlMkIx");
            assert_eq!(request.authorization.as_deref(), basic);
            let secret = request.form.get("client_secret").map(String::as_str);
            assert_eq!(secret, (!is_basic).then_some("a secret+1"));
        }
    }
    let server = AuthorizationServer::start(|_, _| {}).await;
    Run::of(&server, &["--client-secret-file", "missing"]).failed(1, "--client-secret-file: missing");
    std::fs::write(server.dir.path().join("empty"), "\n").unwrap();
    Run::of(&server, &["--client-secret-file", "empty"]).failed(1, "empty");
}

#[test]
async fn texts_of_the_server_cannot_control_the_terminal() {
    let run = login(|answers, issuer| {
        let members = json!({ "user_code": "WDJB\u{1b}[2J-MJHT\u{202e}", "verification_uri_complete": null });
        answers.change("/device_authorization", members);
        let token = issuer.id_token(json!({ "name": "Ada\u{1b}]0;title\u{7}" }));
        answers.polls = vec![issuer.tokens(Some(token))];
    });
    let run = run.await;
    run.tokens();
    assert!(run.stderr.contains("WDJB[2J-MJHT\n") && run.stderr.contains("Ada]0;title.\n"), "{}", run.stderr);
    let refused = login(|answers, _| {
        answers.polls = vec![(400, json!({ "error": "invalid_grant", "error_description": "a\u{1b}[2Jb\nc" }))];
    });
    let refused = refused.await;
    refused.failed(1, "invalid_grant");
    for text in [&run.stderr, &refused.stderr] {
        assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'), "{text:?}");
    }
}

/// Serves one WebSocket: sends these messages and closes it. Returns its URL.
async fn status_socket(messages: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/v1/ws", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        for message in messages {
            socket.send(Message::text(*message)).await.unwrap();
        }
        // The client may have left.
        drop(socket.close(None).await);
    });
    url
}

#[test]
async fn delivered_decision_is_collected_before_the_next_poll() {
    const PENDING: &str = r#"{"status":"pending","version":1,"expires_in":299}"#;
    const SCANNED: &str = r#"{"status":"scanned","version":2}"#;
    let url = status_socket(&[PENDING, SCANNED, r#"{"status":"confirmed"}"#]).await;
    // A client that polls would wait for longer than the test may take.
    let members = json!({ "interval": 600, "ws_uri": url });
    let waiting = error("authorization_pending");
    let server = AuthorizationServer::start(|answers, _| {
        answers.change("/device_authorization", members);
        answers.polls.insert(0, waiting);
    });
    let server = server.await;
    Run::of(&server, &[]).tokens();
    assert_eq!(server.requests("/token").len(), 2);
}

#[test]
async fn client_polls_if_the_socket_fails() {
    let silent = status_socket(&["no JSON"]).await;
    for url in
        [silent.as_str(), "ws://127.0.0.1:1/v1/ws", "wss://127.0.0.1:1/v1/ws", "gopher://127.0.0.1", "no URL", "ISSUER"]
    {
        let waiting = error("authorization_pending");
        let run = login(|answers, issuer| {
            // The server itself answers an upgrade with 404.
            let url = url.replace("ISSUER", &issuer.url.replace("http", "ws"));
            answers.change("/device_authorization", json!({ "ws_uri": url }));
            answers.polls.insert(0, waiting);
        });
        assert_eq!(run.await.tokens()["access_token"], ACCESS_TOKEN, "{url}");
    }
}
