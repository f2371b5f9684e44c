//! What a request tells about who sent it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRequestParts;
use axum::http::header::{FORWARDED, HeaderName, ORIGIN, USER_AGENT};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use ipnet::IpNet;
use tracing::warn;
use woothee::parser::Parser;

use super::App;
use super::upgrade::Fields;
use crate::config::{ProxyHeader, Settings, network};
use crate::session::{Client, printable};

/// More of a header than this is not stored.
const MAX_CHARS: usize = 256;
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The address of whoever sent the request: the other end's, or what trusted proxies say.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientAddress(pub(super) IpAddr);

impl FromRequestParts<Arc<App>> for ClientAddress {
    type Rejection = StatusCode;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, StatusCode> {
        let peer = parts.extensions.get::<Peer>().ok_or(StatusCode::INTERNAL_SERVER_ERROR)?;
        Ok(Self(app.proxies.client_address(peer.0.ip(), &parts.headers)))
    }
}

/// Those whose word on a client's address is taken.
pub(super) struct TrustedProxies {
    networks: Vec<IpNet>,
    header: ProxyHeader,
    has_warned: AtomicBool,
}

impl TrustedProxies {
    pub(super) fn of(settings: &Settings) -> Self {
        let networks = settings.trusted_proxies.iter().filter_map(|text| network(text)).collect();
        Self { networks, header: settings.proxy_header, has_warned: AtomicBool::new(false) }
    }

    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Walks from the right, where each proxy adds whom it was asked by, to the first that is not one of ours: whatever
    /// stands to the left of that may be anybody's invention.
    pub(super) fn client_address(&self, peer: IpAddr, fields: &(impl Fields + ?Sized)) -> IpAddr {
        let mut address = peer.to_canonical();
        let is_proxy = self.trusts(address);
        if !is_proxy && is_near(address) && fields.line(&X_FORWARDED_FOR).is_some() {
            self.warn_once(address);
        }
        let mut steps = if is_proxy { self.steps(fields) } else { Vec::new() };
        while let Some(step) = steps.pop().filter(|_| self.trusts(address)) {
            let Some(before) = step else { break };
            address = before.to_canonical();
        }
        address
    }

    /// All clients of such a proxy would be one.
    fn warn_once(&self, address: IpAddr) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(event = "proxy not trusted", %address, "it sends X-Forwarded-For; to take it, add it to trusted_proxies");
        }
    }

    /// The addresses in the order of the header; `None` for what is no address.
    fn steps(&self, fields: &(impl Fields + ?Sized)) -> Vec<Option<IpAddr>> {
        let plain = || fields.items(&X_FORWARDED_FOR).map(address).collect::<Vec<_>>();
        // (An element may hold a comma only within quotes, and an address holds none.)
        let standard = || fields.items(&FORWARDED).map(|item| address(forwarded_for(item)?)).collect();
        match self.header {
            ProxyHeader::XForwardedFor => plain(),
            ProxyHeader::Forwarded => standard(),
            ProxyHeader::Any => Some(plain()).filter(|steps| !steps.is_empty()).unwrap_or_else(standard),
        }
    }
}

/// Where one's own proxies are.
const fn is_near(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_private(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
    }
}

/// The `for` of an element of `Forwarded` (RFC 7239 §4), without its quotes.
fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
    let pair = element.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).find_map(|pair| {
        let (name, value) = pair.split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then_some(value)
    })?;
    Some(pair.strip_prefix(b"\"").and_then(|pair| pair.strip_suffix(b"\"")).unwrap_or(pair))
}

/// An address, perhaps with a port, an IPv6 one then in brackets (RFC 7239 §6).
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    text.parse().ok().or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip())).or_else(bare)
}

/// The browser that sent this request, as far as the server can tell.
pub(super) fn describe(address: ClientAddress, headers: &HeaderMap, client_info: Option<String>) -> Client {
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

/// People know the number before the first dot.
fn major(version: &str) -> &str {
    version.split('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(agent: &'static str) -> (Option<String>, Option<String>) {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, agent.parse().unwrap());
        let client = describe(ClientAddress("192.0.2.7".parse().unwrap()), &headers, None);
        assert_eq!(client.ip, "192.0.2.7");
        (client.browser, client.os)
    }

    #[test]
    fn browser_and_system_are_named_as_people_know_them() {
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
    fn behind_trusted_proxies_the_right_most_that_is_none_of_them_is_the_client() {
        let settings = Settings {
            trusted_proxies: ["127.0.0.1", "10.0.0.0/8", "2001:db8::/32"].map(str::to_owned).to_vec(),
            ..Settings::default()
        };
        let forwarded_for = |value: &str| seen(&settings, "127.0.0.1", &[("x-forwarded-for", value)]);
        assert_eq!(forwarded_for("192.0.2.1"), "192.0.2.1");
        assert_eq!(forwarded_for("198.51.100.9, 192.0.2.1"), "192.0.2.1", "whoever asked may say what he likes");
        assert_eq!(forwarded_for("192.0.2.1, 10.1.2.3,10.4.5.6"), "192.0.2.1");
        assert_eq!(forwarded_for("10.9.9.9, 10.1.2.3"), "10.9.9.9", "ours from end to end");
        assert_eq!(forwarded_for("192.0.2.1:4711"), "192.0.2.1");
        assert_eq!(forwarded_for("::ffff:192.0.2.1"), "192.0.2.1");
        assert_eq!(forwarded_for("198.51.100.9, unknown, 10.1.2.3"), "10.1.2.3", "what is no address ends the walk");
        assert_eq!(forwarded_for("198.51.100.9, "), "127.0.0.1");
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
        assert_eq!(forwarded("for=198.51.100.9, for=_hidden"), "10.0.0.1");
        assert_eq!(forwarded("proto=https"), "10.0.0.1");
    }

    #[test]
    fn a_proxy_that_is_near_and_not_trusted_is_warned_of() {
        let settings = Settings { trusted_proxies: vec!["10.0.0.1".to_owned()], ..Settings::default() };
        let warned_of = |peer: &str, name: &'static str| {
            let proxies = TrustedProxies::of(&settings);
            let headers = HeaderMap::from_iter([(HeaderName::from_static(name), "192.0.2.1".parse().unwrap())]);
            proxies.client_address(peer.parse().unwrap(), &headers);
            proxies.has_warned.into_inner()
        };
        for near in ["127.0.0.1", "10.0.0.2", "192.168.1.1", "::1", "fd00::1", "::ffff:127.0.0.1"] {
            assert!(warned_of(near, "x-forwarded-for"), "{near}");
            assert!(!warned_of(near, "user-agent"), "{near}");
        }
        for far in ["203.0.113.5", "2001:db8::1", "10.0.0.1"] {
            assert!(!warned_of(far, "x-forwarded-for"), "{far} is anybody, or trusted");
        }
    }

    #[test]
    fn of_the_two_headers_the_one_that_the_proxies_set_counts() {
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
}
