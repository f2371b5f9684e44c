//! The acceptor's parser of a first request: bytes in any pieces are the same request for a WebSocket, or none.

use std::net::SocketAddr;
use std::sync::LazyLock;

use qrlogin::internals::config::Settings;
use qrlogin::internals::http::fuzz::{First, Requests};

/// The parsers of a server behind a proxy, and of the demo.
static SERVERS: LazyLock<[Requests; 2]> = LazyLock::new(|| {
    let settings = Settings {
        public_url: "https://login.example/base".to_owned(),
        trusted_proxies: vec!["10.0.0.0/8".to_owned()],
        allowed_origins: vec!["https://*.example".to_owned()],
        ..Settings::default()
    };
    let strict = Settings { allow_missing_origin: false, ..settings.clone() };
    [Requests::of(&settings, false), Requests::of(&strict, true)]
});

/// Checks the properties for an input: the lengths of pieces, see [`crate::lengths_and_bytes`], and the first bytes of
/// a connection.
pub fn run(data: &[u8]) {
    let (lengths, bytes) = super::lengths_and_bytes(data);
    let peer = SocketAddr::from(([10, 0, 0, 1], 50_000));
    for server in &*SERVERS {
        let whole = server.first([bytes], peer);
        if let First::Upgrade { head_bytes, accept, .. } = &whole {
            assert!(bytes.starts_with(b"GET /"), "a request for a WebSocket is a GET");
            assert!(bytes[..*head_bytes].ends_with(b"\n"), "a head ends with a line end");
            assert_eq!(accept.len(), 28, "a SHA-1 in base64");
            assert_eq!(server.first([&bytes[..*head_bytes]], peer), whole, "the head alone is the request");
            let before_end = server.first([&bytes[..head_bytes - 1]], peer);
            assert_eq!(before_end, First::Incomplete, "a head without its last byte");
        }
        for lengths in [lengths, &[1]] {
            let in_pieces = server.first(super::pieces(lengths, bytes), peer);
            // A head that is cut off or malformed is parsed only after its end, so `Other` may be found later.
            let is_upgrade = [&whole, &in_pieces].iter().any(|first| matches!(first, First::Upgrade { .. }));
            assert!(!is_upgrade || in_pieces == whole, "in pieces of {lengths:?}: {in_pieces:?}, whole: {whole:?}");
        }
    }
}
