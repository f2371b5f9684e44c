//! What a request tells about who sent it.

use std::net::SocketAddr;

use axum::http::HeaderMap;
use axum::http::header::{ORIGIN, USER_AGENT};
use woothee::parser::Parser;

use crate::session::Client;

/// More of a header than this is not stored.
const MAX_CHARS: usize = 256;

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The browser that sent this request, as far as the server can tell.
pub(super) fn describe(peer: Peer, headers: &HeaderMap, client_info: Option<String>) -> Client {
    let text = |name| Some(headers.get(name)?.to_str().ok()?.chars().take(MAX_CHARS).collect::<String>());
    let user_agent: Option<String> = text(USER_AGENT);
    let agent = user_agent.as_deref().and_then(|agent| Parser::new().parse(agent));
    let named = |name: &str, version: &str| {
        let version = if version == UNKNOWN { "" } else { version };
        (name != UNKNOWN).then(|| format!("{name} {version}").trim_end().to_owned())
    };
    Client {
        ip: peer.0.ip().to_canonical().to_string(),
        browser: agent.as_ref().and_then(|agent| named(agent.name, major(agent.version))),
        os: agent.as_ref().and_then(|agent| named(agent.os, "")),
        origin: text(ORIGIN),
        client_info,
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
        let client = describe(Peer("[::ffff:192.0.2.7]:4711".parse().unwrap()), &headers, None);
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
}
