//! The settings file: its values, each with its position. Errors name the position, and quote nothing but known keys.

use std::ops::Range;
use std::path::Path;

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use super::ConfigError;
use super::keys::Known;
use crate::secret::shown_path;

/// A key that the file sets.
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Value,
    /// Path of the file, with line and column of the key.
    pub(super) origin: String,
}

/// Reads the entries of a TOML file, in their order. The value of an unknown key may be a table.
///
/// # Errors
/// Returns an error if the file cannot be read, is not UTF-8 or is not TOML.
pub(super) fn read(path: &Path, known: &Known) -> Result<Vec<Entry>, ConfigError> {
    let name = shown_path(path);
    let bytes =
        std::fs::read(path).map_err(|error| ConfigError::File { file: name.clone(), reason: error.to_string() })?;
    parse(name, &bytes, known)
}

/// Reads the entries in the content of a TOML file with this name, as [`read`] does.
pub(super) fn parse(name: String, bytes: &[u8], known: &Known) -> Result<Vec<Entry>, ConfigError> {
    let refused = |reason: String| ConfigError::File { file: name.clone(), reason };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(refused("is UTF-16, and must be UTF-8; save it in that encoding".to_owned()));
    }
    let valid_text = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let (table, errors) = DeTable::parse_recoverable(valid_text);
    let mut file = File { name, text: valid_text, known, keys: Vec::new() };
    file.add_keys("", table.get_ref());
    file.keys.sort_by_key(|key| key.span.start);
    if valid_text.len() < bytes.len() {
        return Err(file.error_at(valid_text.len()..valid_text.len(), "is not UTF-8 text"));
    }
    if let Some(error) = errors.first() {
        return Err(file.error_at(error.span().unwrap_or_default(), &format!("is not TOML: {}", error.message())));
    }
    file.keys.iter().filter_map(|key| file.entry(key)).collect()
}

/// A file, as far as it could be parsed.
struct File<'a> {
    /// Path of the file, for messages.
    name: String,
    text: &'a str,
    known: &'a Known,
    /// Keys and sections, in the order in which they stand in the file.
    keys: Vec<Key<'a>>,
}

struct Key<'a> {
    key: String,
    span: Range<usize>,
    /// Value of the key, or `None` for a known section.
    value: Option<Spanned<DeValue<'a>>>,
}

impl<'a> File<'a> {
    fn add_keys(&mut self, prefix: &str, table: &DeTable<'a>) {
        for (name, value) in table {
            let (key, span) = (format!("{prefix}{}", name.get_ref()), name.span());
            match value.get_ref() {
                DeValue::Table(section) if self.known.is_section(&key) => {
                    let prefix = format!("{key}.");
                    self.keys.push(Key { key, span, value: None });
                    self.add_keys(&prefix, section);
                }
                _ => self.keys.push(Key { key, span, value: Some(value.clone()) }),
            }
        }
    }

    /// Returns the entry of a key, or `None` for a section.
    fn entry(&self, key: &Key<'a>) -> Option<Result<Entry, ConfigError>> {
        let value = key.value.clone()?;
        let span = value.span();
        let read = Value::deserialize(ValueDeserializer::from(value));
        // The parser accepts integers of any length. Serde's message quotes one that does not fit in 64 bits.
        let value = read.map_err(|_| self.error_at(span, "is not TOML: a number is out of range"));
        Some(value.map(|value| Entry { key: key.key.clone(), value, origin: self.place(key.span.start) }))
    }

    fn error_at(&self, span: Range<usize>, reason: &str) -> ConfigError {
        let near = self.key_near(&span).map_or_else(String::new, |key| format!(" (near {key})"));
        ConfigError::File { file: self.place(span.start), reason: format!("{reason}{near}") }
    }

    /// Returns the last key before an error, if it is known and no section begins after it. For a key that is set twice,
    /// returns that key.
    fn key_near(&self, error: &Range<usize>) -> Option<&str> {
        let before = &self.keys[..self.keys.partition_point(|key| key.span.start <= error.start)];
        let is_twin = |key: &&Key<'_>| self.text.get(key.span.clone()) == self.text.get(error.clone());
        let near = before.iter().rfind(is_twin).or(before.last())?;
        (near.value.is_some() && self.known.get(&near.key).is_some()).then_some(near.key.as_str())
    }

    /// Returns the path of the file with the line and the column of a position, both counted from 1.
    fn place(&self, at: usize) -> String {
        let before = &self.text[..self.text.floor_char_boundary(at)];
        let line = before.rsplit('\n').next().unwrap_or_default();
        format!("{}:{}:{}", self.name, before.matches('\n').count() + 1, line.chars().count() + 1)
    }
}
