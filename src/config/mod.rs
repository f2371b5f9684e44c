//! The settings: their keys, defaults and permitted values. [`Layers`] reads them from flags, environment and file.

mod app_link;
mod approve;
mod check;
mod clean;
mod error;
mod file;
mod keys;
mod layers;
#[cfg(test)]
mod layers_test;
mod oauth;
mod origin;
mod value;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::session::CodeUrl;
use crate::telemetry::LogFormat;
use crate::token::identity_claims;
use origin::origin_of;

pub use crate::secret::Secret;
pub use app_link::AppLink;
pub use approve::ApproveSettings;
pub use check::{is_loopback, network};
pub use error::ConfigError;
pub use layers::{DEFAULT_FILE, ENV_PREFIX, Layers, Loaded, Origins, Warning};
pub use oauth::{
    AuthMethod, DEVICE_CODE_GRANT, GrantType, OAuthClientSettings, OAuthSettings, OFFLINE_ACCESS, SigningAlgorithm,
    SsoSettings,
};
pub use origin::AllowedOrigin;

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
    /// Page or app that approves a login.
    pub approve: ApproveSettings,
    /// Content and signing keys of `web_token`.
    pub token: TokenSettings,
    /// Clients of OpenID Connect and OAuth.
    pub oauth: OAuthSettings,
    /// Single sign-on of these clients.
    pub sso: SsoSettings,
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

/// The section `[app_auth]`. At most one of `hmac_secret`, `public_key_file`, `jwks_url` and `introspection_url` is set.
/// `serve` requires one of them, or `approve.issuer`.
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
            approve: ApproveSettings::default(),
            token: TokenSettings {
                issuer: String::new(),
                audience: String::new(),
                ttl_seconds: 3600,
                claims: Vec::new(),
                key_dir: PathBuf::from("keys/"),
            },
            oauth: OAuthSettings::default(),
            sso: SsoSettings { ttl_seconds: 0 },
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

impl Settings {
    /// Returns `public_url` without slashes at its end.
    #[must_use]
    pub fn public_base(&self) -> &str {
        self.public_url.trim_end_matches('/')
    }

    /// Returns the form of the URL in a QR code: `approve.url`, or `{public_url}/q/{code}`.
    #[must_use]
    pub fn code_url(&self) -> CodeUrl {
        CodeUrl::parse(&self.approve.url).unwrap_or_else(|| CodeUrl::under(self.public_base()))
    }

    /// Returns the origin of the page at the URL in a QR code (RFC 6454 §4).
    #[must_use]
    pub fn code_origin(&self) -> Option<String> {
        // A letter stands for the code.
        origin_of(&self.code_url().with("c"))
    }

    /// Returns the origins whose pages may use the browser routes: `allowed_origins` and the origin of `public_url`.
    #[must_use]
    pub fn origins(&self) -> Vec<AllowedOrigin> {
        let listed = self.allowed_origins.iter().filter_map(|text| AllowedOrigin::parse(text).ok());
        listed.chain(self.public_origin().map(AllowedOrigin::Exact)).collect()
    }

    /// Returns the names of the claims about a user that are kept: `token.claims`, and with clients of OAuth those that
    /// their scopes can ask for.
    #[must_use]
    pub fn passed_on_claims(&self) -> Vec<String> {
        let mut claims = self.token.claims.clone();
        if !self.oauth.clients.is_empty() {
            claims.extend(identity_claims().map(str::to_owned).filter(|name| !self.token.claims.contains(name)));
        }
        claims
    }

    /// Returns the origin of `public_url` (RFC 6454 §4), or `None` if it is not a URL with an origin.
    #[must_use]
    pub fn public_origin(&self) -> Option<String> {
        origin_of(&self.public_url)
    }

    /// Returns the settings as TOML, with secrets hidden. An empty list of clients is left out, because a file that has it
    /// cannot have a table `[[oauth.clients]]`.
    ///
    /// # Errors
    /// Returns an error if serialization fails, which no value of a setting causes.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        Ok(toml::to_string(self)?.replacen("\nclients = []\n", "\n", 1))
    }

    /// Returns the settings that are or may hold a secret, with their keys.
    #[must_use]
    pub const fn secrets(&self) -> [(&'static str, &Secret); 7] {
        [
            ("database_url", &self.database_url),
            ("bus_url", &self.bus_url),
            ("app_auth.hmac_secret", &self.app_auth.hmac_secret),
            ("app_auth.jwks_url", &self.app_auth.jwks_url),
            ("app_auth.introspection_url", &self.app_auth.introspection_url),
            ("app_auth.introspection_client_secret", &self.app_auth.introspection_client_secret),
            ("approve.client_secret", &self.approve.client_secret),
        ]
    }
}
