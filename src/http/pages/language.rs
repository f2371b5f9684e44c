//! The languages of the pages. Each is one file of `web/languages`, with the same keys.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;

/// Maximum number of languages of `Accept-Language` that are looked at.
const MAX_RANGES: usize = 16;

/// A language of the pages.
pub(crate) struct Language {
    /// Tag of the language (BCP 47).
    pub(crate) tag: &'static str,
    texts: HashMap<String, String>,
}

static LANGUAGES: LazyLock<[Language; 4]> = LazyLock::new(|| {
    [
        Language::read("en", include_str!("../../../web/languages/en.json")),
        Language::read("zh-CN", include_str!("../../../web/languages/zh-CN.json")),
        Language::read("de", include_str!("../../../web/languages/de.json")),
        Language::read("es", include_str!("../../../web/languages/es.json")),
    ]
});

impl Language {
    fn read(tag: &'static str, file: &str) -> Self {
        // A unit test reads all files.
        Self { tag, texts: serde_json::from_str(file).unwrap_or_default() }
    }

    /// Returns the language that the visitor prefers (RFC 9110 §12.5.4), or English.
    pub(crate) fn of(headers: &HeaderMap) -> &'static Self {
        let header = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut ranges: Vec<_> = header.split(',').take(MAX_RANGES).filter_map(weighted).collect();
        // The sort is stable: of equal weights, the first comes first.
        ranges.sort_by(|one, other| other.1.total_cmp(&one.1));
        let find = |range: &str| {
            let primary = |tag: &str| tag.split('-').next().unwrap_or_default().to_ascii_lowercase();
            LANGUAGES.iter().find(|language| primary(language.tag) == primary(range))
        };
        ranges.iter().find_map(|(range, _)| find(range)).unwrap_or(&LANGUAGES[0])
    }

    /// Returns the text of this key.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.texts.get(key).map_or("", String::as_str)
    }

    /// Returns the text of this key with a name in it.
    pub(crate) fn text_with(&self, key: &str, placeholder: &str, name: &str) -> String {
        self.text(key).replace(placeholder, name)
    }
}

/// Returns a language range and its weight. Returns `None` for a weight of 0, which refuses the language.
fn weighted(item: &str) -> Option<(&str, f32)> {
    let (range, parameters) = item.split_once(';').unwrap_or((item, ""));
    let weight = parameters.trim().strip_prefix("q=").map_or(Some(1.0), |weight| weight.parse().ok())?;
    (weight > 0.0).then(|| (range.trim(), weight))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn all_languages_have_the_same_texts_and_placeholders() {
        let placeholders = |text: &String| ["{name}", "{app}"].map(|name| text.matches(name).count());
        let keys = |language: &Language| language.texts.keys().cloned().collect::<BTreeSet<_>>();
        let english = &LANGUAGES[0];
        assert!(english.texts.len() > 40);
        for language in LANGUAGES.iter() {
            assert_eq!(keys(language), keys(english), "{}", language.tag);
            for (key, text) in &language.texts {
                assert!(!text.trim().is_empty(), "{}: {key}", language.tag);
                assert_eq!(placeholders(text), placeholders(&english.texts[key]), "{}: {key}", language.tag);
            }
        }
    }

    #[test]
    fn language_is_that_of_the_highest_weight_that_exists() {
        for (header, tag) in [
            ("", "en"),
            ("de", "de"),
            ("de-AT,de;q=0.9,en;q=0.8", "de"),
            ("fr-FR,fr;q=0.9,es;q=0.8,en;q=0.7", "es"),
            ("zh-TW,zh;q=0.9", "zh-CN"),
            ("en;q=0.5,de;q=0.7", "de"),
            ("de;q=0,es;q=0.1", "es"),
            ("*", "en"),
            ("ES", "es"),
            (";;;,q=,de;q=x", "en"),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT_LANGUAGE, HeaderValue::from_static(header))]);
            assert_eq!(Language::of(&headers).tag, tag, "{header}");
        }
    }
}
