//! Values for each setting: valid values, and the forms in which a secret gets into a setting.

use qrlogin::internals::config::{ENV_PREFIX, Settings};
use toml::{Table, Value};

use crate::harness::SECRET;

/// Placeholder for a secret, long enough for `app_auth.hmac_secret`.
pub const MARK: &str = "Sw0rdf1sh.Sw0rdf1sh.Sw0rdf1sh.Sw0rdf1sh";
/// Part of each word of [`MARK`], which is also found in a mark that was cut or written in lower case.
pub const PART: &str = "w0rdf1sh";

/// Forms in which a secret gets into a setting: as it is, with characters that should be encoded, in the wrong setting,
/// and cut short by a wrong quote.
pub const SHAPES: [&str; 26] = [
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
pub const PATHS: [&str; 4] = ["app_auth.public_key_file", "token.key_dir", "geoip.city_file", "geoip.asn_file"];

/// The source of a setting's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An environment variable.
    Variable,
    /// The flag `--set`.
    Flag,
    /// The settings file.
    File,
    /// A file with the value unquoted, as a template may write it.
    Unquoted,
}

/// All sources.
pub const SOURCES: [Source; 4] = [Source::Variable, Source::Flag, Source::File, Source::Unquoted];

/// The setting that is a list of tables, which has no text.
pub const LIST_OF_TABLES: &str = "oauth.clients";

/// Returns the default of each setting that has a text, with its key.
pub fn defaults() -> Vec<(String, Value)> {
    let mut defaults = Vec::new();
    for (name, value) in Table::try_from(Settings::default()).unwrap() {
        match value {
            Value::Table(section) => {
                defaults.extend(section.into_iter().map(|(inner, value)| (format!("{name}.{inner}"), value)));
            }
            value => defaults.push((name, value)),
        }
    }
    defaults.retain(|(key, _)| key != LIST_OF_TABLES);
    defaults
}

/// Returns a valid value of the setting, as text.
pub fn valid_value(key: &str, default: &Value) -> String {
    match (key, default) {
        ("bus_url", _) => "redis://cache.example".to_owned(),
        ("allowed_origins", _) => "https://www.example.com,https://example.com".to_owned(),
        ("trusted_proxies", _) => "192.0.2.1,10.0.0.0/8".to_owned(),
        ("token.claims", _) => "email,locale".to_owned(),
        ("risk.signals", _) => "country".to_owned(),
        ("app_auth.hmac_secret", _) => SECRET.to_owned(),
        ("app_auth.jwks_url" | "app_auth.introspection_url", _) => "https://id.example.com/x".to_owned(),
        ("approve.url", _) => "https://www.example.com/approve#{code}".to_owned(),
        ("approve.issuer", _) => "https://id.example.com".to_owned(),
        ("approve.scopes", _) => "profile,email".to_owned(),
        ("approve.app_stores", _) => "https://store.example/app,https://other.example/app".to_owned(),
        ("approve.app_links", _) => "ABCDE12345.com.example.app".to_owned(),
        (_, Value::String(text)) if text.is_empty() => "text".to_owned(),
        (_, Value::String(text)) => text.clone(),
        (_, Value::Boolean(value)) => (!value).to_string(),
        ("limits.body_bytes", _) => "600".to_owned(),
        // This is in the range of all other integer settings.
        (_, Value::Integer(_)) => "300".to_owned(),
        (key, default) => panic!("{key}: {default}"),
    }
}

/// Returns a file that sets this value, in its section.
pub fn file_with(key: &str, value: &str) -> String {
    match key.split_once('.') {
        Some((section, name)) => format!("[{section}]\n{name} = {value}\n"),
        None => format!("{key} = {value}\n"),
    }
}

/// Returns the value as TOML: of the setting's type if it parses as that, else as text.
pub fn literal(value: &str, default: &Value) -> String {
    let text = |text: &str| Value::from(text).to_string();
    match default {
        Value::Integer(_) if value.parse::<i64>().is_ok() => value.to_owned(),
        Value::Boolean(_) if value.parse::<bool>().is_ok() => value.to_owned(),
        Value::Array(_) => format!("[{}]", value.split(',').map(text).collect::<Vec<_>>().join(", ")),
        _ => text(value),
    }
}

/// Returns whether an error about a missing file quotes this value.
pub fn is_shown_path(key: &str, value: &str) -> bool {
    let is_hidden = value.contains(['=', '@', '#', '?', '&', ';']) || value.contains("://") || value.contains("BEGIN");
    PATHS.contains(&key) && !is_hidden
}

/// Returns whether a refusal names the setting and where it was set.
pub fn is_located(refusal: &str, key: &str, source: Source) -> bool {
    let origin = match source {
        Source::Variable => format!("environment variable {}: ", variable(key)),
        Source::Flag => "--set: ".to_owned(),
        Source::File | Source::Unquoted => "qrlogin.toml:".to_owned(),
    };
    // A valid value of another setting leaves no way to verify app tokens, and the refusal names that.
    refusal.starts_with("app_auth: nothing is set") || refusal.contains(key) && refusal.contains(&origin)
}

/// Returns the name of the setting's environment variable.
pub fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__"))
}
