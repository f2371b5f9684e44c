//! Many nodes, as processes, without any stickiness: browsers and phones go to whichever they like, and come back as
//! the protocol says.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use qrlogin::random;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Answer, SECRET, claims_of};
use crate::program::Program;
use crate::real_time::{now, pause, sleep_millis, until};
use crate::services::{Postgres, Redis};

/// The nodes, and what they share.
pub struct Fleet {
    pub postgres: Postgres,
    pub redis: Option<Redis>,
    url: String,
    dir: TempDir,
    nodes: RwLock<Vec<Node>>,
    http: reqwest::Client,
    /// The last login's number.
    logins: AtomicU64,
    /// How long people take at most to scan, and then to confirm.
    pub people_millis: u32,
}

struct Node {
    /// While it runs.
    program: Option<Program>,
    environment: Vec<(String, String)>,
}

/// What became of one login.
#[derive(Debug, Default)]
pub struct Login {
    pub user: String,
    /// When the phone was told 200.
    pub confirmed: Option<Instant>,
    /// When the phone asked for that.
    pub asked: Option<Instant>,
    /// When the browser had its token, and which that is.
    pub told: Option<(Instant, String)>,
    /// Whatever else the browser was told that is not in order.
    pub wrong: Vec<String>,
    /// How often the browser had to come back.
    pub reconnects: u32,
}

impl Fleet {
    pub async fn start(count: usize, with_redis: bool) -> Self {
        let postgres = Postgres::start().await;
        let url = postgres.database().await;
        let redis = with_redis.then(Redis::start);
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(6)).build().unwrap();
        let fleet = Self {
            postgres,
            redis,
            url,
            dir: tempfile::tempdir().unwrap(),
            nodes: RwLock::default(),
            http,
            logins: AtomicU64::new(0),
            people_millis: 0,
        };
        for _ in 0..count {
            fleet.add(&[]);
        }
        fleet
    }

    /// One node more, with this in its environment; its number.
    pub fn add(&self, environment: &[(&str, &str)]) -> usize {
        let mut environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        environment.push(("QRLOGIN_DATABASE_URL".to_owned(), self.url.clone()));
        environment.push(("QRLOGIN_LIMITS__ENABLED".to_owned(), "false".to_owned()));
        environment.push(("QRLOGIN_SESSION__HEARTBEAT_SECONDS".to_owned(), "5".to_owned()));
        if let Some(redis) = &self.redis {
            environment.push(("QRLOGIN_BUS_URL".to_owned(), redis.url()));
        }
        let mut nodes = self.nodes.write().unwrap();
        nodes.push(Node { program: None, environment });
        let number = nodes.len() - 1;
        drop(nodes);
        self.run(number);
        number
    }

    /// Starts a node that does not run.
    pub fn run(&self, number: usize) {
        let environment = self.nodes.read().unwrap()[number].environment.clone();
        let environment: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let program = Program::serve_with(&self.dir, "warn,qrlogin::app=info", &environment);
        self.nodes.write().unwrap()[number].program = Some(program);
    }

    /// Its process.
    pub fn pid(&self, number: usize) -> u32 {
        self.nodes.read().unwrap()[number].program.as_ref().unwrap().id()
    }

    /// Ends it without a warning.
    pub fn kill(&self, number: usize) {
        let program = self.nodes.write().unwrap()[number].program.take();
        program.unwrap().kill();
    }

    /// Asks it to stop, in order, and waits until it has. Nobody is sent to it meanwhile.
    pub fn stop(&self, number: usize) {
        let program = self.nodes.write().unwrap()[number].program.take();
        let (status, log) = program.unwrap().terminate();
        assert!(status.success() && !log.contains("in a hurry"), "{log}");
    }

    /// Where one of those that run is.
    fn base(&self) -> String {
        let nodes = self.nodes.read().unwrap();
        let running: Vec<_> = nodes.iter().filter_map(|node| node.program.as_ref()).collect();
        running[random::below(u32::try_from(running.len()).unwrap()) as usize].base.clone()
    }

    /// Where this one is.
    pub fn base_of(&self, number: usize) -> String {
        self.nodes.read().unwrap()[number].program.as_ref().unwrap().base.clone()
    }

    async fn post(&self, base: &str, path: &str, token: Option<&str>, body: Value) -> Option<Answer> {
        let mut request = self.http.post(format!("{base}{path}")).json(&body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.json().await.ok()?;
        Some(Answer { status, headers, body })
    }

    /// Asks one node after the other, until one of them answers with something else than that it cannot.
    async fn insist(&self, path: &str, token: Option<&str>, body: Value) -> Answer {
        loop {
            match self.post(&self.base(), path, token, body.clone()).await {
                Some(answer) if answer.status != StatusCode::SERVICE_UNAVAILABLE => return answer,
                _ => pause(500).await,
            }
        }
    }

    /// A new session, as its browser knows it.
    pub async fn generate(&self) -> Value {
        let answer = self.insist("/v1/qr-login/generate", None, json!({})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }

    /// As the last, at this node.
    pub async fn generate_at(&self, number: usize) -> Value {
        let answer = self.post(&self.base_of(number), "/v1/qr-login/generate", None, json!({})).await.unwrap();
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }

    /// Adds a newer signing key, as an operator does.
    pub fn add_key(&self) {
        let other = tempfile::tempdir().unwrap();
        drop(qrlogin::token::KeyRing::open(&other.path().join("keys"), qrlogin::clock::Clock::system()).unwrap());
        let keys = self.dir.path().join("keys");
        std::fs::copy(other.path().join("keys/web-token.pem"), keys.join("z-newer.pem")).unwrap();
    }

    /// One login from its beginning to its end. The phone scans and confirms as soon as the browser waits.
    pub async fn login(self: Arc<Self>) -> Login {
        let user = format!("user {}", self.logins.fetch_add(1, Ordering::Relaxed));
        let session = self.generate().await;
        let mut login = Login { user: user.clone(), ..Login::default() };
        let mut phone = None;
        while login.told.is_none() && login.wrong.is_empty() {
            let url = format!("{}{}", self.base().replace("http", "ws"), session["ws_path"].as_str().unwrap());
            let socket = match tokio_tungstenite::connect_async(url).await {
                Ok((socket, _)) => socket,
                Err(tokio_tungstenite::tungstenite::Error::Http(answer)) if answer.status() != 503 => {
                    login.wrong.push(format!("refused: {}", answer.status()));
                    break;
                }
                Err(_) => {
                    pause(1000).await;
                    continue;
                }
            };
            let begin = || {
                phone.get_or_insert_with(|| {
                    let (fleet, user, code) = (self.clone(), user.clone(), session["code"].clone());
                    tokio::spawn(async move { fleet.confirm(&user, &code).await })
                });
            };
            login.wait(socket, begin).await;
            login.reconnects += 1;
        }
        if let Some(phone) = phone {
            let (asked, confirmed) = phone.await.unwrap();
            login.asked = Some(asked);
            match confirmed {
                Ok(at) => login.confirmed = Some(at),
                Err(refusal) => login.wrong.push(refusal),
            }
        }
        login
    }

    /// The phone scans and confirms: when it asked for that last, and when it was told 200.
    async fn confirm(&self, user: &str, code: &Value) -> (Instant, Result<Instant, String>) {
        let exp = qrlogin::clock::Clock::system().now().as_seconds() + 600;
        let claims = json!({ "sub": user, "exp": exp });
        let token = qrlogin::token::sign_app_token(SECRET.as_bytes(), claims.as_object().unwrap()).unwrap();
        let mut asked = now();
        for verb in ["scan", "confirm"] {
            pause(self.people_millis).await;
            asked = now();
            let answer = self.insist(&format!("/v1/qr-login/{verb}"), Some(&token), json!({ "code": code })).await;
            if answer.status != StatusCode::OK {
                return (asked, Err(format!("{verb}: {} {}", answer.refusal(), answer.body)));
            }
        }
        (asked, Ok(now()))
    }

    /// The value of a line of a node's metrics.
    pub async fn metric(&self, number: usize, name: &str) -> i64 {
        let ops = self.nodes.read().unwrap()[number].program.as_ref().unwrap().ops.clone();
        let text = self.http.get(format!("{ops}/metrics")).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.parse().unwrap()
    }

    /// Whether this node would be sent anybody.
    pub async fn is_ready(&self, number: usize) -> bool {
        let ops = self.nodes.read().unwrap()[number].program.as_ref().unwrap().ops.clone();
        self.http.get(format!("{ops}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Nobody waits anywhere, and every node says so.
    pub async fn until_empty(&self) {
        let count = self.nodes.read().unwrap().len();
        for number in 0..count {
            if self.nodes.read().unwrap()[number].program.is_none() {
                continue;
            }
            until("nobody waits", async || {
                pause(100).await;
                self.metric(number, "qrlogin_active_connections").await == 0
            })
            .await;
        }
    }
}

impl Login {
    /// Listens until the connection ends, as a page does.
    async fn wait(
        &mut self,
        mut socket: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
        mut begin: impl FnMut(),
    ) {
        let mut version = 0;
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Text(text) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    match (frame["status"].as_str().unwrap(), frame["web_token"].as_str()) {
                        ("pending" | "scanned", _) => {
                            let newer = frame["version"].as_u64().unwrap();
                            if newer <= version {
                                self.wrong.push(format!("version {newer} after {version}"));
                            }
                            version = newer;
                            begin();
                        }
                        ("confirmed", Some(token)) => {
                            if self.told.is_some() {
                                self.wrong.push("told twice".to_owned());
                            }
                            self.told = Some((now(), token.to_owned()));
                        }
                        _ => self.wrong.push(frame.to_string()),
                    }
                }
                Message::Close(frame) => {
                    let frame = frame.unwrap();
                    match u16::from(frame.code) {
                        1000 if self.told.is_some() => {}
                        1012 => {
                            let delay = frame.reason.strip_prefix("retry_after_ms=").unwrap().parse().unwrap();
                            let _ = socket.close(None).await;
                            sleep_millis(delay).await;
                        }
                        1011 | 1013 | 4408 => pause(1000).await,
                        code => self.wrong.push(format!("closed: {code}")),
                    }
                }
                _ => {}
            }
        }
    }
}

/// Logins at this rate for as long as `during` takes; then waits for all of them.
pub async fn logins_during(fleet: &Arc<Fleet>, per_second: u64, during: impl Future<Output = ()>) -> Vec<Login> {
    let mut logins = Vec::new();
    let beginning = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(1000 / per_second));
        loop {
            ticks.tick().await;
            logins.push(tokio::spawn(fleet.clone().login()));
        }
    };
    tokio::select! {
        () = during => {}
        () = beginning => unreachable!("they go on and on"),
    }
    join_all(logins).await.into_iter().map(Result::unwrap).collect()
}

/// Every login ended at its own browser, with a token of its own user, once; each `within` of its confirmation, or of
/// `fault_end` if that was later.
pub fn all_are_well(logins: &[Login], fault_end: Instant, within: Duration) {
    let mut ids = HashSet::new();
    for login in logins {
        assert!(login.wrong.is_empty(), "{login:?}");
        let (told, token) = login.told.as_ref().unwrap();
        let claims = claims_of(token);
        assert_eq!(claims["sub"], login.user.as_str(), "somebody else's token");
        assert!(ids.insert(claims["jti"].as_str().unwrap().to_owned()), "one token for two");
        let due = login.asked.unwrap().max(fault_end) + within;
        assert!(*told < due, "told {:?} too late: {login:?}", *told - due);
    }
}
