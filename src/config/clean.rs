//! Cleaning of values before they are used. Shells, compose files, editors and files of secrets add white space and
//! line ends to them.

use std::net::SocketAddr;

use crate::secret::is_invisible;

/// Maximum length of the text of a setting, or of an item of a list, in bytes.
const MAX_TEXT_BYTES: usize = 8 * 1024;
/// Settings whose values keep their white space, because it may be a part of the secret. One line end is removed.
const SECRETS: [&str; 3] = ["app_auth.hmac_secret", "app_auth.introspection_client_secret", "approve.client_secret"];
/// Settings whose value is the path of a file or a directory.
const PATHS: [&str; 4] = ["app_auth.public_key_file", "token.key_dir", "geoip.city_file", "geoip.asn_file"];
/// Settings whose value is an address to listen on.
const LISTENERS: [&str; 2] = ["listen", "ops_listen"];

/// A cleaned value.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Clean {
    pub(super) text: String,
    /// Warning for the operator, as the predicate of a sentence about the key.
    pub(super) warning: Option<&'static str>,
}

/// Cleans the text of a setting, or of one item of a list.
///
/// # Errors
/// Returns a description of the error, as the predicate of a sentence about the key. It does not quote the value.
pub(super) fn clean(key: &str, text: &str) -> Result<Clean, String> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(format!("is longer than {MAX_TEXT_BYTES} bytes"));
    }
    if SECRETS.contains(&key) {
        let text = without_line_end(text);
        refuse("a control", text, char::is_control)?;
        let is_padded = text.trim() != text;
        let warning = is_padded.then_some("begins or ends with a blank, which is a part of the secret");
        return Ok(Clean { text: text.to_owned(), warning });
    }
    let (trimmed, warning) = trim(text);
    refuse("a control", trimmed, char::is_control)?;
    refuse("an invisible", trimmed, is_invisible)?;
    if PATHS.contains(&key) && (trimmed.contains("://") || trimmed.contains("-----BEGIN")) {
        return Err("must be the path of a file, not a URL or a key".to_owned());
    }
    let text = if LISTENERS.contains(&key) { socket_address(trimmed)? } else { trimmed.to_owned() };
    Ok(Clean { text, warning })
}

/// Removes the white space around a value. If there was any, returns a warning, as the predicate of a sentence about the
/// key.
pub(super) fn trim(text: &str) -> (&str, Option<&'static str>) {
    // Some editors and spreadsheets add a byte order mark or a zero-width space, which Unicode does not count as white
    // space.
    let is_space = |letter: char| letter.is_whitespace() || matches!(letter, '\u{feff}' | '\u{200b}');
    let trimmed = text.trim_matches(is_space);
    (trimmed, (trimmed != text).then_some("has white space around its value, which was cut off"))
}

/// Returns whether an environment variable with this text counts as not set.
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(char::is_whitespace)
}

/// Removes one line end, which a secret has that was read from a file.
fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// Refuses a text with a character for which `is_bad` is true, and names the first one.
fn refuse(kind: &str, text: &str, is_bad: impl Fn(char) -> bool) -> Result<(), String> {
    match text.chars().enumerate().find(|(_, letter)| is_bad(*letter)) {
        Some((index, letter)) => {
            Err(format!("holds {kind} character (U+{:04X}, character {})", u32::from(letter), index + 1))
        }
        None => Ok(()),
    }
}

/// Expands the short forms of an address to listen on: `:PORT`, `*:PORT` and `localhost:PORT`.
fn socket_address(text: &str) -> Result<String, String> {
    if text.is_empty() || text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let long = text.rsplit_once(':').and_then(|(host, port)| {
        let host = match host {
            "" | "*" => "0.0.0.0",
            name if name.eq_ignore_ascii_case("localhost") => "127.0.0.1",
            _ => return None,
        };
        let is_port = port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
        is_port.then(|| format!("{host}:{port}"))
    });
    long.ok_or_else(|| {
        "is not a socket address; write it as ADDRESS:PORT (127.0.0.1:8080, [::]:8080), or as :PORT, *:PORT or \
         localhost:PORT"
            .to_owned()
    })
}

/// Parses a boolean in one of its usual spellings, in any case.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cleaned(key: &str, text: &str) -> Result<(String, bool), String> {
        clean(key, text).map(|clean| (clean.text, clean.warning.is_some()))
    }

    #[test]
    fn surrounding_white_space_is_removed_with_a_warning() {
        for padded in ["https://a.example\r", "https://a.example\r\n", " https://a.example", "\thttps://a.example\n\n"]
        {
            assert_eq!(cleaned("public_url", padded), Ok(("https://a.example".to_owned(), true)), "{padded:?}");
        }
        assert_eq!(cleaned("token.key_dir", "keys/\u{a0}"), Ok(("keys/".to_owned(), true)));
        assert_eq!(cleaned("geoip.city_file", "\u{feff}city.mmdb"), Ok(("city.mmdb".to_owned(), true)));
        assert_eq!(cleaned("token.key_dir", "my keys/"), Ok(("my keys/".to_owned(), false)));
    }

    #[test]
    fn secret_loses_one_line_end_and_no_other_character() {
        for key in SECRETS {
            for (text, expected) in [
                ("secret", Ok(("secret", false))),
                ("secret\n", Ok(("secret", false))),
                ("secret\r\n", Ok(("secret", false))),
                ("secret\r", Ok(("secret", false))),
                (" secret ", Ok((" secret ", true))),
                ("secret\n\n", Err("U+000A, character 7")),
                ("sec\nret", Err("U+000A, character 4")),
                ("sec\0ret", Err("U+0000, character 4")),
                ("\tsecret", Err("U+0009, character 1")),
            ] {
                match (cleaned(key, text), expected) {
                    (Ok((text, warns)), Ok(expected)) => assert_eq!((text.as_str(), warns), expected),
                    (Err(reason), Err(part)) => assert!(reason.contains(part) && !reason.contains("sec"), "{reason}"),
                    (cleaned, _) => panic!("{text:?}: {cleaned:?}"),
                }
            }
        }
    }

    #[test]
    fn invisible_character_within_a_value_is_refused_but_not_within_a_secret() {
        let invisible = "\u{ad}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}\u{202a}\u{202e}\u{2060}\u{2069}\u{feff}";
        for letter in invisible.chars() {
            let value = format!("https://a.ex{letter}ample");
            let reason = format!("holds an invisible character (U+{:04X}, character 13)", u32::from(letter));
            assert_eq!(cleaned("public_url", &value), Err(reason.clone()));
            assert_eq!(cleaned("geoip.city_file", &value), Err(reason));
            for key in SECRETS {
                assert_eq!(cleaned(key, &value), Ok((value.clone(), false)));
            }
        }
        // These two are cut off at the ends, as white space is. The others are refused there too.
        assert_eq!(cleaned("token.issuer", "\u{feff}x\u{200b}"), Ok(("x".to_owned(), true)));
        assert!(cleaned("token.issuer", "x\u{202e}").unwrap_err().contains("U+202E, character 2"));
        assert_eq!(cleaned("token.issuer", "b\u{fc}cher"), Ok(("b\u{fc}cher".to_owned(), false)));
    }

    #[test]
    fn short_forms_of_a_listening_address_are_expanded() {
        for key in LISTENERS {
            for (text, address) in [
                (":8080", "0.0.0.0:8080"),
                ("*:8080", "0.0.0.0:8080"),
                ("localhost:8080", "127.0.0.1:8080"),
                ("LocalHost:0", "127.0.0.1:0"),
                ("[::]:8080", "[::]:8080"),
                ("[::1]:8080", "[::1]:8080"),
                ("192.0.2.1:65535", "192.0.2.1:65535"),
            ] {
                assert_eq!(cleaned(key, text), Ok((address.to_owned(), false)));
            }
            for bad in
                ["8080", ":", "*:", "localhost", "localhost:65536", ":+80", "db.example:80", "::1:80x", "http://:80"]
            {
                let reason = clean(key, bad).unwrap_err();
                assert!(reason.contains("is not a socket address"), "{bad}: {reason}");
            }
        }
    }

    #[test]
    fn boolean_is_parsed_in_any_case() {
        for (text, value) in [("TRUE", true), ("1", true), ("Yes", true), ("oN", true)] {
            assert_eq!(boolean(text), Some(value));
        }
        for text in ["False", "0", "NO", "off"] {
            assert_eq!(boolean(text), Some(false));
        }
        for text in ["", "y", "2", "enabled", "truefalse", "on "] {
            assert_eq!(boolean(text), None);
        }
    }

    #[test]
    fn key_or_url_in_place_of_a_path_is_refused() {
        for key in PATHS {
            for wrong in ["-----BEGIN PRIVATE KEY-----MC4CAQ", "https://id.example/jwks", "file:///keys"] {
                assert!(clean(key, wrong).is_err(), "{wrong}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// A cleaned value is a part of the text, without control characters and padding. An error has no control
        /// character and only ASCII, so it does not quote the value.
        #[test]
        fn clean_value_has_no_control_character(text in "[ \\t\\r\\n\\x00-\\x1f\\x7f-\\x9f\\u{200b}\\u{202e}a-z:/@=]{0,12}", key in 0..9_usize) {
            let keys = [&SECRETS[..], &PATHS[..], &["public_url", "token.issuer"]].concat();
            match clean(keys[key], &text) {
                Ok(clean) => {
                    prop_assert!(!clean.text.chars().any(char::is_control));
                    prop_assert!(SECRETS.contains(&keys[key]) || !clean.text.chars().any(is_invisible));
                    prop_assert!(text.contains(&clean.text));
                    prop_assert!(SECRETS.contains(&keys[key]) || clean.text.trim() == clean.text);
                    prop_assert!(SECRETS.contains(&keys[key]) || clean.warning.is_some() == (clean.text != text));
                }
                Err(reason) => prop_assert!(reason.is_ascii() && !reason.contains(char::is_control)),
            }
        }
    }
}
