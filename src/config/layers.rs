//! The layers of settings: flags take precedence over the environment, the environment over the file, and the file over
//! the defaults.
//!
//! The defaults, as a TOML table, define the keys and the type of each. The other layers are applied key by key, so
//! that an error can name the key and its source. No error quotes a value: it may be a secret, also where the setting
//! is none, if it was written into the wrong line.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::clean::{boolean, clean, is_blank, trim};
use super::keys::{self, Likeness};
use super::{ConfigError, Settings};
use crate::secret::shown_path;

/// Name of the file of settings that is read if none is named. It need not exist.
pub const DEFAULT_FILE: &str = "qrlogin.toml";
/// Prefix of the environment variables that are settings.
pub const ENV_PREFIX: &str = "QRLOGIN_";

/// A builder of [`Settings`], to which layers are applied in order of increasing precedence.
pub struct Layers {
    /// The defaults, which define the keys and their types.
    known: Table,
    /// The settings so far, secrets included.
    table: Table,
    origins: Origins,
    warnings: Vec<Warning>,
}

/// A warning about a value that was changed before its use, or that looks like a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Source of the value: a position in a file, an environment variable or a flag.
    pub origin: String,
    /// Key of the setting.
    pub key: String,
    /// Reason, as the predicate of a sentence about the key.
    pub reason: &'static str,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.origin, self.key, self.reason)
    }
}

/// The settings that result from all layers.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Warnings about their values.
    pub warnings: Vec<Warning>,
    /// Sources of their values.
    pub origins: Origins,
}

/// The source of each setting that is not a default: a position in a file, an environment variable or a flag.
#[derive(Debug, Clone, Default)]
pub struct Origins(BTreeMap<String, String>);

impl Origins {
    /// Returns the source of a setting, or `None` if it is not set.
    #[must_use]
    pub fn of(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Returns the source of the setting that an error is about. The error's text begins with the key and a colon.
    #[must_use]
    pub fn of_error(&self, error: &str) -> Option<&str> {
        error.split_once(": ").and_then(|(key, _)| self.of(key))
    }

    /// Removes the source of a setting whose value has been replaced by another one.
    pub fn forget(&mut self, key: &str) {
        self.0.remove(key);
    }
}

/// Line and column of a position in a file, both counted from 1.
type Position = (usize, usize);

impl Layers {
    /// Returns layers with these defaults only.
    ///
    /// # Panics
    /// Panics if the defaults cannot be serialized as TOML, which no [`Settings`] causes.
    #[must_use]
    pub fn over(defaults: &Settings) -> Self {
        let known = Table::try_from(defaults).expect("the defaults are TOML");
        let mut layers = Self { table: known.clone(), known, origins: Origins::default(), warnings: Vec::new() };
        // Serialization hides secrets, so copy them.
        for (key, secret) in defaults.secrets() {
            insert(&mut layers.table, key, Value::String(secret.expose().to_owned()));
        }
        layers
    }

    /// Applies a TOML file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not TOML, or if it has an unknown key or a value that cannot
    /// be used.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let file = shown_path(path);
        let bytes =
            std::fs::read(path).map_err(|error| ConfigError::File { file: file.clone(), reason: error.to_string() })?;
        let text = str::from_utf8(&bytes).map_err(|error| self.encoding_error(&file, &bytes, error.valid_up_to()))?;
        let table: Table = text.parse().map_err(|error| self.syntax_error(&file, text, &error))?;
        let mut positions = BTreeMap::new();
        if let Ok(spanned) = DeTable::parse(text) {
            note_positions(&mut positions, "", spanned.get_ref(), text);
        }
        self.lay_table("", table, &|key| match positions.get(key) {
            Some((line, column)) => format!("{file}:{line}:{column}"),
            None => file.clone(),
        })
    }

    /// Applies the environment variables that begin with [`ENV_PREFIX`]. In a variable's name, `__` separates the
    /// section from the key. A blank variable counts as not set, because compose files pass on unset variables as empty
    /// ones.
    ///
    /// # Errors
    /// Returns an error for an unknown key or a value that cannot be used.
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), ConfigError> {
        for (name, value) in variables {
            let name = name.to_string_lossy();
            let Some(suffix) = name.strip_prefix(ENV_PREFIX) else { continue };
            let key = suffix.to_lowercase().replace("__", ".");
            if self.find(&key).is_none() {
                return Err(self.unknown_variable(suffix));
            }
            let origin = format!("environment variable {name}");
            let value = value.into_string().map_err(|_| value_error(&origin, &key, "is not UTF-8 text".to_owned()))?;
            if !is_blank(&value) {
                self.text(&key, &value, &origin)?;
            }
        }
        Ok(())
    }

    /// Applies one value that is given as text. The items of a list are separated by commas. `origin` is its source.
    ///
    /// # Errors
    /// Returns an error for an unknown key or a value that cannot be used.
    pub fn text(&mut self, key: &str, text: &str, origin: &str) -> Result<(), ConfigError> {
        let wrong = |kind: &str| value_error(origin, key, format!("must be {kind}"));
        let value = match self.known(key, origin)? {
            Value::String(_) => Value::String(text.to_owned()),
            Value::Integer(_) => {
                let text = self.cleaned_text(key, text, origin)?;
                Value::Integer(text.parse().map_err(|_| wrong("a whole number"))?)
            }
            Value::Boolean(_) => {
                let text = self.cleaned_text(key, text, origin)?;
                Value::Boolean(boolean(&text).ok_or_else(|| wrong("true or false (or 1, 0, yes, no, on, off)"))?)
            }
            Value::Array(_) => {
                let (text, warning) = trim(text);
                self.warn(key, origin, warning);
                let mut items = Vec::new();
                for item in text.split(',') {
                    // Blanks around commas are usual, and are not warned of. Line ends are.
                    let item = self.cleaned_text(key, item.trim_matches([' ', '\t']), origin)?;
                    if !item.is_empty() {
                        items.push(Value::from(item));
                    }
                }
                Value::Array(items)
            }
            kind => return Err(wrong(&format!("set key by key, being a {}", kind.type_str()))),
        };
        self.put(key, value, origin)
    }

    /// Returns the warnings about the values that have been applied so far.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Returns the settings that result from all layers, with their sources and the warnings about them.
    ///
    /// # Errors
    /// Returns an error for the first setting that cannot be used, see [`Settings::check`]. It names the source of the
    /// setting, unless that is the default.
    pub fn finish(self) -> Result<Loaded, ConfigError> {
        let Self { table, origins, warnings, .. } = self;
        // `put` has checked the type of each value, so this does not fail.
        let settings: Settings = table.try_into().map_err(|error: toml::de::Error| ConfigError::File {
            file: "settings".to_owned(),
            reason: expected(&error),
        })?;
        settings.check().map_err(|error| match error {
            ConfigError::Invalid { key, reason } => match origins.of(key) {
                Some(origin) => value_error(origin, key, reason),
                None => ConfigError::Invalid { key, reason },
            },
            error => error,
        })?;
        Ok(Loaded { settings, warnings, origins })
    }

    fn lay_table(&mut self, prefix: &str, table: Table, origin: &dyn Fn(&str) -> String) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            let origin_of_key = origin(&key);
            match (self.known(&key, &origin_of_key)?, value) {
                (Value::Table(_), Value::Table(inner)) => self.lay_table(&format!("{key}."), inner, origin)?,
                (known, value) if known.same_type(&value) => self.put(&key, value, &origin_of_key)?,
                (known, value) => {
                    let reason = format!("must be of type {}, and is of type {}", known.type_str(), value.type_str());
                    return Err(value_error(&origin_of_key, &key, reason));
                }
            }
        }
        Ok(())
    }

    /// Returns the default of a setting, or the table of a section.
    fn find(&self, key: &str) -> Option<&Value> {
        match key.rsplit_once('.') {
            None => self.known.get(key),
            Some((section, name)) => self.known.get(section)?.get(name),
        }
    }

    fn known(&self, key: &str, origin: &str) -> Result<&Value, ConfigError> {
        self.find(key).ok_or_else(|| {
            let nearest = keys::nearest(key, &self.known).map(|(_, nearest)| nearest);
            self.unknown(key, origin.to_owned(), keys::shown(key, &self.known), nearest)
        })
    }

    fn unknown(&self, key: &str, origin: String, shown: String, nearest: Option<String>) -> ConfigError {
        let section = key.rsplit_once('.').and_then(|(section, _)| self.known.get(section)?.as_table());
        let known = section.unwrap_or(&self.known).keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        ConfigError::UnknownKey { origin, key: shown, nearest, known }
    }

    /// Returns the error for an environment variable of this name, after the prefix. The name is shown only if it looks
    /// like one, because `:` in place of `=` makes the value a part of it.
    fn unknown_variable(&self, suffix: &str) -> ConfigError {
        let key = suffix.replace("__", ".");
        let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let nearest = keys::nearest(&key, &self.known);
        let is_like_known = matches!(nearest, Some((Likeness::Misspelled(_) | Likeness::Shortened(_), _)));
        let is_shown = suffix.len() <= keys::MAX_SHOWN_BYTES && (is_like_known || suffix.bytes().all(is_name));
        let (origin, shown) = if is_shown {
            let name = suffix.escape_debug();
            (format!("environment variable {ENV_PREFIX}{name}"), key.to_lowercase().escape_debug().to_string())
        } else {
            (format!("environment variable {ENV_PREFIX}… (its name is not shown)"), "(not shown)".to_owned())
        };
        let nearest = nearest.map(|(_, key)| format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__")));
        self.unknown(&key.to_lowercase(), origin, shown, nearest)
    }

    /// Cleans a value of the right TOML type and sets it, if the setting accepts it.
    fn put(&mut self, key: &str, value: Value, origin: &str) -> Result<(), ConfigError> {
        let value = self.cleaned(key, value, origin)?;
        let has_default = self.known(key, origin)?.as_str().is_some_and(|default| !default.is_empty());
        if has_default && value.as_str() == Some("") {
            let reason = "must not be empty; leave it out for its default".to_owned();
            return Err(value_error(origin, key, reason));
        }
        let mut attempt = self.table.clone();
        insert(&mut attempt, key, value);
        // Deserialized after each value, so that an error can name the key and its source.
        let taken: Result<Settings, _> = attempt.clone().try_into();
        taken.map_err(|error| value_error(origin, key, format!("cannot be used: {}", expected(&error))))?;
        self.table = attempt;
        self.origins.0.insert(key.to_owned(), origin.to_owned());
        Ok(())
    }

    fn cleaned(&mut self, key: &str, value: Value, origin: &str) -> Result<Value, ConfigError> {
        match value {
            Value::String(text) => Ok(Value::String(self.cleaned_text(key, &text, origin)?)),
            Value::Array(items) => {
                let items: Result<_, _> = items.into_iter().map(|item| self.cleaned(key, item, origin)).collect();
                Ok(Value::Array(items?))
            }
            value => Ok(value),
        }
    }

    fn cleaned_text(&mut self, key: &str, text: &str, origin: &str) -> Result<String, ConfigError> {
        let clean = clean(key, text).map_err(|reason| value_error(origin, key, reason))?;
        self.warn(key, origin, clean.warning);
        Ok(clean.text)
    }

    /// Adds a warning, unless the last one is the same, as it may be for several items of a list.
    fn warn(&mut self, key: &str, origin: &str, reason: Option<&'static str>) {
        let warning = reason.map(|reason| Warning { origin: origin.to_owned(), key: key.to_owned(), reason });
        if warning.as_ref() != self.warnings.last() {
            self.warnings.extend(warning);
        }
    }

    /// Returns the error for a file that is not UTF-8. The bytes are valid up to `valid_up_to`.
    fn encoding_error(&self, file: &str, bytes: &[u8], valid_up_to: usize) -> ConfigError {
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            let reason = "is UTF-16, and must be UTF-8; save it in that encoding".to_owned();
            return ConfigError::File { file: file.to_owned(), reason };
        }
        let text = String::from_utf8_lossy(&bytes[..valid_up_to]);
        let (line, column) = position(&text, valid_up_to);
        let reason = format!("is not UTF-8 text{}", self.near(&text, line));
        ConfigError::File { file: format!("{file}:{line}:{column}"), reason }
    }

    /// Returns the error for a file that is not TOML, with the position and the parser's message. The parser's full
    /// text would quote the line.
    fn syntax_error(&self, file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
        let Some(span) = error.span() else {
            return ConfigError::File { file: file.to_owned(), reason: format!("is not TOML: {}", error.message()) };
        };
        let (line, column) = position(text, span.start);
        let reason = format!("is not TOML: {}{}", error.message(), self.near(text, line));
        ConfigError::File { file: format!("{file}:{line}:{column}"), reason }
    }

    fn near(&self, text: &str, line: usize) -> String {
        self.key_near(text, line).map_or_else(String::new, |key| format!(" (near {key})"))
    }

    /// Returns the last key that is set in the first `lines` lines, if it is known and no section header follows.
    fn key_near(&self, text: &str, lines: usize) -> Option<String> {
        let (mut section, mut near) = ("", None);
        for line in text.lines().take(lines).map(str::trim) {
            if let Some(header) = line.strip_prefix('[') {
                (section, near) = (header.split(']').next().unwrap_or_default().trim(), None);
            } else if let Some((name, _)) = line.split_once('=') {
                let name = name.trim().trim_matches(['"', '\'']);
                // A line of a multi-line string may contain an equals sign, so skip what does not look like a key.
                if keys::is_plain(name) {
                    let key = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
                    near = self.find(&key).is_some().then_some(key);
                }
            }
        }
        near
    }
}

fn insert(table: &mut Table, key: &str, value: Value) {
    match key.split_once('.') {
        Some((section, name)) => {
            if let Some(Value::Table(table)) = table.get_mut(section) {
                table.insert(name.to_owned(), value);
            }
        }
        None => drop(table.insert(key.to_owned(), value)),
    }
}

/// Returns the part of serde's message that describes the expected value. The rest of the message may quote the value.
fn expected(error: &toml::de::Error) -> String {
    let wanted = error.message().rsplit_once("expected ").map_or("another value", |(_, wanted)| wanted);
    match wanted {
        "u32" => "expected a whole number from 0 to 4294967295".to_owned(),
        "usize" => "expected a whole number, not below 0".to_owned(),
        wanted => format!("expected {wanted}"),
    }
}

fn note_positions(positions: &mut BTreeMap<String, Position>, prefix: &str, table: &DeTable<'_>, text: &str) {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        if let DeValue::Table(inner) = value.get_ref() {
            note_positions(positions, &format!("{key}."), inner, text);
        }
        positions.insert(key, position(text, name.span().start));
    }
}

fn position(text: &str, at: usize) -> Position {
    let before = &text[..text.floor_char_boundary(at)];
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

fn value_error(origin: &str, key: &str, reason: String) -> ConfigError {
    ConfigError::Value { origin: origin.to_owned(), key: key.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layered(file: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qrlogin.toml");
        std::fs::write(&path, file).unwrap();
        let mut layers = Layers::over(&Settings::default());
        let variables = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        layers
            .file(&path)
            .and_then(|()| layers.environment(variables))
            .and_then(|()| layers.finish())
            .map(|loaded| loaded.settings)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn environment_overrides_the_file_and_the_file_overrides_the_defaults() {
        let file = "listen = '127.0.0.1:1'\n[session]\nttl_seconds = 10\nclaim_seconds = 20\n";
        let environment = [("QRLOGIN_SESSION__TTL_SECONDS", "30"), ("HOME", "/")];
        let settings = layered(file, &environment).unwrap();
        assert_eq!(settings.listen.port(), 1);
        assert_eq!(settings.session.ttl_seconds, 30);
        assert_eq!(settings.session.claim_seconds, 20);
        assert_eq!(settings.session.heartbeat_seconds, 30);
    }

    #[test]
    fn lists_in_the_environment_are_comma_separated() {
        let environment = [("QRLOGIN_ALLOWED_ORIGINS", "https://a.example, https://b.example:8443")];
        let settings = layered("", &environment).unwrap();
        assert_eq!(settings.allowed_origins, ["https://a.example", "https://b.example:8443"]);
    }

    #[test]
    fn error_names_the_key_and_its_source() {
        let refused = |file: &str, environment: &[(&str, &str)], parts: &[&str]| {
            let error = layered(file, environment).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "'{part}' is missing in: {error}");
            }
        };
        refused("lisen = 'x'", &[], &["qrlogin.toml", "unknown key 'lisen'", "listen"]);
        refused("[session]\nttl = 3", &[], &["qrlogin.toml", "'session.ttl'", "ttl_seconds"]);
        refused("[sesion]\nttl = 3", &[], &["qrlogin.toml", "'sesion'"]);
        refused("[session]\nttl_seconds = 'x'", &[], &["qrlogin.toml", "session.ttl_seconds", "integer"]);
        refused("listen = 'here'", &[], &["qrlogin.toml", "listen", "socket address"]);
        refused("listen =", &[], &["qrlogin.toml"]);
        refused("", &[("QRLOGIN_SESION__TTL", "3")], &["QRLOGIN_SESION__TTL", "unknown key 'sesion.ttl'"]);
        refused("", &[("QRLOGIN_SESSION__TTL_SECONDS", "soon")], &["QRLOGIN_SESSION__TTL_SECONDS", "whole number"]);
        refused(
            "",
            &[("QRLOGIN_SESSION__TTL_SECONDS", "-1")],
            &["QRLOGIN_SESSION__TTL_SECONDS", "session.ttl_seconds"],
        );
        refused("", &[("QRLOGIN_SESSION__TTL_SECONDS", "0")], &["session.ttl_seconds", "from 1 to 3600"]);
        refused("", &[("QRLOGIN_ALLOW_MISSING_ORIGIN", "maybe")], &["QRLOGIN_ALLOW_MISSING_ORIGIN", "true or false"]);
        refused("", &[("QRLOGIN_SESSION", "3")], &["QRLOGIN_SESSION", "key by key"]);
        refused("", &[("QRLOGIN_LOG__FORMAT", "xml")], &["QRLOGIN_LOG__FORMAT", "log.format", "json"]);
        refused("", &[("QRLOGIN_LOG__LEVEL", "a=b=c")], &["log.level"]);
        refused("public_url = 'ftp://x'", &[], &["qrlogin.toml:1:1", "public_url", "http(s) URL"]);
        refused("allowed_origins = ['https://a.example/']", &[], &["allowed_origins", "item 1"]);
        refused("[token]\nclaims = ['email', 'sub']", &[], &["token.claims", "'sub'"]);
        refused(
            "[app_auth]\nhmac_secret = 'x'\npublic_key_file = 'y'",
            &[],
            &["app_auth.hmac_secret", "public_key_file"],
        );
    }

    #[test]
    fn syntax_error_names_position_and_key_and_quotes_no_value() {
        for (file, place, key) in [
            ("[app_auth]\nhmac_secret = hunter2\n", ":2:15: ", "app_auth.hmac_secret"),
            ("[app_auth]\nhmac_secret = 'hunter2\n", ":2:", "app_auth.hmac_secret"),
            ("[app_auth]\nhmac_secret = \"hunter2\n", ":2:", "app_auth.hmac_secret"),
            ("[app_auth]\nhmac_secret = \"hun\\qter2\"\n", ":2:", "app_auth.hmac_secret"),
            ("[app_auth]\nhmac_secret = 'a' hunter2\n", ":2:", "app_auth.hmac_secret"),
            ("[app_auth]\nhmac_secret = \"\"\"\nhunter2=\n\\q", ":4:", "app_auth.hmac_secret"),
            ("[app_auth]\nhmac_secret = 'x'\nhmac_secret = 'hunter2'", ":3:", "app_auth.hmac_secret"),
            ("[app_auth]\nhmac_secret: hunter2\n", ":2:", ""),
            ("database_url = postgres://u:hunter2@h/d\n", ":1:", "database_url"),
            ("database_url = 'postgres://u:hunter2@h/d\nlisten = ':1'\n", ":1:", "database_url"),
            ("app_auth = { hmac_secret = 'hunter2\n", ":1:", ""),
            ("[app_auth\nhmac_secret = 'hunter2'", ":1:", ""),
            ("hunter2", ":1:", ""),
            ("= 'hunter2'", ":1:", ""),
            ("bus_url = \"redis://:hunter2\u{0}@h\"", ":1:", "bus_url"),
            ("bus_url = 2026-99-99hunter2", ":1:", "bus_url"),
            ("bus_url = 0xhunter2", ":1:", "bus_url"),
            ("bus_url = [ 'hunter2' 'hunter2' ]", ":1:", "bus_url"),
        ] {
            let error = layered(file, &[]).unwrap_err();
            assert!(error.contains(&format!("qrlogin.toml{place}")) && error.contains(key), "{file:?}: {error}");
            assert!(
                error.contains("is not TOML: ") && !error.contains("hunter") && error.lines().count() == 1,
                "{error}"
            );
        }
    }

    #[test]
    fn unknown_key_is_quoted_only_if_it_looks_like_a_key() {
        for file in ["hunter2 = 1", "\"postgres://u:hunter2@h\" = 1", "[app_auth]\nHunter2 = 'x'"] {
            let error = layered(file, &[]).unwrap_err();
            assert!(
                error.contains("unknown key '(not shown)'") && !error.to_lowercase().contains("hunter2"),
                "{error}"
            );
        }
    }

    #[test]
    fn misspelled_key_is_shown_with_the_one_that_was_meant() {
        for (file, place, key, meant) in [
            ("public-url = 'https://a.example'", ":1:1", "public-url", "public_url"),
            ("Listen = ':1'", ":1:1", "Listen", "listen"),
            ("[session]\nttl-seconds = 1", ":2:1", "session.ttl-seconds", "session.ttl_seconds"),
            ("[session]\nttlSeconds = 1", ":2:1", "session.ttlSeconds", "session.ttl_seconds"),
            ("[Session]\nttl_seconds = 1", ":1:2", "Session", "session"),
            ("[app_auth]\nhmac_secret2 = 'x'", ":2:1", "app_auth.hmac_secret2", "app_auth.hmac_secret"),
            ("hmac_secret = 'x'", ":1:1", "hmac_secret", "app_auth.hmac_secret"),
        ] {
            let error = layered(file, &[]).unwrap_err();
            let text = format!("qrlogin.toml{place}: unknown key '{key}' (did you mean {meant}?); known here: ");
            assert!(error.contains(&text), "{error}");
        }
        let mut layers = Layers::over(&Settings::default());
        let error = layers.text("LISTEN", ":1", "--set").unwrap_err().to_string();
        assert!(error.starts_with("--set: unknown key 'LISTEN' (did you mean listen?); known here: "), "{error}");
        let error = layers.text("app_auth.hmac_secret:hunter2b64", "", "--set").unwrap_err().to_string();
        assert!(error.starts_with("--set: unknown key '(not shown)' (did you mean app_auth.hmac_secret?);"), "{error}");
        let error = layers.text("frobnicate", "", "--set").unwrap_err().to_string();
        assert!(error.starts_with("--set: unknown key 'frobnicate'; known here: "), "{error}");
    }

    #[test]
    fn name_of_an_unknown_variable_is_shown_only_if_it_looks_like_one() {
        for (name, shown) in [
            (
                "QRLOGIN_SESSION_TTL_SECONDS",
                "unknown key 'session_ttl_seconds' (did you mean QRLOGIN_SESSION__TTL_SECONDS?)",
            ),
            ("QRLOGIN_HMAC_SECRET", "unknown key 'hmac_secret' (did you mean QRLOGIN_APP_AUTH__HMAC_SECRET?)"),
            ("QRLOGIN_APP_AUTH__HMAC_SECRET2", "(did you mean QRLOGIN_APP_AUTH__HMAC_SECRET?)"),
            ("QRLOGIN_Lisen", "(did you mean QRLOGIN_LISTEN?)"),
            ("QRLOGIN_PORT_8080_TCP", "unknown key 'port_8080_tcp'; known here: "),
        ] {
            let error = layered("", &[(name, "x")]).unwrap_err();
            assert!(error.starts_with(&format!("environment variable {name}: ")) && error.contains(shown), "{error}");
        }
        for (name, meant) in [
            ("QRLOGIN_APP_AUTH__HMAC_SECRET:q7hunter2SEKRETb64", Some("QRLOGIN_APP_AUTH__HMAC_SECRET")),
            ("QRLOGIN_APP_AUTH__HMAC_SECRET.Hunter", Some("QRLOGIN_APP_AUTH__HMAC_SECRET")),
            ("QRLOGIN_APP_AUTH__HMAC_SECRET hunter", Some("QRLOGIN_APP_AUTH__HMAC_SECRET")),
            ("QRLOGIN_DATABASE_URL: postgres://u:hunter2@h/d", Some("QRLOGIN_DATABASE_URL")),
            ("QRLOGIN_hunter2", None),
            ("QRLOGIN_HUNTER2AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", None),
        ] {
            let error = layered("", &[(name, "x")]).unwrap_err();
            let question = meant.map_or_else(String::new, |meant| format!(" (did you mean {meant}?)"));
            let text = format!(
                "environment variable QRLOGIN_… (its name is not shown): unknown key '(not shown)'{question}; known here: "
            );
            assert!(error.starts_with(&text) && !error.to_lowercase().contains("hunter"), "{error}");
        }
    }

    #[test]
    fn file_that_is_not_utf8_is_refused_with_the_position_of_the_first_bad_byte() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qrlogin.toml");
        let refusal = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let error = Layers::over(&Settings::default()).file(&path).unwrap_err().to_string();
            assert!(!error.contains("hunter"), "{error}");
            error.split_once("qrlogin.toml").unwrap().1.to_owned()
        };
        let latin = b"listen = ':1'\n[app_auth]\nhmac_secret = 'hunter\xe92'\n";
        assert_eq!(refusal(latin), ":3:22: is not UTF-8 text (near app_auth.hmac_secret)");
        assert_eq!(refusal(b"# caf\xe9\nlisten = ':1'\n"), ":1:6: is not UTF-8 text");
        // Columns are counted in characters.
        assert_eq!(refusal(b"listen = '\xc3\xa9\xff'\n"), ":1:12: is not UTF-8 text (near listen)");
        assert_eq!(refusal(b"listen = '\xc3"), ":1:11: is not UTF-8 text (near listen)");
        let wide: Vec<u16> = "\u{feff}listen = 'hunter2'\n".encode_utf16().collect();
        let little: Vec<u8> = wide.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        let big: Vec<u8> = wide.iter().flat_map(|unit| unit.to_be_bytes()).collect();
        for bytes in [little, big] {
            assert_eq!(refusal(&bytes), ": is UTF-16, and must be UTF-8; save it in that encoding");
        }
        // A byte order mark of UTF-8 is allowed.
        assert_eq!(layered("\u{feff}listen = ':1'", &[]).unwrap().listen.port(), 1);
    }

    #[test]
    fn line_end_in_a_list_a_number_or_a_boolean_causes_a_warning() {
        let warnings = |name: &str, value: &str| {
            let mut layers = Layers::over(&Settings::default());
            layers.environment([(format!("{ENV_PREFIX}{name}").into(), value.into())]).unwrap();
            layers.finish().unwrap().warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        for (name, value) in [
            ("ALLOWED_ORIGINS", "https://a.example\r"),
            ("ALLOWED_ORIGINS", "https://a.example\r, https://b.example"),
            ("ALLOWED_ORIGINS", "https://a.example,\nhttps://b.example,\nhttps://c.example"),
            ("ALLOWED_ORIGINS", " https://a.example"),
            ("ALLOWED_ORIGINS", "https://a.example,\r\n"),
            ("SESSION__TTL_SECONDS", "60\r"),
            ("SESSION__TTL_SECONDS", " 60"),
            ("ALLOW_MISSING_ORIGIN", "true\r\n"),
        ] {
            let warned = warnings(name, value);
            assert_eq!(warned.len(), 1, "{value:?}: {warned:?}");
            assert!(warned[0].contains(name) && warned[0].contains("white space"), "{warned:?}");
        }
        for (name, value) in [
            ("ALLOWED_ORIGINS", "https://a.example, https://b.example ,\thttps://c.example,"),
            ("ALLOWED_ORIGINS", "https://a.example,,https://b.example, "),
            ("SESSION__TTL_SECONDS", "60"),
            ("ALLOW_MISSING_ORIGIN", "TRUE"),
        ] {
            // A blank at the end of the whole value is one around it.
            let expected = usize::from(value.ends_with(' '));
            assert_eq!(warnings(name, value).len(), expected, "{value:?}");
        }
    }

    #[test]
    fn origin_of_an_error_is_that_of_the_key_it_begins_with() {
        let mut layers = Layers::over(&Settings::default());
        layers.environment([("QRLOGIN_DATABASE_URL".into(), "sqlite://a.db".into())]).unwrap();
        layers.text("geoip.city_file", "a.mmdb", "--set").unwrap();
        let mut origins = layers.finish().unwrap().origins;
        assert_eq!(origins.of_error("database_url: cannot open"), Some("environment variable QRLOGIN_DATABASE_URL"));
        assert_eq!(origins.of_error("geoip.city_file: a.mmdb: missing"), Some("--set"));
        for other in ["bus_url: is wrong", "database_url is wrong", "the system: database_url: is wrong", ""] {
            assert_eq!(origins.of_error(other), None);
        }
        origins.forget("database_url");
        assert_eq!(origins.of_error("database_url: cannot open"), None);
    }

    #[test]
    fn client_secret_without_an_id_is_named_with_its_source() {
        for (name, missing) in [("SECRET", "id"), ("ID", "secret")] {
            let name = format!("QRLOGIN_APP_AUTH__INTROSPECTION_CLIENT_{name}");
            let error = layered("", &[(&name, "hunter2")]).unwrap_err();
            let key = name.strip_prefix(ENV_PREFIX).unwrap().to_lowercase().replace("__", ".");
            let reason = format!("goes together with app_auth.introspection_client_{missing}; set both or none");
            assert_eq!(error, format!("environment variable {name}: {key} {reason}"));
        }
    }

    #[test]
    fn blank_variable_counts_as_not_set() {
        let names = [
            "LISTEN",
            "PUBLIC_URL",
            "DATABASE_URL",
            "BUS_URL",
            "LOG__LEVEL",
            "LOG__FORMAT",
            "TOKEN__KEY_DIR",
            "RISK__SIGNALS",
            "SESSION__TTL_SECONDS",
            "ALLOW_MISSING_ORIGIN",
            "APP_AUTH__HMAC_SECRET",
            "APP_AUTH__USER_CLAIM",
            "SESSION",
        ];
        for empty in ["", " ", "\n", "\r\n"] {
            for name in names {
                let is_secret = name.ends_with("SECRET");
                if is_secret && empty == " " {
                    continue;
                }
                let name = format!("{ENV_PREFIX}{name}");
                assert_eq!(layered("", &[(&name, empty)]), Ok(Settings::default()), "{name}={empty:?}");
            }
        }
        // In a file, an empty value is an error.
        for (file, key) in
            [("[token]\nkey_dir = ''", "token.key_dir"), ("[log]\nlevel = ' '", "log.level"), ("listen = ''", "listen")]
        {
            let error = layered(file, &[]).unwrap_err();
            assert!(error.contains(key) && error.contains("must not be empty"), "{error}");
        }
    }

    #[test]
    fn removed_white_space_causes_a_warning_with_source_and_key() {
        let mut layers = Layers::over(&Settings::default());
        let variables = [("QRLOGIN_PUBLIC_URL", "https://login.example.com\r"), ("QRLOGIN_BUS_URL", "redis://h")];
        layers.environment(variables.map(|(name, value)| (name.into(), value.into()))).unwrap();
        layers.text("token.key_dir", " keys ", "--set").unwrap();
        let warnings: Vec<_> = layers.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "environment variable QRLOGIN_PUBLIC_URL: public_url has white space around its value, which was cut off",
                "--set: token.key_dir has white space around its value, which was cut off",
            ]
        );
        assert_eq!(layers.finish().unwrap().settings.public_base(), "https://login.example.com");
    }

    #[test]
    fn hmac_secret_of_fewer_than_32_bytes_is_refused() {
        for (secret, is_taken) in [("x".repeat(31), false), ("x".repeat(32), true), ("x".repeat(31) + "\n", false)] {
            let taken = layered("", &[("QRLOGIN_APP_AUTH__HMAC_SECRET", &secret)]);
            assert_eq!(taken.is_ok(), is_taken);
            if let Err(error) = taken {
                assert!(error.contains("QRLOGIN_APP_AUTH__HMAC_SECRET") && error.contains("32 bytes"), "{error}");
            }
        }
    }

    #[test]
    fn public_url_that_browsers_would_correct_is_refused() {
        for good in
            ["https://a.example", "https://a.example:8443/login/", "http://[::1]:8080", "https://b\u{fc}cher.example"]
        {
            assert!(layered("", &[("QRLOGIN_PUBLIC_URL", good)]).is_ok(), "{good}");
        }
        for bad in [
            "https:a.example",
            "https:/a.example",
            "https:///a.example",
            "https:\\\\a.example",
            "https://a.example\\b",
            "https://a.example/a b",
            "https://a.exa\tmple",
            "https://a.exa\nmple",
            "https://a.example/\u{a0}b",
            "a.example",
            "https://",
            "https://u@a.example",
            "https://:pw@a.example",
            "https://@a.example",
            "https://a.example/?x",
            "https://a.example/#x",
            "https://a.example/?",
            "https://a.example/<b>",
            "https://a.example:99999",
            "wss://a.example",
        ] {
            let error = layered("", &[("QRLOGIN_PUBLIC_URL", bad)]).unwrap_err();
            assert!(error.contains("QRLOGIN_PUBLIC_URL") && error.contains("public_url"), "{bad}: {error}");
        }
    }

    #[test]
    fn log_level_with_an_unknown_word_is_refused() {
        for good in ["info", "INFO", "off", "warn,qrlogin::http=debug", "qrlogin", "info,[request]=trace", "3"] {
            assert!(layered("", &[("QRLOGIN_LOG__LEVEL", good)]).is_ok(), "{good}");
        }
        for bad in ["warning", "inof", "info,hyper", "a=b=c", "qrlogin=loud"] {
            let error = layered("", &[("QRLOGIN_LOG__LEVEL", bad)]).unwrap_err();
            assert!(error.contains("log.level") && !error.contains(bad), "{bad}: {error}");
        }
    }

    #[test]
    fn secrets_are_hidden_in_toml_and_debug_output() {
        let secret = "swordfish, and another thirty-two bytes";
        let settings = layered(&format!("[app_auth]\nhmac_secret = '{secret}'"), &[]).unwrap();
        assert!(!settings.to_toml().unwrap().contains("swordfish"));
        assert!(!format!("{settings:?}").contains("swordfish"));
    }
}
