//! Text from clients and tokens, made safe to show to people.

/// Returns `text` without characters that change how the text around it is shown, trimmed, and cut after `max_chars`
/// characters.
///
/// Removed are:
/// - control characters (Unicode category Cc), and line and paragraph separators;
/// - format characters that override the direction of text (property `Bidi_Control`, UAX #9);
/// - invisible format characters: the byte order mark, deprecated format characters, interlinear annotations and tags.
///
/// The zero-width joiners stay, because names in Arabic and Indic scripts need them. A text that consists of invisible
/// characters only becomes empty.
#[must_use]
pub fn printable(text: &str, max_chars: usize) -> String {
    let kept: String = text.chars().filter(|letter| !is_control(*letter)).collect();
    let cut: String = kept.trim().chars().take(max_chars).collect();
    if cut.chars().all(is_invisible) { String::new() } else { cut.trim_end().to_owned() }
}

/// Returns whether a character shows nothing by itself: white space, the characters that text layout ignores (property
/// `Default_Ignorable_Code_Point`, DerivedCoreProperties.txt), and the blank pattern of Braille.
fn is_invisible(letter: char) -> bool {
    letter.is_whitespace()
        || is_control(letter)
        || matches!(letter,
            '\u{00AD}' | '\u{034F}' | '\u{061C}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}'
            | '\u{2800}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFF8}'
            | '\u{1BCA0}'..='\u{1BCA3}' | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

/// Returns whether [`printable`] removes a character.
fn is_control(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{206F}'
            | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_and_direction_characters_are_removed() {
        for (text, shown) in [
            ("Ada Lovelace", "Ada Lovelace"),
            ("李小龙 👩‍👩‍👧", "李小龙 👩‍👩‍👧"),
            ("نمی\u{200C}خواهم", "نمی\u{200C}خواهم"),
            ("Ada\u{202E}ecalevoL\u{202C}", "AdaecalevoL"),
            ("\u{2066}a\u{2069}\u{200F}b\u{061C}", "ab"),
            ("a\0b\nc\r\td\u{7F}e\u{85}f", "abcdef"),
            ("a\u{2028}b\u{2029}c\u{FEFF}d\u{E0041}e\u{206A}f\u{FFF9}g", "abcdefg"),
            ("  spaces inside  stay ", "spaces inside  stay"),
            ("\u{202E}", ""),
            ("\u{200B}", ""),
            ("\u{200D}\u{200C}", ""),
            ("\u{2060}\u{2062}\u{00AD}", ""),
            ("\u{3164}", ""),
            ("\u{115F}\u{1160}\u{FFA0}", ""),
            ("\u{2800}\u{2800}", ""),
            ("\u{FE0F}\u{E0100}", ""),
            ("\u{00A0}\u{3000}", ""),
            ("\u{180E}", ""),
            ("\u{200B}a", "\u{200B}a"),
        ] {
            assert_eq!(printable(text, 100), shown, "{text:?}");
        }
        assert_eq!(printable("abc def", 4), "abc");
        assert_eq!(printable("\u{202E}李小龙", 2), "李小");
    }
}
