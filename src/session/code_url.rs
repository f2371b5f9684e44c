//! The URL in a QR code: the text around the code, from a setting.

use super::Code;

/// Path of the URL in a QR code, up to the code, if no other URL is set.
pub const CODE_PATH: &str = "/q/";
/// Placeholder of the code in a template.
pub const CODE_PLACEHOLDER: &str = "{code}";

/// The form of the URL in a QR code.
///
/// ```
/// use qrlogin::session::{CodeSecret, CodeUrl, SessionId};
///
/// let code = CodeSecret::new([1; 32]).code(&SessionId::from_random([7; 32]).key(), 0);
/// let form = CodeUrl::parse("https://www.example.com/approve#{code}").expect("a template with one placeholder");
/// let scanned = form.with(&code.to_string());
/// assert_eq!(scanned, format!("https://www.example.com/approve#{code}"));
/// assert!(form.code_in(&scanned) == Some(code));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeUrl {
    before: String,
    after: String,
}

impl CodeUrl {
    /// Parses a template: a URL with `{code}` at the place of the code. Returns `None` if there is not exactly one
    /// placeholder.
    #[must_use]
    pub fn parse(template: &str) -> Option<Self> {
        let (before, after) = template.split_once(CODE_PLACEHOLDER)?;
        let is_only = !after.contains(CODE_PLACEHOLDER);
        is_only.then(|| Self { before: before.to_owned(), after: after.to_owned() })
    }

    /// Returns the form `{base}/q/{code}`.
    #[must_use]
    pub fn under(base: &str) -> Self {
        Self { before: format!("{base}{CODE_PATH}"), after: String::new() }
    }

    /// Returns the URL with this code in it.
    #[must_use]
    pub fn with(&self, code: &str) -> String {
        format!("{}{code}{}", self.before, self.after)
    }

    /// Parses a code as a phone sends it: the code, a URL of this form, or a URL with `/q/` in front of the code.
    ///
    /// The origin of the URL is not compared, because a server can have several names, and some scanners change the
    /// case of it. Text after the code is ignored, because links collect parameters on their way.
    #[must_use]
    pub fn code_in(&self, scanned: &str) -> Option<Code> {
        let (marker, text) = (behind_origin(&self.before), behind_origin(scanned));
        // The marker may occur again behind the code.
        let within = |(at, _): (usize, &str)| Code::beginning_of(&text[at + marker.len()..]);
        let own = if marker.is_empty() { None } else { text.match_indices(marker).find_map(within) };
        own.or_else(|| Code::from_scan(scanned))
    }
}

/// Returns what stands behind the origin of a URL, such as `/approve#`, or the text itself if it has no scheme.
fn behind_origin(url: &str) -> &str {
    let Some((_, rest)) = url.split_once("://") else { return url };
    rest.find(['/', '?', '#']).map_or("", |at| &rest[at..])
}

#[cfg(test)]
mod tests {
    use super::super::{CodeSecret, SessionId};
    use super::*;

    fn code() -> Code {
        CodeSecret::new([1; 32]).code(&SessionId::from_random([7; 32]).key(), 3)
    }

    #[test]
    fn template_has_exactly_one_placeholder() {
        for bad in ["", "https://a.example/approve", "https://a.example/{code}/{code}", "https://a.example/{CODE}"] {
            assert_eq!(CodeUrl::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn code_is_found_in_path_query_and_fragment() {
        for template in [
            "https://a.example/approve#{code}",
            "https://a.example/approve#code={code}",
            "https://a.example/approve?code={code}",
            "https://a.example/approve?from=qr&code={code}&theme=dark#top",
            "https://a.example/approve/{code}",
            "https://a.example/approve/{code}/now",
            "https://a.example?{code}",
            "https://a.example#{code}",
            "http://[::1]:8080/{code}",
            "https://a.example/q/{code}",
        ] {
            let form = CodeUrl::parse(template).unwrap();
            let url = form.with(&code().to_string());
            for scanned in [
                url.clone(),
                format!(" {url}\n"),
                url.replace("https://a.example", "HTTPS://A.EXAMPLE:8443"),
                format!("{url}&utm_source=camera"),
                format!("https://a.example/q/{}", code()),
                code().to_string(),
            ] {
                assert!(form.code_in(&scanned) == Some(code()), "{template}: {scanned}");
            }
            for other in [
                String::new(),
                template.to_owned(),
                format!("{}A", code()),
                format!("{}A", url.split(&code().to_string()).next().unwrap().to_owned() + &code().to_string()),
                format!("https://a.example/other={}", code()),
            ] {
                assert!(form.code_in(&other).is_none(), "{template}: {other}");
            }
        }
    }

    #[test]
    fn code_is_that_at_the_place_of_the_form_also_if_another_part_looks_like_one() {
        let other = CodeSecret::new([2; 32]).code(&SessionId::from_random([8; 32]).key(), 0);
        for template in [
            format!("https://a.example/q/{other}?c={CODE_PLACEHOLDER}"),
            format!("https://a.example/q/{other}#{CODE_PLACEHOLDER}"),
            format!("https://{other}/{CODE_PLACEHOLDER}"),
        ] {
            let form = CodeUrl::parse(&template).unwrap();
            assert!(form.code_in(&form.with(&code().to_string())) == Some(code()), "{template}");
        }
    }

    #[test]
    fn form_under_a_base_is_that_of_the_server_itself() {
        let form = CodeUrl::under("https://a.example/login");
        let url = form.with(&code().to_string());
        assert_eq!(url, format!("https://a.example/login/q/{}", code()));
        assert!(form.code_in(&url) == Some(code()));
    }
}
