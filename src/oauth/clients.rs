//! The registered clients.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use aws_lc_rs::constant_time;
use aws_lc_rs::digest;
use jsonwebtoken::jwk::JwkSet;
use serde_json::Value;
use thiserror::Error;
use url::{Host, Url};
use zeroize::Zeroizing;

use crate::config::{AuthMethod, OAuthClientSettings, OAuthSettings, SigningAlgorithm};
use crate::secret::shown_path;
use crate::token::{KeyKind, check_jwk};

/// Minimum length of a client secret, in bytes. 128 random bits in base64url have 22 characters.
const MIN_SECRET_BYTES: usize = 22;
/// Beginning of a hashed secret in the settings.
const HASH_PREFIX: &str = "sha256:";

/// All registered clients.
#[derive(Default)]
pub struct Clients {
    by_id: BTreeMap<String, OAuthClient>,
}

/// A registered client.
pub struct OAuthClient {
    /// Settings of the client.
    pub settings: OAuthClientSettings,
    /// SHA-256 of each secret that is accepted.
    secrets: Vec<[u8; 32]>,
    /// Public keys that verify the client's assertions.
    pub(super) keys: Option<JwkSet>,
}

/// The reason why a client cannot be used. Holds its id, and the key of its table if it has a choice.
#[derive(Debug, Error)]
pub enum ClientsError {
    /// A file cannot be read.
    #[error("oauth.clients: {0}: {1}: {file}: {error}", file = shown_path(.2), error = .3)]
    File(String, &'static str, std::path::PathBuf, std::io::Error),
    /// A file of keys is not a JWK Set.
    #[error("oauth.clients: {0}: jwks_file: {file} is not a JWK Set (RFC 7517) of public keys", file = shown_path(.1))]
    Keys(String, std::path::PathBuf),
    /// A key of the set cannot verify assertions. Holds its number in the set, from 1, and the reason.
    #[error("oauth.clients: {0}: jwks_file: {file}: key {2} cannot be used: {3}", file = shown_path(.1))]
    Key(String, std::path::PathBuf, usize, String),
    /// A secret has white space around it, or control characters in it (RFC 6749, appendix A.2).
    #[error("oauth.clients: {0}: {1}: a secret must be one line, without white space around it or control characters")]
    Spaces(String, &'static str),
    /// An environment variable is not set.
    #[error("oauth.clients: {0}: secret_env: the environment variable {1} is not set")]
    Variable(String, String),
    /// A secret is too short.
    #[error(
        "oauth.clients: {0}: {1}: a secret has fewer than {MIN_SECRET_BYTES} characters; make one with `openssl rand -hex 32`"
    )]
    Short(String, &'static str),
    /// A hash is malformed.
    #[error(
        "oauth.clients: {0}: secret_hashes: an item is not of the form {HASH_PREFIX}… (qrlogin hash-secret makes it)"
    )]
    Hash(String),
}

impl Clients {
    /// Reads the secrets and keys of all clients.
    ///
    /// # Errors
    /// Returns an error for the first client that cannot be used.
    pub fn open(settings: &OAuthSettings) -> Result<Self, ClientsError> {
        let clients = settings.clients.iter().map(|client| Ok((client.id.clone(), OAuthClient::open(client)?)));
        Ok(Self { by_id: clients.collect::<Result<_, _>>()? })
    }

    /// Returns whether there is no client.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns the client of this id.
    #[must_use]
    pub fn find(&self, id: &str) -> Option<&OAuthClient> {
        self.by_id.get(id)
    }

    /// Returns all clients.
    pub fn all(&self) -> impl Iterator<Item = &OAuthClient> {
        self.by_id.values()
    }
}

impl OAuthClient {
    fn open(settings: &OAuthClientSettings) -> Result<Self, ClientsError> {
        let id = || settings.id.clone();
        let mut secrets = Vec::new();
        for path in &settings.secret_files {
            let text = fs::read_to_string(path);
            let text = text.map_err(|error| ClientsError::File(id(), "secret_files", path.clone(), error))?;
            secrets.push(hashed(&settings.id, "secret_files", &Zeroizing::new(text))?);
        }
        for name in &settings.secret_env {
            let text = std::env::var(name).map_err(|_| ClientsError::Variable(id(), name.clone()))?;
            secrets.push(hashed(&settings.id, "secret_env", &Zeroizing::new(text))?);
        }
        for hash in &settings.secret_hashes {
            secrets.push(parse_hash(hash).ok_or_else(|| ClientsError::Hash(id()))?);
        }
        let has_keys = settings.jwks_file != Path::new("");
        let keys = has_keys.then(|| read_keys(&settings.id, &settings.jwks_file)).transpose()?;
        Ok(Self { settings: settings.clone(), secrets, keys })
    }

    /// Returns whether the client has no credentials (RFC 6749 §2.1).
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.settings.auth_method == AuthMethod::None
    }

    /// Returns whether this is one of the client's secrets. All are compared in constant time.
    #[must_use]
    pub fn has_secret(&self, secret: &str) -> bool {
        let hash = sha256(secret.as_bytes());
        let is_equal = |known: &[u8; 32]| constant_time::verify_slices_are_equal(known, &hash).is_ok();
        self.secrets.iter().filter(|known| is_equal(known)).count() > 0
    }

    /// Returns the kind of key that signs the client's tokens.
    #[must_use]
    pub const fn signing_kind(&self) -> KeyKind {
        match self.settings.id_token_signed_response_alg {
            SigningAlgorithm::Rs256 => KeyKind::Rsa,
            SigningAlgorithm::EdDsa => KeyKind::Ed25519,
        }
    }

    /// Returns whether the client has registered this redirect URI. It is compared exactly (RFC 9700 §2.1), except that
    /// the port of a loopback address is free (RFC 8252 §7.3).
    #[must_use]
    pub fn has_redirect_uri(&self, uri: &str) -> bool {
        self.settings.redirect_uris.iter().any(|known| known == uri || is_same_loopback(known, uri))
    }

    /// Returns whether only this client can receive the answer at this redirect URI. Every program on a machine can
    /// receive what is sent to a loopback address or to a scheme of an app, and can use it if the client needs no secret
    /// (RFC 8252 §8.6).
    #[must_use]
    pub fn is_assured_by(&self, redirect_uri: &str) -> bool {
        !self.is_public() || redirect_uri.starts_with("https://")
    }

    /// Returns the scopes of a request that the client may have, each once, in their order.
    #[must_use]
    pub fn scopes_of(&self, requested: &str) -> Vec<String> {
        let mut scopes: Vec<String> = Vec::new();
        for scope in requested.split(' ').filter(|scope| !scope.is_empty()) {
            if self.settings.scopes.iter().any(|known| known == scope) && !scopes.iter().any(|known| known == scope) {
                scopes.push(scope.to_owned());
            }
        }
        scopes
    }
}

/// Returns a secret as the settings hold it: hashed. Returns `None` if it is too short to be one.
#[must_use]
pub fn hash_secret(secret: &str) -> Option<String> {
    let hash = hash_of(secret)?;
    Some(hash.iter().fold(HASH_PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}")))
}

/// Returns the hash of a client's secret, which the setting `key` names.
fn hashed(id: &str, key: &'static str, text: &str) -> Result<[u8; 32], ClientsError> {
    let secret = without_line_end(text);
    if secret.trim() != secret || secret.contains(char::is_control) {
        return Err(ClientsError::Spaces(id.to_owned(), key));
    }
    hash_of(text).ok_or_else(|| ClientsError::Short(id.to_owned(), key))
}

/// Returns the hash of a secret without the line end that files have. Returns `None` if it is too short.
fn hash_of(text: &str) -> Option<[u8; 32]> {
    let secret = without_line_end(text);
    (secret.len() >= MIN_SECRET_BYTES).then(|| sha256(secret.as_bytes()))
}

fn without_line_end(text: &str) -> &str {
    let line = text.strip_suffix('\n').unwrap_or(text);
    line.strip_suffix('\r').unwrap_or(line)
}

fn parse_hash(text: &str) -> Option<[u8; 32]> {
    let hex = text.strip_prefix(HASH_PREFIX).filter(|hex| hex.len() == 64 && hex.is_ascii())?;
    let mut hash = [0; 32];
    for (byte, at) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(&hex[at..at + 2], 16).ok()?;
    }
    Some(hash)
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

fn read_keys(id: &str, path: &Path) -> Result<JwkSet, ClientsError> {
    let text = fs::read(path).map_err(|error| ClientsError::File(id.to_owned(), "jwks_file", path.into(), error))?;
    let malformed = || ClientsError::Keys(id.to_owned(), path.into());
    let set: Value = serde_json::from_slice(&text).map_err(|_| malformed())?;
    let keys = set.get("keys").and_then(Value::as_array).filter(|keys| !keys.is_empty()).ok_or_else(malformed)?;
    for (number, key) in (1..).zip(keys) {
        let unusable = |reason| ClientsError::Key(id.to_owned(), path.into(), number, reason);
        check_jwk(key).map_err(unusable)?;
        // The library that verifies assertions has no ES512.
        if key.get("crv").and_then(Value::as_str) == Some("P-521") {
            return Err(unusable("its crv is not P-256, P-384 or Ed25519".to_owned()));
        }
    }
    serde_json::from_value(set).map_err(|_| malformed())
}

/// Returns whether both are plain http URIs of the same loopback address that differ in the port only.
fn is_same_loopback(known: &str, uri: &str) -> bool {
    let without_port = |text: &str| {
        let mut url = Url::parse(text).ok()?;
        let is_loopback = match url.host()? {
            Host::Ipv4(address) => address.is_loopback(),
            Host::Ipv6(address) => address.is_loopback(),
            // RFC 8252 §8.3 advises against it, but many native apps use it.
            Host::Domain(domain) => domain == "localhost",
        };
        // The parser changes some URIs, such as those with a backslash. These are not the same as the known one.
        let is_canonical = url.as_str() == text || url.as_str() == format!("{text}/");
        if url.scheme() != "http" || !is_loopback || !is_canonical || !url.username().is_empty() {
            return None;
        }
        url.set_port(None).ok()?;
        Some(url)
    };
    matches!((without_port(known), without_port(uri)), (Some(known), Some(uri)) if known == uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(redirect_uri: &str) -> OAuthClient {
        let settings = toml::from_str(&format!(
            "id = 'a'\nname = 'A'\nredirect_uris = ['{redirect_uri}']\nscopes = ['openid', 'profile']\nsecret_hashes = ['{}']",
            hash_secret("a secret of 22 letters").unwrap()
        ));
        OAuthClient::open(&settings.unwrap()).unwrap()
    }

    #[test]
    fn redirect_uri_is_compared_exactly() {
        let web = client("https://a.example/cb");
        assert!(web.has_redirect_uri("https://a.example/cb"));
        for other in [
            "https://a.example/cb/",
            "https://a.example/cb?x=1",
            "https://a.example/cb#x",
            "https://a.example:443/cb",
            "https://a.example:8443/cb",
            "https://A.example/cb",
            "https://a.example/CB",
            "https://a.example/c",
            "https://a.example/cb/../cb",
            "https://a.example.evil.example/cb",
            "https://a.example@evil.example/cb",
            "http://a.example/cb",
            "",
        ] {
            assert!(!web.has_redirect_uri(other), "{other}");
        }
    }

    #[test]
    fn port_of_a_loopback_address_is_free() {
        let native = client("http://127.0.0.1/cb");
        for port in ["", ":80", ":49152"] {
            assert_eq!(native.has_redirect_uri(&format!("http://127.0.0.1{port}/cb")), port != ":80", "{port}");
        }
        for other in
            ["http://127.0.0.1:5/cb2", "http://127.0.0.2:5/cb", "http://localhost:5/cb", "https://127.0.0.1:5/cb"]
        {
            assert!(!native.has_redirect_uri(other), "{other}");
        }
    }

    #[test]
    fn secret_is_compared_with_all_hashes() {
        let client = client("https://a.example/cb");
        assert!(client.has_secret("a secret of 22 letters"));
        assert!(!client.has_secret("a secret of 22 letter") && !client.has_secret(""));
        assert_eq!(hash_secret("short"), None);
        assert_eq!(hash_secret("a secret of 22 letters\r\n"), hash_secret("a secret of 22 letters"));
        for bad in ["", "sha256:", "sha256:zz", &format!("sha256:{}é", "a".repeat(62))] {
            assert_eq!(parse_hash(bad), None, "{bad}");
        }
    }

    #[test]
    fn keys_of_a_client_are_public_keys_that_can_verify() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        let read = |text: String| {
            fs::write(&path, text).unwrap();
            read_keys("a", &path).map(|set| set.keys.len()).map_err(|error| error.to_string())
        };
        // RFC 8037, appendix A.2.
        let good = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        assert_eq!(read(format!(r#"{{"keys":[{good}]}}"#)), Ok(1));
        let private = good.replace("\"x\"", "\"d\":\"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A\",\"x\"");
        let short = format!(r#"{{"kty":"RSA","e":"AQAB","n":"g{}"}}"#, "A".repeat(85));
        for (key, reason) in [
            (private.as_str(), "it is a private key"),
            (r#"{"kty":"oct","k":"c2VjcmV0"}"#, "its kty is not"),
            (r#"{"kty":"OKP","crv":"X25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#, "its crv is not"),
            (&good.replace("\"kty\"", "\"use\":\"enc\",\"kty\""), "its use is not sig"),
            (&short, "fewer than 2,048 bits"),
        ] {
            let error = read(format!(r#"{{"keys":[{good},{key}]}}"#)).unwrap_err();
            assert!(error.contains("oauth.clients: a: jwks_file: ") && error.contains("key 2 "), "{error}");
            assert!(error.contains(reason), "{error}");
        }
        for malformed in ["", "[]", "{}", r#"{"keys":[]}"#, good] {
            assert!(read(malformed.to_owned()).unwrap_err().contains("is not a JWK Set"), "{malformed}");
        }
    }

    #[test]
    fn secret_is_one_line_without_blanks() {
        let secret = "a-secret-of-22-letters";
        for line_end in ["", "\n", "\r\n"] {
            let hash = hashed("a", "secret_files", &format!("{secret}{line_end}"));
            assert_eq!(hash.ok(), Some(sha256(secret.as_bytes())));
        }
        for bad in
            [format!(" {secret}"), format!("{secret} \n"), format!("{secret}\n{secret}\n"), format!("{secret}\0")]
        {
            let error = hashed("a", "secret_files", &bad).unwrap_err().to_string();
            assert!(error.starts_with("oauth.clients: a: secret_files: a secret must be one line"), "{error}");
        }
    }

    #[test]
    fn scopes_that_the_client_may_not_have_are_left_out() {
        let client = client("https://a.example/cb");
        assert_eq!(client.scopes_of("profile  email openid profile"), ["profile", "openid"]);
        assert_eq!(client.scopes_of(""), Vec::<String>::new());
    }
}
