//! The demo's pages in a real browser (`e2e/`). Through this process, the scripts there move the server's clock and
//! restart the server.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::base_path::Proxy;
use qrlogin_testing::demo::DemoServer;
use qrlogin_testing::harness::{SECRET, Settings};
use qrlogin_testing::real_time::{within, within_seconds};
use qrlogin_testing::services::free_port;
use qrlogin_testing::test;

/// Maximum time between two lines of a script, in seconds.
const SILENCE_SECONDS: u64 = 180;

#[test(needs(Chromium))]
async fn demo_pages_show_every_outcome_of_a_login() -> ScriptResult {
    run_script("demo.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn page_recovers_from_network_failures() -> ScriptResult {
    run_script("network.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn page_falls_back_behind_proxies_that_block_websockets() -> ScriptResult {
    run_script("proxies.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn page_detects_a_connection_that_died_silently() -> ScriptResult {
    run_script("silence.mjs", |settings, _| {
        settings.session.heartbeat_seconds = 2;
        settings.session.number_matching = true;
    })
    .await
}

#[test(needs(Chromium))]
async fn elements_are_accessible_and_whole_in_every_state_and_language() -> ScriptResult {
    run_script("gallery.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn element_works_on_an_allowed_origin_with_a_strict_content_security_policy() -> ScriptResult {
    run_script("allowed.mjs", |settings, foreign| settings.allowed_origins.push(foreign.to_owned())).await
}

#[test(needs(Chromium))]
async fn phone_decides_with_the_element_on_a_site_with_its_own_session() -> ScriptResult {
    run_script("approve.mjs", |settings, foreign| settings.allowed_origins.push(foreign.to_owned())).await
}

#[test(needs(Chromium))]
async fn element_works_wherever_a_page_embeds_it() -> ScriptResult {
    run_script("surroundings.mjs", |settings, foreign| {
        settings.allowed_origins.push(foreign.to_owned());
        // The script polls the status more often than the limits allow.
        settings.limits.enabled = false;
    })
    .await
}

#[test(needs(Chromium))]
async fn element_on_a_forbidden_origin_names_the_setting() -> ScriptResult {
    run_script("foreign.mjs", |_, _| {}).await
}

#[test(needs(Chromium))]
async fn demo_pages_rotate_codes_and_match_numbers() -> ScriptResult {
    run_script("guarded.mjs", |settings, _| {
        settings.session.rotate_seconds = 20;
        settings.session.number_matching = true;
    })
    .await
}

#[test(needs(Chromium))]
async fn demo_pages_work_behind_a_proxy_that_strips_the_path_of_public_url() -> ScriptResult {
    run_script_behind_a_proxy(true).await
}

#[test(needs(Chromium))]
async fn demo_pages_work_behind_a_proxy_that_keeps_the_path_of_public_url() -> ScriptResult {
    run_script_behind_a_proxy(false).await
}

async fn run_script_behind_a_proxy(strips: bool) -> ScriptResult {
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

/// Performs a command of the script: `advance SECONDS`, `stop` or `start`.
async fn perform(server: &mut DemoServer, command: &str) {
    match command.split_once(' ') {
        Some(("advance", seconds)) => {
            let millis = seconds.parse::<f64>().unwrap() * 1000.0;
            #[expect(clippy::cast_possible_truncation, reason = "a few minutes at most")]
            server.hands.advance_millis(millis as i64);
        }
        _ if command == "stop" => server.stop().await,
        _ if command == "start" => server.start().await,
        _ => panic!("{command}"),
    }
}

/// The error output of a script that failed. The test runner prints it last, below any backtrace.
struct ScriptError(String);

impl fmt::Debug for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

type ScriptResult = Result<(), ScriptError>;

async fn run_script(script: &str, change: impl FnOnce(&mut Settings, &str)) -> ScriptResult {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
    assert!(
        e2e.join("node_modules/playwright-core").exists(),
        "playwright-core is missing: run scripts/test, or npm ci in e2e/"
    );
    let foreign = format!("http://127.0.0.1:{}", free_port());
    let mut server = DemoServer::start_with(|settings| change(settings, &foreign)).await;
    let mut node = Command::new("node")
        .arg(script)
        .args([server.public_url(), &server.ops(), &foreign])
        .env("APP_TOKEN_SECRET", SECRET)
        .current_dir(&e2e)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node starts");
    let mut stderr = node.stderr.take().unwrap();
    let error_output = tokio::spawn(async move {
        let mut error_output = String::new();
        stderr.read_to_string(&mut error_output).await.map(|_| error_output)
    });
    let mut answers = node.stdin.take().unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    while let Some(line) = within_seconds(SILENCE_SECONDS, "the script prints a line", lines.next_line()).await.unwrap()
    {
        if let Some(command) = line.strip_prefix("stage: ") {
            perform(&mut server, command).await;
            answers.write_all(b"done\n").await.unwrap();
        } else {
            println!("{line}");
        }
    }
    let has_succeeded = within("node has ended", node.wait()).await.unwrap().success();
    server.stop().await;
    if has_succeeded { Ok(()) } else { Err(ScriptError(error_output.await.unwrap().unwrap())) }
}
