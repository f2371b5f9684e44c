//! Checks of the settings that their types do not make: ranges, the form of texts, and settings that exclude each
//! other.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr as _;

use ipnet::{IpNet, Ipv4Net};
use url::{Host, Url};

use super::{AllowedOrigin, AppAuthSettings, ConfigError, Secret, Settings};
use crate::token::{MIN_HMAC_SECRET_BYTES, RESERVED_CLAIMS};

/// Bits of an IPv4-mapped IPv6 address in front of the IPv4 address (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;
/// Maximum length of `public_url`, in bytes. It is a part of every QR code.
pub(super) const MAX_PUBLIC_URL_BYTES: usize = 512;

impl Settings {
    /// Checks what the types do not: ranges, the form of texts, and settings that exclude each other.
    ///
    /// # Errors
    /// Returns [`ConfigError::Invalid`] for the first setting that cannot be used.
    pub fn check(&self) -> Result<(), ConfigError> {
        public_url(&self.public_url).map_err(|reason| invalid("public_url", reason))?;
        for (item, origin) in (1..).zip(&self.allowed_origins) {
            AllowedOrigin::parse(origin)
                .map_err(|reason| invalid("allowed_origins", format!("item {item} {reason}")))?;
        }
        in_range("database_connections", self.database_connections, 1..=1000)?;
        let session = &self.session;
        in_range("session.ttl_seconds", session.ttl_seconds, 1..=3600)?;
        in_range("session.heartbeat_seconds", session.heartbeat_seconds, 1..=3600)?;
        in_range("session.claim_seconds", session.claim_seconds, 1..=3600)?;
        in_range("session.rotate_seconds", session.rotate_seconds, 0..=3600)?;
        for (item, proxy) in (1..).zip(&self.trusted_proxies) {
            network(proxy).ok_or_else(|| {
                let reason = format!("item {item} is neither an address nor a network, as 10.0.0.0/8");
                invalid("trusted_proxies", reason)
            })?;
        }
        in_range("token.ttl_seconds", self.token.ttl_seconds, 1..=10 * 365 * 86_400)?;
        in_range("limits.header_seconds", self.limits.header_seconds, 1..=300)?;
        in_range("shutdown.drain_seconds", self.shutdown.drain_seconds, 0..=3600)?;
        in_range("limits.body_bytes", self.limits.body_bytes, 512..=1024 * 1024)?;
        if let Some(claim) = self.token.claims.iter().find(|claim| RESERVED_CLAIMS.contains(&claim.as_str())) {
            return Err(invalid("token.claims", format!("'{claim}' is set by qrlogin itself and cannot be passed on")));
        }
        if self.app_auth.user_claim.is_empty() {
            return Err(invalid("app_auth.user_claim", "must not be empty".to_owned()));
        }
        self.app_auth.check()?;
        self.approve.check()?;
        self.oauth.check()?;
        in_range("sso.ttl_seconds", self.sso.ttl_seconds, 0..=30 * 86_400)?;
        log_level(&self.log.level).map_err(|reason| invalid("log.level", reason))?;
        Ok(())
    }
}

impl AppAuthSettings {
    fn check(&self) -> Result<(), ConfigError> {
        let sources = [
            ("app_auth.hmac_secret", !self.hmac_secret.is_empty()),
            ("app_auth.public_key_file", !self.public_key_file.as_os_str().is_empty()),
            ("app_auth.jwks_url", !self.jwks_url.is_empty()),
            ("app_auth.introspection_url", !self.introspection_url.is_empty()),
        ];
        let mut set = sources.into_iter().filter_map(|(key, is_set)| is_set.then_some(key));
        if let (Some(one), Some(another)) = (set.next(), set.next()) {
            return Err(invalid(one, format!("cannot be set together with {another}; choose one")));
        }
        let secret = &self.hmac_secret;
        // The output of `print-config` can be read again, and shows a placeholder in place of the secret.
        if !secret.is_empty() && !secret.is_hidden() && secret.expose().len() < MIN_HMAC_SECRET_BYTES {
            let reason = format!(
                "is shorter than {MIN_HMAC_SECRET_BYTES} bytes, and could be guessed from one token (RFC 7518 §3.2); make one \
                 with `openssl rand -base64 32`"
            );
            return Err(invalid("app_auth.hmac_secret", reason));
        }
        fetched_url(&self.jwks_url).map_err(|reason| invalid("app_auth.jwks_url", reason))?;
        fetched_url(&self.introspection_url).map_err(|reason| invalid("app_auth.introspection_url", reason))?;
        let names_client = !self.introspection_client_id.is_empty();
        if names_client == self.introspection_client_secret.is_empty() {
            let (id, secret) = ("app_auth.introspection_client_id", "app_auth.introspection_client_secret");
            let (set, missing) = if names_client { (id, secret) } else { (secret, id) };
            return Err(invalid(set, format!("goes together with {missing}; set both or none")));
        }
        Ok(())
    }
}

/// Checks the URL of a page: https, or http on this machine.
pub(super) fn web_url(text: &str) -> Result<Url, String> {
    let url = secure_url(text)?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or a password, because everyone can see it".to_owned());
    }
    if text.contains(['"', '<', '>', '^', '`', '{', '|', '}']) {
        return Err("holds a character that URLs do not have; percent-encode it".to_owned());
    }
    Ok(url)
}

/// Parses an IP address or a network in CIDR notation. An IPv4-mapped IPv6 address or network becomes one of IPv4,
/// because addresses of clients are compared in that form.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok()?;
    let IpNet::V6(mapped) = network else { return Some(network) };
    let (Some(address), Some(bits)) = (mapped.addr().to_ipv4_mapped(), mapped.prefix_len().checked_sub(MAPPED_BITS))
    else {
        return Some(network);
    };
    Ipv4Net::new(address, bits).ok().map(IpNet::V4)
}

/// Checks a URL that keys or the state of tokens are fetched from. It must be https, or http on this machine, because
/// others could otherwise read the tokens or forge the answers.
fn fetched_url(address: &Secret) -> Result<(), String> {
    if address.is_empty() || address.is_hidden() {
        return Ok(());
    }
    secure_url(address.expose()).map(drop)
}

/// Parses a URL that is https, or http on this machine.
pub(super) fn secure_url(text: &str) -> Result<Url, String> {
    let url = parsed_url(text)?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        "http" => Err("is plain http, which is only for this machine (127.0.0.1, localhost); use https".to_owned()),
        _ => Err("is not an https URL".to_owned()),
    }
}

/// Parses a URL that has a host. Refuses forms that browsers correct, because the URL is passed on as it was written,
/// and other parsers read them differently.
fn parsed_url(text: &str) -> Result<Url, String> {
    if text.contains(char::is_whitespace) {
        return Err("holds a blank; write it as %20".to_owned());
    }
    if text.contains('\\') {
        return Err("holds a backslash".to_owned());
    }
    let has_host = text.split_once("://").is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with('/'));
    if !has_host {
        return Err("is not a URL with a host; write it as https://HOST".to_owned());
    }
    // The parser's errors are fixed texts, which do not quote the URL.
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if url.has_host() { Ok(url) } else { Err("is a URL without a host".to_owned()) }
}

/// Returns whether the URL's host is `localhost` or a loopback address.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn public_url(text: &str) -> Result<(), String> {
    if text.len() > MAX_PUBLIC_URL_BYTES {
        return Err(format!("is longer than {MAX_PUBLIC_URL_BYTES} bytes, too long for a QR code that can be scanned"));
    }
    let url = parsed_url(text)?;
    let is_web = matches!(url.scheme(), "http" | "https");
    let is_bare = url.query().is_none() && url.fragment().is_none();
    if !is_web || !is_bare {
        return Err("is not an http(s) URL without query and fragment".to_owned());
    }
    let authority = text.split(['/', '?', '#']).nth(2).unwrap_or_default();
    if authority.contains('@') {
        return Err("must not hold a user or a password, because it is in every QR code".to_owned());
    }
    if text.contains(['"', '<', '>', '^', '`', '{', '|', '}']) {
        return Err("holds a character that URLs do not have; percent-encode it".to_owned());
    }
    Ok(())
}

/// Checks a text in `RUST_LOG` syntax. Refuses a word that is neither a level nor a target of this program, because
/// `EnvFilter` would take a misspelled level for a target and enable only that.
fn log_level(text: &str) -> Result<(), String> {
    let is_level = |part: &str| tracing::level_filters::LevelFilter::from_str(part).is_ok();
    let is_known =
        |part: &str| part.contains(['=', '[', ']', '{', '}']) || part.starts_with("qrlogin") || is_level(part);
    if !text.split(',').map(str::trim).all(|part| part.is_empty() || is_known(part)) {
        let reason = "has a part that is neither a level (error, warn, info, debug, trace, off) nor of the form \
                      target=level";
        return Err(reason.to_owned());
    }
    let read = tracing_subscriber::EnvFilter::from_str(text);
    read.map(drop).map_err(|_| "is not in RUST_LOG syntax, as info or info,qrlogin::http=debug".to_owned())
}

pub(super) fn in_range<T: PartialOrd + Display>(
    key: &'static str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(invalid(key, format!("must be from {} to {}", range.start(), range.end())))
}

pub(super) fn invalid(key: &'static str, reason: String) -> ConfigError {
    ConfigError::Invalid { key, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_mapped_addresses_are_of_ipv4() {
        for (text, expected) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.1", "192.0.2.1/32"),
            ("::ffff:192.0.2.1/128", "192.0.2.1/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::/0", "::/0"),
            ("::ffff:0.0.0.0/95", "::ffff:0.0.0.0/95"),
            ("2001:db8::/32", "2001:db8::/32"),
        ] {
            assert_eq!(network(text), Some(expected.parse().unwrap()), "{text}");
        }
        for text in ["10.0.0.0/33", "proxy.example", "", "::ffff:10.0.0.0/129"] {
            assert_eq!(network(text), None, "{text}");
        }
    }
}
