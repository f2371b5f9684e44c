//! The demo's pages in a real browser (`e2e/`). Through this process, the scripts there move the server's clock and
//! restart the server.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use qrlogin::internals::app::{self, Listeners, Parts, Reload, ServeError};
use qrlogin::internals::config::Settings;
use qrlogin::internals::demo::Demo;
use qrlogin::internals::system::clock::{Clock, Hands};
use qrlogin::internals::system::shutdown::Shutdown;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::base_path::Proxy;
use qrlogin_testing::harness::START;
use qrlogin_testing::test;

#[test(needs(Chromium))]
async fn demo_pages_show_every_outcome_of_a_login() -> Told {
    run_script("demo.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn page_recovers_from_network_failures() -> Told {
    run_script("network.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn page_falls_back_behind_proxies_that_block_websockets() -> Told {
    run_script("proxies.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn page_detects_a_connection_that_died_silently() -> Told {
    run_script("silence.mjs", |settings, _| {
        settings.session.heartbeat_seconds = 2;
        settings.session.number_matching = true;
    })
    .await
}

#[test(needs(Chromium))]
async fn element_is_accessible_and_of_one_size_in_every_state_and_language() -> Told {
    run_script("gallery.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn element_works_on_an_allowed_origin_with_a_strict_content_security_policy() -> Told {
    run_script("allowed.mjs", |settings, foreign| settings.allowed_origins.push(foreign.to_owned())).await
}

#[test(needs(Chromium))]
async fn element_works_wherever_a_page_embeds_it() -> Told {
    run_script("surroundings.mjs", |settings, foreign| {
        settings.allowed_origins.push(foreign.to_owned());
        // The script polls the status more often than the limits allow.
        settings.limits.enabled = false;
    })
    .await
}

#[test(needs(Chromium))]
async fn element_on_a_forbidden_origin_names_the_setting() -> Told {
    run_script("foreign.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn demo_pages_rotate_codes_and_match_numbers() -> Told {
    run_script("guarded.mjs", |settings, _| {
        settings.session.rotate_seconds = 20;
        settings.session.number_matching = true;
    })
    .await
}

#[test(needs(Chromium))]
async fn demo_pages_work_behind_a_proxy_that_strips_the_path_of_public_url() -> Told {
    run_script_behind_a_proxy(true).await
}

#[test(needs(Chromium))]
async fn demo_pages_work_behind_a_proxy_that_keeps_the_path_of_public_url() -> Told {
    run_script_behind_a_proxy(false).await
}

async fn run_script_behind_a_proxy(strips: bool) -> Told {
    let proxy = Proxy::bind().await;
    let (public_url, outside) = (proxy.public_url.clone(), proxy.outside.clone());
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    proxy.serve(listen, strips);
    let script = run_script("base_path.mjs", |settings, _| {
        settings.listen = listen;
        settings.public_url = public_url;
    });
    script.await?;
    assert_eq!(outside.lock().unwrap().as_slice(), [""; 0], "URLs outside the server's path");
    Ok(())
}

/// A demo server that can be stopped and started again, on the same ports and with the same database.
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

    /// Performs an order of the script: `advance SECONDS`, `stop` or `start`.
    async fn obey(&mut self, order: &str) {
        match order.split_once(' ') {
            Some(("advance", seconds)) => {
                let millis = seconds.parse::<f64>().unwrap() * 1000.0;
                #[expect(clippy::cast_possible_truncation, reason = "a few minutes at most")]
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

/// Returns a port that was free a moment ago, for a site of another origin.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The error output of a script that failed. The test runner prints it last, below any backtrace.
struct BrokenOff(String);

impl fmt::Debug for BrokenOff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type Told = Result<(), BrokenOff>;

async fn run_script(script: &str, change: impl FnOnce(&mut Settings, &str)) -> Told {
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
