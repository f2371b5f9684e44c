//! Checks that the code is as the documents say: layers, threat model, protocol and settings.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use qrlogin::internals::wire::types::ProblemCode;
use serde_json::Value;

use qrlogin_testing::harness::Server;
use qrlogin_testing::test;

/// Layer of each module, as in ARCHITECTURE.md. A module may import from itself and from modules of lower layers.
const LAYERS: [(&str, u8); 25] = [
    ("main", 11),
    ("cli", 10),
    ("app", 9),
    ("tasks", 8),
    ("http", 8),
    ("demo", 7),
    ("device_client", 7),
    ("hub", 7),
    ("oauth", 7),
    ("approve", 6),
    ("login", 6),
    ("config", 6),
    ("geo", 6),
    ("limits", 5),
    ("qr", 5),
    ("store", 5),
    ("token", 5),
    ("wire", 5),
    ("cluster", 4),
    ("postgres", 3),
    ("metrics", 2),
    ("system", 2),
    ("session", 1),
    ("telemetry", 1),
    ("secret", 0),
];

fn layer(module: &str) -> u8 {
    let known = LAYERS.iter().find(|(name, _)| *name == module);
    known.unwrap_or_else(|| panic!("the module {module} has no layer; give it one here and in ARCHITECTURE.md")).1
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Returns the source of a file without its unit tests, which may import anything.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned()
}

#[test]
fn imports_point_downwards() {
    let src = root().join("src");
    for path in sources(&src) {
        let relative = path.strip_prefix(&src).unwrap();
        let module = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        for used in code(&path).split("crate::").skip(1) {
            let used: String = used.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
            let allowed = used == module || layer(&used) < layer(module);
            assert!(allowed, "{} uses crate::{used}, which is not in a lower layer", relative.display());
        }
    }
}

#[test]
fn load_test_is_used_by_its_command_only() {
    let src = root().join("src");
    let users: Vec<_> = sources(&src).into_iter().filter(|path| code(path).contains("qrlogin_load")).collect();
    assert_eq!(users, [src.join("cli/load.rs")]);
}

#[test]
fn api_tests_use_no_internals() {
    for path in sources(&root().join("tests/api")) {
        let is_internal = fs::read_to_string(&path).unwrap().contains("internals");
        assert!(!is_internal, "{} uses internals, which only tests/conformance and the harness may", path.display());
    }
}

#[test]
fn session_is_pure() {
    for path in sources(&root().join("src/session")) {
        for impure in [
            "tokio",
            "rusqlite",
            "postgres",
            "axum",
            "rand::",
            "random::",
            "tracing",
            "crate::system::clock",
            "std::time",
            "async ",
            "SystemRandom",
            "std::fs",
            "std::net::Tcp",
            "std::thread",
            "static ",
        ] {
            let text = code(&path);
            let used = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .any(|line| line.replace("&'static ", "").contains(impure));
            assert!(!used, "{} uses {impure}", path.display());
        }
    }
}

#[test]
fn unsafe_code_is_forbidden_outside_the_memory_module() {
    for (file, unsafe_modules) in [("src/lib.rs", &["system;"][..]), ("src/system/mod.rs", &["memory;"])] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let modules = lines.iter().enumerate().filter_map(|(index, line)| Some((index, line.strip_prefix("mod ")?)));
        for (index, module) in modules {
            let is_forbidden = lines[index - 1] == "#[forbid(unsafe_code)]";
            assert_eq!(is_forbidden, !unsafe_modules.contains(&module), "{file}: {module}");
        }
    }
    for file in ["src/main.rs", "crates/load/src/lib.rs"] {
        assert!(fs::read_to_string(root().join(file)).unwrap().contains("#![forbid(unsafe_code)]"), "{file}");
    }
}

/// Rust's own attribute `test` removes a function from a target without Rust's own test harness.
#[test]
fn every_test_is_registered_with_the_runner() {
    for path in ["api", "conformance", "docs"].iter().flat_map(|dir| sources(&root().join("tests").join(dir))) {
        let text = fs::read_to_string(&path).unwrap();
        let lines = || text.lines().map(str::trim_start);
        let has_tests = lines().any(|line| line.starts_with("#[test"));
        assert!(!has_tests || lines().any(|line| line == "use qrlogin_testing::test;"), "{}", path.display());
        assert!(lines().all(|line| !line.starts_with("#[tokio::test")), "{}", path.display());
    }
}

#[test]
fn every_test_named_in_the_threat_model_exists() {
    let security = fs::read_to_string(root().join("SECURITY.md")).unwrap();
    let stories = fs::read_dir(root().join("e2e")).unwrap().map(|entry| entry.unwrap().path());
    let stories = stories.filter(|path| path.extension().is_some_and(|extension| extension == "mjs"));
    let tests = ["tests", "src"].iter().flat_map(|dir| sources(&root().join(dir))).chain(stories);
    let tests: String = tests.map(|path| fs::read_to_string(path).unwrap()).collect();
    let rows: Vec<_> =
        security.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 2).collect();
    assert!(rows.len() > 20, "a row for each threat");
    for row in rows.iter().skip(2) {
        let named: Vec<_> = row.rsplit(" | ").next().unwrap().split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for test in named {
            let name = test.rsplit("::").next().unwrap();
            let is_test = tests.contains(&format!("fn {name}(")) || tests.contains(&format!("async \"{name}\"("));
            assert!(is_test, "SECURITY.md names {test}, which does not exist");
        }
    }
}

/// Returns the words of the wire format: all properties and constants in the API's description, and those of the frames
/// that the description does not cover.
async fn wire_words() -> BTreeSet<String> {
    let server = Server::start().await;
    let mut words = BTreeSet::new();
    collect_words(&server.get("/openapi.json").await.body["components"]["schemas"], &mut words);
    let (session, mut browser) = server.waiting().await;
    server.phone("ann").confirm(&session).await;
    for frame in [
        browser.frame("confirmed").await,
        serde_json::from_str(r#"{"status":"rotated","code":"","qr_url":"","qr_image":""}"#).unwrap(),
    ] {
        words.insert(frame["status"].as_str().unwrap().to_owned());
        words.extend(frame.as_object().unwrap().keys().cloned());
    }
    server.stop().await;
    words
}

fn collect_words(schema: &Value, words: &mut BTreeSet<String>) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Object(properties)) = members.get("properties") {
                words.extend(properties.keys().cloned());
            }
            if let Some(Value::Array(constants)) = members.get("enum") {
                words.extend(constants.iter().filter_map(Value::as_str).map(ToOwned::to_owned));
            }
            members.values().for_each(|member| collect_words(member, words));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_words(item, words)),
        _ => {}
    }
}

#[test]
async fn protocol_document_names_every_word_of_the_wire_format() {
    let protocol = fs::read_to_string(root().join("PROTOCOL.md")).unwrap();
    let words = wire_words().await;
    for known in
        ["web_token", "token_type", "user", "message", "rotated", "heartbeat_seconds", "expires_in", "cancelled"]
    {
        assert!(words.contains(known), "'{known}' is missing in {words:?}");
    }
    for word in words {
        // The members of a JWK Set are defined by RFC 7517.
        let is_named = [format!("`{word}`"), format!("\"{word}\"")].iter().any(|spelled| protocol.contains(spelled));
        assert!(is_named || word == "keys", "PROTOCOL.md does not name `{word}`");
    }
    let codes: String = sources(&root().join("src/wire/types")).iter().map(|path| code(path)).collect();
    for constant in codes.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": &str = ")) {
        let word = constant.1.trim_matches(['"', ';']);
        assert!(protocol.to_lowercase().contains(word), "PROTOCOL.md does not name '{word}'");
    }
    for close_code in codes.lines().filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(": u16 = ")) {
        let code = close_code.1.trim_end_matches(';');
        assert!(protocol.contains(&format!("| {code} |")), "PROTOCOL.md does not name close code {code}");
    }
    for problem in ProblemCode::ALL {
        let row = format!("| {} | `{}` |", problem.status().as_u16(), problem.as_str());
        assert!(protocol.contains(&row), "PROTOCOL.md does not have: {row}");
    }
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let documented = fs::read_to_string(root().join("docs/SETTINGS.md")).unwrap();
    let defaults: toml::Table =
        toml::from_str(&qrlogin::internals::config::Settings::default().to_toml().unwrap()).unwrap();
    for (name, value) in &defaults {
        match value {
            toml::Value::Table(section) => {
                for (key, value) in section {
                    is_documented(&documented, &format!("{name}.{key}"), value);
                }
            }
            value => is_documented(&documented, name, value),
        }
    }
}

fn is_documented(text: &str, key: &str, value: &toml::Value) {
    let shown = match value {
        toml::Value::String(text) if text.is_empty() => "none".to_owned(),
        toml::Value::Array(items) if items.is_empty() => "none".to_owned(),
        toml::Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    };
    let row = text.lines().find(|line| line.starts_with(&format!("| `{key}` |")));
    let row = row.unwrap_or_else(|| panic!("docs/SETTINGS.md does not name {key}"));
    assert!(
        row.contains(&format!("| {shown} |")),
        "docs/SETTINGS.md gives another default for {key} than {shown}: {row}"
    );
}

#[test]
fn readme_translations_have_the_same_structure() {
    let headings = |file: &str| {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let of_kind = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        (of_kind("## "), of_kind("```"), of_kind("!["), of_kind("- "))
    };
    assert_eq!(headings("README.md"), headings("README.zh-CN.md"));
}
