//! The client of a request: its address behind trusted proxies, and a description of its browser.

use std::iter::Rev;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::header::{FORWARDED, HeaderName, ORIGIN, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use ipnet::IpNet;
use tracing::warn;
use woothee::parser::Parser;

use crate::config::{ProxyHeader, Settings, network};
use crate::http::layers::RequestChecks;
use crate::http::layers::forwarded::{addresses_from_right, node_address};
use crate::session::{Client, printable};
use crate::wire::fields::Fields;

/// Maximum number of characters of a header field that are stored with a session.
const MAX_CHARS: usize = 256;
static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static STANDARD: HeaderName = FORWARDED;

/// Address and port of the other end of the TCP connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The address of the client that sent a request: that of the peer, or the one that trusted proxies have added.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

impl<S: Sync> FromRequestParts<S> for ClientAddress
where
    Arc<RequestChecks>: FromRef<S>,
{
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, StatusCode> {
        let peer = parts.extensions.get::<Peer>().ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok(Self(Arc::<RequestChecks>::from_ref(state).proxies.client_address(peer.0.ip(), &parts.headers)))
    }
}

/// The proxies whose `X-Forwarded-For` or `Forwarded` header field is trusted.
pub(crate) struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ProxyHeader,
    has_warned: AtomicBool,
}

impl TrustedProxies {
    pub(crate) fn of(settings: &Settings) -> Self {
        let networks = settings.trusted_proxies.iter().filter_map(|text| network(text)).collect();
        Self { networks, header: settings.proxy_header, has_warned: AtomicBool::new(false) }
    }

    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Returns the address of the client whose request `peer` has sent: the first address from the right that is not a
    /// trusted proxy. Elements further left can be forged by the client. An element without an address ends the scan at
    /// the proxy that added it.
    pub(crate) fn client_address(&self, peer: IpAddr, fields: &(impl Fields + ?Sized)) -> IpAddr {
        let peer = peer.to_canonical();
        if !self.trusts(peer) {
            if is_near(peer) {
                let names: &[&HeaderName] = match self.header {
                    ProxyHeader::XForwardedFor => &[&X_FORWARDED_FOR],
                    ProxyHeader::Forwarded => &[&STANDARD],
                    ProxyHeader::Any => &[&X_FORWARDED_FOR, &STANDARD],
                };
                let is_sent = |name: &&&HeaderName| fields.line(name).is_some_and(|line| !line.trim_ascii().is_empty());
                names.iter().find(is_sent).into_iter().for_each(|name| self.warn_once(peer, name));
            }
            return peer;
        }
        let mut plain = lines_from_right(fields, &X_FORWARDED_FOR).flat_map(plain_addresses_from_right).peekable();
        let is_plain = match self.header {
            ProxyHeader::XForwardedFor => true,
            ProxyHeader::Forwarded => false,
            ProxyHeader::Any => plain.peek().is_some(),
        };
        if is_plain {
            self.client_among(peer, plain)
        } else {
            self.client_among(peer, lines_from_right(fields, &STANDARD).flat_map(addresses_from_right))
        }
    }

    fn client_among(&self, peer: IpAddr, from_right: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut address = peer;
        for before in from_right {
            let Some(before) = before.filter(|_| self.trusts(address)) else { break };
            address = before.to_canonical();
        }
        address
    }

    /// Warns, once in the life of the process, of a peer that looks like a proxy and is not trusted. All clients behind
    /// it have the proxy's address, and share its limits.
    fn warn_once(&self, address: IpAddr, header: &HeaderName) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            let advice = "to use the header that it sends, add it to trusted_proxies";
            warn!(event = "proxy not trusted", %address, %header, advice);
        }
    }
}

/// Returns the values of all lines of a field, the last line first.
fn lines_from_right<'a>(fields: &'a (impl Fields + ?Sized), name: &'static HeaderName) -> Rev<vec::IntoIter<&'a [u8]>> {
    fields.lines(name).collect::<Vec<_>>().into_iter().rev()
}

/// Returns the addresses in a line of `X-Forwarded-For`, the last one first; `None` for an element that is no address.
/// Empty elements are skipped.
fn plain_addresses_from_right(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    let elements = line.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    elements.filter(|element| !element.is_empty()).map(node_address)
}

/// Returns whether an address is loopback or private, as that of a proxy in front of the server usually is.
const fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// Returns the description of a browser that is shown to the phone: its address, `User-Agent`, `Origin`, and
/// `client_info`.
pub(crate) fn describe(address: ClientAddress, headers: &HeaderMap, client_info: Option<String>) -> Client {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.chars().take(MAX_CHARS).collect::<String>());
    let user_agent: Option<String> = text(USER_AGENT);
    let agent = user_agent.as_deref().and_then(|agent| Parser::new().parse(agent));
    let named = |name: &str, version: &str| {
        let version = if version == UNKNOWN { "" } else { version };
        (name != UNKNOWN).then(|| format!("{name} {version}").trim_end().to_owned())
    };
    Client {
        ip: address.0.to_string(),
        browser: agent.as_ref().and_then(|agent| named(agent.name, major(agent.version))),
        os: agent.as_ref().and_then(|agent| named(agent.os, "")),
        origin: text(ORIGIN),
        client_info: client_info.map(|info| printable(&info, MAX_CHARS)).filter(|info| !info.is_empty()),
    }
}

const UNKNOWN: &str = "UNKNOWN";

/// Returns the major version, by which people know a browser.
fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    fn described(agent: &'static str) -> (Option<String>, Option<String>) {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, agent.parse().unwrap());
        let client = describe(ClientAddress("192.0.2.7".parse().unwrap()), &headers, None);
        assert_eq!(client.ip, "192.0.2.7");
        (client.browser, client.os)
    }

    #[test]
    fn browser_and_system_have_their_common_names() {
        let both = |browser: &str, os: &str| (Some(browser.to_owned()), Some(os.to_owned()));
        assert_eq!(
            described(
                "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
            ),
            both("Chrome 140", "Windows 10")
        );
        assert_eq!(
            described("Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:143.0) Gecko/20100101 Firefox/143.0"),
            both("Firefox 143", "Mac OSX")
        );
        assert_eq!(described("curl/8.5.0"), (Some("HTTP Library curl".to_owned()), None));
        assert_eq!(described("something else"), (None, None));
    }

    fn seen(settings: &Settings, peer: &str, fields: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        TrustedProxies::of(settings).client_address(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn client_address_is_the_rightmost_untrusted_one() {
        let settings = Settings {
            trusted_proxies: ["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"].map(str::to_owned).to_vec(),
            ..Settings::default()
        };
        let forwarded_for = |value: &str| seen(&settings, "127.0.0.1", &[("x-forwarded-for", value)]);
        assert_eq!(forwarded_for("192.0.2.1"), "192.0.2.1");
        assert_eq!(
            forwarded_for("198.51.100.9, 192.0.2.1"),
            "192.0.2.1",
            "an entry further left can be forged by the client"
        );
        assert_eq!(forwarded_for("192.0.2.1, 10.1.2.3,10.4.5.6"), "192.0.2.1");
        assert_eq!(forwarded_for("10.9.9.9, 10.1.2.3"), "10.9.9.9", "ours from end to end");
        assert_eq!(forwarded_for("192.0.2.1:4711"), "192.0.2.1");
        assert_eq!(forwarded_for("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(forwarded_for("198.51.100.9, unknown, 10.1.2.3"), "10.1.2.3", "what is no address ends the walk");
        for empty in ["192.0.2.1, ", ",192.0.2.1,,", "192.0.2.1,, ,10.1.2.3, ", "\t,192.0.2.1,\t"] {
            assert_eq!(forwarded_for(empty), "192.0.2.1", "empty elements are skipped: {empty:?}");
        }
        for nothing in ["", " ", ",", " , ,"] {
            assert_eq!(forwarded_for(nothing), "127.0.0.1");
        }
        let lines = [("x-forwarded-for", "198.51.100.9"), ("x-forwarded-for", "192.0.2.1")];
        assert_eq!(seen(&settings, "127.0.0.1", &lines), "192.0.2.1");
        assert_eq!(seen(&settings, "127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(seen(&settings, "::ffff:127.0.0.1", &lines), "192.0.2.1");
        assert_eq!(seen(&settings, "203.0.113.5", &lines), "203.0.113.5", "not one of ours");

        let forwarded = |value: &str| seen(&settings, "10.0.0.1", &[("forwarded", value)]);
        assert_eq!(forwarded("for=192.0.2.1"), "192.0.2.1");
        assert_eq!(forwarded(r#"for=198.51.100.9, proto=https;For="[2001:db9::7]:4711";by=10.0.0.1"#), "2001:db9::7");
        assert_eq!(forwarded(r#"for="[2001:db9::7]""#), "2001:db9::7");
        assert_eq!(forwarded("for=192.0.2.1; proto=https, for=10.0.0.2"), "192.0.2.1");
        assert_eq!(forwarded(r#"for="x, for=192.0.2.1"#), "192.0.2.1", "an open quote swallows nothing");
        assert_eq!(forwarded(r#"for=192.0.2.1;host="a, for=9.9.9.9;x=""#), "192.0.2.1", "a comma within quotes");
        assert_eq!(forwarded("for=192.0.2.1, , for=10.0.0.2,"), "192.0.2.1", "empty elements are skipped");
        assert_eq!(forwarded("for=198.51.100.9, for=_hidden"), "10.0.0.1");
        assert_eq!(forwarded("proto=https"), "10.0.0.1");
    }

    #[test]
    fn untrusted_proxy_with_a_private_address_is_warned_of() {
        let settings = Settings { trusted_proxies: vec!["10.0.0.1".to_owned()], ..Settings::default() };
        let warned_of = |peer: &str, name: &'static str| {
            let proxies = TrustedProxies::of(&settings);
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), "192.0.2.1".parse().unwrap())]);
            proxies.client_address(peer.parse().unwrap(), &headers);
            proxies.has_warned.into_inner()
        };
        for near in ["127.0.0.1", "10.0.0.2", "192.168.1.1", "::1", "fd00::1", "::ffff:127.0.0.1"] {
            assert!(warned_of(near, "x-forwarded-for") && warned_of(near, "forwarded"), "{near}");
            assert!(!warned_of(near, "user-agent"), "{near}");
        }
        for far in ["203.0.113.5", "2001:db8::1", "10.0.0.1"] {
            assert!(!warned_of(far, "x-forwarded-for"), "{far} is anybody, or trusted");
        }
    }

    #[test]
    fn only_the_header_that_the_proxies_set_is_used() {
        let settings = |proxy_header| Settings {
            trusted_proxies: vec!["127.0.0.1".to_owned()],
            proxy_header,
            ..Settings::default()
        };
        let both = [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.2")];
        let at = |header, fields: &[(&'static str, &str)]| seen(&settings(header), "127.0.0.1", fields);
        assert_eq!(at(ProxyHeader::Any, &both), "192.0.2.1");
        assert_eq!(at(ProxyHeader::XForwardedFor, &both), "192.0.2.1");
        assert_eq!(at(ProxyHeader::Forwarded, &both), "192.0.2.2");
        assert_eq!(at(ProxyHeader::XForwardedFor, &both[1..]), "127.0.0.1");
        assert_eq!(at(ProxyHeader::Forwarded, &both[..1]), "127.0.0.1");
    }

    /// Text of a client in a field that a proxy copies: any characters, and pieces that are syntax of `Forwarded`.
    fn client_text() -> impl Strategy<Value = String> {
        let pieces = select(vec![
            "for=9.9.9.9",
            "For=\"9.9.9.9\"",
            ", ",
            ",",
            ";",
            "=",
            "\"",
            "\\",
            "\\\"",
            "a",
            "_",
            "unknown",
            "10.0.0.9",
            "9.9.9.9",
            "[",
            "]",
            ":",
            " ",
            "\t",
            "host=",
            "é",
        ]);
        vec(prop_oneof![pieces.prop_map(str::to_owned), "[ -~]"], 0..12).prop_map(|pieces| pieces.concat())
    }

    fn quoted(text: &str) -> String {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    }

    /// An element that a proxy adds for `address`. The client's text is in quoted strings. It is escaped, or copied by
    /// a proxy that removes quotes.
    fn element(address: &'static str) -> impl Strategy<Value = String> {
        let node = if address.contains(':') {
            vec![format!("\"[{address}]\""), format!("\"[{address}]:4711\""), format!("\"[{address}]:_p\"")]
        } else {
            vec![
                address.to_owned(),
                format!("\"{address}\""),
                format!("\"{address}:4711\""),
                format!("\"{address}:_p\""),
            ]
        };
        let escaped = client_text().prop_map(|text| quoted(&text));
        let copied = client_text().prop_map(|text| format!("\"{}\"", text.replace('"', "")));
        let name = select(vec!["host", "by", "proto", "ext", "x-for"]);
        let pair = (name, prop_oneof![escaped, copied]).prop_map(|(name, value)| format!("{name}={value}"));
        let rest = vec(prop_oneof![pair, Just("proto=https".to_owned())], 0..4);
        (select(node), rest, any::<prop::sample::Index>(), select(vec![";", "; ", " ; "])).prop_map(
            |(node, mut pairs, place, separator)| {
                pairs.insert(place.index(pairs.len() + 1), format!("for={node}"));
                pairs.join(separator)
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8192))]

        #[test]
        fn text_of_a_client_does_not_change_the_address_that_its_proxies_report(
            own in vec(client_text(), 0..3),
            client in prop_oneof![element("203.0.113.7"), element("2001:db9::7")],
            proxies in vec(element("10.1.2.3"), 0..3),
            in_one_line in vec(any::<bool>(), 6),
        ) {
            let expected = if client.contains("203.0.113.7") { "203.0.113.7" } else { "2001:db9::7" };
            // A proxy adds its element to the last line, or in a new line.
            let mut lines: Vec<String> = Vec::new();
            let added = own.into_iter().chain([client]).chain(proxies);
            for (part, joins) in added.zip(in_one_line) {
                match lines.last_mut() {
                    Some(line) if joins => *line = format!("{line}, {part}"),
                    _ => lines.push(part),
                }
            }
            let settings = Settings {
                trusted_proxies: vec!["10.0.0.0/8".to_owned()],
                proxy_header: ProxyHeader::Forwarded,
                ..Settings::default()
            };
            let values = lines.iter().map(|line| (FORWARDED, HeaderValue::from_bytes(line.as_bytes()).unwrap()));
            let headers: HeaderMap = values.collect();
            let seen = TrustedProxies::of(&settings).client_address("10.0.0.1".parse().unwrap(), &headers);
            prop_assert_eq!(seen.to_string(), expected, "{:?}", lines);

            // The acceptor reads the same fields from `httparse`.
            let fields: Vec<_> =
                lines.iter().map(|line| httparse::Header { name: "forwarded", value: line.as_bytes() }).collect();
            let seen = TrustedProxies::of(&settings).client_address("10.0.0.1".parse().unwrap(), &*fields);
            prop_assert_eq!(seen.to_string(), expected, "{:?}", lines);
        }

        #[test]
        fn empty_elements_of_x_forwarded_for_are_skipped(
            elements in vec((select(vec!["192.0.2.1", "10.1.2.3", "2001:db9::7", "unknown"]), "[, \t]{0,3}"), 0..5),
            before in "[, \t]{0,3}",
        ) {
            let settings = Settings { trusted_proxies: vec!["10.0.0.0/8".to_owned()], ..Settings::default() };
            let plain = elements.iter().map(|(element, _)| *element).collect::<Vec<_>>().join(",");
            let padded = elements.iter().fold(before, |line, (element, padding)| format!("{line}{element},{padding}"));
            let of = |line: &str| seen(&settings, "10.0.0.1", &[("x-forwarded-for", line)]);
            prop_assert_eq!(of(&padded), of(&plain), "{}", padded);
        }
    }
}
