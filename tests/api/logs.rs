//! A log in JSON format has one JSON object per line, also when its file is full and when the server cannot start. An
//! error that repeats is logged once.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use qrlogin_testing::harness::{SECRET, http_client};
use qrlogin_testing::program::{Program, SERVE, ended, qrlogin, run, signal};
use qrlogin_testing::real_time::{sleep_millis, until};
use qrlogin_testing::test;

/// Maximum size of the log file, in blocks of the shell's `ulimit`.
const LIMIT_BLOCKS: u32 = 8192;

fn parsed(log: &str) -> Vec<Value> {
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn lost_lines(lines: &[Value]) -> u64 {
    let notices = lines.iter().filter(|line| line["event"] == "log_lines_lost");
    notices.map(|line| line["lines"].as_u64().unwrap()).sum()
}

/// Returns the size in bytes at which a file under this limit is full.
fn limit_bytes(dir: &Path) -> u64 {
    let fill = format!("trap '' XFSZ; ulimit -f {LIMIT_BLOCKS}; head -c 100000000 /dev/zero > full");
    Command::new("sh").args(["-c", &fill]).current_dir(dir).stderr(Stdio::null()).status().unwrap();
    let bytes = fs::metadata(dir.join("full")).unwrap().len();
    fs::remove_file(dir.join("full")).unwrap();
    bytes
}

#[test]
async fn json_log_resumes_with_whole_lines_when_its_full_file_has_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("server.log");
    let limit = limit_bytes(dir.path());
    let mut filler = serde_json::to_string(&json!({ "filler": " ".repeat(1000) })).unwrap();
    filler.push('\n');
    let count = (limit - 20_000) / filler.len() as u64;
    fs::write(&path, filler.repeat(usize::try_from(count).unwrap())).unwrap();

    let mut command = Command::new("sh");
    let limited = format!("trap '' XFSZ; ulimit -f {LIMIT_BLOCKS}; exec \"$0\" \"$@\"");
    command.args(["-c", &limited, env!("CARGO_BIN_EXE_qrlogin")]).args(SERVE).current_dir(dir.path());
    command.env("QRLOGIN_APP_AUTH__HMAC_SECRET", SECRET).env("QRLOGIN_LOG__FORMAT", "json");
    command.env("QRLOGIN_LOG__LEVEL", "trace").env("QRLOGIN_LIMITS__ENABLED", "false");
    let mut child = command.stderr(File::options().append(true).open(&path).unwrap()).spawn().unwrap();
    let read = || fs::read_to_string(&path).unwrap();
    until("it listens", async || read().contains("\"listening\"")).await;
    let listening = parsed(&read()).into_iter().find(|line| line["event"] == "listening").unwrap();
    let http = http_client();
    let url = format!("http://{}/v1/qr-login/generate", listening["public"].as_str().unwrap());
    let ask = async || assert_eq!(http.post(&url).json(&json!({})).send().await.unwrap().status(), 201);
    until("the log is full", async || {
        ask().await;
        fs::metadata(&path).unwrap().len() == limit
    })
    .await;
    // These lines are lost.
    for _ in 0..3 {
        ask().await;
        sleep_millis(50).await;
    }
    let mut log = read();
    assert_eq!(log.len() as u64, limit);
    // Truncate the file, as `logrotate` does with `copytruncate`.
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    ask().await;
    until("the log is written again", async || read().contains("\"log_lines_lost\"")).await;
    signal(child.id(), "TERM");
    assert_eq!(ended(&mut child).code(), Some(0));
    log.push_str(&read());
    let lines = parsed(&log);
    assert!(lost_lines(&lines) > 0);
    assert_eq!(lines.last().unwrap()["event"], "stopped");
}

#[test]
async fn exhausted_file_descriptors_are_logged_once_and_accepting_resumes() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve_after(&dir, "ulimit -n 64");
    let address = program.base.trim_start_matches("http://").to_owned();
    let held: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&address).unwrap()).collect();
    program.until_logged("\"accept failed\"").await;
    // The file descriptors of closed connections are used up again by waiting ones.
    for stream in held.into_iter().step_by(2) {
        drop(stream);
        sleep_millis(20).await;
    }
    let session = program.generate().await;
    assert_eq!(program.status(&session).await["status"], "pending");
    let (_, log) = program.terminate();
    assert_eq!(log.matches("\"accept failed\"").count(), 1, "{log}");
}

#[test]
fn failed_start_is_logged_as_json_at_every_level() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for level in ["info", "off"] {
        for command in ["serve", "demo"] {
            let mut start = qrlogin(dir.path(), &[command, "--listen", &address, "--ops-listen", "127.0.0.1:0"]);
            let (status, _, log) = run(start.env("QRLOGIN_LOG__FORMAT", "json").env("QRLOGIN_LOG__LEVEL", level));
            assert_eq!(status.code(), Some(1));
            let lines = parsed(&log);
            let last = lines.last().unwrap();
            assert_eq!((&last["level"], &last["event"]), (&json!("ERROR"), &json!("failed")), "{log}");
            let error = last["error"].as_str().unwrap();
            assert!(error.contains("listen") && error.contains(&address), "{error}");
        }
    }
}
