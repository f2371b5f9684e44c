//! The approve page in Chromium and Firefox, with a provider that sites use (oidc-provider).

use std::path::Path;
use std::process::Stdio;

use qrlogin_testing::program::program;
use qrlogin_testing::real_time::within_seconds;
use qrlogin_testing::test;
use tokio::process::Command;

/// Time in which the script ends, in seconds. It takes about 40 seconds on an idle machine.
const SCRIPT_SECONDS: u64 = 300;

#[test(needs(Chromium, Firefox))]
async fn users_of_a_provider_approve_in_chromium_and_firefox() {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e");
    let script = Command::new("node")
        .arg("provider_login.mjs")
        .arg(program())
        .current_dir(&e2e)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ended = within_seconds(SCRIPT_SECONDS, "provider_login.mjs ends", script).await.expect("node starts");
    let (output, errors) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    print!("{output}");
    assert!(ended.status.success(), "{output}\n{errors}");
    assert_eq!(output.matches("passed: ").count(), 14, "{output}");
}
