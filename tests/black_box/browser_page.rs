//! The demo's pages in a real browser (`e2e/`), whose server's time is moved from here.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use qrlogin::app::{self, Listeners, Parts, Reload, ServeError};
use qrlogin::clock::{Clock, Hands};
use qrlogin::config::Settings;
use qrlogin::demo::Demo;
use qrlogin::shutdown::Shutdown;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::base_path::Proxy;
use crate::harness::START;

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_pages_tell_every_story_of_a_login() -> Told {
    told("demo.mjs", |_, _| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_ends_in_the_right_state_whatever_the_network_does() -> Told {
    told("network.mjs", |_, _| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_gets_through_proxies_that_do_not_let_websockets_through() -> Told {
    told("proxies.mjs", |_, _| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_notices_a_path_that_has_died_silently() -> Told {
    told("silence.mjs", |settings, _| {
        settings.session.heartbeat_seconds = 2;
        settings.session.number_matching = true;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_state_of_the_element_is_accessible_and_of_one_size_in_every_language() -> Told {
    told("gallery.mjs", |_, _| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_element_works_on_a_page_of_an_allowed_origin_under_a_strict_policy() -> Told {
    told("allowed.mjs", |settings, foreign| settings.allowed_origins.push(foreign.to_owned())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_element_works_where_pages_put_it() -> Told {
    told("surroundings.mjs", |settings, foreign| {
        settings.allowed_origins.push(foreign.to_owned());
        // It asks often whether a token has been received.
        settings.limits.enabled = false;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_page_of_another_origin_the_element_names_the_setting() -> Told {
    told("foreign.mjs", |_, _| {}).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_pages_show_codes_that_rotate_and_compare_numbers() -> Told {
    told("guarded.mjs", |settings, _| {
        settings.session.rotate_seconds = 20;
        settings.session.number_matching = true;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_pages_work_behind_a_proxy_that_strips_the_path_of_public_url() -> Told {
    told_at_a_path(true).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_pages_work_behind_a_proxy_that_keeps_the_path_of_public_url() -> Told {
    told_at_a_path(false).await
}

async fn told_at_a_path(strips: bool) -> Told {
    let proxy = Proxy::bind().await;
    let (public_url, outside) = (proxy.public_url.clone(), proxy.outside.clone());
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    proxy.serve(listen, strips);
    let told = told("base_path.mjs", |settings, _| {
        settings.listen = listen;
        settings.public_url = public_url;
    });
    told.await?;
    assert_eq!(outside.lock().unwrap().as_slice(), [""; 0], "URLs outside the server's path");
    Ok(())
}

/// A server that can be stopped and started again, on the same ports and with the same database.
struct Stage {
    settings: Settings,
    demo: Demo,
    clock: Clock,
    hands: Hands,
    running: Option<(Shutdown, JoinHandle<Result<(), ServeError>>)>,
    _dir: TempDir,
}

impl Stage {
    async fn set(foreign: &str, change: impl FnOnce(&mut Settings, &str)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.listen.set_port(0);
        settings.ops_listen.set_port(0);
        change(&mut settings, foreign);
        let (clock, hands) = Clock::manual(START);
        let listeners = Listeners::bind(&settings).unwrap();
        settings.listen = listeners.public.local_addr().unwrap();
        settings.ops_listen = listeners.ops.local_addr().unwrap();
        let (demo, settings) = Demo::new(settings.clone(), settings.listen, dir.path(), None);
        let mut stage = Self { settings, demo, clock, hands, running: None, _dir: dir };
        stage.run(listeners).await;
        stage
    }

    async fn run(&mut self, listeners: Listeners) {
        let parts = Parts::open(self.settings.clone(), self.clock.clone(), Some(self.demo.clone())).await.unwrap();
        let shutdown = Shutdown::new();
        let running = tokio::spawn(app::run(parts, listeners, shutdown.clone(), Reload::default()));
        self.running = Some((shutdown, running));
    }

    async fn stop(&mut self) {
        if let Some((shutdown, running)) = self.running.take() {
            shutdown.stop();
            running.await.unwrap().unwrap();
        }
    }

    /// What a script asks for.
    async fn obey(&mut self, order: &str) {
        match order.split_once(' ') {
            Some(("advance", seconds)) => {
                let millis = seconds.parse::<f64>().unwrap() * 1000.0;
                #[expect(clippy::cast_possible_truncation, reason = "a few minutes")]
                self.hands.advance_millis(millis as i64);
            }
            _ if order == "stop" => self.stop().await,
            _ if order == "start" => {
                let listeners = Listeners::bind(&self.settings).unwrap();
                self.run(listeners).await;
            }
            _ => panic!("{order}"),
        }
    }
}

/// A port that was free a moment ago, for a site of somebody else's.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// What a script said when it broke off. (Shown last by the test's runner, below any backtrace.)
struct BrokenOff(String);

impl fmt::Debug for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Told = Result<(), BrokenOff>;

async fn told(script: &str, change: impl FnOnce(&mut Settings, &str)) -> Told {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
    assert!(
        e2e.join("node_modules/playwright-core").exists(),
        "playwright-core is missing: run scripts/test, or npm ci in e2e/"
    );
    let foreign = format!("http://127.0.0.1:{}", free_port());
    let mut stage = Stage::set(&foreign, change).await;
    let mut node = Command::new("node")
        .arg(script)
        .args([stage.settings.public_base(), &format!("http://{}", stage.settings.ops_listen), &foreign])
        .current_dir(&e2e)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node starts");
    let mut stderr = node.stderr.take().unwrap();
    let complaint = tokio::spawn(async move {
        let mut complaint = String::new();
        stderr.read_to_string(&mut complaint).await.map(|_| complaint)
    });
    let mut answers = node.stdin.take().unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(order) = line.strip_prefix("stage: ") {
            stage.obey(order).await;
            answers.write_all(b"done\n").await.unwrap();
        } else {
            println!("{line}");
        }
    }
    let is_told = node.wait().await.unwrap().success();
    stage.stop().await;
    if is_told { Ok(()) } else { Err(BrokenOff(complaint.await.unwrap().unwrap())) }
}
