//! The sources of settings, in order of increasing precedence: defaults, file, environment, flags.
//!
//! The values of all sources are put into one TOML table, which serde reads as [`Settings`] after each source. An error
//! names the key and the source of the value. No error quotes a value, because a secret may be in the wrong setting.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use toml::{Table, Value};

use super::clean::is_blank;
use super::keys::{Known, edits, is_plain};
use super::value::{self, Cleaned};
use super::{ConfigError, Settings, file};

/// Name of the file of settings that is read if none is named. It need not exist.
pub const DEFAULT_FILE: &str = "qrlogin.toml";
/// Prefix of the environment variables that are settings.
pub const ENV_PREFIX: &str = "QRLOGIN_";

/// A builder of [`Settings`], to which sources are applied in order of increasing precedence.
pub struct Layers {
    known: Known,
    /// The settings so far, secrets included.
    table: Table,
    origins: Origins,
    warnings: Vec<Warning>,
}

impl Layers {
    /// Returns layers with these defaults only.
    ///
    /// # Panics
    /// Panics if the defaults cannot be serialized as TOML, which no [`Settings`] causes.
    #[must_use]
    pub fn over(defaults: &Settings) -> Self {
        let table = Table::try_from(defaults).expect("the defaults are TOML");
        let known = Known::new(table.clone());
        let mut layers = Self { known, table, origins: Origins::default(), warnings: Vec::new() };
        // Serialization hides secrets, so copy them.
        for (key, secret) in defaults.secrets() {
            layers.insert(key, Value::from(secret.expose()));
        }
        layers
    }

    /// Applies a TOML file.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not TOML, or if it has an unknown key or a value that cannot
    /// be used.
    pub fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let entries = file::read(path, &self.known)?;
        self.put_entries(entries)
    }

    /// Applies the content of a TOML file, as [`Layers::file`] does. `name` is its source.
    ///
    /// # Errors
    /// As [`Layers::file`].
    #[cfg(feature = "internals")]
    pub fn file_content(&mut self, name: &str, bytes: &[u8]) -> Result<(), ConfigError> {
        let entries = file::parse(name.to_owned(), bytes, &self.known)?;
        self.put_entries(entries)
    }

    fn put_entries(&mut self, entries: Vec<file::Entry>) -> Result<(), ConfigError> {
        for entry in entries {
            let default = self.known.default_of(&entry.key, &entry.origin)?;
            let cleaned = value::from_toml(&entry.key, entry.value, default);
            self.put(&entry.key, cleaned, &entry.origin)?;
        }
        self.settings().map(drop)
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
            let default = self.known.get(&key).ok_or_else(|| self.known.unknown_variable(suffix))?;
            let cleaned = match value.to_str() {
                Some(text) if is_blank(text) => continue,
                Some(text) => value::from_text(&key, text, default),
                None => Err("is not UTF-8 text".to_owned()),
            };
            self.put(&key, cleaned, &format!("environment variable {name}"))?;
        }
        self.settings().map(drop)
    }

    /// Applies one value that is given as text. The items of a list are separated by commas. `origin` is its source.
    ///
    /// # Errors
    /// Returns an error for an unknown key or a value that cannot be used.
    pub fn text(&mut self, key: &str, text: &str, origin: &str) -> Result<(), ConfigError> {
        let default = self.known.default_of(key, origin)?;
        self.put(key, value::from_text(key, text, default), origin)?;
        self.settings().map(drop)
    }

    /// Returns the warnings about the values that have been applied so far.
    #[must_use]
    #[cfg(any(test, feature = "internals"))]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Returns the settings that result from all layers, with their sources and the warnings about them.
    ///
    /// # Errors
    /// Returns an error for the first setting that cannot be used, see [`Settings::check`]. It names the source of the
    /// setting, unless that is the default.
    pub fn finish(self) -> Result<Loaded, ConfigError> {
        let settings = self.settings()?;
        settings.check().map_err(|error| match error {
            ConfigError::Invalid { key, reason } => match self.origins.of(key) {
                Some(origin) => ConfigError::value(origin, key, reason),
                None => ConfigError::Invalid { key, reason },
            },
            error => error,
        })?;
        Ok(Loaded { settings, warnings: self.warnings, origins: self.origins })
    }

    /// Sets a known key, and notes the source of its value.
    fn put(&mut self, key: &str, cleaned: Result<Cleaned, String>, origin: &str) -> Result<(), ConfigError> {
        let (value, warning) = cleaned.map_err(|reason| ConfigError::value(origin, key, reason))?;
        self.insert(key, value);
        self.origins.0.insert(key.to_owned(), origin.to_owned());
        let warning = warning.map(|reason| Warning { origin: origin.to_owned(), key: key.to_owned(), reason });
        self.warnings.extend(warning);
        Ok(())
    }

    fn insert(&mut self, key: &str, value: Value) {
        let place = match key.split_once('.') {
            Some((section, name)) => self.table.get_mut(section).and_then(|section| section.get_mut(name)),
            None => self.table.get_mut(key),
        };
        if let Some(place) = place {
            *place = value;
        }
    }

    /// Reads the table as settings.
    fn settings(&self) -> Result<Settings, ConfigError> {
        serde_path_to_error::deserialize(self.table.clone()).map_err(|error| {
            let path = error.path().to_string();
            // The path of an item of a list ends in its index, and that of a table in a list in a key of the table.
            let (key, inner) = path.split_once('[').unwrap_or((&path, ""));
            let place = item(inner);
            let name = place.as_ref().and_then(|(_, name)| *name);
            let expected = expected(error.inner(), name.unwrap_or_default());
            let place = place.map(|(item, name)| match name {
                Some(name) => format!("item {item}, {name}: "),
                None => format!("item {item}: "),
            });
            let reason = format!("cannot be used: {}{expected}", place.unwrap_or_default());
            ConfigError::value(self.origins.of(key).unwrap_or("default"), key, reason)
        })
    }
}

/// Returns the number of the item, from 1, and its key if it is a table, of a path such as `0].name` within a list. A key
/// that may hold a value is left out.
fn item(path: &str) -> Option<(usize, Option<&str>)> {
    let (index, key) = path.split_once(']')?;
    let name = key.strip_prefix('.').map(|name| name.split('[').next().unwrap_or_default());
    Some((index.parse::<usize>().ok()? + 1, name.filter(|name| is_plain(name))))
}

/// Returns the part of serde's message that describes what was expected for the key `name` of a table, or for a value. The
/// rest of the message may quote the value.
fn expected(error: &toml::de::Error, name: &str) -> String {
    if let Some(key) = error.message().strip_prefix("missing field ") {
        return format!("the key {key} is missing");
    }
    if let Some((_, known)) = error.message().split_once(", expected one of ")
        && error.message().starts_with("unknown field ")
    {
        let known = known.replace('`', "");
        let nearest = known.split(", ").filter_map(|key| Some((edits(name, key)?, key))).min();
        let question = nearest.map_or_else(String::new, |(_, key)| format!(" (did you mean {key}?)"));
        return format!("unknown key{question}; known here: {known}");
    }
    let wanted = error.message().rsplit_once("expected ").map_or("another value", |(_, wanted)| wanted);
    match wanted {
        "u32" => "expected a whole number from 0 to 4294967295".to_owned(),
        "usize" => "expected a whole number, not below 0".to_owned(),
        wanted => format!("expected {wanted}"),
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
