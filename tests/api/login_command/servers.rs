//! The command `login` at `qrlogin serve` and `qrlogin demo`.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStderr, Stdio};

use qrlogin_testing::demo::DemoServer;
use qrlogin_testing::harness::claims_of;
use qrlogin_testing::keys::app_token;
use qrlogin_testing::program::{Program, TimeLimit, ended, qrlogin};
use qrlogin_testing::test;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::Run;
use crate::base_path::Proxy;
use crate::demo_visitor::Visitor;

/// Settings of a server whose devices poll once a minute, which is longer than a test may take.
const SETTINGS: &str = r#"
[oauth]
poll_interval_seconds = 60

[[oauth.clients]]
id = "tool"
name = "A tool"
auth_method = "none"
grant_types = ["device_code"]
"#;

/// A running `qrlogin login`, which has shown its code.
struct Login {
    child: Child,
    stderr: BufReader<ChildStderr>,
    shown: String,
    /// Code that the user types.
    user_code: String,
    _limit: TimeLimit,
}

impl Login {
    /// Starts the command, and reads its messages until it waits.
    fn start(dir: &Path, issuer: &str, client_id: &str) -> Self {
        let mut command = qrlogin(dir, &["login", "--issuer", issuer, "--client-id", client_id]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let limit = TimeLimit::of(&child);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut shown = String::new();
        while !shown.contains("Waiting for you") {
            assert!(stderr.read_line(&mut shown).unwrap() > 0, "the command has ended: {shown}");
        }
        let (_, user_code) = shown.split_once("and enter the code ").unwrap();
        let user_code = user_code.lines().next().unwrap().to_owned();
        Self { child, stderr, shown, user_code, _limit: limit }
    }

    /// Waits until the command has ended.
    fn ended(mut self) -> Run {
        let (mut stdout, mut stderr) = (String::new(), self.shown);
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        Run { status: ended(&mut self.child), stdout, stderr }
    }
}

/// Types a user code on the page of the server. Returns the URL of the approve page, to which it leads.
async fn typed(visitor: &mut Visitor, base: &str, user_code: &str) -> String {
    let origin = url::Url::parse(base).unwrap().origin().ascii_serialization();
    let shown = visitor.post(&format!("{base}/device"), &origin, &[("user_code", user_code)]).await;
    let (_, url) = shown.text.split_once(r#"content="0;url="#).unwrap_or_else(|| panic!("no URL: {}", shown.text));
    url.split('"').next().unwrap().to_owned()
}

/// A `qrlogin serve` behind a proxy, with the client `tool`.
struct Served {
    program: Program,
    public_url: String,
    dir: TempDir,
}

impl Served {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("qrlogin.toml"), SETTINGS).unwrap();
        let proxy = Proxy::bind().await;
        let public_url = proxy.public_url.clone();
        let program = Program::serve_with(&dir, "info", &[("QRLOGIN_PUBLIC_URL", &public_url)]);
        proxy.serve(program.base.strip_prefix("http://").unwrap().parse().unwrap(), true);
        Self { program, public_url, dir }
    }

    /// Runs a login on which the user makes this decision.
    async fn login(&self, decision: &str) -> Run {
        let login = Login::start(self.dir.path(), &self.public_url, "tool");
        let url = typed(&mut Visitor::new(), &self.public_url, &login.user_code).await;
        assert!(url.starts_with(&self.public_url), "{url}");
        let token = app_token(json!({ "sub": "ann", "name": "Ann Example" }));
        let call = async |verb: &str| {
            let path = format!("/v1/qr-login/{verb}");
            self.program.post(&path, Some(&token), json!({ "code": url })).await.unwrap()
        };
        assert_eq!(call("scan").await.body["application"]["name"], "A tool");
        assert_eq!(call(decision).await.status, 200);
        login.ended()
    }
}

#[test]
async fn login_at_serve_is_pushed_and_has_a_verified_id_token() {
    let served = Served::start().await;
    let run = served.login("confirm").await;
    let tokens = run.tokens();
    let claims = claims_of(tokens["id_token"].as_str().unwrap());
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!(served.public_url), &json!("tool")));
    assert!(run.stderr.ends_with("Logged in as Ann Example.\n"), "{}", run.stderr);
    let user = served.program.http.get(format!("{}/oauth/userinfo", served.program.base));
    let user = user.bearer_auth(tokens["access_token"].as_str().unwrap()).send().await.unwrap();
    assert_eq!(user.json::<Value>().await.unwrap(), json!({ "sub": "ann", "name": "Ann Example" }));
}

#[test]
async fn rejected_login_at_serve_has_exit_code_3() {
    Served::start().await.login("reject").await.failed(3, "rejected");
}

#[test]
async fn login_at_the_demo_needs_no_settings() {
    let mut demo = DemoServer::start_with(|_| {}).await;
    let base = demo.public_url().to_owned();
    let dir = tempfile::tempdir().unwrap();
    let login = Login::start(dir.path(), &base, "demo");
    let mut phone = Visitor::new();
    let url = typed(&mut phone, &base, &login.user_code).await;
    phone.approve(&base, &url, ("ada", "Ada Lovelace")).await;
    let run = login.ended();
    assert_eq!(claims_of(run.tokens()["id_token"].as_str().unwrap())["sub"], "ada");
    assert!(run.stderr.ends_with("Logged in as Ada Lovelace.\n"), "{}", run.stderr);
    demo.stop().await;
}
