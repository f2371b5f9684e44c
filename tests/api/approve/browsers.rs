//! The approve page and the pages of OpenID Connect in Chromium and Firefox, with a provider that sites use
//! (oidc-provider).

use std::path::Path;
use std::process::Stdio;

use qrlogin_testing::program::program;
use qrlogin_testing::real_time::within_seconds;
use qrlogin_testing::services::Postgres;
use qrlogin_testing::test;
use tokio::process::Command;

/// Time in which a script ends, in seconds. Each takes less than a minute on an idle machine.
const SCRIPT_SECONDS: u64 = 300;

#[test(needs(Chromium, Firefox))]
async fn users_of_a_provider_approve_in_chromium_and_firefox() {
    run_script("provider_login.mjs", &[], 14).await;
}

#[test(needs(Chromium, Firefox))]
async fn pages_of_openid_connect_are_accessible_and_work_with_back_reload_and_blocked_cookies() {
    run_script("oauth_pages.mjs", &[], 13).await;
}

#[test(needs(Chromium, Firefox, Postgres))]
async fn logins_of_devices_that_the_element_shows_are_collected_once_also_when_a_node_is_killed() {
    let postgres = Postgres::shared().await;
    let database = postgres.database().await;
    run_script("device_element.mjs", &[&database], 3).await;
}

/// Runs a script of `e2e/` with the path of the program and further arguments, and checks how many of its stories passed.
async fn run_script(script: &str, arguments: &[&str], stories: usize) {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
    let run = Command::new("node")
        .arg(script)
        .arg(program())
        .args(arguments)
        .current_dir(&e2e)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = within_seconds(SCRIPT_SECONDS, "the script ends", run).await.expect("node starts");
    let (output, errors) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    print!("{output}");
    assert!(ended.status.success(), "{output}\n{errors}");
    assert_eq!(output.matches("passed: ").count(), stories, "{output}");
}
