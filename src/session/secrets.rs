//! The session id, and the keys under which the store keeps a session.
//!
//! The session id is not stored. The keys in the store are hashes, so a copy of the database gives access to no
//! session.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Length of a [`SessionId`], in bytes.
const ID_BYTES: usize = 32;

/// The secret with which the browser waits and is given the token: 256 random bits, written as base64url.
///
/// Its `Debug` output is `SessionId(…)`; only [`SessionId::expose`] reveals it. Wiped from memory when dropped.
///
/// ```
/// use qrlogin::session::SessionId;
///
/// let id = SessionId::from_random([7; 32]);
/// let text = id.expose();
/// assert_eq!(text.len(), 43);
/// assert_eq!(SessionId::parse(&text), Some(id.clone()));
/// assert_eq!(SessionId::parse("too short"), None);
/// assert_eq!(format!("{id:?}"), "SessionId(…)");
/// // The store and the log have the key, from which the id cannot be computed.
/// assert_eq!(id.key().to_string().len(), 12);
/// ```
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SessionId([u8; ID_BYTES]);

impl SessionId {
    /// Makes a session id from random bytes.
    #[must_use]
    pub const fn from_random(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Parses a session id as the browser sends it. Returns `None` if `text` does not have the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }

    /// Returns the secret as base64url, for the response that hands it to the browser.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0))
    }

    /// Returns the key under which the session is stored and its connections are registered.
    #[must_use]
    pub fn key(&self) -> SessionKey {
        SessionKey(sha256(&self.0))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(…)")
    }
}

/// SHA-256 of a [`SessionId`]. Prints as the short public id of the session, for logs: its first 12 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey(pub [u8; 32]);

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0[..6].iter().flat_map(|byte| [byte >> 4, byte & 15]);
        let mut text = [0; 12];
        for (place, digit) in text.iter_mut().zip(digits) {
            *place = DIGITS[usize::from(digit)];
        }
        f.write_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

impl Serialize for SessionKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for SessionKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(deserializer)?;
        decode(&text).map(Self).ok_or_else(|| D::Error::custom("not a session key"))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of the public id in a session's codes. It is the same for all codes of a session.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodeKey(pub [u8; 32]);

impl fmt::Debug for CodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeKey(…)")
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    hash
}

/// Decodes base64url of exactly `N` bytes, strictly: each value has one spelling, so one secret has one key.
pub(super) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    bytes.as_slice().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_id_has_exactly_one_spelling() {
        let id = SessionId::from_random([7; 32]);
        let text = id.expose();
        assert_eq!(text.len(), 43);
        assert_eq!(SessionId::parse(&text), Some(id.clone()));
        assert_eq!(SessionId::parse(&format!("{}=", *text)), None);
        assert_eq!(SessionId::parse(&text[..42]), None);
        // The last character encodes 4 bits of the id; its other 2 bits must be zero.
        assert!(text.ends_with('c'));
        assert_eq!(SessionId::parse(&format!("{}d", &text[..42])), None);
    }

    #[test]
    fn secrets_are_not_printed() {
        let id = SessionId::from_random([3; 32]);
        assert!(!format!("{id:?} {}", id.key()).contains(&id.expose()[..8]));
        assert_eq!(format!("{id:?}"), "SessionId(…)");
        assert_eq!(id.key().to_string(), "648aa5c579fb");
        assert_eq!(format!("{:?}", id.key()), id.key().to_string());
        assert_eq!(format!("{:?}", CodeKey([3; 32])), "CodeKey(…)");
    }
}
