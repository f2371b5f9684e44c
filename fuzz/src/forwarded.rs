//! The address of a client behind proxies: no bytes of the client change what the nearest proxy has added.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use qrlogin::internals::config::{ProxyHeader, Settings};
use qrlogin::internals::http::fuzz::{Requests, forwarded_addresses, node_address};

/// Address of the trusted proxy.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// Address that the proxy adds.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));

/// The parsers for each header of proxies.
static SERVERS: LazyLock<[Requests; 3]> = LazyLock::new(|| {
    [ProxyHeader::XForwardedFor, ProxyHeader::Forwarded, ProxyHeader::Any].map(|proxy_header| {
        let trusted_proxies = vec!["10.0.0.0/8".to_owned(), "2001:db8::/32".to_owned()];
        Requests::of(&Settings { trusted_proxies, proxy_header, ..Settings::default() }, false)
    })
});

/// Checks the properties for an input: the value of a header field that a client sends.
pub fn run(sent: &[u8]) {
    assert!(forwarded_addresses(sent).len() <= sent.len(), "an element has at least one byte");
    if let Some(address) = node_address(sent) {
        assert_eq!(node_address(address.to_string().as_bytes()), Some(address), "an address is a node");
    }
    let [plain, standard, any] = &*SERVERS;
    for (server, name, added) in [
        (plain, "X-Forwarded-For", &b"203.0.113.7"[..]),
        (any, "X-Forwarded-For", b"203.0.113.7"),
        (standard, "Forwarded", b"for=203.0.113.7;proto=https"),
        (standard, "Forwarded", b"host=\"a,b\";for=\"203.0.113.7:80\""),
    ] {
        // The proxy adds its element to the client's line, or sends a line of its own.
        let joined = [sent, b", ", added].concat();
        assert_eq!(server.client_address(PROXY, &[(name, &joined)]), CLIENT, "{name}");
        assert_eq!(server.client_address(PROXY, &[(name, sent), (name, added)]), CLIENT, "{name}");
        assert_eq!(server.client_address(CLIENT, &[(name, sent)]), CLIENT, "a peer that is not trusted");
    }
    let address = any.client_address(PROXY, &[("X-Forwarded-For", sent), ("Forwarded", sent)]);
    assert_eq!(address, address.to_canonical(), "an IPv4 address has one form");
}
