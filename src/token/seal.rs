//! Encrypted and authenticated values that a client keeps, in cookies and as opaque tokens (AES-256-GCM). A value has a
//! purpose, so that it is not accepted in place of another, and an end.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::SecretBytes;
use crate::session::Timestamp;

/// A value that is sealed for one purpose.
pub trait Kept: Serialize + DeserializeOwned {
    /// Purpose for which the value is sealed. For a cookie, it is a part of the name.
    const PURPOSE: &'static str;
    /// Time for which the value is accepted, in seconds.
    const SECONDS: u32;
}

/// Seals values, and opens those that a node with one of the same secrets has sealed.
pub struct Sealer {
    /// The first key seals, and all open.
    keys: Vec<RandomizedNonceKey>,
}

#[derive(Serialize, Deserialize)]
struct Sealed<T> {
    /// End of the value, in milliseconds of [`Timestamp`].
    ends_at: i64,
    value: T,
}

impl Sealer {
    /// Returns a sealer with these secrets. The first one seals.
    #[must_use]
    pub fn new(secrets: &[SecretBytes]) -> Self {
        // A key of 32 bytes is always accepted.
        let key = |secret: &SecretBytes| RandomizedNonceKey::new(&AES_256_GCM, secret.as_slice()).ok();
        Self { keys: secrets.iter().filter_map(key).collect() }
    }

    /// Returns the value as text of base64url, which is accepted for [`Kept::SECONDS`]. Returns `None` if it cannot be
    /// encrypted.
    #[must_use]
    pub fn keep<T: Kept>(&self, value: &T, now: Timestamp) -> Option<String> {
        self.seal(T::PURPOSE, value, now.plus_seconds(T::SECONDS))
    }

    /// Returns the value that [`Sealer::keep`] sealed, see [`Sealer::open`].
    #[must_use]
    pub fn kept<T: Kept>(&self, text: &str, now: Timestamp) -> Option<T> {
        self.open(T::PURPOSE, text, now)
    }

    /// Returns the value as text of base64url. Returns `None` if it cannot be encrypted.
    #[must_use]
    pub fn seal(&self, purpose: &str, value: &impl Serialize, ends_at: Timestamp) -> Option<String> {
        let mut bytes = serde_json::to_vec(&Sealed { ends_at: ends_at.as_millis(), value }).ok()?;
        let nonce = self.keys.first()?.seal_in_place_append_tag(Aad::from(purpose), &mut bytes).ok()?;
        Some(URL_SAFE_NO_PAD.encode([nonce.as_ref().as_slice(), &bytes].concat()))
    }

    /// Returns the value that was sealed for this purpose. Returns `None` if the text is not such a value, if it was
    /// changed, or if its end has passed.
    #[must_use]
    pub fn open<T: DeserializeOwned>(&self, purpose: &str, text: &str, now: Timestamp) -> Option<T> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let opened = self.keys.iter().find_map(|key| {
            let mut bytes = sealed.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            key.open_in_place(nonce, Aad::from(purpose), &mut bytes).ok().map(|opened| opened.to_vec())
        })?;
        let Sealed { ends_at, value } = serde_json::from_slice(&opened).ok()?;
        (now.as_millis() < ends_at).then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn sealer(bytes: &[u8]) -> Sealer {
        Sealer::new(&bytes.iter().map(|byte| Zeroizing::new([*byte; 32])).collect::<Vec<_>>())
    }

    #[test]
    fn value_is_opened_until_its_end_and_only_for_its_purpose() {
        let (now, end) = (Timestamp::from_millis(1000), Timestamp::from_millis(2000));
        let sealed = sealer(&[1]).seal("visit", &"ann", end).unwrap();
        assert!(!sealed.contains("ann"));
        assert_eq!(sealer(&[1]).open("visit", &sealed, now), Some("ann".to_owned()));
        assert_eq!(sealer(&[1]).open::<String>("flow", &sealed, now), None);
        assert_eq!(sealer(&[1]).open::<String>("visit", &sealed, end), None);
        assert_eq!(sealer(&[2]).open::<String>("visit", &sealed, now), None);
        assert_ne!(sealer(&[1]).seal("visit", &"ann", end), Some(sealed));
    }

    #[test]
    fn changed_value_is_not_opened() {
        let (now, end) = (Timestamp::from_millis(1000), Timestamp::from_millis(2000));
        let sealed = sealer(&[1]).seal("visit", &"ann", end).unwrap();
        for at in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(sealer(&[1]).open::<String>("visit", &changed, now), None, "at {at}");
            assert_eq!(sealer(&[1]).open::<String>("visit", &sealed[..at], now), None, "up to {at}");
        }
    }

    #[test]
    fn value_of_an_older_secret_is_opened_while_the_secret_is_kept() {
        let (now, end) = (Timestamp::from_millis(1000), Timestamp::from_millis(2000));
        let sealed = sealer(&[1]).seal("visit", &"ann", end).unwrap();
        assert_eq!(sealer(&[2, 1]).open("visit", &sealed, now), Some("ann".to_owned()));
        let newer = sealer(&[2, 1]).seal("visit", &"ann", end).unwrap();
        assert_eq!(sealer(&[2]).open("visit", &newer, now), Some("ann".to_owned()));
        assert_eq!(sealer(&[1]).open::<String>("visit", &newer, now), None);
    }
}
