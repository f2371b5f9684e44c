//! Every setting of `docs/SETTINGS.md` with values that it should not have, by variable, flag and file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use qrlogin::internals::app;
use qrlogin::internals::config::{ConfigError, ENV_PREFIX, Layers, Settings};
use qrlogin::internals::postgres::Postgres;
use qrlogin::internals::system::clock::Clock;
use tempfile::TempDir;
use toml::{Table, Value};

use qrlogin_testing::harness::SECRET;
use qrlogin_testing::program::{Program, SERVE, qrlogin, run, signal};
use qrlogin_testing::test;

/// Placeholder for a secret, long enough for `app_auth.hmac_secret`.
const MARK: &str = "Sw0rdf1sh.Sw0rdf1sh.Sw0rdf1sh.Sw0rdf1sh";
/// Part of each word of [`MARK`], which is also found in a mark that was cut or written in lower case.
const PART: &str = "w0rdf1sh";

/// Forms in which a secret gets into a setting: as it is, with characters that should be encoded, in the wrong setting,
/// and cut short by a wrong quote.
const SHAPES: [&str; 26] = [
    "MARK",
    "MARK\n",
    "\"MARK",
    "'MARK",
    "[MARK",
    "true MARK",
    "7 MARK",
    "MARK\n\u{1}",
    "postgres://u:MARK@h/d",
    "postgres://u:a/MARK#c@h/d",
    "postgres://u:a@MARK@h/d",
    "postgres://u:a?MARK@h/d",
    "postgres://u:MARK/d",
    "postgres://h/d?sslmode=MARK",
    "postgres://u@h/d?password=x&MARK=y",
    "postgres://h/d?password=MARK",
    "host=db user=u password=MARK",
    "sqlite://u:MARK@h/d",
    "redis://:MARK@h",
    "redis://:a#MARK@h:1",
    "unix:///x?pass=MARK",
    "https://u:MARK@id.example/jwks",
    "https://id.example/jwks?key=MARK",
    "https:u:MARK@h",
    "//u:MARK@h",
    "-----BEGIN PRIVATE KEY-----MARK-----END PRIVATE KEY-----",
];
/// Settings whose value names a file. It is printed where it is used, unless it looks like a secret.
const PATHS: [&str; 4] = ["app_auth.public_key_file", "token.key_dir", "geoip.city_file", "geoip.asn_file"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Variable,
    Flag,
    File,
    /// A file with the value unquoted, as a template may write it.
    Unquoted,
}

const WAYS: [Way; 4] = [Way::Variable, Way::Flag, Way::File, Way::Unquoted];

/// Returns the keys that the document names.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SETTINGS.md");
    let text = std::fs::read_to_string(path).unwrap();
    let keys = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(ToOwned::to_owned));
    keys.collect()
}

/// Returns the default of each setting, with its key.
fn defaults() -> Vec<(String, Value)> {
    let mut defaults = Vec::new();
    for (name, value) in Table::try_from(Settings::default()).unwrap() {
        match value {
            Value::Table(section) => {
                defaults.extend(section.into_iter().map(|(inner, value)| (format!("{name}.{inner}"), value)));
            }
            value => defaults.push((name, value)),
        }
    }
    defaults
}

/// Returns a valid value of the setting, as text.
fn good(key: &str, default: &Value) -> String {
    match (key, default) {
        ("bus_url", _) => "redis://cache.example".to_owned(),
        ("allowed_origins", _) => "https://www.example.com,https://example.com".to_owned(),
        ("trusted_proxies", _) => "192.0.2.1,10.0.0.0/8".to_owned(),
        ("token.claims", _) => "email,locale".to_owned(),
        ("risk.signals", _) => "country".to_owned(),
        ("app_auth.hmac_secret", _) => SECRET.to_owned(),
        ("app_auth.jwks_url" | "app_auth.introspection_url", _) => "https://id.example.com/x".to_owned(),
        (_, Value::String(text)) if text.is_empty() => "text".to_owned(),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Boolean(value)) => (!value).to_string(),
        ("limits.body_bytes", _) => "600".to_owned(),
        // This is in the range of all other integer settings.
        (_, Value::Integer(_)) => "300".to_owned(),
        (key, default) => panic!("{key}: {default}"),
    }
}

/// Returns values of another type than the setting's.
fn of_wrong_kind(key: &str, default: &Value) -> Vec<&'static str> {
    match (key, default) {
        ("log.format" | "risk.policy" | "proxy_header" | "risk.signals", _) => vec!["many", "7", "true"],
        ("listen" | "ops_listen", _) => vec!["many", "8080", "true", "[::1]", "host.example:80", ":65536"],
        ("public_url" | "app_auth.jwks_url" | "app_auth.introspection_url", _) => vec!["7", "a.example", "mailto:a@b"],
        ("database_url", _) => vec!["7", "a.db", "mysql://h/d"],
        ("bus_url", _) => vec!["7", "h:6379", "http://h"],
        ("allowed_origins", _) => vec!["7", "a.example", "https://a.example/"],
        ("trusted_proxies", _) => vec!["proxy.example", "10.0.0.0/33"],
        ("log.level", _) => vec!["many", "information"],
        (_, Value::Boolean(_)) => vec!["many", "7", "truefalse"],
        (_, Value::Integer(_)) => vec!["many", "1.5", "-1", "0x7", "7s", "true", "99999999999999999999"],
        _ => Vec::new(),
    }
}

/// Returns a file that sets this value, in its section.
fn file_of(key: &str, value: &str) -> String {
    match key.split_once('.') {
        Some((section, name)) => format!("[{section}]\n{name} = {value}\n"),
        None => format!("{key} = {value}\n"),
    }
}

/// Returns the value as TOML: of the setting's type if it parses as that, else as text.
fn literal(value: &str, default: &Value) -> String {
    let text = |text: &str| Value::from(text).to_string();
    match default {
        Value::Integer(_) if value.parse::<i64>().is_ok() => value.to_owned(),
        Value::Boolean(_) if value.parse::<bool>().is_ok() => value.to_owned(),
        Value::Array(_) => format!("[{}]", value.split(',').map(text).collect::<Vec<_>>().join(", ")),
        _ => text(value),
    }
}

/// Returns whether an error about a missing file quotes this value.
fn is_shown_path(key: &str, value: &str) -> bool {
    let is_hidden = value.contains(['=', '@', '#', '?', '&', ';']) || value.contains("://") || value.contains("BEGIN");
    PATHS.contains(&key) && !is_hidden
}

/// Returns whether a refusal names the setting and where it was set.
fn is_located(refusal: &str, key: &str, way: Way) -> bool {
    let origin = match way {
        Way::Variable => format!("environment variable {}: ", variable(key)),
        Way::Flag => "--set: ".to_owned(),
        Way::File | Way::Unquoted => "qrlogin.toml:".to_owned(),
    };
    // A valid value of another setting leaves no way to verify app tokens, and the refusal names that.
    refusal.starts_with("app_auth: nothing is set") || refusal.contains(key) && refusal.contains(&origin)
}

/// Returns the name of the setting's environment variable.
fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}

/// Returns the settings that the tested one is laid over. They are valid, unless the tested setting is the one that app
/// tokens are verified with.
fn base(key: &str) -> Settings {
    let mut base = Settings::default();
    let sources =
        ["app_auth.hmac_secret", "app_auth.public_key_file", "app_auth.jwks_url", "app_auth.introspection_url"];
    if !sources.contains(&key) {
        base.app_auth.hmac_secret = SECRET.into();
    }
    base
}

struct Bench {
    dir: TempDir,
    runs: usize,
}

struct Outcome {
    settings: Result<Settings, ConfigError>,
    /// Everything that the program would print about these settings.
    printed: String,
    /// The error, if the settings are refused.
    refusal: Option<String>,
}

impl Bench {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), runs: 0 }
    }

    /// Loads and checks the settings with this value, as `check-config` and `print-config` do.
    fn give(&mut self, key: &str, default: &Value, value: &str, way: Way) -> Outcome {
        self.runs += 1;
        let mut layers = Layers::over(&base(key));
        let given = match way {
            Way::Variable => {
                let name = variable(key);
                layers.environment([(OsString::from(name), OsString::from(value))])
            }
            Way::Flag => layers.text(key, value, "--set"),
            Way::File | Way::Unquoted => {
                let value = if way == Way::File { literal(value, default) } else { value.to_owned() };
                let path = self.dir.path().join("qrlogin.toml");
                std::fs::write(&path, file_of(key, &value)).unwrap();
                layers.file(&path)
            }
        };
        let mut printed: String = layers.warnings().iter().map(|warning| format!("{warning}\n")).collect();
        let loaded = given.and_then(|()| layers.finish());
        let refusal = match &loaded {
            Err(error) => Some(error.to_string()),
            Ok(loaded) => app::check(&loaded.settings, &Clock::system()).err().map(|error| {
                let error = error.to_string();
                loaded.origins.of_error(&error).map_or_else(|| error.clone(), |origin| format!("{origin}: {error}"))
            }),
        };
        let settings = loaded.map(|loaded| loaded.settings);
        printed.extend(refusal.clone());
        if let Ok(settings) = &settings {
            if let Ok(postgres) = Postgres::parse(settings.database_url.expose()) {
                writeln!(printed, "{postgres}").unwrap();
            }
            // Settings that hold no secret are printed as they are.
            if settings.secrets().iter().any(|(secret, _)| *secret == key) {
                writeln!(printed, "{settings:?}\n{}", settings.to_toml().unwrap()).unwrap();
            }
        }
        Outcome { settings, printed, refusal }
    }
}

#[test]
fn document_names_every_setting() {
    let known: BTreeSet<_> = defaults().into_iter().map(|(key, _)| key).collect();
    assert_eq!(documented(), known);
}

#[test]
fn padded_values_are_accepted_and_refusals_name_the_setting() {
    let mut bench = Bench::new();
    for (key, default) in defaults() {
        let good = good(&key, &default);
        for way in [Way::Variable, Way::Flag, Way::File] {
            let taken = bench.give(&key, &default, &good, way).settings;
            // This setting is invalid without the other one of its pair.
            if key.starts_with("app_auth.introspection_client_") {
                let error = taken.unwrap_err().to_string();
                assert!(error.contains("set both or none") && is_located(&error, &key, way), "{error}");
                continue;
            }
            assert!(taken.is_ok(), "{key} {way:?}: {taken:?}");
            for padded in [format!("{good}\r"), format!("{good}\r\n"), format!("{good}\n"), format!("  {good} ")] {
                let is_scalar = matches!(default, Value::Integer(_) | Value::Boolean(_));
                if (is_scalar && way == Way::File) || (key == "app_auth.hmac_secret" && padded.starts_with(' ')) {
                    continue;
                }
                let same = bench.give(&key, &default, &padded, way).settings;
                assert_eq!(same, taken, "{key} {way:?} {padded:?}");
            }
        }
        for empty in ["", " ", "\r\n"] {
            let unset = bench.give(&key, &default, empty, Way::Variable).settings;
            assert_eq!(unset, Ok(base(&key)), "{key}={empty:?}");
            for way in [Way::Flag, Way::File] {
                let given = bench.give(&key, &default, empty, way);
                if let Err(error) = given.settings {
                    assert!(error.to_string().contains(&key), "{key} {way:?} {empty:?}: {error}");
                }
            }
        }
        let mut wrong: Vec<_> = of_wrong_kind(&key, &default).into_iter().map(ToOwned::to_owned).collect();
        wrong.push("9".repeat(100_000));
        wrong.push(format!("{good}\0"));
        wrong.push(format!("{good}\u{7f}{good}"));
        for wrong in wrong {
            for way in [Way::Variable, Way::Flag, Way::File] {
                let given = bench.give(&key, &default, &wrong, way);
                let shown: String = wrong.chars().take(40).collect();
                let refusal = given.refusal.unwrap_or_default();
                assert!(
                    refusal.contains(&key) && is_located(&refusal, &key, way),
                    "{key} {way:?} {shown:?}: {refusal}"
                );
                assert!(refusal.len() < 1000, "{key} {way:?} {shown:?}: {refusal}");
            }
        }
        // In a file, values have types.
        for value in ["7", "7.5", "true", "'text'", "['text']", "[7]", "{ a = 1 }", "2026-01-01", "[['text']]", ""] {
            let given = bench.give(&key, &default, value, Way::Unquoted);
            if let Some(refusal) = given.refusal {
                assert!(refusal.contains(&key), "{key} = {value}: {refusal}");
            }
        }
    }
    println!("{} values", bench.runs);
    assert!(bench.runs > 2000, "{}", bench.runs);
}

#[test]
fn secret_in_any_setting_is_not_shown() {
    let mut bench = Bench::new();
    for (key, default) in defaults() {
        for shape in SHAPES {
            let value = shape.replace("MARK", MARK);
            for way in WAYS {
                let Outcome { printed, refusal, .. } = bench.give(&key, &default, &value, way);
                assert!(
                    refusal.as_ref().is_none_or(|refusal| is_located(refusal, &key, way)),
                    "{key} {way:?} {value:?}: not located: {printed}"
                );
                if !is_shown_path(&key, &value) {
                    assert!(!printed.contains(PART), "{key} {way:?} {value:?}: {printed}");
                }
            }
        }
    }
    println!("{} values", bench.runs);
    assert!(bench.runs > 4000, "{}", bench.runs);
}

#[test]
fn program_prints_no_secret_of_its_settings() {
    let dir = tempfile::tempdir().unwrap();
    let mut runs = 0;
    for (index, (key, default)) in defaults().into_iter().enumerate() {
        let values = [
            SHAPES[index % SHAPES.len()].replace("MARK", MARK),
            SHAPES[(index + 13) % SHAPES.len()].replace("MARK", MARK),
            format!("{}\r", good(&key, &default)),
        ];
        for value in &values {
            let name = variable(&key);
            for way in WAYS {
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
                    match way {
                        Way::Variable => _ = command.env(&name, value),
                        Way::Flag => _ = command.args(["--set", &format!("{key}={value}")]),
                        Way::File => std::fs::write(&file, file_of(&key, &literal(value, &default))).unwrap(),
                        Way::Unquoted => std::fs::write(&file, file_of(&key, value)).unwrap(),
                    }
                    let (status, stdout, stderr) = run(&mut command);
                    let printed = format!("{stdout}{stderr}");
                    runs += 1;
                    assert!(matches!(status.code(), Some(0 | 1)), "{key} {way:?} {value:?}: {status}: {printed}");
                    assert!(
                        is_shown_path(&key, value) || !printed.contains(PART),
                        "{name_of_command} {key} {way:?} {value:?}: {printed}"
                    );
                    let refusal = stderr.lines().last().and_then(|line| line.strip_prefix("qrlogin: "));
                    let is_located = refusal.is_some_and(|refusal| is_located(refusal, &key, way));
                    assert!(status.success() || is_located, "{key} {way:?} {value:?}: {printed}");
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
