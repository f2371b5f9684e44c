//! The known keys, and errors about unknown ones: the known key that was probably meant, and whether the unknown one may
//! be shown.
//!
//! A slip can make a value a part of a key, as `:` in place of `=` does. A key is therefore shown only if it is like a
//! known one, or consists of lower-case words.

use toml::{Table, Value};

use super::{ConfigError, ENV_PREFIX};

/// Maximum length of an unknown key that is shown, in bytes.
const MAX_SHOWN_BYTES: usize = 48;
/// Text that is shown in place of an unknown key that may hold a value.
const NOT_SHOWN: &str = "(not shown)";
/// Maximum number of edits that turn a misspelled key into the known one.
const MAX_EDITS: usize = 2;
/// Maximum length of a text that is compared letter by letter, in bytes. All known keys are shorter.
const MAX_COMPARED_BYTES: usize = 64;
/// Minimum length of a shortened key, in bytes.
const MIN_SHORTENED_BYTES: usize = 3;

/// How an unknown key differs from a known one. The smallest is the most alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    /// The known key in another spelling, with this number of wrong letters.
    Misspelled(usize),
    /// The beginning of the known key, without this number of bytes.
    Shortened(usize),
    /// The known key, misspelled by this number of letters, in another section.
    Misplaced(usize),
    /// The known key followed by this number of bytes.
    Extended(usize),
}

/// The keys of all settings and sections.
pub(super) struct Known {
    /// The defaults, which define the keys and the type of each.
    defaults: Table,
}

impl Known {
    pub(super) const fn new(defaults: Table) -> Self {
        Self { defaults }
    }

    /// Returns the default of a setting, or the table of a section.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        match key.rsplit_once('.') {
            None => self.defaults.get(key),
            Some((section, name)) => self.defaults.get(section)?.get(name),
        }
    }

    /// Returns whether a key is that of a section.
    pub(super) fn is_section(&self, key: &str) -> bool {
        self.defaults.get(key).is_some_and(Value::is_table)
    }

    /// Returns the default of a key that is set.
    ///
    /// # Errors
    /// Returns an error that names the source if the key is unknown.
    pub(super) fn default_of(&self, key: &str, origin: &str) -> Result<&Value, ConfigError> {
        self.get(key).ok_or_else(|| {
            let nearest = self.nearest(key).map(|(_, nearest)| nearest);
            self.unknown(key, origin.to_owned(), self.shown(key), nearest)
        })
    }

    /// Returns the error for an unknown environment variable of this name, after the prefix. The name is shown only if
    /// it looks like one, because `:` in place of `=` makes the value a part of it.
    pub(super) fn unknown_variable(&self, suffix: &str) -> ConfigError {
        let key = suffix.replace("__", ".");
        let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
        let nearest = self.nearest(&key);
        let is_like_known = matches!(nearest, Some((Likeness::Misspelled(_) | Likeness::Shortened(_), _)));
        let is_shown = suffix.len() <= MAX_SHOWN_BYTES && (is_like_known || suffix.bytes().all(is_name));
        let (origin, shown) = if is_shown {
            let name = suffix.escape_debug();
            (format!("environment variable {ENV_PREFIX}{name}"), key.to_lowercase().escape_debug().to_string())
        } else {
            (format!("environment variable {ENV_PREFIX}… (its name is not shown)"), NOT_SHOWN.to_owned())
        };
        let nearest = nearest.map(|(_, key)| format!("{ENV_PREFIX}{}", key.to_uppercase().replace('.', "__")));
        self.unknown(&key.to_lowercase(), origin, shown, nearest)
    }

    fn unknown(&self, key: &str, origin: String, shown: String, nearest: Option<String>) -> ConfigError {
        let section = key.rsplit_once('.').and_then(|(section, _)| self.defaults.get(section)?.as_table());
        let known = section.unwrap_or(&self.defaults).keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        ConfigError::UnknownKey { origin, key: shown, nearest, known }
    }

    /// Returns the known key that is most like an unknown one.
    fn nearest(&self, key: &str) -> Option<(Likeness, String)> {
        let key = normal(key);
        let alike = self.all().into_iter().filter_map(|candidate| {
            let likeness = likeness(&key, &candidate, self.is_section(&candidate))?;
            Some((likeness, candidate))
        });
        alike.min()
    }

    /// Returns the keys of all settings and sections.
    fn all(&self) -> Vec<String> {
        let mut keys = Vec::new();
        for (name, value) in &self.defaults {
            keys.push(name.clone());
            keys.extend(value.as_table().into_iter().flatten().map(|(inner, _)| format!("{name}.{inner}")));
        }
        keys
    }

    /// Returns an unknown key for an error, or a placeholder if it may hold a value.
    fn shown(&self, key: &str) -> String {
        let is_lettered = |byte: u8| byte.is_ascii_alphabetic() || b"_-.".contains(&byte);
        let is_shown = is_plain(key)
            || match self.nearest(key) {
                Some((Likeness::Misspelled(_) | Likeness::Shortened(_), _)) => true,
                Some((Likeness::Misplaced(_), _)) => key.rsplit_once('.').is_none_or(|(section, _)| is_plain(section)),
                Some((Likeness::Extended(_), _)) => key.bytes().all(is_lettered),
                None => false,
            };
        if is_shown && key.len() <= MAX_SHOWN_BYTES { key.escape_debug().to_string() } else { NOT_SHOWN.to_owned() }
    }
}

/// Returns whether a text consists of lower-case words, as keys do.
pub(super) fn is_plain(key: &str) -> bool {
    key.len() <= MAX_SHOWN_BYTES && key.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-.".contains(&byte))
}

/// Returns a key as known keys are spelled: in lower case, with underscores between the words.
fn normal(key: &str) -> String {
    let mut normal = String::with_capacity(key.len());
    let mut is_in_word = false;
    for letter in key.chars() {
        if is_in_word && letter.is_ascii_uppercase() {
            normal.push('_');
        }
        normal.push(if letter == '-' { '_' } else { letter.to_ascii_lowercase() });
        is_in_word = letter.is_ascii_lowercase() || letter.is_ascii_digit();
    }
    normal
}

/// Compares a key, in its normal form, with a known one. An underscore in place of the dot is a misspelling too, as in
/// `session_ttl_seconds`.
fn likeness(key: &str, known: &str, is_section: bool) -> Option<Likeness> {
    let (flat_key, flat_known) = (key.replace('.', "_"), known.replace('.', "_"));
    let (name, known_name) = (name_of(key), name_of(known));
    if let Some(edits) = edits(&flat_key, &flat_known) {
        Some(Likeness::Misspelled(edits))
    } else if flat_key.len() >= MIN_SHORTENED_BYTES && flat_known.starts_with(&flat_key) {
        Some(Likeness::Shortened(flat_known.len() - flat_key.len()))
    } else if is_section {
        None
    } else if let Some(edits) = edits(name, known_name) {
        Some(Likeness::Misplaced(edits))
    } else {
        flat_key.strip_prefix(&flat_known).map(|rest| Likeness::Extended(rest.len()))
    }
}

/// Returns a key without its section.
fn name_of(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, name)| name)
}

/// Returns the number of letters that were added, left out, replaced or swapped, if they are few for the key's length.
pub(super) fn edits(key: &str, known: &str) -> Option<usize> {
    if key.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let edits = strsim::osa_distance(key, known);
    (edits <= MAX_EDITS && 3 * edits <= known.len()).then_some(edits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn known() -> Known {
        Known::new(Table::try_from(Settings::default()).unwrap())
    }

    #[test]
    fn nearest_key_is_found_and_the_slip_is_shown() {
        for (slip, meant) in [
            ("public-url", "public_url"),
            ("publicUrl", "public_url"),
            ("PublicURL", "public_url"),
            ("Listen", "listen"),
            ("LISTEN", "listen"),
            ("lisen", "listen"),
            ("litsen", "listen"),
            ("Session", "session"),
            ("sesion", "session"),
            ("session.ttl-seconds", "session.ttl_seconds"),
            ("session.ttlSeconds", "session.ttl_seconds"),
            ("session.ttl", "session.ttl_seconds"),
            ("session.TTL", "session.ttl_seconds"),
            ("session_ttl_seconds", "session.ttl_seconds"),
            ("SESSION_TTL", "session.ttl_seconds"),
            ("Session.ttl_seconds", "session.ttl_seconds"),
            ("app_auth.hmac_secret2", "app_auth.hmac_secret"),
            ("app_auth.hmacSecretFile", "app_auth.hmac_secret"),
            ("hmac_secret", "app_auth.hmac_secret"),
            ("HmacSecret", "app_auth.hmac_secret"),
            ("session.hmac_secret", "app_auth.hmac_secret"),
            ("log.lvel", "log.level"),
        ] {
            let found = known().nearest(slip).map(|(_, key)| key);
            assert_eq!(found.as_deref(), Some(meant), "{slip}");
            assert_eq!(known().shown(slip), slip);
        }
        for other in ["", "x", "frobnicate", "session.frobnicate", "hunter2", "Sw0rdf1sh"] {
            assert_eq!(known().nearest(other), None, "{other}");
        }
    }

    #[test]
    fn key_with_a_value_in_it_is_not_shown_but_its_beginning_is_recognized() {
        for (slip, meant) in [
            ("app_auth.hmac_secret:q7hunter2SEKRETb64", "app_auth.hmac_secret"),
            ("APP_AUTH.HMAC_SECRET:q7hunter2SEKRETb64", "app_auth.hmac_secret"),
            ("app_auth.hmac_secret q7hunter2SEKRETb64", "app_auth.hmac_secret"),
            ("app_auth.hmac_secret-q7hunter2SEKRETb64", "app_auth.hmac_secret"),
            ("database_url: postgres://u:hunter2@h/d", "database_url"),
            ("Hunter2.listen", "listen"),
        ] {
            assert_eq!(known().shown(slip), "(not shown)", "{slip}");
            assert_eq!(known().nearest(slip).map(|(_, key)| key).as_deref(), Some(meant), "{slip}");
        }
        let long = format!("listen{}", "x".repeat(100_000));
        for other in ["hunter2", "Hunter", "postgres://u:hunter2@h", "a\nb", &long] {
            assert_eq!(known().shown(other), "(not shown)", "{other}");
        }
        assert_eq!(known().shown("listen\u{1b}"), "listen\\u{1b}");
    }

    #[test]
    fn all_known_keys_are_short_enough_to_be_compared_and_shown() {
        for key in known().all() {
            assert!(key.len() <= MAX_SHOWN_BYTES.min(MAX_COMPARED_BYTES - MAX_EDITS), "{key}");
            assert_eq!(known().nearest(&key), Some((Likeness::Misspelled(0), key)));
        }
    }
}
