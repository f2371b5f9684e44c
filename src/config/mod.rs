//! Settings: their keys, defaults and limits. Where they come from is in [`Layers`].

mod clean;
mod layers;
mod origin;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr as _;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::{Host, Url};

use crate::telemetry::LogFormat;
use crate::token::{MIN_HMAC_SECRET_BYTES, RESERVED_CLAIMS};
use origin::origin_of;

pub use crate::secret::Secret;
pub use layers::{DEFAULT_FILE, ENV_PREFIX, Layers, Warning};
pub use origin::AllowedOrigin;

/// `public_url` stands in every QR code.
const MAX_PUBLIC_URL_BYTES: usize = 512;

/// All settings. An empty string or list means "not set".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Where browsers and phones connect.
    pub listen: SocketAddr,
    /// Where the operator's tools connect: `/livez`, `/readyz`, `/metrics`.
    pub ops_listen: SocketAddr,
    /// The base of `qr_url`, and what "same origin" means; never taken from a request.
    pub public_url: String,
    /// `sqlite://FILE`, or `postgres://…` for many nodes.
    #[serde(serialize_with = "Secret::serialize_address")]
    pub database_url: Secret,
    /// Connections to Postgres that this node opens for its statements, at most.
    pub database_connections: usize,
    /// How nodes tell each other: `redis://…`; empty: by Postgres itself, and with SQLite not at all.
    #[serde(serialize_with = "Secret::serialize_address")]
    pub bus_url: Secret,
    /// Other origins whose pages may use the browser routes, see [`AllowedOrigin`].
    pub allowed_origins: Vec<String>,
    /// Whether a request without `Origin` (a native client) passes.
    pub allow_missing_origin: bool,
    /// Addresses and networks whose word on a client's address is taken.
    pub trusted_proxies: Vec<String>,
    /// In which header they give it.
    pub proxy_header: ProxyHeader,
    /// How long things last.
    pub session: SessionSettings,
    /// How phones prove themselves.
    pub app_auth: AppAuthSettings,
    /// What is minted for browsers.
    pub token: TokenSettings,
    /// Where addresses are.
    pub geoip: GeoipSettings,
    /// What is made of where they are.
    pub risk: RiskSettings,
    /// How much is too much.
    pub limits: LimitSettings,
    /// How to stop.
    pub shutdown: ShutdownSettings,
    /// What is said.
    pub log: LogSettings,
}

/// `[session]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionSettings {
    /// From generating to expiry.
    pub ttl_seconds: u32,
    /// Between the pings to a waiting browser.
    pub heartbeat_seconds: u32,
    /// From the decision to the last moment at which the token may be fetched.
    pub claim_seconds: u32,
    /// How long a code is shown before the next takes its place; 0: for the session's whole life.
    pub rotate_seconds: u32,
    /// Whether the phone's owner must pick the number that the browser shows.
    pub number_matching: bool,
}

/// `[app_auth]`: exactly one of the sources is required by `serve`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppAuthSettings {
    /// The secret of app tokens signed with HS256.
    pub hmac_secret: Secret,
    /// The public key of app tokens signed with RS256, ES256 or EdDSA, as a PEM file.
    pub public_key_file: PathBuf,
    /// Where the public keys of app tokens are published, as a JWK Set (RFC 7517).
    #[serde(serialize_with = "Secret::serialize_address")]
    pub jwks_url: Secret,
    /// Who says whether an app token is good (RFC 7662).
    #[serde(serialize_with = "Secret::serialize_address")]
    pub introspection_url: Secret,
    /// As whom it is asked; empty: as nobody.
    pub introspection_client_id: String,
    /// With which secret.
    pub introspection_client_secret: Secret,
    /// The required `iss`.
    pub issuer: String,
    /// The required `aud`.
    pub audience: String,
    /// The claim that holds the user's id.
    pub user_claim: String,
    /// How long ago the phone's user may have logged in there (`auth_time`); 0: ever.
    pub max_age_seconds: u32,
}

/// `[token]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenSettings {
    /// `iss`; empty: `public_url`.
    pub issuer: String,
    /// `aud`; empty: `public_url`.
    pub audience: String,
    /// From the decision to the token's end.
    pub ttl_seconds: u32,
    /// Claims of the app token that are passed on.
    pub claims: Vec<String>,
    /// Where the signing keys are.
    pub key_dir: PathBuf,
}

/// `[geoip]`: MaxMind databases, as GeoLite2 City and ASN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GeoipSettings {
    /// Of places.
    pub city_file: PathBuf,
    /// Of networks.
    pub asn_file: PathBuf,
}

/// `[risk]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RiskSettings {
    /// What follows when the phone and the browser lie apart.
    pub policy: RiskPolicy,
    /// In which respects they can.
    pub signals: Vec<RiskSignal>,
}

/// What follows from a risk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskPolicy {
    /// The phone is told.
    Report,
    /// The phone is refused.
    Deny,
}

/// In which respect a phone and a browser lie apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RiskSignal {
    /// In different countries.
    Country,
    /// In networks of different operators (autonomous systems).
    Network,
}

/// In which header a trusted proxy gives a client's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, or where there is none `Forwarded`.
    Any,
    /// The one that nearly all proxies set.
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// `[limits]`. Those per address take an IPv6 network of 64 bits as one, and 0 means no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitSettings {
    /// False turns the limits per client address, and those of all together, off; those on a single request stay.
    pub enabled: bool,
    /// Codes asked for, per address.
    pub generate_per_minute: u32,
    /// Scans and decisions, per address.
    pub scan_per_minute: u32,
    /// Codes that are none, per phone user; and six times as many per address.
    pub wrong_codes_per_minute: u32,
    /// Questions for a session's status, receipts and cancellations, per address.
    pub status_per_minute: u32,
    /// WebSockets opened, per address.
    pub websocket_opens_per_minute: u32,
    /// Connections at once, per address.
    pub sockets_per_address: u32,
    /// Connections at once, of all.
    pub sockets: u32,
    /// Sessions that wait to be scanned, of all that this node has made.
    pub pending_sessions: u32,
    /// A request's body.
    pub body_bytes: usize,
    /// Time for a request's head to arrive, then for its body, and for a client to take some of an answer.
    pub header_seconds: u32,
}

/// `[shutdown]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShutdownSettings {
    /// From the signal, when `/readyz` begins to fail, to the first browser's being sent away.
    pub drain_seconds: u32,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogSettings {
    /// In `RUST_LOG` syntax.
    pub level: String,
    /// `text` or `json`.
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

/// Why the settings cannot be used. Every variant's text names the key, and where it was set if that is known.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read, or is not TOML.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// There is no such key.
    #[error("{origin}: unknown key '{key}'; known here: {known}")]
    UnknownKey {
        /// Where it was set.
        origin: String,
        /// The key.
        key: String,
        /// The keys of that section.
        known: String,
    },
    /// The key is known, and its value is of the wrong kind or out of range.
    #[error("{origin}: {key} {reason}")]
    Value {
        /// Where it was set.
        origin: String,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// Settings that cannot be used as they are, or not together.
    #[error("{key}: {reason}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl Settings {
    /// Looks at what a type cannot: ranges, forms, and what excludes each other.
    ///
    /// # Errors
    /// The first setting that cannot be used.
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

    /// `public_url` without a slash at its end.
    #[must_use]
    pub fn public_base(&self) -> &str {
        self.public_url.trim_end_matches('/')
    }

    /// The origins whose pages may use the browser routes: that of `public_url` and `allowed_origins`.
    #[must_use]
    pub fn origins(&self) -> Vec<AllowedOrigin> {
        let listed = self.allowed_origins.iter().filter_map(|text| AllowedOrigin::parse(text).ok());
        listed.chain(self.public_origin().map(AllowedOrigin::Exact)).collect()
    }

    /// The origin of `public_url`.
    #[must_use]
    pub fn public_origin(&self) -> Option<String> {
        origin_of(&self.public_url)
    }

    /// The settings as TOML, secrets hidden.
    ///
    /// # Errors
    /// None that a setting can cause.
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
        // What `print-config` shows can be read again.
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
            let reason = "goes together with app_auth.introspection_client_secret; set both or none".to_owned();
            return Err(invalid("app_auth.introspection_client_id", reason));
        }
        Ok(())
    }
}

/// An address, or a network of addresses. One that is written in IPv6's form of IPv4 is an IPv4 address.
#[must_use]
pub fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(|address| address.to_canonical().into()))
}

/// What is asked for keys and tokens must not be listened to, nor answered by others: https, or within this machine.
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

/// A URL with a host. Unlike a browser's address bar, this mends nothing: a URL that is handed on as it was written is
/// read by other parsers too.
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
    // The parser's errors are fixed texts.
    let url = Url::parse(text).map_err(|error| format!("is not a URL: {error}"))?;
    if url.has_host() { Ok(url) } else { Err("is a URL without a host".to_owned()) }
}

/// Whether a URL leads to this machine.
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
        return Err("must not hold a user or a password; it stands in every QR code".to_owned());
    }
    if text.contains(['"', '<', '>', '^', '`', '{', '|', '}']) {
        return Err("holds a character that URLs do not have; percent-encode it".to_owned());
    }
    Ok(())
}

/// Levels and directives of `RUST_LOG`. A word that is neither would be taken for the name of a target, and what it
/// was to log would be silent.
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
