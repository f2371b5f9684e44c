//! Several nodes, each a process of its own, without sticky sessions. Browsers and phones call random nodes, and
//! browsers reconnect as the protocol says.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Answer, claims_of};
use crate::keys::{app_token, new_signing_key};
use crate::program::Program;
use crate::random;
use crate::real_time::{now, pause, sleep_millis, until, within, within_seconds};
use crate::services::{Postgres, Redis};

/// Time after which a login of the fleet has failed. It is the lifetime of a session.
const LONGEST_LOGIN: Duration = Duration::from_secs(300);

/// Maximum time in which a browser receives nothing, in seconds. Nodes send a ping every 5 seconds. A test may freeze
/// them for less than this time.
const LONGEST_SILENCE_SECONDS: u64 = 60;

/// Several nodes and the services that they share.
pub struct Fleet {
    /// The database of the nodes.
    pub postgres: Postgres,
    /// The bus of the nodes, if it is not Postgres.
    pub redis: Option<Redis>,
    url: String,
    dir: TempDir,
    nodes: RwLock<Vec<Node>>,
    http: reqwest::Client,
    /// Number of logins that have been started.
    logins: AtomicU64,
    /// Longest time that a user takes to scan, and then to confirm, in milliseconds.
    pub user_delay_millis: u32,
}

struct Node {
    /// The running program, or `None` while the node is stopped.
    program: Option<Program>,
    environment: Vec<(String, String)>,
}

/// The course of one login.
#[derive(Debug, Default)]
pub struct Login {
    /// Id of the phone's user.
    pub user: String,
    /// Time at which the phone received 200 for `confirm`.
    pub confirmed: Option<Instant>,
    /// Time at which the phone began its last call, which is `confirm` unless `scan` was refused.
    pub last_call: Option<Instant>,
    /// Time at which the browser received its token, and the token.
    pub received: Option<(Instant, String)>,
    /// Everything that the browser or the phone received and should not have.
    pub wrong: Vec<String>,
    /// Number of connections that the browser has opened, including the first.
    pub reconnects: u32,
}

impl Fleet {
    /// Starts this number of nodes, with Postgres or Redis as their bus.
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
            user_delay_millis: 0,
        };
        for _ in 0..count {
            fleet.add(&[]);
        }
        fleet
    }

    /// Adds and starts a node with additional environment variables. Returns its number.
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

    /// Starts a node that is stopped.
    pub fn run(&self, number: usize) {
        let environment = self.nodes.read().unwrap()[number].environment.clone();
        let environment: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let program = Program::serve_with(&self.dir, "warn,qrlogin::app=info", &environment);
        self.nodes.write().unwrap()[number].program = Some(program);
    }

    /// Returns the process id of a node.
    pub fn pid(&self, number: usize) -> u32 {
        self.nodes.read().unwrap()[number].program.as_ref().unwrap().id()
    }

    /// Kills a node (SIGKILL).
    pub fn kill(&self, number: usize) {
        let program = self.nodes.write().unwrap()[number].program.take();
        program.unwrap().kill();
    }

    /// Stops a node in order and waits until it has ended. No client calls it meanwhile.
    pub fn stop(&self, number: usize) {
        let program = self.nodes.write().unwrap()[number].program.take();
        let (status, log) = program.unwrap().terminate();
        assert!(status.success() && !log.contains("in a hurry"), "{log}");
    }

    /// Returns the base URL of a random running node.
    fn base(&self) -> String {
        let nodes = self.nodes.read().unwrap();
        let running: Vec<_> = nodes.iter().filter_map(|node| node.program.as_ref()).collect();
        running[random::below(u32::try_from(running.len()).unwrap()) as usize].base.clone()
    }

    /// Returns the base URL of this node.
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

    /// Calls random nodes until one answers with a status other than 503.
    async fn call_until_answered(&self, path: &str, token: Option<&str>, body: Value) -> Answer {
        let started = now();
        loop {
            match self.post(&self.base(), path, token, body.clone()).await {
                Some(answer) if answer.status != StatusCode::SERVICE_UNAVAILABLE => return answer,
                last => {
                    assert!(started.elapsed() < LONGEST_LOGIN, "no node has answered {path}, the last time {last:?}");
                    pause(500).await;
                }
            }
        }
    }

    /// Creates a session at a random node. Returns the answer.
    pub async fn generate(&self) -> Value {
        let answer = self.call_until_answered("/v1/qr-login/generate", None, json!({})).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }

    /// Creates a session at this node. Returns the answer.
    pub async fn generate_at(&self, number: usize) -> Value {
        let answer = self.post(&self.base_of(number), "/v1/qr-login/generate", None, json!({})).await.unwrap();
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
        answer.body
    }

    /// Adds a newer signing key, as an operator does.
    pub fn add_key(&self) {
        let other = tempfile::tempdir().unwrap();
        let key = new_signing_key(&other.path().join("keys"));
        let keys = self.dir.path().join("keys");
        std::fs::copy(key.file, keys.join("z-newer.pem")).unwrap();
    }

    /// Runs one login to its end. The phone scans and confirms once the browser's first frame has arrived.
    pub async fn login(self: Arc<Self>) -> Login {
        let user = format!("user {}", self.logins.fetch_add(1, Ordering::Relaxed));
        let session = self.generate().await;
        let mut login = Login { user: user.clone(), ..Login::default() };
        let mut phone = None;
        let started = now();
        while login.received.is_none() && login.wrong.is_empty() {
            let url = format!("{}{}", self.base().replace("http", "ws"), session["ws_path"].as_str().unwrap());
            let connecting = tokio_tungstenite::connect_async(url);
            let socket = match within_seconds(LONGEST_SILENCE_SECONDS, "a node answers a handshake", connecting).await {
                Ok((socket, _)) => socket,
                Err(tokio_tungstenite::tungstenite::Error::Http(answer)) if answer.status() != 503 => {
                    login.wrong.push(format!("refused: {}", answer.status()));
                    break;
                }
                Err(error) => {
                    assert!(started.elapsed() < LONGEST_LOGIN, "no node accepts the WebSocket of {login:?}: {error}");
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
            assert!(started.elapsed() < LONGEST_LOGIN, "the browser waits for its token: {login:?}");
        }
        if let Some(phone) = phone {
            let (called, confirmed) = phone.await.unwrap();
            login.last_call = Some(called);
            match confirmed {
                Ok(at) => login.confirmed = Some(at),
                Err(refusal) => login.wrong.push(refusal),
            }
        }
        login
    }

    /// Scans and confirms. Returns the time at which the phone began its last call, and the time of the 200 or the
    /// refusal.
    async fn confirm(&self, user: &str, code: &Value) -> (Instant, Result<Instant, String>) {
        let token = app_token(json!({ "sub": user }));
        let mut called = now();
        for verb in ["scan", "confirm"] {
            pause(self.user_delay_millis).await;
            called = now();
            let answer =
                self.call_until_answered(&format!("/v1/qr-login/{verb}"), Some(&token), json!({ "code": code })).await;
            if answer.status != StatusCode::OK {
                return (called, Err(format!("{verb}: {} {}", answer.refusal(), answer.body)));
            }
        }
        (called, Ok(now()))
    }

    /// Returns the value of a node's metric.
    pub async fn metric(&self, number: usize, name: &str) -> i64 {
        let ops = self.nodes.read().unwrap()[number].program.as_ref().unwrap().ops.clone();
        let text = self.http.get(format!("{ops}/metrics")).send().await.unwrap().text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')).unwrap();
        line.parse().unwrap()
    }

    /// Returns whether the node's `/readyz` reports success, so that a load balancer would send it clients.
    pub async fn is_ready(&self, number: usize) -> bool {
        let ops = self.nodes.read().unwrap()[number].program.as_ref().unwrap().ops.clone();
        self.http.get(format!("{ops}/readyz")).send().await.is_ok_and(|answer| answer.status().is_success())
    }

    /// Waits until no running node has an active connection.
    pub async fn until_empty(&self) {
        let count = self.nodes.read().unwrap().len();
        for number in 0..count {
            if self.nodes.read().unwrap()[number].program.is_none() {
                continue;
            }
            until("the node has no active connection", async || {
                pause(100).await;
                self.metric(number, "qrlogin_active_connections").await == 0
            })
            .await;
        }
    }
}

impl Login {
    /// Reads messages until the connection ends, as a page does. Calls `begin` for each `pending` and `scanned` frame.
    async fn wait(
        &mut self,
        mut socket: tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>,
        mut begin: impl FnMut(),
    ) {
        let mut version = 0;
        let what = "a browser receives a message or the end of its connection";
        while let Some(Ok(message)) = within_seconds(LONGEST_SILENCE_SECONDS, what, socket.next()).await {
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
                            if self.received.is_some() {
                                self.wrong.push("received the token twice".to_owned());
                            }
                            self.received = Some((now(), token.to_owned()));
                        }
                        _ => self.wrong.push(frame.to_string()),
                    }
                }
                Message::Close(frame) => {
                    let frame = frame.unwrap();
                    match u16::from(frame.code) {
                        1000 if self.received.is_some() => {}
                        1012 => {
                            let delay = frame.reason.strip_prefix("retry_after_ms=").unwrap().parse().unwrap();
                            drop(within("the browser sends its Close", socket.close(None)).await);
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

/// Starts logins at this rate while `during` runs, then waits for all of them.
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
        () = beginning => unreachable!("the loop does not end"),
    }
    join_all(logins).await.into_iter().map(Result::unwrap).collect()
}

/// Asserts that each login gave its own browser one token of its own user. The token must have arrived within `limit`
/// after the call of `confirm`, or after `fault_end` if that was later.
pub fn assert_all_delivered(logins: &[Login], fault_end: Instant, limit: Duration) {
    let mut ids = HashSet::new();
    for login in logins {
        assert!(login.wrong.is_empty(), "{login:?}");
        let (received, token) = login.received.as_ref().unwrap();
        let claims = claims_of(token);
        assert_eq!(claims["sub"], login.user.as_str(), "a token of another user");
        assert!(ids.insert(claims["jti"].as_str().unwrap().to_owned()), "two logins have one token");
        let due = login.last_call.unwrap().max(fault_end) + limit;
        assert!(*received < due, "the token arrived {:?} too late: {login:?}", *received - due);
    }
}
