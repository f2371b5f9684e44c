//! Entries of `allowed_origins`: origins of pages and of native shells (RFC 6454).

use url::{Host, Url};

const NO_ORIGIN: &str = "is not an origin; write it as scheme://host or scheme://host:port";

/// An entry of `allowed_origins`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// One origin, as it is spelled in the `Origin` header (RFC 6454 §7).
    Exact(String),
    /// All origins whose host is one label followed by a given domain.
    AnyLabel {
        /// Scheme with its separator, as in `https://`.
        scheme: String,
        /// Domain with the dot before it, as in `.example.com`.
        parent: String,
        /// Port with its colon, as in `:8443`, or empty.
        port: String,
    },
}

impl AllowedOrigin {
    /// Parses an entry: `scheme://host`, `scheme://host:port`, or with http and https `scheme://*.domain`.
    ///
    /// # Errors
    /// Returns an error if the entry is no origin, or is not spelled as clients send it. The text is the predicate of a
    /// sentence about the entry, says what to write instead, and does not quote the entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, authority) = match (text, text.split_once("://")) {
            (_, Some(parts)) => parts,
            ("*", None) => return Err("is '*': list each origin whose pages may log in".to_owned()),
            ("null", None) => {
                let reason = "is 'null', which sandboxed pages of every site send: list the origin that shows the page";
                return Err(reason.to_owned());
            }
            (_, None) => return Err(NO_ORIGIN.to_owned()),
        };
        match scheme {
            "http" | "https" if authority.contains('*') => any_label(scheme, authority),
            "http" | "https" => exact_web(text),
            "ws" | "wss" => {
                let web = scheme.replace("ws", "http");
                Err(format!("begins with {scheme}://: a page's origin begins with {web}://, also for a WebSocket"))
            }
            "file" | "ftp" => Err(format!("begins with {scheme}://, and such pages have no origin of their own")),
            _ => exact_custom(text, scheme, authority),
        }
    }

    /// Returns whether the entry allows requests with this `Origin` header.
    #[must_use]
    pub fn matches(&self, origin: &[u8]) -> bool {
        match self {
            Self::Exact(allowed) => allowed.as_bytes() == origin,
            Self::AnyLabel { scheme, parent, port } => {
                let host = origin.strip_prefix(scheme.as_bytes()).and_then(|host| host.strip_suffix(port.as_bytes()));
                host.and_then(|host| host.strip_suffix(parent.as_bytes())).is_some_and(is_label)
            }
        }
    }

    /// Returns whether an http or https page at this host can have an origin that the entry allows.
    #[must_use]
    pub fn has_host(&self, host: &Host) -> bool {
        match self {
            Self::Exact(allowed) => Url::parse(allowed).is_ok_and(|url| {
                matches!(url.scheme(), "http" | "https") && url.host().is_some_and(|allowed| allowed == *host)
            }),
            Self::AnyLabel { parent, .. } => match host {
                Host::Domain(name) => name.strip_suffix(parent).is_some_and(|label| is_label(label.as_bytes())),
                Host::Ipv4(_) | Host::Ipv6(_) => false,
            },
        }
    }
}

/// Returns the ASCII serialization of a URL's origin (RFC 6454 §6.2), as browsers send it, or `None` if the origin is
/// opaque.
pub(super) fn origin_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    url.origin().is_tuple().then(|| url.origin().ascii_serialization())
}

fn exact_web(text: &str) -> Result<AllowedOrigin, String> {
    match origin_of(text) {
        Some(origin) if origin == text => Ok(AllowedOrigin::Exact(origin)),
        Some(_) => Err(not_as_sent(text)),
        None => Err(NO_ORIGIN.to_owned()),
    }
}

fn any_label(scheme: &str, authority: &str) -> Result<AllowedOrigin, String> {
    let misplaced = "has a '*' that is not the whole first label of the host, as in https://*.example.com";
    let domain = authority.strip_prefix("*.").filter(|domain| !domain.contains('*')).ok_or(misplaced)?;
    let one = format!("{scheme}://a.{domain}");
    match origin_of(&one) {
        Some(origin) if origin == one => {}
        Some(_) => return Err(not_as_sent(&one)),
        None => return Err(NO_ORIGIN.to_owned()),
    }
    let (host, port) = domain.split_at(domain.find(':').unwrap_or(domain.len()));
    let labels = host.trim_end_matches('.');
    if labels.is_empty() {
        return Err(NO_ORIGIN.to_owned());
    }
    if !labels.contains('.') && labels != "localhost" {
        return Err("would allow every domain under a top-level domain; name at least two labels".to_owned());
    }
    Ok(AllowedOrigin::AnyLabel { scheme: format!("{scheme}://"), parent: format!(".{host}"), port: port.to_owned() })
}

/// Returns the reason why a URL is not spelled as its origin, and what to write instead.
fn not_as_sent(url: &str) -> String {
    let authority = url.split("://").nth(1).unwrap_or_default();
    let reason = if authority.contains('@') {
        "holds a user or a password; leave it out"
    } else if authority.contains(['/', '?', '#', '\\']) {
        "holds more than scheme, host and port; leave out all that follows them, the last '/' too"
    } else if url.contains(|letter: char| letter.is_ascii_uppercase()) {
        "holds capital letters; write it in lower case, as browsers send it"
    } else if !url.is_ascii() {
        "holds a host that is not ASCII; write it in Punycode (xn--…), as browsers send it"
    } else if Url::parse(url).is_ok_and(|url| url.port().is_none()) && has_port(authority) {
        "holds the port that is its scheme's default; leave it out, as browsers do"
    } else {
        "is not as browsers send it: its host or port has another, shorter form"
    };
    reason.to_owned()
}

fn has_port(authority: &str) -> bool {
    authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Parses the origin of a native shell or an extension, which has a scheme of its own: `capacitor://localhost`,
/// `app://.`, `chrome-extension://…`.
fn exact_custom(text: &str, scheme: &str, authority: &str) -> Result<AllowedOrigin, String> {
    let is_scheme = scheme.starts_with(|letter: char| letter.is_ascii_lowercase())
        && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte));
    let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
    let is_host = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    let is_port = port.is_empty()
        || port[1..].starts_with(|digit: char| digit.is_ascii_digit()) && port[1..].parse::<u16>().is_ok();
    if is_scheme && is_host && is_port { Ok(AllowedOrigin::Exact(text.to_owned())) } else { Err(NO_ORIGIN.to_owned()) }
}

/// Returns whether the text is a label of a host name as browsers send it: in lower case, and in Punycode if it is not
/// ASCII.
fn is_label(label: &[u8]) -> bool {
    !label.is_empty()
        && label.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allows(entry: &str, origin: &str) -> bool {
        AllowedOrigin::parse(entry).unwrap().matches(origin.as_bytes())
    }

    #[test]
    fn exact_entry_matches_only_its_own_origin() {
        for entry in [
            "https://www.example.com",
            "http://localhost:3000",
            "https://[2001:db8::1]:8443",
            "http://192.0.2.1",
            "https://xn--bcher-kva.example",
            "capacitor://localhost",
            "ionic://localhost",
            "tauri://localhost",
            "app://.",
            "app://localhost:8080",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "moz-extension://2c127fa4-62c7-7e4f-90e5-472b45eecfdc",
        ] {
            assert!(allows(entry, entry), "{entry}");
            for other in [
                "",
                "null",
                "https://evil.example",
                &entry[1..],
                &format!("{entry}.evil.example"),
                &format!("{entry}/"),
            ] {
                assert!(!allows(entry, other), "{entry} {other}");
            }
        }
    }

    #[test]
    fn star_matches_exactly_one_label() {
        for (entry, origins) in [
            (
                "https://*.example.com",
                ["https://a.example.com", "https://xn--bcher-kva.example.com", "https://a-1_b.example.com"],
            ),
            (
                "https://*.example.com:8443",
                ["https://a.example.com:8443", "https://0.example.com:8443", "https://www.example.com:8443"],
            ),
            (
                "http://*.localhost:3000",
                ["http://a.localhost:3000", "http://b.localhost:3000", "http://c.localhost:3000"],
            ),
        ] {
            for origin in origins {
                assert!(allows(entry, origin), "{entry} {origin}");
            }
        }
        for origin in [
            "https://example.com",
            "https://.example.com",
            "https://a.b.example.com",
            "https://a.example.com:8443",
            "https://a.example.com.",
            "https://a.example.com/",
            "https://aexample.com",
            "https://evil.example/.example.com",
            "https://evil@a.example.com",
            "https://evil:1.example.com",
            "https://*.example.com",
            "https://A.example.com",
            "http://a.example.com",
            "https://a.example.com.evil.example",
            "null",
            "",
        ] {
            assert!(!allows("https://*.example.com", origin), "{origin}");
        }
    }

    #[test]
    fn malformed_entry_is_refused_with_advice_that_does_not_quote_it() {
        for (entry, instead) in [
            ("https://www.example.com/", "the last '/' too"),
            ("https://www.example.com:443", "default; leave it out"),
            ("https://WWW.example.com", "lower case"),
            ("https://bücher.example", "Punycode"),
            ("https://www.example.com/login", "leave out all that follows"),
            ("https://*.example.com/", "leave out all that follows"),
            ("https://*.Example.com:443", "lower case"),
            ("https://www.example.com:08443", "shorter form"),
            ("http://[::0]", "shorter form"),
            ("https://user:password@www.example.com", "leave it out"),
            ("wss://www.example.com", "https://"),
            ("ws://www.example.com", "http://"),
            ("file:///index.html", "no origin of their own"),
            ("www.example.com", "scheme://host"),
            ("*.example.com", "scheme://host"),
            ("https:www.example.com", "scheme://host"),
            ("https://", "scheme://host"),
            ("", "scheme://host"),
            ("*", "list each origin"),
            ("null", "sandboxed"),
            ("https://*", "first label"),
            ("https://*example.com", "first label"),
            ("https://a*.example.com", "first label"),
            ("https://www.*.com", "first label"),
            ("https://*.*.example.com", "first label"),
            ("https://*.com", "two labels"),
            ("https://*.com.", "two labels"),
            ("https://*.192.0.2.1", "scheme://host"),
            ("https://*.", "scheme://host"),
            ("capacitor://*.localhost", "scheme://host"),
            ("capacitor://localhost/", "scheme://host"),
            ("capacitor://", "scheme://host"),
            ("App://localhost", "scheme://host"),
            ("app://localhost:", "scheme://host"),
            ("app://localhost:+1", "scheme://host"),
            ("app://localhost:65536", "scheme://host"),
            ("app://a b", "scheme://host"),
            ("app://a\r", "scheme://host"),
        ] {
            let refusal = AllowedOrigin::parse(entry).unwrap_err();
            assert!(refusal.contains(instead), "{entry}: {refusal}");
            assert!(!refusal.contains(char::is_control), "{refusal:?}");
        }
        for entry in
            ["https://ann:hunter2@www.example.com", "app://ann:hunter2@x", "https://x/?token=hunter2", "hunter2@"]
        {
            let refusal = AllowedOrigin::parse(entry).unwrap_err();
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn star_never_matches_outside_its_domain(label in "[a-z.:/@*%#?_-]{0,12}") {
            let origin = format!("https://{label}.example.com");
            let entry = AllowedOrigin::parse("https://*.example.com").unwrap();
            if entry.matches(origin.as_bytes()) {
                let url = Url::parse(&origin);
                let host = format!("{label}.example.com");
                prop_assert!(url.is_err() || url.unwrap().host_str() == Some(&*host));
                prop_assert!(!label.contains('.'));
            }
        }
    }
}
