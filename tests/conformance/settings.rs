//! The layers of the settings: every setting of `docs/SETTINGS.md` with valid values, invalid values and secrets, by
//! variable, flag and file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use qrlogin::internals::app;
use qrlogin::internals::config::{ConfigError, Layers, Settings};
use qrlogin::internals::postgres::Postgres;
use qrlogin::internals::system::clock::Clock;
use tempfile::TempDir;
use toml::Value;

use qrlogin_testing::harness::SECRET;
use qrlogin_testing::setting_values::{
    LIST_OF_TABLES, MARK, PART, SHAPES, SOURCES, Source, defaults, file_with, is_located, is_shown_path, literal,
    valid_value, variable,
};
use qrlogin_testing::test;

/// Returns the keys that the document names.
fn documented() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/SETTINGS.md");
    let text = std::fs::read_to_string(path).unwrap();
    // The keys of a client's table are documented in a section of their own.
    let (settings, _) = text.split_once("## Clients").unwrap();
    let keys = settings.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next().map(ToOwned::to_owned));
    keys.collect()
}

/// Returns values that are invalid for the setting, most of another type.
fn invalid_values(key: &str, default: &Value) -> Vec<&'static str> {
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

/// Loads settings with one value changed, and counts the values.
struct Loader {
    dir: TempDir,
    runs: usize,
}

/// The result of loading and checking settings.
struct Outcome {
    settings: Result<Settings, ConfigError>,
    /// Everything that the program would print about these settings.
    printed: String,
    /// The error, if the settings are refused.
    refusal: Option<String>,
}

impl Loader {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), runs: 0 }
    }

    /// Loads and checks the settings with this value, as `check-config` and `print-config` do.
    fn load(&mut self, key: &str, default: &Value, value: &str, source: Source) -> Outcome {
        self.runs += 1;
        let mut layers = Layers::over(&base(key));
        let added = match source {
            Source::Variable => {
                let name = variable(key);
                layers.environment([(OsString::from(name), OsString::from(value))])
            }
            Source::Flag => layers.text(key, value, "--set"),
            Source::File | Source::Unquoted => {
                let value = if source == Source::File { literal(value, default) } else { value.to_owned() };
                let path = self.dir.path().join("qrlogin.toml");
                std::fs::write(&path, file_with(key, &value)).unwrap();
                layers.file(&path)
            }
        };
        let mut printed: String = layers.warnings().iter().map(|warning| format!("{warning}\n")).collect();
        let loaded = added.and_then(|()| layers.finish());
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
    let known: BTreeSet<_> = defaults().into_iter().map(|(key, _)| key).chain([LIST_OF_TABLES.to_owned()]).collect();
    assert_eq!(documented(), known);
}

#[test]
fn padded_values_are_accepted_and_refusals_name_the_setting() {
    let mut loader = Loader::new();
    for (key, default) in defaults() {
        let valid = valid_value(&key, &default);
        for source in [Source::Variable, Source::Flag, Source::File] {
            let taken = loader.load(&key, &default, &valid, source).settings;
            // This setting is invalid without the other one of its pair.
            let is_of_pair = ["app_auth.introspection_client_", "approve.client_", "approve.issuer"];
            if is_of_pair.iter().any(|prefix| key.starts_with(prefix)) {
                let error = taken.unwrap_err().to_string();
                assert!(error.contains("set both or none") && is_located(&error, &key, source), "{error}");
                continue;
            }
            assert!(taken.is_ok(), "{key} {source:?}: {taken:?}");
            for padded in [format!("{valid}\r"), format!("{valid}\r\n"), format!("{valid}\n"), format!("  {valid} ")] {
                let is_scalar = matches!(default, Value::Integer(_) | Value::Boolean(_));
                if (is_scalar && source == Source::File) || (key == "app_auth.hmac_secret" && padded.starts_with(' ')) {
                    continue;
                }
                let same = loader.load(&key, &default, &padded, source).settings;
                assert_eq!(same, taken, "{key} {source:?} {padded:?}");
            }
        }
        for empty in ["", " ", "\r\n"] {
            let unset = loader.load(&key, &default, empty, Source::Variable).settings;
            assert_eq!(unset, Ok(base(&key)), "{key}={empty:?}");
            for source in [Source::Flag, Source::File] {
                let given = loader.load(&key, &default, empty, source);
                if let Err(error) = given.settings {
                    assert!(error.to_string().contains(&key), "{key} {source:?} {empty:?}: {error}");
                }
            }
        }
        let mut wrong: Vec<_> = invalid_values(&key, &default).into_iter().map(ToOwned::to_owned).collect();
        wrong.push("9".repeat(100_000));
        wrong.push(format!("{valid}\0"));
        wrong.push(format!("{valid}\u{7f}{valid}"));
        for wrong in wrong {
            for source in [Source::Variable, Source::Flag, Source::File] {
                let given = loader.load(&key, &default, &wrong, source);
                let shown: String = wrong.chars().take(40).collect();
                let refusal = given.refusal.unwrap_or_default();
                assert!(
                    refusal.contains(&key) && is_located(&refusal, &key, source),
                    "{key} {source:?} {shown:?}: {refusal}"
                );
                assert!(refusal.len() < 1000, "{key} {source:?} {shown:?}: {refusal}");
            }
        }
        // In a file, values have types.
        for value in ["7", "7.5", "true", "'text'", "['text']", "[7]", "{ a = 1 }", "2026-01-01", "[['text']]", ""] {
            let given = loader.load(&key, &default, value, Source::Unquoted);
            if let Some(refusal) = given.refusal {
                assert!(refusal.contains(&key), "{key} = {value}: {refusal}");
            }
        }
    }
    println!("{} values", loader.runs);
    assert!(loader.runs > 2000, "{}", loader.runs);
}

#[test]
fn secret_in_any_setting_is_not_shown() {
    let mut loader = Loader::new();
    for (key, default) in defaults() {
        for shape in SHAPES {
            let value = shape.replace("MARK", MARK);
            for source in SOURCES {
                let Outcome { printed, refusal, .. } = loader.load(&key, &default, &value, source);
                assert!(
                    refusal.as_ref().is_none_or(|refusal| is_located(refusal, &key, source)),
                    "{key} {source:?} {value:?}: not located: {printed}"
                );
                if !is_shown_path(&key, &value) {
                    assert!(!printed.contains(PART), "{key} {source:?} {value:?}: {printed}");
                }
            }
        }
    }
    println!("{} values", loader.runs);
    assert!(loader.runs > 4000, "{}", loader.runs);
}
