//! The demo's pages in a real browser (`e2e/`), whose server's time is moved from here.

use std::path::Path;
use std::process::Stdio;

use qrlogin::app::{self, Listeners, Parts};
use qrlogin::clock::Clock;
use qrlogin::config::Settings;
use qrlogin::demo::Demo;
use qrlogin::shutdown::Shutdown;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::harness::START;

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_pages_tell_every_story_of_a_login() {
    told("demo.mjs", |_| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_pages_show_codes_that_rotate_and_compare_numbers() {
    told("guarded.mjs", |settings| {
        settings.session.rotate_seconds = 20;
        settings.session.number_matching = true;
    })
    .await;
}

async fn told(script: &str, change: impl FnOnce(&mut Settings)) {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
    assert!(
        e2e.join("node_modules/playwright-core").exists(),
        "playwright-core is missing: run scripts/test, or npm ci in e2e/"
    );

    let dir = tempfile::tempdir().unwrap();
    let mut settings = Settings::default();
    settings.listen.set_port(0);
    settings.ops_listen.set_port(0);
    change(&mut settings);
    let (clock, hands) = Clock::manual(START);
    let listeners = Listeners::bind(&settings).unwrap();
    let (demo, settings) = Demo::new(settings, listeners.public.local_addr().unwrap(), dir.path(), false);
    let base = settings.public_base().to_owned();
    let parts = Parts::open(settings, clock, Some(demo)).await.unwrap();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(app::run(parts, listeners, shutdown.clone()));

    let mut node = Command::new("node")
        .arg(script)
        .arg(&base)
        .current_dir(&e2e)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node starts");
    let mut answers = node.stdin.take().unwrap();
    let mut lines = BufReader::new(node.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(seconds) = line.strip_prefix("advance ") {
            let millis = seconds.parse::<f64>().unwrap() * 1000.0;
            #[expect(clippy::cast_possible_truncation, reason = "a few minutes")]
            hands.advance_millis(millis as i64);
            answers.write_all(b"done\n").await.unwrap();
        } else {
            println!("{line}");
        }
    }
    assert!(node.wait().await.unwrap().success(), "the story broke off; see above");
    shutdown.stop();
    running.await.unwrap().unwrap();
}
