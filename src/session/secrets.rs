//! The browser's secret name of a session, and what it is stored under.
//!
//! The secret itself is not stored. The store's keys are hashes, so a copy of the database opens nothing.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a [`SessionId`].
const ID_BYTES: usize = 32;

/// The browser's secret: whoever holds it is given the token. 256 random bits, base64url.
///
/// Prints as `SessionId(…)`; only [`SessionId::expose`] gives it away. Wiped from memory when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SessionId([u8; ID_BYTES]);

impl SessionId {
    /// Makes an id of random bytes.
    #[must_use]
    pub const fn from_random(bytes: [u8; ID_BYTES]) -> Self {
        Self(bytes)
    }

    /// Reads an id as the browser sends it; `None` if it does not have an id's form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        decode(text).map(Self)
    }

    /// The secret itself, for the one answer that hands it out.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0))
    }

    /// The key under which the session is stored and waited for.
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

/// SHA-256 of a [`SessionId`]. Prints as the session's short public id: its first 12 hexadecimal digits, for logs.
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

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of the public part of a session's codes: the same for all of them.
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

/// Strict base64url of exactly `N` bytes: one spelling per value, so that one secret has one key.
pub(super) fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
    bytes.as_slice().try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_own_spelling_and_no_other() {
        let id = SessionId::from_random([7; 32]);
        let text = id.expose();
        assert_eq!(text.len(), 43);
        assert_eq!(SessionId::parse(&text), Some(id.clone()));
        assert_eq!(SessionId::parse(&format!("{}=", *text)), None);
        assert_eq!(SessionId::parse(&text[..42]), None);
        // The last character has two bits to spare: another spelling of the same bytes is no id.
        assert!(text.ends_with('c'));
        assert_eq!(SessionId::parse(&format!("{}d", &text[..42])), None);
    }

    #[test]
    fn nothing_secret_is_printed() {
        let id = SessionId::from_random([3; 32]);
        assert!(!format!("{id:?} {}", id.key()).contains(&id.expose()[..8]));
        assert_eq!(format!("{id:?}"), "SessionId(…)");
        assert_eq!(id.key().to_string(), "648aa5c579fb");
        assert_eq!(format!("{:?}", id.key()), id.key().to_string());
        assert_eq!(format!("{:?}", CodeKey([3; 32])), "CodeKey(…)");
    }
}
