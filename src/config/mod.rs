//! Settings: their keys, defaults and limits. Where they come from is in [`Layers`].

mod layers;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr as _;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use url::Url;

use crate::telemetry::LogFormat;
use crate::token::RESERVED_CLAIMS;

pub use layers::{DEFAULT_FILE, ENV_PREFIX, Layers};

/// `public_url` stands in every QR code.
const MAX_PUBLIC_URL_BYTES: usize = 512;

/// A setting that is not shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A URL that may hold a password, which is not shown.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Address(pub String);

impl Address {
    /// Without the password.
    fn shown(&self) -> Self {
        let Ok(mut url) = Url::parse(&self.0) else { return self.clone() };
        let hidden: Vec<_> = url
            .query_pairs()
            .map(|(key, value)| {
                (key.to_string(), if key == "password" { "(hidden)".into() } else { value.to_string() })
            })
            .collect();
        let has_password = url.password().is_some() || hidden.iter().any(|(key, _)| key == "password");
        if !has_password {
            return self.clone();
        }
        if url.password().is_some() && url.set_password(Some("hidden")).is_err() {
            return Self("(hidden)".to_owned());
        }
        if !hidden.is_empty() {
            url.query_pairs_mut().clear().extend_pairs(hidden);
        }
        Self(url.into())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown().0)
    }
}

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
    pub database_url: Address,
    /// Connections to Postgres that this node opens for its statements, at most.
    pub database_connections: usize,
    /// How nodes tell each other: `redis://…`; empty: by Postgres itself, and with SQLite not at all.
    pub bus_url: Address,
    /// Other origins whose pages may use the browser routes.
    pub allowed_origins: Vec<String>,
    /// Whether a request without `Origin` (a native client) passes.
    pub allow_missing_origin: bool,
    /// How long things last.
    pub session: SessionSettings,
    /// How phones prove themselves.
    pub app_auth: AppAuthSettings,
    /// What is minted for browsers.
    pub token: TokenSettings,
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
}

/// `[app_auth]`: exactly one of the sources is required by `serve`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppAuthSettings {
    /// The secret of app tokens signed with HS256.
    pub hmac_secret: Secret,
    /// The public key of app tokens signed with RS256, ES256 or EdDSA, as a PEM file.
    pub public_key_file: PathBuf,
    /// The required `iss`.
    pub issuer: String,
    /// The required `aud`.
    pub audience: String,
    /// The claim that holds the user's id.
    pub user_claim: String,
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

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LimitSettings {
    /// False turns the limits per client address off; those on a single request stay.
    pub enabled: bool,
    /// A request's body.
    pub body_bytes: usize,
    /// What a request's head may take to arrive, and then its body.
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
            database_url: Address("sqlite://qrlogin.db".to_owned()),
            database_connections: 8,
            bus_url: Address::default(),
            allowed_origins: Vec::new(),
            allow_missing_origin: true,
            session: SessionSettings { ttl_seconds: 300, heartbeat_seconds: 30, claim_seconds: 60 },
            app_auth: AppAuthSettings {
                hmac_secret: Secret::default(),
                public_key_file: PathBuf::new(),
                issuer: String::new(),
                audience: String::new(),
                user_claim: "sub".to_owned(),
            },
            token: TokenSettings {
                issuer: String::new(),
                audience: String::new(),
                ttl_seconds: 3600,
                claims: Vec::new(),
                key_dir: PathBuf::from("keys/"),
            },
            limits: LimitSettings { enabled: true, body_bytes: 16 * 1024, header_seconds: 10 },
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
        for origin in &self.allowed_origins {
            if origin_of(origin).as_deref() != Some(origin.as_str()) {
                let reason = format!("'{origin}' is not an origin; write it as scheme://host or scheme://host:port");
                return Err(invalid("allowed_origins", reason));
            }
        }
        if !(1..=1000).contains(&self.database_connections) {
            return Err(invalid("database_connections", "must be from 1 to 1000".to_owned()));
        }
        let session = &self.session;
        in_range("session.ttl_seconds", session.ttl_seconds, 1, 3600)?;
        in_range("session.heartbeat_seconds", session.heartbeat_seconds, 1, 3600)?;
        in_range("session.claim_seconds", session.claim_seconds, 1, 3600)?;
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
        if !self.app_auth.hmac_secret.0.is_empty() && !self.app_auth.public_key_file.as_os_str().is_empty() {
            let reason = "cannot be set together with app_auth.public_key_file; choose one".to_owned();
            return Err(invalid("app_auth.hmac_secret", reason));
        }
        tracing_subscriber::EnvFilter::from_str(&self.log.level)
            .map_err(|error| invalid("log.level", format!("'{}': {error}", self.log.level)))?;
        Ok(())
    }

    /// `public_url` without a slash at its end.
    #[must_use]
    pub fn public_base(&self) -> &str {
        self.public_url.trim_end_matches('/')
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
        let mut shown = self.clone();
        if !shown.app_auth.hmac_secret.0.is_empty() {
            shown.app_auth.hmac_secret = Secret("(hidden)".to_owned());
        }
        shown.database_url = shown.database_url.shown();
        shown.bus_url = shown.bus_url.shown();
        toml::to_string(&shown)
    }
}

fn public_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|error| format!("'{text}': {error}"))?;
    if text.len() > MAX_PUBLIC_URL_BYTES {
        return Err(format!("is longer than {MAX_PUBLIC_URL_BYTES} bytes, too long for a QR code that can be scanned"));
    }
    let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
    let is_bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if is_web && is_bare { Ok(()) } else { Err(format!("'{text}' is not an http(s) URL without query and fragment")) }
}

/// The origin of an http(s) URL, as browsers write it (RFC 6454 §6.2).
fn origin_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    url.origin().is_tuple().then(|| url.origin().ascii_serialization())
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
    fn an_address_is_shown_without_its_password() {
        for (address, shown) in [
            ("sqlite://qrlogin.db", "sqlite://qrlogin.db"),
            ("postgres://ann@db/x?sslmode=require", "postgres://ann@db/x?sslmode=require"),
            ("postgres://ann:hunter2@db:5432/x", "postgres://ann:hidden@db:5432/x"),
            ("redis://:hunter2@cache", "redis://:hidden@cache"),
            ("postgres://ann@db/x?password=hunter2", "postgres://ann@db/x?password=%28hidden%29"),
        ] {
            assert_eq!(Address(address.to_owned()).shown().0, shown);
            assert_eq!(format!("{:?}", Address(address.to_owned())), shown);
        }
    }
}
