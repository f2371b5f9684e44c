//! The log of a process whose standard error is not read.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use qrlogin::internals::telemetry::{Log, LogFormat};
use serde_json::Value;

use qrlogin_testing::program::{TimeLimit, ended};
use qrlogin_testing::test;

/// Number of lines in the flood, more than the program buffers while its output blocks.
const FLOOD_LINES: u64 = 60_000;

/// Starts a test of this file in a process of its own.
fn start(test: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("log::{test}"), "--ignored", "--nocapture"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// A value whose formatting fails.
struct Unprintable;

impl fmt::Debug for Unprintable {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Err(fmt::Error)
    }
}

/// Floods its log, panics and ends, in a process that the next test starts.
#[test(ignore = "run by the next test in a process of its own")]
fn flooded_log() {
    let log = Log::start("info", LogFormat::Json);
    drop(std::thread::spawn(|| tracing::info!(value = ?Unprintable)).join());
    for _ in 0..FLOOD_LINES {
        tracing::info!("what fills the log: {:0>100}", 0);
    }
    std::thread::spawn(|| panic!("a panic")).join().unwrap_err();
    println!("\nflooded");
    std::io::stdin().read_exact(&mut [0]).unwrap();
    tracing::info!("the output is read again");
    drop(log);
}

#[test]
fn json_log_counts_the_lines_lost_to_a_blocked_reader() {
    let mut child = start("flooded_log");
    let limit = TimeLimit::of(&child);
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let mut stdout = stdout.lines().map(Result::unwrap);
    assert!(stdout.any(|line| line == "flooded"));
    let mut stderr = child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut log = String::new();
        stderr.read_to_string(&mut log).unwrap();
        log
    });
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(stdout.by_ref().last().is_some());
    drop(limit);
    assert!(ended(&mut child).success());
    let log = reading.join().unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let notices = lines.iter().filter(|line| line["event"] == "log_lines_lost");
    let lost: u64 = notices.clone().map(|line| line["lines"].as_u64().unwrap()).sum();
    assert!(lost > 0);
    for notice in notices.clone() {
        assert_eq!(notice["level"], "WARN");
        assert_eq!(notice["timestamp"].as_str().unwrap().len(), lines[0]["timestamp"].as_str().unwrap().len());
    }
    // Besides the flood, the log has the value that cannot be formatted, the panic and the last line.
    assert_eq!(lines.len() as u64 - notices.count() as u64 + lost, FLOOD_LINES + 3, "{}", lines[0]);
}

/// Panics while its log is full, in a process that the next test starts.
#[test(ignore = "run by the next test in a process of its own")]
fn panicking_process() {
    let log = Log::start("info", LogFormat::Json);
    for _ in 0..2000 {
        tracing::info!("what fills the log: {:0>100}", 0);
    }
    std::thread::Builder::new().name("panicking".to_owned()).spawn(|| panic!("a panic")).unwrap().join().unwrap_err();
    drop(log);
}

#[test]
fn panic_is_logged_without_waiting_for_the_reader_of_the_log() {
    assert!(ended(&mut start("panicking_process")).success());

    let child = start("panicking_process");
    let limit = TimeLimit::of(&child);
    let output = child.wait_with_output().unwrap();
    drop(limit);
    let log = String::from_utf8(output.stderr).unwrap();
    let panics = log.lines().filter(|line| line.contains(r#""event":"panic""#)).collect::<Vec<_>>();
    let [panic] = *panics else { panic!("{} lines of {log}", panics.len()) };
    for part in ["ERROR", r#""thread":"panicking""#, r#""message":"a panic""#, "tests/conformance/log.rs:"] {
        assert!(panic.contains(part), "'{part}' is missing in: {panic}");
    }
}
