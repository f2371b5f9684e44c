//! The keys that sign tokens, from the files of one directory. A signing key is in a PKCS#8 PEM file: an Ed25519 key in
//! a file `*.pem`, and an RSA key, for clients of OpenID Connect, in a file `*.rsa`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use tracing::warn;

use super::key_dir::{
    KeyError, KeyFile, SETTING, create_first_key, key_files, may_others_add_files, read_key, warn_of_exposed,
};
use super::signing_key::{KeyKind, KeyPair};
use crate::secret::shown_path;
use crate::system::clock::Clock;
use crate::telemetry::warnings::Warnings;

/// Minimum time between two readings of the directory that unknown key ids cause.
const ON_DEMAND: Duration = Duration::from_secs(1);
/// Time for which an added key is published before it signs. Nodes read the directory at this interval, so all other
/// nodes publish the key by then.
pub const PUBLISH_TIME: Duration = Duration::from_secs(10);

/// All signing keys of the directory. Of each kind, the newest signs new tokens, and the others sign the grants that name
/// them.
#[derive(Debug)]
pub struct KeyRing {
    dir: PathBuf,
    clock: Clock,
    keys: RwLock<KeySelection>,
    /// Steady time of the last reading of the directory that an unknown key id caused.
    read_on_demand_at: Mutex<Option<Duration>>,
    /// Failures to read the directory again.
    failures: Warnings,
    /// Files that the group or others may read, and that the log has named already.
    exposed: Mutex<BTreeSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct KeySelection {
    by_id: BTreeMap<String, SigningKey>,
    /// Id of the Ed25519 key that signs new grants.
    signing: String,
    /// Id of the RSA key that signs new tokens. Empty if there is none.
    signing_rsa: String,
}

#[derive(Debug)]
struct SigningKey {
    pair: KeyPair,
    /// Path of the file, if the group or others may read it.
    exposed: Option<PathBuf>,
    /// Position among the keys of the directory, from the oldest file to the newest.
    age_rank: usize,
    /// Steady time from which on the key may sign new grants.
    signs_from: Duration,
}

impl KeyRing {
    /// Reads all key files of `dir`. If there is no Ed25519 key, creates the directory and a first one.
    ///
    /// The newest key is the one whose file was modified last, or of equals the one whose path sorts last. To rotate
    /// the keys, add a file. `clock` measures for how long an added key has been published. The keys that are found
    /// here may sign at once.
    ///
    /// # Errors
    /// Returns an error if the directory or a file cannot be read or created, if a key file does not hold exactly
    /// one signing key, or if the group or others may write it.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, KeyError> {
        let mut files = key_files(dir)?;
        if !has_kind(&files, KeyKind::Ed25519) {
            create_first_key(dir, KeyKind::Ed25519)?;
            files = key_files(dir)?;
        }
        let now = clock.steady();
        let mut keys = KeySelection { by_id: read_keys(files, now)?, ..KeySelection::default() };
        keys.choose_signing(now);
        let ring = Self {
            dir: dir.to_owned(),
            clock,
            keys: RwLock::new(keys),
            read_on_demand_at: Mutex::default(),
            failures: Warnings::default(),
            exposed: Mutex::default(),
        };
        if may_others_add_files(dir) {
            let path = shown_path(dir);
            warn!(event = "key directory not private", setting = SETTING, %path, "other users can add a key, which would then sign");
        }
        ring.warn_of_exposed();
        Ok(ring)
    }

    /// Checks the keys in `dir` as [`KeyRing::open`] does, and creates none if there is none yet.
    ///
    /// # Errors
    /// Returns the errors of [`KeyRing::open`].
    pub fn check(dir: &Path, clock: Clock) -> Result<(), KeyError> {
        if has_kind(&key_files(dir)?, KeyKind::Ed25519) { Self::open(dir, clock).map(drop) } else { Ok(()) }
    }

    /// Creates a first RSA key if there is none. It may sign at once, because no token was signed with RSA before.
    ///
    /// # Errors
    /// Returns an error if the directory or a file cannot be read or created.
    pub fn ensure_rsa(&self) -> Result<(), KeyError> {
        if !has_kind(&key_files(&self.dir)?, KeyKind::Rsa) {
            create_first_key(&self.dir, KeyKind::Rsa)?;
        }
        self.refresh()
    }

    /// Reads the directory again, which blocks on file I/O. An added key is published from now on. It signs from the
    /// first call that comes [`PUBLISH_TIME`] later, when the other nodes publish it too. Calls in between do not
    /// shorten that time.
    ///
    /// # Errors
    /// Returns [`KeyError::Empty`] if no key is left, and otherwise the errors of [`KeyRing::open`]. The keys then stay
    /// as they were.
    pub fn refresh(&self) -> Result<(), KeyError> {
        let now = self.clock.steady();
        let mut by_id = read_keys(key_files(&self.dir)?, now + PUBLISH_TIME)?;
        if !by_id.values().any(|key| key.pair.kind() == KeyKind::Ed25519) {
            return Err(KeyError::Empty { path: self.dir.clone() });
        }
        let mut keys = self.keys.write();
        for (kid, key) in &mut by_id {
            if let Some(known) = keys.by_id.get(kid) {
                key.signs_from = known.signs_from;
            }
        }
        keys.by_id = by_id;
        keys.choose_signing(now);
        drop(keys);
        self.warn_of_exposed();
        Ok(())
    }

    /// Logs the key files that the group or others may read, each once.
    fn warn_of_exposed(&self) {
        let keys = self.keys.read();
        let mut named = self.exposed.lock();
        for path in keys.by_id.values().filter_map(|key| key.exposed.as_ref()) {
            if named.insert(path.clone()) {
                warn_of_exposed(path);
            }
        }
    }

    /// Returns the id of the key that signs new grants.
    #[must_use]
    pub fn signing(&self) -> String {
        self.keys.read().signing.clone()
    }

    /// Returns the id of the key of this kind that signs new tokens, or `None` if there is none.
    #[must_use]
    pub fn signing_of(&self, kind: KeyKind) -> Option<String> {
        let keys = self.keys.read();
        let kid = match kind {
            KeyKind::Ed25519 => &keys.signing,
            KeyKind::Rsa => &keys.signing_rsa,
        };
        (!kid.is_empty()).then(|| kid.clone())
    }

    /// Signs `message` with the key of this id. Returns `None` if the directory does not hold it.
    ///
    /// If the key is not known, reads the directory first, which blocks on file I/O, but at most once a second.
    #[must_use]
    pub fn sign(&self, kid: &str, message: &[u8]) -> Option<Vec<u8>> {
        let signed = self.keys.read().sign(kid, message);
        if signed.is_some() || !self.begins_reading_on_demand() {
            return signed;
        }
        // Another node may have started with an added key, and decided the session.
        self.refresh_or_warn();
        self.keys.read().sign(kid, message)
    }

    /// Returns whether the key of this id and kind has signed `message`.
    #[must_use]
    pub fn has_signed(&self, kid: &str, kind: KeyKind, message: &[u8], signature: &[u8]) -> bool {
        let keys = self.keys.read();
        let key = keys.by_id.get(kid).filter(|key| key.pair.kind() == kind);
        key.is_some_and(|key| key.pair.has_signed(message, signature))
    }

    /// Returns whether a key of the directory has this id.
    #[must_use]
    pub fn contains(&self, kid: &str) -> bool {
        self.keys.read().by_id.contains_key(kid)
    }

    /// Reads the directory again as [`KeyRing::refresh`] does, and logs an error instead of returning it.
    pub fn refresh_or_warn(&self) {
        if let Err(error) = self.refresh()
            && let Some(count) = self.failures.count(self.clock.steady())
        {
            warn!(event = "keys not read", %error, count, "the keys stay as they were");
        }
    }

    /// Returns whether an unknown key id may cause a reading of the directory now, and notes the time if so.
    fn begins_reading_on_demand(&self) -> bool {
        let now = self.clock.steady();
        let mut last = self.read_on_demand_at.lock();
        let is_due = last.is_none_or(|last| now.saturating_sub(last) >= ON_DEMAND);
        if is_due {
            *last = Some(now);
        }
        is_due
    }

    /// Returns the public keys as a JWK Set (RFC 7517 §5, RFC 8037 §2).
    #[must_use]
    pub fn jwks(&self) -> Value {
        let key = |(kid, key): (&String, &SigningKey)| key.pair.jwk(kid);
        json!({ "keys": self.keys.read().by_id.iter().map(key).collect::<Vec<_>>() })
    }
}

impl KeySelection {
    fn sign(&self, kid: &str, message: &[u8]) -> Option<Vec<u8>> {
        self.by_id.get(kid)?.pair.sign(message)
    }

    /// Chooses the newest key of each kind that may sign at `now`. If there is none, because all older keys were removed,
    /// chooses the newest of all.
    fn choose_signing(&mut self, now: Duration) {
        let newest = |kind| {
            let of_kind = self.by_id.iter().filter(|(_, key)| key.pair.kind() == kind);
            let newest = of_kind.max_by_key(|(_, key)| (key.signs_from <= now, key.age_rank));
            newest.map(|(kid, _)| kid.clone()).unwrap_or_default()
        };
        (self.signing, self.signing_rsa) = (newest(KeyKind::Ed25519), newest(KeyKind::Rsa));
    }
}

fn has_kind(files: &[KeyFile], kind: KeyKind) -> bool {
    files.iter().any(|file| file.kind == kind)
}

fn read_keys(files: Vec<KeyFile>, signs_from: Duration) -> Result<BTreeMap<String, SigningKey>, KeyError> {
    let mut by_id = BTreeMap::new();
    for (age_rank, KeyFile { path, kind, .. }) in files.into_iter().enumerate() {
        let (pair, is_exposed) = read_key(&path, kind)?;
        let exposed = is_exposed.then_some(path);
        by_id.insert(pair.thumbprint(), SigningKey { pair, exposed, age_rank, signs_from });
    }
    Ok(by_id)
}
