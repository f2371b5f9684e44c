//! The languages of the pages. Each is one file of `clients/js/languages`, which has the texts of the elements too.

use std::collections::HashMap;
use std::sync::LazyLock;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;
use serde::Deserialize;

/// Maximum number of languages of `Accept-Language` that are looked at.
const MAX_RANGES: usize = 16;

/// A language of the pages.
pub(crate) struct Language {
    /// Tag of the language (BCP 47).
    pub(crate) tag: &'static str,
    texts: HashMap<String, String>,
}

/// The sections of a file that the pages show.
#[derive(Default, Deserialize)]
struct Sections {
    /// Texts of `<qr-approve>`. The pages have the same question, and so the same texts for it.
    approve: HashMap<String, String>,
    page: HashMap<String, String>,
}

/// Embeds the file of a language.
macro_rules! language {
    ($tag:literal) => {
        Language::read($tag, include_str!(concat!("../../../clients/js/languages/", $tag, ".json")))
    };
}

static LANGUAGES: LazyLock<[Language; 4]> =
    LazyLock::new(|| [language!("en"), language!("zh-CN"), language!("de"), language!("es")]);

impl Language {
    fn read(tag: &'static str, file: &str) -> Self {
        // A unit test reads all files.
        let Sections { approve: mut texts, page } = serde_json::from_str(file).unwrap_or_default();
        texts.extend(page);
        Self { tag, texts }
    }

    /// Returns the language that the visitor prefers (RFC 9110 §12.5.4), or English.
    pub(crate) fn of(headers: &HeaderMap) -> &'static Self {
        let header = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut ranges: Vec<_> = header.split(',').take(MAX_RANGES).filter_map(weighted).collect();
        // The sort is stable: of equal weights, the first comes first.
        ranges.sort_by(|one, other| other.1.total_cmp(&one.1));
        ranges.iter().find_map(|(range, _)| Self::find(range)).unwrap_or(&LANGUAGES[0])
    }

    /// Returns the first language of `ui_locales` that exists (OpenID Connect Core §3.1.2.1), or else that of
    /// [`Language::of`].
    pub(crate) fn preferred(ui_locales: Option<&str>, headers: &HeaderMap) -> &'static Self {
        let mut ranges = ui_locales.unwrap_or_default().split(' ').take(MAX_RANGES);
        ranges.find_map(Self::find).unwrap_or_else(|| Self::of(headers))
    }

    fn find(range: &str) -> Option<&'static Self> {
        let primary = |tag: &str| tag.split('-').next().unwrap_or_default().to_ascii_lowercase();
        LANGUAGES.iter().find(|language| primary(language.tag) == primary(range))
    }

    /// Returns the text of this key in the section `page`, or else in `approve`.
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
    use axum::http::HeaderValue;

    use super::*;

    /// `clients/js/test/languages.test.js` compares the keys and placeholders of all files.
    #[test]
    fn each_language_has_texts_of_both_sections() {
        for language in LANGUAGES.iter() {
            for key in ["dir", "you", "yes", "browser"] {
                assert!(!language.text(key).is_empty(), "{}: {key}", language.tag);
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
