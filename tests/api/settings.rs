//! Settings of the program: refusals, warnings and the commands that print settings, none of which quotes a secret.

use qrlogin_testing::program::{Program, SERVE, qrlogin, run, signal};
use qrlogin_testing::setting_values::{
    MARK, PART, PATHS, SHAPES, SOURCES, Source, defaults, file_with, is_located, is_shown_path, literal, valid_value,
    variable,
};
use qrlogin_testing::test;

#[test]
fn program_prints_no_secret_of_its_settings() {
    let dir = tempfile::tempdir().unwrap();
    let mut runs = 0;
    for (index, (key, default)) in defaults().into_iter().enumerate() {
        let values = [
            SHAPES[index % SHAPES.len()].replace("MARK", MARK),
            SHAPES[(index + 13) % SHAPES.len()].replace("MARK", MARK),
            format!("{}\r", valid_value(&key, &default)),
        ];
        for value in &values {
            let name = variable(&key);
            for source in SOURCES {
                let file = dir.path().join("qrlogin.toml");
                drop(std::fs::remove_file(&file));
                let is_secret = key.ends_with("_url") || key.ends_with("_secret");
                let commands = if is_secret && key != "public_url" {
                    &["check-config", "print-config"][..]
                } else {
                    &["check-config"]
                };
                for name_of_command in commands {
                    let mut command = qrlogin(dir.path(), &[name_of_command]);
                    command.env_remove("QRLOGIN_APP_AUTH__HMAC_SECRET");
                    match source {
                        Source::Variable => _ = command.env(&name, value),
                        Source::Flag => _ = command.args(["--set", &format!("{key}={value}")]),
                        Source::File => std::fs::write(&file, file_with(&key, &literal(value, &default))).unwrap(),
                        Source::Unquoted => std::fs::write(&file, file_with(&key, value)).unwrap(),
                    }
                    let (status, stdout, stderr) = run(&mut command);
                    let printed = format!("{stdout}{stderr}");
                    runs += 1;
                    assert!(matches!(status.code(), Some(0 | 1)), "{key} {source:?} {value:?}: {status}: {printed}");
                    assert!(
                        is_shown_path(&key, value) || !printed.contains(PART),
                        "{name_of_command} {key} {source:?} {value:?}: {printed}"
                    );
                    let refusal = stderr.lines().last().and_then(|line| line.strip_prefix("qrlogin: "));
                    let is_located = refusal.is_some_and(|refusal| is_located(refusal, &key, source));
                    assert!(status.success() || is_located, "{key} {source:?} {value:?}: {printed}");
                }
            }
        }
    }
    println!("{runs} runs");
    assert!(runs > 600, "{runs}");
}

#[test]
fn secret_in_place_of_a_path_is_not_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let mut runs = 0;
    for key in PATHS {
        let name = variable(key);
        for secret in
            [format!("{MARK}="), format!("host=db password={MARK}"), format!("u:{MARK}@h"), format!("/{MARK}#")]
        {
            // A directory that does not exist is created, so a file is in its place.
            let file = dir.path().join(&secret);
            if key == "token.key_dir" && !secret.starts_with('/') {
                std::fs::write(file, "").unwrap();
            }
            let mut command = qrlogin(dir.path(), &["check-config"]);
            if key == "app_auth.public_key_file" {
                command.env_remove("QRLOGIN_APP_AUTH__HMAC_SECRET");
            }
            let (status, stdout, stderr) = run(command.env(&name, &secret));
            assert!(!format!("{stdout}{stderr}").contains(PART), "{key}: {stdout}{stderr}");
            if !status.success() {
                assert!(stderr.contains(&format!("{key}: (hidden): ")), "{key}: {stderr}");
                runs += 1;
            }
        }
    }
    assert_eq!(runs, 15);
}

#[test]
fn variable_with_a_colon_in_place_of_the_equals_sign_is_refused_without_its_name() {
    let dir = tempfile::tempdir().unwrap();
    for key in ["app_auth.hmac_secret", "database_url"] {
        let mut command = qrlogin(dir.path(), &["check-config"]);
        command.env(format!("{}:{MARK}b64", variable(key)), "");
        let (status, stdout, stderr) = run(&mut command);
        assert!(status.code() == Some(1) && !format!("{stdout}{stderr}").to_lowercase().contains(PART), "{stderr}");
        let parts = ["QRLOGIN_… (its name is not shown)", &format!("did you mean {}?", variable(key))];
        assert!(parts.iter().all(|part| stderr.contains(part)), "{stderr}");
    }
}

#[test]
fn refusal_of_serve_and_check_config_names_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let file = "\n[geoip]\ncity_file = 'missing.mmdb'\n";
    let redis = "redis://cache.example";
    let cases: [(&str, &str, &str); 6] = [
        ("database_url", "host=db user=u password=x", "is in libpq's keyword form"),
        ("database_url", "sqlite://file:q.db", "SQLite's own URIs"),
        ("bus_url", redis, "is for nodes that share a Postgres"),
        ("bus_url", "(hidden)", "holds '(hidden)'"),
        ("geoip.asn_file", "missing.mmdb", "missing.mmdb: "),
        ("app_auth.introspection_client_secret", "x", ""),
    ];
    for arguments in [&["check-config"][..], &SERVE] {
        for (key, value, reason) in cases {
            let (_, _, stderr) = run(qrlogin(dir.path(), arguments).env(variable(key), value));
            let separator = if reason.is_empty() { " goes together" } else { ": " };
            let text = format!("qrlogin: environment variable {}: {key}{separator}{reason}", variable(key));
            assert!(stderr.lines().any(|line| line.starts_with(&text)), "{arguments:?}: {stderr}");
        }
        let flags = [arguments, &["--database-url", "mysql://h/d"]].concat();
        let (_, _, stderr) = run(&mut qrlogin(dir.path(), &flags));
        assert!(stderr.contains("qrlogin: --database-url: database_url: is not of the form"), "{stderr}");
        let flags = [arguments, &["--config", "given.toml"]].concat();
        std::fs::write(dir.path().join("given.toml"), file).unwrap();
        let (_, _, stderr) = run(&mut qrlogin(dir.path(), &flags));
        assert!(stderr.contains("qrlogin: given.toml:3:1: geoip.city_file: missing.mmdb: "), "{stderr}");
    }
    // The log of `serve` has the source too, in its own format.
    let mut serve = qrlogin(dir.path(), &SERVE);
    let (_, _, stderr) = run(serve.env("QRLOGIN_LOG__FORMAT", "json").env("QRLOGIN_BUS_URL", redis));
    let event: serde_json::Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    let error = event["error"].as_str().unwrap();
    assert!(error.starts_with("environment variable QRLOGIN_BUS_URL: bus_url: is for nodes"), "{error}");
    let mut verifying = qrlogin(dir.path(), &["check-config", "--set", "app_auth.public_key_file=missing.pem"]);
    let (_, _, stderr) = run(verifying.env_remove("QRLOGIN_APP_AUTH__HMAC_SECRET"));
    assert!(stderr.starts_with("qrlogin: --set: app_auth.public_key_file: missing.pem: "), "{stderr}");
    let mut token = qrlogin(dir.path(), &["gen-token", "--user", "ann"]);
    let (_, _, stderr) = run(token.env("QRLOGIN_APP_AUTH__HMAC_SECRET", "(hidden)"));
    assert!(stderr.starts_with("qrlogin: environment variable QRLOGIN_APP_AUTH__HMAC_SECRET: app_auth."), "{stderr}");
}

#[test]
fn demo_logs_the_warnings_about_settings() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    // The demo ends at once, because the port is in use.
    let mut demo = qrlogin(dir.path(), &["demo", "--listen", &address, "--ops-listen", "127.0.0.1:0"]);
    let (status, _, stderr) = run(demo.env("QRLOGIN_SESSION__TTL_SECONDS", "60\r"));
    assert_eq!(status.code(), Some(1), "{stderr}");
    let warning = stderr.lines().find(|line| line.contains("setting_unclean")).unwrap();
    for part in ["WARN", "QRLOGIN_SESSION__TTL_SECONDS", "session.ttl_seconds", "white space"] {
        assert!(warning.contains(part), "{stderr}");
    }
    assert!(stderr.contains(&format!("qrlogin: --listen: listen: cannot listen on {address}: ")), "{stderr}");
}

#[test]
fn command_line_errors_do_not_quote_values() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("postgres://u:{MARK}@h/d");
    for arguments in [
        &["serve", &url][..],
        &["serve", "--database-urll", &url],
        &["serve", &format!("--database-urll={url}")],
        &["serve", "--set", MARK],
        &["serve", "--set", &format!("app_auth.hmac_secret:{MARK}=")],
        &["serve", "--set", &format!("APP_AUTH.HMAC_SECRET-{MARK}=")],
        &["serve", "--set", &url],
        &["serve", "--set", &format!("{url}?sslmode=require")],
        &["serve", &format!("--{MARK}")],
        &["serve", &format!("-{MARK}")],
        &[MARK],
        &[&url],
        &["load", "--seconds", MARK],
        &["load", "--transport", MARK],
        &["load", "--sources", MARK],
        &["load", "--browsers", &url],
        &["gen-token", "--user", "ann", "--ttl-seconds", MARK],
        &["gen-token", "--user", "ann", "--ttl-seconds=7", MARK],
        &["check-config", "--strict", MARK],
        &["check-config", "--config", &url],
        &["print-config", "--listen", MARK],
        &["print-config", "--public-url", &url],
        &["print-config", "--bus-url", &format!("redis://:a/{MARK}@h")],
        &["print-config", "--database-url", &format!("postgres://u:a/{MARK}#c@h/d")],
    ] {
        let (status, stdout, stderr) = run(&mut qrlogin(dir.path(), arguments));
        assert!(matches!(status.code(), Some(0..=2)), "{arguments:?}: {status}");
        assert!(!format!("{stdout}{stderr}").contains(PART), "{arguments:?}: {stdout}{stderr}");
        assert!(status.success() || stderr.len() > 20, "{arguments:?}: {stderr}");
    }
}

#[test]
fn check_config_prints_warnings_and_strict_refuses_them() {
    let dir = tempfile::tempdir().unwrap();
    let unclean = |arguments: &[&str]| {
        let mut command = qrlogin(dir.path(), arguments);
        command.env("QRLOGIN_PUBLIC_URL", "https://login.example.com\r").env("QRLOGIN_LOG__LEVEL", "");
        run(&mut command)
    };
    let (status, stdout, stderr) = unclean(&["check-config"]);
    assert!(status.success() && stdout.contains("can be used"), "{stdout}{stderr}");
    assert_eq!(
        stderr,
        "qrlogin: warning: environment variable QRLOGIN_PUBLIC_URL: public_url has white space around its value, which \
         was cut off\n"
    );
    let (status, _, stderr) = unclean(&["check-config", "--strict"]);
    assert!(
        status.code() == Some(1) && stderr.contains("--strict") && stderr.contains("QRLOGIN_PUBLIC_URL"),
        "{stderr}"
    );
    let (status, stdout, stderr) = run(&mut qrlogin(dir.path(), &["check-config", "--strict"]));
    assert!(status.success() && stdout.contains("can be used") && stderr.is_empty(), "{stdout}{stderr}");
    let (_, shown, _) = unclean(&["print-config"]);
    assert!(
        shown.contains("public_url = \"https://login.example.com\"\n") && shown.contains("level = \"info\""),
        "{shown}"
    );
}

/// Variables and their values.
type Environment = &'static [(&'static str, &'static str)];

/// Settings that have no effect because of others, each with the words of its warning.
const USELESS: [(Environment, &[&str]); 2] = [
    (
        &[("QRLOGIN_APPROVE__URL", "https://www.example.com/approve#{code}")],
        &["approve.url", "https://www.example.com", "allowed_origins"],
    ),
    (
        &[("QRLOGIN_RISK__POLICY", "deny"), ("QRLOGIN_RISK__SIGNALS", "network")],
        &["risk.policy", "network", "geoip.asn_file"],
    ),
];

#[test]
fn check_config_warns_of_a_page_that_is_not_allowed_and_of_risks_that_are_not_detected() {
    let dir = tempfile::tempdir().unwrap();
    let warned = |environment: Environment| {
        let (status, _, stderr) = run(qrlogin(dir.path(), &["check-config"]).envs(environment.iter().copied()));
        assert!(status.success(), "{stderr}");
        stderr
    };
    for (environment, words) in USELESS {
        let warning = warned(environment);
        assert!(warning.lines().count() == 1 && words.iter().all(|word| warning.contains(word)), "{warning}");
    }
    assert_eq!(warned(&[("QRLOGIN_RISK__POLICY", "deny")]).lines().count(), 2, "one for each signal");
    for fine in [
        &[
            ("QRLOGIN_APPROVE__URL", "https://www.example.com/approve#{code}"),
            ("QRLOGIN_ALLOWED_ORIGINS", "https://*.example.com"),
        ][..],
        &[
            ("QRLOGIN_APPROVE__URL", "https://login.example.com/approve#{code}"),
            ("QRLOGIN_PUBLIC_URL", "https://login.example.com"),
        ],
        &[("QRLOGIN_RISK__POLICY", "report")],
    ] {
        assert_eq!(warned(fine), "", "{fine:?}");
    }
}

#[test]
async fn serve_warns_of_a_page_that_is_not_allowed_and_of_risks_that_are_not_detected() {
    let dir = tempfile::tempdir().unwrap();
    let environment = USELESS.map(|(environment, _)| environment).concat();
    let program = Program::serve_with(&dir, "info", &environment);
    let (_, log) = program.terminate();
    for (_, words) in USELESS {
        let is_warning = |line: &&str| line.contains("\"WARN\"") && words.iter().all(|word| line.contains(word));
        assert_eq!(log.lines().filter(is_warning).count(), 1, "{log}");
    }
}

#[test]
async fn serve_warns_of_a_cleaned_value_and_uses_the_clean_one() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [("QRLOGIN_PUBLIC_URL", " https://login.example.com\r\n"), ("QRLOGIN_TOKEN__KEY_DIR", "")];
    let program = Program::serve_with(&dir, "info", &environment);
    let session = program.generate().await;
    assert!(session["qr_url"].as_str().unwrap().starts_with("https://login.example.com/q/"), "{session}");
    assert!(dir.path().join("keys").is_dir(), "an empty variable leaves the default");
    let (_, log) = program.terminate();
    let warning = log.lines().find(|line| line.contains("setting_unclean")).unwrap();
    assert!(warning.contains("\"WARN\"") && warning.contains("QRLOGIN_PUBLIC_URL"), "{warning}");
}

#[test]
async fn invalid_file_at_sighup_is_not_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qrlogin.toml");
    std::fs::write(&file, "[log]\nlevel = 'info'\n").unwrap();
    let program = Program::serve_without_level(&dir);
    std::fs::write(&file, format!("[app_auth]\nhmac_secret = '{MARK}\n[log]\nlevel = 'debug'\n")).unwrap();
    signal(program.id(), "HUP");
    program.until_logged("settings not read").await;
    let (status, log) = program.terminate();
    assert!(status.success());
    let warning = log.lines().find(|line| line.contains("settings not read")).unwrap();
    assert!(warning.contains("qrlogin.toml:2:") && warning.contains("app_auth.hmac_secret"), "{warning}");
    assert!(!log.contains(PART), "{log}");
}

#[test]
fn print_config_output_can_be_read_again_but_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("postgres://u:a/{MARK}#c@h/d");
    let (_, shown, _) = run(&mut qrlogin(dir.path(), &["print-config", "--database-url", &url]));
    assert!(shown.contains("database_url = \"(hidden)\"") && shown.contains("hmac_secret = \"(hidden)\""), "{shown}");
    std::fs::write(dir.path().join("qrlogin.toml"), &shown).unwrap();
    let again = |arguments: &[&str]| run(qrlogin(dir.path(), arguments).env_remove("QRLOGIN_APP_AUTH__HMAC_SECRET"));
    assert_eq!(again(&["print-config"]).1, shown);
    for arguments in [&["check-config"][..], &SERVE] {
        let (status, _, stderr) = again(arguments);
        assert!(status.code() == Some(1) && stderr.contains("database_url: holds '(hidden)'"), "{stderr}");
    }
}
