//! The settings: their keys, defaults and permitted values. [`Layers`] reads them from flags, environment and file.

mod clean;
mod keys;
mod layers;
mod origin;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr as _;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::{Host, Url};

use crate::telemetry::LogFormat;
use crate::token::{MIN_HMAC_SECRET_BYTES, RESERVED_CLAIMS};
use origin::origin_of;

pub use crate::secret::Secret;
pub use layers::{DEFAULT_FILE, ENV_PREFIX, Layers, Loaded, Origins, Warning};
pub use origin::AllowedOrigin;

/// Bits of an IPv4-mapped IPv6 address in front of the IPv4 address (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u8 = 96;
/// Maximum length of `public_url`, in bytes. It is a part of every QR code.
const MAX_PUBLIC_URL_BYTES: usize = 512;

/// All settings. An empty string or list means "not set".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Address to listen on for browsers and phones.
    pub listen: SocketAddr,
    /// Address to listen on for the operator's tools: `/livez`, `/readyz`, `/metrics`.
    pub ops_listen: SocketAddr,
    /// Base of `qr_url`, and the origin of the server's own pages. The server never derives either from a request.
    pub public_url: String,
    /// Database of the sessions: `sqlite://FILE`, or `postgres://…` for several nodes.
    #[serde(serialize_with = "Secret::serialize_address")]
    pub database_url: Secret,
    /// Maximum number of connections to Postgres that this node opens for its statements.
    pub database_connections: usize,
    /// Redis that carries notifications between nodes: `redis://…`. If empty, Postgres carries them. Unused with
    /// SQLite, which serves one node.
    #[serde(serialize_with = "Secret::serialize_address")]
    pub bus_url: Secret,
    /// Other origins whose pages may use the browser routes, see [`AllowedOrigin`].
    pub allowed_origins: Vec<String>,
    /// Whether the browser routes accept a request without an `Origin` header, as native clients send.
    pub allow_missing_origin: bool,
    /// Addresses and networks of the proxies whose `X-Forwarded-For` or `Forwarded` header is trusted.
    pub trusted_proxies: Vec<String>,
    /// Header in which the trusted proxies give a client's address.
    pub proxy_header: ProxyHeader,
    /// Lifetimes of sessions and codes, heartbeats, and number matching.
    pub session: SessionSettings,
    /// Verification of app tokens.
    pub app_auth: AppAuthSettings,
    /// Content and signing keys of `web_token`.
    pub token: TokenSettings,
    /// Databases of locations and networks.
    pub geoip: GeoipSettings,
    /// Action when phone and browser are in different locations or networks.
    pub risk: RiskSettings,
    /// Limits per client, per node and per request.
    pub limits: LimitSettings,
    /// Timing of a stop.
    pub shutdown: ShutdownSettings,
    /// Level and format of the log.
    pub log: LogSettings,
}

/// The section `[session]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionSettings {
    /// Time from the generation of a session to its expiry, in seconds.
    pub ttl_seconds: u32,
    /// Time between two heartbeats on a waiting connection, in seconds.
    pub heartbeat_seconds: u32,
    /// Time after the decision within which the browser can get its token, in seconds.
    pub claim_seconds: u32,
    /// Time for which a code is shown before it rotates, in seconds. 0 means that codes do not rotate.
    pub rotate_seconds: u32,
    /// Whether the user must pick, on the phone, the number that the browser shows.
    pub number_matching: bool,
}

/// The section `[app_auth]`. `serve` requires exactly one of `hmac_secret`, `public_key_file`, `jwks_url` and
/// `introspection_url`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppAuthSettings {
    /// Secret of app tokens that are signed with HS256.
    pub hmac_secret: Secret,
    /// PEM file with the public keys of app tokens: RSA, P-256, P-384, P-521 or Ed25519.
    pub public_key_file: PathBuf,
    /// URL of the JWK Set (RFC 7517) with the public keys of app tokens.
    #[serde(serialize_with = "Secret::serialize_address")]
    pub jwks_url: Secret,
    /// URL of the introspection endpoint (RFC 7662) for app tokens.
    #[serde(serialize_with = "Secret::serialize_address")]
    pub introspection_url: Secret,
    /// Client id with which the server authenticates at the introspection endpoint. If empty, it does not authenticate.
    pub introspection_client_id: String,
    /// Client secret with which the server authenticates at the introspection endpoint.
    pub introspection_client_secret: Secret,
    /// Required `iss` of app tokens. If empty, `iss` is not checked.
    pub issuer: String,
    /// Required `aud` of app tokens. If empty, `aud` is not checked.
    pub audience: String,
    /// Claim of the app token that holds the user's id.
    pub user_claim: String,
    /// Maximum time since the user's login on the phone (`auth_time`), in seconds. 0 means any time.
    pub max_age_seconds: u32,
}

/// The section `[token]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenSettings {
    /// Value of `iss`. If empty, it is `public_url`.
    pub issuer: String,
    /// Value of `aud`. If empty, it is `public_url`.
    pub audience: String,
    /// Time from the decision to the token's expiry, in seconds.
    pub ttl_seconds: u32,
    /// Names of the claims that are copied from the app token.
    pub claims: Vec<String>,
    /// Directory of the signing keys and of the codes' secret.
    pub key_dir: PathBuf,
}

/// The section `[geoip]`: files of MaxMind databases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeoipSettings {
    /// Database of locations, for example GeoLite2 City.
    pub city_file: PathBuf,
    /// Database of networks, for example GeoLite2 ASN.
    pub asn_file: PathBuf,
}

/// The section `[risk]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RiskSettings {
    /// Action when phone and browser differ in one of the `signals`.
    pub policy: RiskPolicy,
    /// Properties of the two client addresses that are compared.
    pub signals: Vec<RiskSignal>,
}

/// The action when phone and browser are in different locations or networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskPolicy {
    /// The answer to the scan names the difference.
    Report,
    /// Scan and confirmation are refused with 403.
    Deny,
}

/// A property of a client's address in which phone and browser can differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskSignal {
    /// The country in which the address is.
    Country,
    /// The network (autonomous system) to which the address belongs.
    Network,
}

/// The header in which a trusted proxy gives a client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, or `Forwarded` in a request without it.
    Any,
    /// `X-Forwarded-For`, which nearly all proxies set.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The section `[limits]`. A limit per address counts an IPv6 network of 64 bits as one address. 0 means no limit,
/// except for `body_bytes` and `header_seconds`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitSettings {
    /// Whether the limits apply. `body_bytes` and `header_seconds` always apply.
    pub enabled: bool,
    /// Generated sessions, per address and minute.
    pub generate_per_minute: u32,
    /// Scans and decisions, per address and minute.
    pub scan_per_minute: u32,
    /// Unknown or malformed codes, per phone user and minute. Six times as many are allowed per address.
    pub wrong_codes_per_minute: u32,
    /// Status requests (each long poll is one), acknowledgements and cancellations, per address and minute.
    pub status_per_minute: u32,
    /// Opened WebSockets and event streams, per address and minute.
    pub websocket_opens_per_minute: u32,
    /// Open connections, per address.
    pub sockets_per_address: u32,
    /// Open connections in total.
    pub sockets: u32,
    /// Sessions of this node that have not been scanned. Beyond it, the oldest of the address with the most are
    /// cancelled.
    pub pending_sessions: u32,
    /// Maximum length of a request body, in bytes.
    pub body_bytes: usize,
    /// Time in seconds for a request's head to arrive, then for its body, and for a client to take a part of an answer.
    pub header_seconds: u32,
}

/// The section `[shutdown]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShutdownSettings {
    /// Time from the signal, when `/readyz` begins to fail, to the closing of the first connection, in seconds.
    pub drain_seconds: u32,
}

/// The section `[log]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogSettings {
    /// Level of the log, in `RUST_LOG` syntax.
    pub level: String,
    /// Format of a log line, `text` or `json`.
    pub format: LogFormat,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            ops_listen: SocketAddr::from(([127, 0, 0, 1], 9090)),
            public_url: "http://localhost:8080".to_owned(),
            database_url: "sqlite://qrlogin.db".into(),
            database_connections: 8,
            bus_url: Secret::default(),
            allowed_origins: Vec::new(),
            allow_missing_origin: true,
            trusted_proxies: Vec::new(),
            proxy_header: ProxyHeader::Any,
            session: SessionSettings {
                ttl_seconds: 300,
                heartbeat_seconds: 30,
                claim_seconds: 60,
                rotate_seconds: 0,
                number_matching: false,
            },
            app_auth: AppAuthSettings {
                hmac_secret: Secret::default(),
                public_key_file: PathBuf::new(),
                jwks_url: Secret::default(),
                introspection_url: Secret::default(),
                introspection_client_id: String::new(),
                introspection_client_secret: Secret::default(),
                issuer: String::new(),
                audience: String::new(),
                user_claim: "sub".to_owned(),
                max_age_seconds: 0,
            },
            token: TokenSettings {
                issuer: String::new(),
                audience: String::new(),
                ttl_seconds: 3600,
                claims: Vec::new(),
                key_dir: PathBuf::from("keys/"),
            },
            geoip: GeoipSettings { city_file: PathBuf::new(), asn_file: PathBuf::new() },
            risk: RiskSettings { policy: RiskPolicy::Report, signals: vec![RiskSignal::Country, RiskSignal::Network] },
            limits: LimitSettings {
                enabled: true,
                generate_per_minute: 300,
                scan_per_minute: 600,
                wrong_codes_per_minute: 10,
                status_per_minute: 600,
                websocket_opens_per_minute: 600,
                sockets_per_address: 1000,
                sockets: 1_000_000,
                pending_sessions: 1_000_000,
                body_bytes: 16 * 1024,
                header_seconds: 10,
            },
            shutdown: ShutdownSettings { drain_seconds: 0 },
            log: LogSettings { level: "info".to_owned(), format: LogFormat::Text },
        }
    }
}

/// An error in the settings. The text names the key and the source of its value, as far as they are known. It never
/// quotes the value.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read, or is not TOML.
    #[error("{file}: {reason}")]
    File {
        /// Path of the file, with line and column if they are known.
        file: String,
        /// Description of the error.
        reason: String,
    },
    /// A key that is set does not exist.
    #[error("{origin}: unknown key '{key}'{}; known here: {known}", question(.nearest.as_deref()))]
    UnknownKey {
        /// Source that sets the key: a position in a file, an environment variable or a flag.
        origin: String,
        /// The unknown key, or a placeholder if it may be a value.
        key: String,
        /// Known key, or name of an environment variable, that is most like the unknown one.
        nearest: Option<String>,
        /// Known keys of the same section, separated by commas.
        known: String,
    },
    /// A value is of the wrong type, or its setting does not permit it.
    #[error("{origin}: {key} {reason}")]
    Value {
        /// Source that sets the key: a position in a file, an environment variable or a flag.
        origin: String,
        /// Key of the setting.
        key: String,
        /// Description of the error, as the predicate of a sentence about the key.
        reason: String,
    },
    /// A value is not permitted, by itself or together with another one. Its source is not known.
    #[error("{key}: {reason}")]
    Invalid {
        /// Key of the setting.
        key: &'static str,
        /// Description of the error, as the predicate of a sentence about the key.
        reason: String,
    },
}

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
        if !(1..=1000).contains(&self.database_connections) {
            return Err(invalid("database_connections", "must be from 1 to 1000".to_owned()));
        }
        let session = &self.session;
        in_range("session.ttl_seconds", session.ttl_seconds, 1, 3600)?;
        in_range("session.heartbeat_seconds", session.heartbeat_seconds, 1, 3600)?;
        in_range("session.claim_seconds", session.claim_seconds, 1, 3600)?;
        in_range("session.rotate_seconds", session.rotate_seconds, 0, 3600)?;
        for (item, proxy) in (1..).zip(&self.trusted_proxies) {
            network(proxy).ok_or_else(|| {
                let reason = format!("item {item} is neither an address nor a network, as 10.0.0.0/8");
                invalid("trusted_proxies", reason)
            })?;
        }
        in_range("token.ttl_seconds", self.token.ttl_seconds, 1, 10 * 365 * 86_400)?;
        in_range("limits.header_seconds", self.limits.header_seconds, 1, 300)?;
        in_range("shutdown.drain_seconds", self.shutdown.drain_seconds, 0, 3600)?;
        if !(512..=1024 * 1024).contains(&self.limits.body_bytes) {
            return Err(invalid("limits.body_bytes", "must be from 512 to 1048576".to_owned()));
        }
        if let Some(claim) = self.token.claims.iter().find(|claim| RESERVED_CLAIMS.contains(&claim.as_str())) {
            return Err(invalid("token.claims", format!("'{claim}' is set by qrlogin itself and cannot be passed on")));
        }
        if self.app_auth.user_claim.is_empty() {
            return Err(invalid("app_auth.user_claim", "must not be empty".to_owned()));
        }
        self.app_auth.check()?;
        log_level(&self.log.level).map_err(|reason| invalid("log.level", reason))?;
        Ok(())
    }

    /// Returns `public_url` without slashes at its end.
    #[must_use]
    pub fn public_base(&self) -> &str {
        self.public_url.trim_end_matches('/')
    }

    /// Returns the origins whose pages may use the browser routes: `allowed_origins` and the origin of `public_url`.
    #[must_use]
    pub fn origins(&self) -> Vec<AllowedOrigin> {
        let listed = self.allowed_origins.iter().filter_map(|text| AllowedOrigin::parse(text).ok());
        listed.chain(self.public_origin().map(AllowedOrigin::Exact)).collect()
    }

    /// Returns the origin of `public_url` (RFC 6454 §4), or `None` if it is not a URL with an origin.
    #[must_use]
    pub fn public_origin(&self) -> Option<String> {
        origin_of(&self.public_url)
    }

    /// Returns the settings as TOML, with secrets hidden.
    ///
    /// # Errors
    /// Returns an error if serialization fails, which no value of a setting causes.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    /// Returns the settings that are or may hold a secret, with their keys.
    #[must_use]
    pub const fn secrets(&self) -> [(&'static str, &Secret); 6] {
        [
            ("database_url", &self.database_url),
            ("bus_url", &self.bus_url),
            ("app_auth.hmac_secret", &self.app_auth.hmac_secret),
            ("app_auth.jwks_url", &self.app_auth.jwks_url),
            ("app_auth.introspection_url", &self.app_auth.introspection_url),
            ("app_auth.introspection_client_secret", &self.app_auth.introspection_client_secret),
        ]
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

fn question(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |nearest| format!(" (did you mean {nearest}?)"))
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
    let url = parsed_url(address.expose())?;
    match url.scheme() {
        "https" => Ok(()),
        "http" if is_loopback(&url) => Ok(()),
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

fn in_range(key: &'static str, value: u32, min: u32, max: u32) -> Result<(), ConfigError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(invalid(key, format!("must be from {min} to {max}"))) }
}

fn invalid(key: &'static str, reason: String) -> ConfigError {
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
