use std::fmt;

use crate::system::random;

/// Letters of user codes: consonants, so that codes are no words (RFC 8628 §6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Number of letters of a user code. 20^8 codes are 34 bits.
const LENGTH: usize = 8;

/// The code that a user types on the approve page (RFC 8628 §3.2, `user_code`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserCode(String);

impl UserCode {
    /// Returns a random code.
    #[must_use]
    pub fn random() -> Self {
        let letter = || char::from(LETTERS[random::below(20) as usize]);
        Self((0..LENGTH).map(|_| letter()).collect())
    }

    /// Parses what a user typed, in any case, with or without separators. Returns `None` if it is not a code.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_separator = |letter: &char| letter.is_whitespace() || "-_.–—".contains(*letter);
        let code: String =
            text.chars().filter(|letter| !is_separator(letter)).map(|it| it.to_ascii_uppercase()).collect();
        let is_code = code.len() == LENGTH && code.bytes().all(|byte| LETTERS.contains(&byte));
        is_code.then_some(Self(code))
    }

    /// Returns the letters, without a separator.
    #[must_use]
    pub fn letters(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = self.0.split_at(LENGTH / 2);
        write!(f, "{first}-{second}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_parsed_in_any_case_and_with_any_separator() {
        let code = UserCode::random();
        let shown = code.to_string();
        assert_eq!((shown.len(), shown.as_bytes()[4]), (9, b'-'));
        for typed in
            [shown.clone(), shown.to_lowercase(), shown.replace('-', ""), format!(" {} ", shown.replace('-', " "))]
        {
            assert_eq!(UserCode::parse(&typed), Some(code.clone()), "{typed}");
        }
        for bad in ["", "BCDF", "BCDF-GHJA", "BCDF-GHJKL", "BCDFGHJ\u{212A}"] {
            assert_eq!(UserCode::parse(bad), None, "{bad}");
        }
    }
}
