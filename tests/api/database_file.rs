//! One SQLite file has one server, and the server detects that its file is deleted, replaced or not writable.

use std::fs::{self, Permissions};
use std::path::Path;
#[cfg(target_os = "linux")]
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use qrlogin_testing::program::{Program, SERVE, qrlogin, run};
use qrlogin_testing::real_time::{now, sleep_millis};
use qrlogin_testing::test;

#[test]
async fn second_server_on_the_same_file_is_refused_until_the_first_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Program::serve(&dir, "info");
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink(dir.path().join("qrlogin.db"), dir.path().join("elsewhere/link.db")).unwrap();
    for url in ["sqlite://qrlogin.db", "sqlite://elsewhere/../qrlogin.db", "sqlite://elsewhere/link.db"] {
        let started = now();
        let (status, _, stderr) = run(&mut qrlogin(dir.path(), &[&SERVE[..], &["--database-url", url]].concat()));
        assert_eq!(status.code(), Some(1), "{stderr}");
        let name = url.strip_prefix("sqlite://").unwrap();
        for part in ["database_url", name, &format!("process {} has it", first.id())] {
            assert!(stderr.contains(part), "'{part}' is missing in: {stderr}");
        }
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    let session = first.generate().await;
    assert_eq!(first.status(&session).await["status"], "pending", "the first server still serves");
    first.kill();
    let second = Program::serve(&dir, "info");
    assert_eq!(second.status(&session).await["status"], "pending");
    assert_eq!(second.terminate().0.code(), Some(0));
    assert_eq!(Program::serve(&dir, "info").terminate().0.code(), Some(0), "also after an orderly stop");
}

#[cfg(target_os = "linux")]
#[test]
async fn second_server_is_refused_under_every_name_of_the_file() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let first = Program::serve(&dir, "info");
    let session = first.generate().await;
    let path = |name: &str| dir.path().join(name);
    fs::create_dir(path("elsewhere")).unwrap();
    fs::hard_link(path("qrlogin.db"), path("hard.db")).unwrap();
    fs::hard_link(path("qrlogin.db"), path("elsewhere/hard.db")).unwrap();
    symlink("hard.db", path("elsewhere/link.db")).unwrap();
    symlink("qrlogin.db", path("link.db")).unwrap();
    fs::copy(path("qrlogin.db"), path("copy.db")).unwrap();
    let absolute = format!("sqlite://{}", path("qrlogin.db").display());
    let by_process = format!("process {} has it", first.id());
    for (url, part) in [
        ("sqlite://hard.db", "by another path"),
        ("sqlite://elsewhere/hard.db", "by another path"),
        ("sqlite://elsewhere/link.db", "by another path"),
        ("sqlite://link.db", &by_process),
        ("sqlite://./qrlogin.db", &by_process),
        ("sqlite://elsewhere/../qrlogin.db", &by_process),
        (&absolute, &by_process),
        ("sqlite://file:qrlogin.db", "SQLite's own URIs"),
        ("sqlite://qrlogin%2Edb", "percent-encoded"),
        ("sqlite://qrlogin.db?mode=rwc", "no parameters"),
    ] {
        let (status, _, stderr) = run(&mut qrlogin(dir.path(), &[&SERVE[..], &["--database-url", url]].concat()));
        assert_eq!(status.code(), Some(1), "{url}: {stderr}");
        for part in ["database_url", part] {
            assert!(stderr.contains(part), "{url}: '{part}' is missing in: {stderr}");
        }
    }
    assert_eq!(first.status(&session).await["status"], "pending");
    // A copy of the file is another database.
    let other = Program::serve_with(&dir, "info", &[("QRLOGIN_DATABASE_URL", "sqlite://copy.db")]);
    assert_eq!(other.terminate().0.code(), Some(0));
    // The file can be opened by its other name once the first server has stopped.
    assert_eq!(first.terminate().0.code(), Some(0));
    let second = Program::serve_with(&dir, "info", &[("QRLOGIN_DATABASE_URL", "sqlite://elsewhere/link.db")]);
    assert_eq!(second.status(&session).await["status"], "pending");
}

#[cfg(unix)]
#[test]
async fn lock_file_that_is_a_link_or_directory_is_refused_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let lock = path("qrlogin.db-lock");
    fs::write(path("precious"), "precious").unwrap();
    let cases: [(&str, &dyn Fn(), &str); 4] = [
        ("a symbolic link", &|| std::os::unix::fs::symlink("precious", &lock).unwrap(), "symbolic link"),
        ("a dangling link", &|| std::os::unix::fs::symlink("missing", &lock).unwrap(), "symbolic link"),
        ("a hard link", &|| fs::hard_link(path("precious"), &lock).unwrap(), "hard link"),
        ("a directory", &|| fs::create_dir(&lock).unwrap(), "directory"),
    ];
    for (what, make, part) in cases {
        make();
        let (status, _, stderr) = run(&mut qrlogin(dir.path(), &SERVE));
        assert_eq!(status.code(), Some(1), "{what}: {stderr}");
        for part in ["database_url", "qrlogin.db-lock", part] {
            assert!(stderr.contains(part), "{what}: '{part}' is missing in: {stderr}");
        }
        assert_eq!(fs::read_to_string(path("precious")).unwrap(), "precious", "{what}");
        assert!(!path("missing").exists());
        let removed = if lock.is_dir() { fs::remove_dir(&lock) } else { fs::remove_file(&lock) };
        removed.unwrap();
    }
    assert_eq!(Program::serve(&dir, "info").terminate().0.code(), Some(0));
}

#[cfg(unix)]
#[test]
async fn deleted_file_behind_a_link_and_replaced_link_are_detected() {
    use std::os::unix::fs::symlink;
    let remove = |file: &'static str| move |dir: &Path| fs::remove_file(dir.join(file)).unwrap();
    let replace = |dir: &Path| {
        fs::remove_file(dir.join("link.db")).unwrap();
        fs::write(dir.join("link.db"), "").unwrap();
    };
    type Change = Box<dyn Fn(&Path)>;
    let cases: [(Change, _, _); 4] = [
        (Box::new(remove("real/real.db-wal")), "deleted", "real.db-wal"),
        (Box::new(remove("real/real.db")), "deleted", "real.db"),
        (Box::new(remove("link.db")), "deleted", "link.db"),
        (Box::new(replace), "replaced", "link.db"),
    ];
    for (damage, word, name) in cases {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real/real.db", dir.path().join("link.db")).unwrap();
        let program = Program::serve_with(&dir, "info", &[("QRLOGIN_DATABASE_URL", "sqlite://link.db")]);
        program.generate().await;
        until_ready(&program, true).await;
        damage(dir.path());
        let reason = until_ready(&program, false).await;
        assert!(reason.contains(word) && reason.contains(name), "{reason}");
    }
}

/// Waits until `/readyz` reports that the server is ready, or that it is not. Returns the text of the answer. Panics
/// after five seconds.
async fn until_ready(program: &Program, is_ready: bool) -> String {
    let until = now() + Duration::from_secs(5);
    loop {
        let answer = program.http.get(format!("{}/readyz", program.ops)).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        if status.is_success() == is_ready {
            return text;
        }
        assert!(now() < until, "/readyz answers {status}: {text}");
        sleep_millis(50).await;
    }
}

/// Damages the file with `damage`, checks that this is detected and logged once, and repairs the file with `repair`.
async fn damage_is_detected(damage: impl FnOnce(&Path), word: &str, repair: impl FnOnce(&Path)) {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(&dir, "info");
    let before = program.generate().await;
    let file = dir.path().join("qrlogin.db");
    damage(&file);
    let reason = until_ready(&program, false).await;
    assert!(reason.contains(word) && reason.contains("qrlogin.db"), "{reason}");
    // Logins continue, because the server still has the file open.
    assert_eq!(program.status(&before).await["status"], "pending");
    let token = qrlogin_testing::keys::app_token(json!({ "sub": "ann" }));
    let scan = program.post("/v1/qr-login/scan", Some(&token), json!({ "code": before["code"] })).await.unwrap();
    assert_eq!(scan.status, 200);
    // The fault is logged once.
    sleep_millis(2500).await;
    repair(&file);
    let (status, log) = program.terminate();
    assert_eq!(status.code(), Some(0));
    let logged = log.lines().filter(|line| line.contains("store not in order") && line.contains(word)).count();
    assert_eq!(logged, 1, "{log}");
}

#[test]
async fn deleted_database_file_is_detected() {
    damage_is_detected(|file| fs::remove_file(file).unwrap(), "deleted", |_| {}).await;
}

#[test]
async fn replaced_database_file_is_detected() {
    let replace = |file: &Path| {
        let other = file.with_extension("other");
        fs::copy(file, &other).unwrap();
        fs::rename(other, file).unwrap();
    };
    damage_is_detected(replace, "replaced", |_| {}).await;
}

#[test]
async fn deleted_write_ahead_log_is_detected() {
    damage_is_detected(|file| fs::remove_file(file.with_extension("db-wal")).unwrap(), "deleted", |_| {}).await;
}

#[cfg(unix)]
#[test]
async fn read_only_database_file_is_detected_and_so_is_its_recovery() {
    use std::os::unix::fs::PermissionsExt as _;
    let set = |mode| move |file: &Path| fs::set_permissions(file, Permissions::from_mode(mode)).unwrap();
    damage_is_detected(set(0o444), "read-only", set(0o600)).await;

    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(&dir, "info");
    let file = dir.path().join("qrlogin.db");
    set(0o444)(&file);
    until_ready(&program, false).await;
    set(0o600)(&file);
    assert_eq!(until_ready(&program, true).await, "ok\n");
}

/// Limits the size of the program's files. Writes beyond it fail, as on a full disk.
#[cfg(target_os = "linux")]
fn limit_files(program: &Program, bytes: &str) {
    let (id, limit) = (program.id().to_string(), format!("--fsize={bytes}:"));
    assert!(Command::new("prlimit").args(["--pid", &id, &limit]).status().unwrap().success());
}

/// Limits the files of a server, checks that `fails` makes it detect the fault, and lifts the limit again.
#[cfg(target_os = "linux")]
async fn write_failure_is_detected(bytes: &str, fails: impl AsyncFnOnce(&Program)) {
    let dir = tempfile::tempdir().unwrap();
    // Beyond the limit the system also sends SIGXFSZ, which would end the process.
    let program = Program::serve_after(&dir, "trap '' XFSZ");
    let before = program.generate().await;
    limit_files(&program, bytes);
    fails(&program).await;
    let reason = until_ready(&program, false).await;
    assert!(reason.contains("the database file 'qrlogin.db' cannot be written"), "{reason}");
    let refused = program.post("/v1/qr-login/generate", None, json!({})).await.unwrap();
    assert_eq!(refused.status, 503);
    // The server stays unready, and reads are still answered.
    for _ in 0..10 {
        sleep_millis(250).await;
        until_ready(&program, false).await;
    }
    assert_eq!(program.status(&before).await["status"], "pending");

    limit_files(&program, "unlimited");
    assert_eq!(until_ready(&program, true).await, "ok\n");
    assert_eq!(program.post("/v1/qr-login/generate", None, json!({})).await.unwrap().status, 201);
    program.until_logged("store in order again").await;
    let (status, log) = program.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(log.contains("cannot be written"), "{log}");
    assert_eq!(log.matches("store in order again").count(), 1, "{log}");
}

#[cfg(target_os = "linux")]
#[test(needs(Prlimit))]
async fn full_disk_is_detected_without_a_client_that_writes() {
    write_failure_is_detected("0", async |_| ()).await;
}

#[cfg(target_os = "linux")]
#[test(needs(Prlimit))]
async fn unwritable_database_is_detected_at_the_first_failed_write() {
    write_failure_is_detected("4096", async |program| {
        let refused = program.post("/v1/qr-login/generate", None, json!({})).await.unwrap();
        assert_eq!(refused.status, 503);
    })
    .await;
}

#[test]
async fn idle_server_writes_nothing_to_its_database() {
    let dir = tempfile::tempdir().unwrap();
    let program = Program::serve(&dir, "info");
    program.generate().await;
    let files = || ["db", "db-wal"].map(|end| fs::read(dir.path().join("qrlogin").with_extension(end)).unwrap());
    for _ in 0..10 {
        let before = files();
        for _ in 0..5 {
            assert_eq!(until_ready(&program, true).await, "ok\n");
            sleep_millis(500).await;
        }
        // The session that was created first is still to be checkpointed.
        if files() == before {
            return;
        }
    }
    panic!("the database's files keep changing");
}
