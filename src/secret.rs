//! Settings that are or may hold a secret, and the text that is shown in their place.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Text that is shown in place of a secret.
pub const HIDDEN: &str = "(hidden)";

/// Schemes of the server addresses that a setting may hold. An address with another scheme, except `sqlite`, is hidden
/// as a whole.
const SCHEMES: [&str; 10] =
    ["postgres", "postgresql", "redis", "rediss", "valkey", "valkeys", "unix", "redis+unix", "http", "https"];
/// URL parameters that hold no secret, with the values of each that may be shown.
const SHOWN_PARAMETERS: [(&str, &[&str]); 4] = [
    ("sslmode", &["disable", "prefer", "require", "verify-ca", "verify-full"]),
    ("target_session_attrs", &["any", "read-write", "read-only"]),
    ("protocol", &["2", "3", "resp2", "resp3"]),
    ("db", &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]),
];

/// The value of a setting that is or may hold a secret. `Debug` and `Serialize` do not show it, and it is wiped from
/// memory when it is dropped.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Returns the value. Do not print or log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns whether the setting is not set, which an empty value means.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the value contains [`HIDDEN`], so was copied from the output of `print-config`.
    #[must_use]
    pub fn is_hidden(&self) -> bool {
        self.0.contains(HIDDEN)
    }

    /// Serializes an address in the form that [`shown_address`] returns.
    ///
    /// # Errors
    /// Returns the serializer's error.
    pub fn serialize_address<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&shown_address(&self.0))
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl From<&str> for Secret {
    fn from(value: &str) -> Self {
        Self(value.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if self.is_empty() { "" } else { HIDDEN })
    }
}

/// Returns an address without its secrets: the scheme, the hosts, the path and a few parameters.
///
/// URL parsers disagree about a raw `/`, `?`, `#` or `@` in a password: what one parser reads as a host or a path may
/// be a part of the password. An address that can be read in more than one way is therefore hidden as a whole, and so
/// is a text that is no address with a known scheme.
#[must_use]
pub fn shown_address(text: &str) -> String {
    if text.is_empty() { String::new() } else { parts_of(text).unwrap_or_else(|| HIDDEN.to_owned()) }
}

/// Returns a path for an error or a log line, or [`HIDDEN`] if it holds a character that paths rarely have and secrets
/// often do: one of `=@#?&;`, `://`, a control character or an invisible one. The path comes from a setting, and a secret may
/// have been written into the wrong setting.
#[must_use]
pub fn shown_path(path: impl AsRef<Path>) -> String {
    let text = path.as_ref().to_string_lossy();
    let is_hidden = |letter: char| "=@#?&;".contains(letter) || letter.is_control() || is_invisible(letter);
    if text.contains(is_hidden) || text.contains("://") { HIDDEN.to_owned() } else { text.into_owned() }
}

/// Returns whether a character is shown as nothing, ends a line or changes the direction of the text around it. No
/// setting needs such a character. Editors and web pages add them to copied text.
#[must_use]
pub const fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{AD}'
            | '\u{34F}'
            | '\u{61C}'
            | '\u{115F}'..='\u{1160}'
            | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}'
            | '\u{200B}'..='\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}'
            | '\u{FEFF}'
            | '\u{FFA0}'
            | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E0FFF}'
    )
}

fn parts_of(text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://")?;
    if scheme == "sqlite" {
        return is_plain_path(rest).then(|| text.to_owned());
    }
    if !SCHEMES.contains(&scheme) {
        return None;
    }
    let authority = rest.split(['/', '?', '#']).next()?;
    let tail = &rest[authority.len()..];
    if tail.contains('@') {
        return None;
    }
    let (tail, fragment) = tail.split_once('#').map_or((tail, None), |(tail, fragment)| (tail, Some(fragment)));
    let (path, query) = tail.split_once('?').map_or((tail, None), |(path, query)| (path, Some(query)));
    if !is_plain_path(path) {
        return None;
    }
    let hosts = match authority.split_once('@') {
        Some((_, hosts)) => hosts,
        None => authority,
    };
    if !hosts.split(',').all(is_host) {
        return None;
    }
    let mut shown = format!("{scheme}://");
    if hosts.len() < authority.len() {
        shown.push_str(HIDDEN);
        shown.push('@');
    }
    shown.push_str(hosts);
    shown.push_str(path);
    if let Some(query) = query {
        shown.push('?');
        // With some services, the whole query of an HTTP URL is an API key.
        shown.push_str(&if scheme.starts_with("http") { HIDDEN.to_owned() } else { shown_query(query)? });
    }
    if let Some(fragment) = fragment {
        shown.push('#');
        shown.push_str(if fragment == "insecure" { fragment } else { HIDDEN });
    }
    Some(shown)
}

fn shown_query(query: &str) -> Option<String> {
    let mut shown = Vec::new();
    for parameter in query.split('&') {
        let (name, value) = parameter.split_once('=')?;
        if name.is_empty() || name.len() > 32 || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            return None;
        }
        let is_shown = SHOWN_PARAMETERS.iter().any(|(known, values)| *known == name && values.contains(&value));
        shown.push(format!("{name}={}", if is_shown { value } else { HIDDEN }));
    }
    Some(shown.join("&"))
}

fn is_plain_path(path: &str) -> bool {
    path.chars().all(|letter| letter.is_alphanumeric() || "/._~%+- ".contains(letter))
}

/// Returns whether the text is a host name or an IP address, with or without a port.
fn is_host(text: &str) -> bool {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((name, port)) => (name, port.strip_prefix(':')),
            None => return false,
        },
        None => text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port))),
    };
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:%".contains(&byte));
    is_name && port.is_none_or(|port| port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_address_has_no_credentials_and_is_stable() {
        for (address, shown) in [
            ("", ""),
            ("sqlite://qrlogin.db", "sqlite://qrlogin.db"),
            ("sqlite:///var/lib/qr login/q.db", "sqlite:///var/lib/qr login/q.db"),
            ("sqlite://ann:hunter2@db/x", HIDDEN),
            ("sqlite://x.db?key=hunter2", HIDDEN),
            ("postgres://db/x?sslmode=require", "postgres://db/x?sslmode=require"),
            ("postgres://ann@db/x?sslmode=require", "postgres://(hidden)@db/x?sslmode=require"),
            ("postgres://ann:hunter2@db:5432,db2/x", "postgres://(hidden)@db:5432,db2/x"),
            ("postgres://ann:hunter2@[::1]:5432/x", "postgres://(hidden)@[::1]:5432/x"),
            ("postgres://ann@db/x?password=hunter2", "postgres://(hidden)@db/x?password=(hidden)"),
            ("postgres://ann@db/x?sslmode=hunter2", "postgres://(hidden)@db/x?sslmode=(hidden)"),
            ("postgres://db/x?hunter2", HIDDEN),
            ("postgres://u:a/b#c@h/d", HIDDEN),
            ("postgres://u:a?b@h/d", HIDDEN),
            ("postgres://u:hun@ter2@h/d", HIDDEN),
            ("postgres://u:hunter2/d", HIDDEN),
            ("postgres:/u:hunter2@h/d", HIDDEN),
            ("POSTGRES://u:hunter2@h/d", HIDDEN),
            ("host=db user=u password=hunter2", HIDDEN),
            ("redis://:hunter2@cache", "redis://(hidden)@cache"),
            ("redis://hunter2@cache/1#insecure", "redis://(hidden)@cache/1#insecure"),
            ("redis://:hun#ter2@cache", HIDDEN),
            ("redis://cache#hunter2", "redis://cache#(hidden)"),
            ("unix:///run/redis.sock?pass=hunter2&db=1", "unix:///run/redis.sock?pass=(hidden)&db=1"),
            ("https://ann:hunter2@id.example/jwks", "https://(hidden)@id.example/jwks"),
            ("https://id.example/jwks?key=hunter2&v=2", "https://id.example/jwks?(hidden)"),
            ("hunter2", HIDDEN),
        ] {
            assert_eq!(shown_address(address), shown, "{address}");
            assert_eq!(shown_address(shown), shown, "what is shown is shown as it is");
        }
    }

    #[test]
    fn shown_path_is_hidden_if_it_looks_like_a_secret() {
        for path in ["keys/", "/var/lib/qr login/city.mmdb", "../geo-lite_2~.mmdb", "C:\\keys", "schlüssel.pem", ""] {
            assert_eq!(shown_path(path), path);
            assert_eq!(shown_path(Path::new(path)), path);
        }
        for secret in [
            "q7hunter2SEKRETb64=",
            "u:hunter2@h/d",
            "hunter2#",
            "x?key",
            "a&b",
            "a;b",
            "a\nb",
            "a\u{1b}[0m",
            "a\u{200b}b",
            "a\u{202e}b",
            "a\u{ad}b",
            "\u{feff}a",
        ] {
            assert_eq!(shown_path(secret), HIDDEN, "{secret:?}");
        }
    }

    #[test]
    fn secret_is_not_printed_or_serialized() {
        let secret = Secret::from("hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"(hidden)\"");
        assert_eq!(serde_json::to_string(&Secret::default()).unwrap(), "\"\"");
    }
}
