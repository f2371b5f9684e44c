//! Texts of errors for the log: one line each, without credentials.

use crate::secret::{HIDDEN, shown_address};

/// Maximum length of a text that is shown, in characters.
const MAX_CHARS: usize = 500;
/// Text after which Redis quotes the arguments of a command that it does not know. The arguments of `AUTH` and `HELLO`
/// include a user name and a password.
const QUOTED_ARGUMENTS: &str = "with args beginning with";
/// Endings of the names, in `NAME=VALUE`, whose values are not shown.
const SECRET_NAMES: [&str; 7] = ["password", "passwd", "pass", "pwd", "secret", "token", "key"];

/// Returns the text of an error with those of all its sources, cleaned by [`cleaned`]. A driver's own text often names
/// only the outermost failure.
#[must_use]
pub fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    cleaned(&text)
}

/// Returns a text of a driver or a server as one line of at most 500 characters and an ellipsis, without credentials.
///
/// Addresses are shown as by [`shown_address`]. The values of `password=` and similar names, and the arguments of Redis
/// commands, are left out.
#[must_use]
pub fn cleaned(text: &str) -> String {
    let (text, cut) = text.split_once(QUOTED_ARGUMENTS).map_or((text, false), |(text, _)| (text, true));
    let words = text.split(|letter: char| letter.is_whitespace() || letter.is_control());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    // A quoted value can go on over several words, and blanks can stand around the sign, so no word after it is shown.
    let end = (0..words.len()).find(|at| begins_quoted_secret(words[*at], words.get(at + 1)));
    let shown = words[..end.unwrap_or(words.len())].iter().map(|word| cleaned_word(word));
    let mut line = shown.chain(end.map(|_| HIDDEN.to_owned())).collect::<Vec<_>>().join(" ");
    if cut {
        line.push_str(" with arguments that are not shown");
    }
    if line.chars().count() > MAX_CHARS {
        line = line.chars().take(MAX_CHARS).chain(['…']).collect();
    }
    line
}

fn cleaned_word(word: &str) -> String {
    let is_mark = |letter: char| "'\"`()<>,;.:".contains(letter);
    let bare = word.trim_matches(is_mark);
    if bare.contains("://") {
        return word.replace(bare, &shown_address(bare));
    }
    match word.split_once('=') {
        Some((name, value)) if !value.is_empty() && is_secret_name(name) => format!("{name}={HIDDEN}"),
        _ => word.to_owned(),
    }
}

/// Returns whether a word is the name of a secret with a blank or a quote before its value: `password =`, `pwd='…`.
fn begins_quoted_secret(word: &str, next: Option<&&str>) -> bool {
    match word.split_once('=') {
        Some((name, value)) => is_secret_name(name) && (value.is_empty() || value.starts_with(['\'', '"'])),
        None => is_secret_name(word) && next.is_some_and(|next| next.starts_with('=')),
    }
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_lowercase();
    SECRET_NAMES.iter().any(|secret| name.ends_with(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_text_is_one_line_of_bounded_length_without_credentials() {
        for (said, shown) in [
            ("password authentication failed for user \"ann\"", "password authentication failed for user \"ann\""),
            ("cannot connect to 'redis://u:hunter2@h:1': refused", "cannot connect to 'redis://(hidden)@h:1': refused"),
            ("no host in \"postgres://u:hun/ter2@h\"", "no host in \"(hidden)\""),
            ("bad: host=db user=u password=hunter2", "bad: host=db user=u password=(hidden)"),
            ("bad: user=u password='hun ter2' port=1", "bad: user=u (hidden)"),
            ("bad: user=u password = hunter2", "bad: user=u (hidden)"),
            ("bad: user=u password= hunter2", "bad: user=u (hidden)"),
            (
                "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'u' 'hunter2'",
                "ERR unknown command 'HELLO', with arguments that are not shown",
            ),
            ("two\r\nlines\0and\x1b[31m a colour", "two lines and [31m a colour"),
        ] {
            assert_eq!(cleaned(said), shown);
        }
        assert_eq!(cleaned(&"x".repeat(9000)).chars().count(), MAX_CHARS + 1);
    }
}
