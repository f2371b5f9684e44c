//! The keys that sign `web_token`, and the secret of the codes: files in one directory that all nodes share. A signing
//! key is an Ed25519 key in a PKCS#8 PEM file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use thiserror::Error;
use tracing::warn;
use zeroize::Zeroizing;

use super::key_file::{mode_of, pem_blocks};
use crate::secret::shown_path;
use crate::session::CodeSecret;
use crate::system::clock::Clock;
use crate::system::random;
use crate::telemetry::warnings::Warnings;

/// Name of the file with the first key, which the first start creates.
const FIRST_KEY: &str = "web-token.pem";
/// Name of the file with the [`CodeSecret`].
const CODE_SECRET: &str = "codes.key";

/// Key of the setting that names the directory.
const SETTING: &str = "token.key_dir";
/// Mode bits with which the group or others may read a file.
const OTHERS_READ: u32 = 0o044;
/// Mode bits with which the group or others may write a file.
const OTHERS_WRITE: u32 = 0o022;
/// Minimum time between two readings of the directory that unknown key ids cause.
const LOOK_TIME: Duration = Duration::from_secs(1);
/// Time for which an added key is published before it signs. Nodes read the directory at this interval, so all other
/// nodes publish the key by then.
pub const PUBLISH_TIME: Duration = Duration::from_secs(10);

/// All signing keys of the directory. The newest signs new grants, and the others sign the grants that name them.
#[derive(Debug)]
pub struct KeyRing {
    dir: PathBuf,
    clock: Clock,
    keys: RwLock<Keys>,
    /// Steady time of the last reading of the directory that an unknown key id caused.
    looked_at: Mutex<Option<Duration>>,
    /// Failures to read the directory again.
    failures: Warnings,
    /// Files that the group or others may read, and that the log has named already.
    exposed: Mutex<BTreeSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct Keys {
    by_id: BTreeMap<String, Key>,
    /// Id of the key that signs new grants.
    signing: String,
}

#[derive(Debug)]
struct Key {
    pair: Ed25519KeyPair,
    /// Path of the file, if the group or others may read it.
    exposed: Option<PathBuf>,
    /// Position among the keys of the directory, from the oldest file to the newest.
    age_rank: usize,
    /// Steady time from which on the key may sign new grants.
    signs_from: Duration,
}

/// An error in the directory of keys.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The directory cannot be read or written.
    #[error("token.key_dir: {}: {source}", shown_path(.path))]
    Io {
        /// Path of the file or directory.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// A `.pem` file does not hold a signing key.
    #[error("token.key_dir: {}: not an Ed25519 private key in PKCS#8 PEM form", shown_path(.path))]
    NotAKey {
        /// Path of the file.
        path: PathBuf,
    },
    /// A PEM block of a `.pem` file is cut off or damaged.
    #[error(
        "token.key_dir: {path}: block {number} is not a complete PEM block; write one whole Ed25519 private key (PKCS#8)"
    )]
    Broken {
        /// Path of the file.
        path: PathBuf,
        /// Number of the PEM block in the file, from 1.
        number: usize,
    },
    /// A `.pem` file holds more than one PEM block.
    #[error(
        "token.key_dir: {}: holds {blocks} PEM blocks; write each signing key into a file of its own",
        shown_path(.path)
    )]
    SeveralKeys {
        /// Path of the file.
        path: PathBuf,
        /// Number of PEM blocks in the file.
        blocks: usize,
    },
    /// The group or other users can write the file of a secret.
    #[error(
        "token.key_dir: {}: other users can write it (mode {mode:03o}); make it private with chmod 600",
        shown_path(.path)
    )]
    Writable {
        /// Path of the file.
        path: PathBuf,
        /// Mode bits of the file.
        mode: u32,
    },
    /// The file of the codes' secret does not hold 32 bytes in base64.
    #[error(
        "token.key_dir: {}: not 32 bytes in base64; remove it, and a new one is made (codes that are shown at that \
         moment can then no longer be scanned)",
        shown_path(.path)
    )]
    NotACodeSecret {
        /// Path of the file.
        path: PathBuf,
    },
    /// All keys have been removed while the server runs.
    #[error("token.key_dir: {}: holds no key", shown_path(.path))]
    Empty {
        /// Path of the directory.
        path: PathBuf,
    },
    /// The cryptography library failed to generate a key.
    #[error("token.key_dir: a key could not be made")]
    Generate,
}

impl KeyRing {
    /// Reads all `.pem` files of `dir`. If there is none, creates the directory and a first key.
    ///
    /// The newest key is the one whose file was modified last, or of equals the one whose path sorts last. To rotate
    /// the keys, add a file. `clock` measures for how long an added key has been published. The keys that are found
    /// here may sign at once.
    ///
    /// # Errors
    /// Returns an error if the directory or a file cannot be read or created, if a `.pem` file does not hold exactly
    /// one signing key, or if the group or others may write it.
    pub fn open(dir: &Path, clock: Clock) -> Result<Self, KeyError> {
        let mut files = key_files(dir)?;
        if files.is_empty() {
            make_first_key(dir)?;
            files = key_files(dir)?;
        }
        let now = clock.steady();
        let mut keys = Keys { by_id: read_keys(files, now)?, ..Keys::default() };
        keys.choose_signing(now);
        let ring = Self {
            dir: dir.to_owned(),
            clock,
            keys: RwLock::new(keys),
            looked_at: Mutex::default(),
            failures: Warnings::default(),
            exposed: Mutex::default(),
        };
        if others_may_write_dir(dir) {
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
        if key_files(dir)?.is_empty() { Ok(()) } else { Self::open(dir, clock).map(drop) }
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
        if by_id.is_empty() {
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

    /// Signs `message` with the key of this id. Returns `None` if the directory does not hold it.
    ///
    /// If the key is not known, reads the directory first, which blocks on file I/O, but at most once a second.
    #[must_use]
    pub fn sign(&self, kid: &str, message: &[u8]) -> Option<Vec<u8>> {
        let signed = self.keys.read().sign(kid, message);
        if signed.is_some() || !self.may_look() {
            return signed;
        }
        // Another node may have started with an added key, and decided the session.
        self.refresh_or_warn();
        self.keys.read().sign(kid, message)
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
    fn may_look(&self) -> bool {
        let now = self.clock.steady();
        let mut looked_at = self.looked_at.lock();
        let may = looked_at.is_none_or(|looked_at| now.saturating_sub(looked_at) >= LOOK_TIME);
        if may {
            *looked_at = Some(now);
        }
        may
    }

    /// Returns the public keys as a JWK Set (RFC 7517 §5, RFC 8037 §2).
    #[must_use]
    pub fn jwks(&self) -> Value {
        let key = |(kid, key): (&String, &Key)| json!({ "kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": public_part(&key.pair) });
        json!({ "keys": self.keys.read().by_id.iter().map(key).collect::<Vec<_>>() })
    }
}

impl Keys {
    fn sign(&self, kid: &str, message: &[u8]) -> Option<Vec<u8>> {
        Some(self.by_id.get(kid)?.pair.sign(message).as_ref().to_vec())
    }

    /// Chooses the newest key that may sign at `now`. If there is none, because all older keys were removed, chooses
    /// the newest of all.
    fn choose_signing(&mut self, now: Duration) {
        let newest = self.by_id.iter().max_by_key(|(_, key)| (key.signs_from <= now, key.age_rank));
        self.signing = newest.map(|(kid, _)| kid.clone()).unwrap_or_default();
    }
}

fn read_keys(files: Vec<(SystemTime, PathBuf)>, signs_from: Duration) -> Result<BTreeMap<String, Key>, KeyError> {
    let mut by_id = BTreeMap::new();
    for (age_rank, (_, path)) in files.into_iter().enumerate() {
        let (pair, is_exposed) = read_key(&path)?;
        let exposed = is_exposed.then_some(path);
        by_id.insert(thumbprint(&pair), Key { pair, exposed, age_rank, signs_from });
    }
    Ok(by_id)
}

/// Returns the `.pem` files of the directory with the times of their last modification, oldest first. A missing
/// directory has none.
fn key_files(dir: &Path) -> Result<Vec<(SystemTime, PathBuf)>, KeyError> {
    let failed = |source| KeyError::Io { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            match fs::metadata(&path).and_then(|file| file.modified()) {
                Ok(modified) => files.push((modified, path)),
                // For example a symbolic link that leads nowhere.
                Err(source) => return Err(KeyError::Io { path, source }),
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the key in a file, and whether the group or others may read the file.
fn read_key(path: &Path) -> Result<(Ed25519KeyPair, bool), KeyError> {
    let (text, is_exposed) = read_private(path)?;
    let not_a_key = || KeyError::NotAKey { path: path.into() };
    let blocks = pem_blocks(&text).map_err(|number| KeyError::Broken { path: path.into(), number })?;
    let [block] = blocks.as_slice() else {
        let blocks = blocks.len();
        return Err(if blocks == 0 { not_a_key() } else { KeyError::SeveralKeys { path: path.into(), blocks } });
    };
    // "Maybe unchecked" because OpenSSL writes PKCS#8 v1 (RFC 5208), which lacks the public key to check against.
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(block.contents()).map_err(|_| not_a_key())?;
    Ok((pair, is_exposed))
}

/// Returns the content of a file that holds a secret, and whether the group or others may read the file.
///
/// # Errors
/// Returns [`KeyError::Io`] if the file cannot be read, and [`KeyError::Writable`] if the group or others may write it,
/// because the secret may then be theirs.
fn read_private(path: &Path) -> Result<(Zeroizing<Vec<u8>>, bool), KeyError> {
    let failed = |source| KeyError::Io { path: path.into(), source };
    let mut file = fs::File::open(path).map_err(failed)?;
    let mode = mode_of(&file.metadata().map_err(failed)?);
    if mode & OTHERS_WRITE != 0 {
        return Err(KeyError::Writable { path: path.into(), mode });
    }
    let mut content = Zeroizing::new(Vec::new());
    file.read_to_end(&mut content).map_err(failed)?;
    Ok((content, mode & OTHERS_READ != 0))
}

fn warn_of_exposed(path: &Path) {
    let path = shown_path(path);
    warn!(event = "key not private", setting = SETTING, %path, "other users can read it; make it private with chmod 600");
}

/// Returns whether every user of the system may add files. The group may, because nodes that mount the directory often
/// share it through a group.
fn others_may_write_dir(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|metadata| mode_of(&metadata) & 0o002 != 0)
}

/// Creates the first key, unless another node has created it meanwhile.
fn make_first_key(dir: &Path) -> Result<(), KeyError> {
    let document = Ed25519KeyPair::generate().and_then(|key| key.to_pkcs8v1()).map_err(|_| KeyError::Generate)?;
    let text = Zeroizing::new(pem::encode(&pem::Pem::new("PRIVATE KEY", document.as_ref())));
    make_file(dir, FIRST_KEY, text.as_bytes())
}

/// Reads the secret of the codes, which all nodes share: 32 random bytes in base64, in a file beside the signing keys.
/// Creates the file if it does not exist.
///
/// # Errors
/// Returns an error if the file cannot be read or created, if it does not hold 32 bytes in base64, or if the group or
/// others may write it.
pub fn open_code_secret(dir: &Path) -> Result<CodeSecret, KeyError> {
    if let Some(secret) = read_code_secret(dir)? {
        return Ok(secret);
    }
    let text = Zeroizing::new(STANDARD.encode(Zeroizing::new(random::bytes::<32>()).as_slice()) + "\n");
    make_file(dir, CODE_SECRET, text.as_bytes())?;
    // Read back, because another node may have created the file first.
    read_code_secret(dir)?.ok_or_else(|| KeyError::NotACodeSecret { path: dir.join(CODE_SECRET) })
}

/// Reads the secret of the codes, see [`open_code_secret`]. Returns `None` if the file does not exist.
///
/// # Errors
/// Returns an error if the file cannot be read, if it does not hold 32 bytes in base64, or if the group or others may
/// write it.
pub fn read_code_secret(dir: &Path) -> Result<Option<CodeSecret>, KeyError> {
    let path = dir.join(CODE_SECRET);
    // Behind a link whose target is missing, no file can be created, so the error of reading it is returned.
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound && !path.is_symlink();
    let (text, is_exposed) = match read_private(&path) {
        Err(KeyError::Io { source, .. }) if is_missing(&source) => return Ok(None),
        read => read?,
    };
    if is_exposed {
        warn_of_exposed(&path);
    }
    let bytes = STANDARD.decode(text.trim_ascii()).map(Zeroizing::new).ok();
    let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes.as_slice()).ok());
    bytes.map(CodeSecret::new).map(Some).ok_or(KeyError::NotACodeSecret { path })
}

/// Creates a file with this content, unless a file of that name exists.
///
/// The content is written to a draft, which is then hard-linked to the name. The link fails if the name exists, so of
/// two nodes that start at the same time one creates the file. No reader sees a partial file.
fn make_file(dir: &Path, name: &str, content: &[u8]) -> Result<(), KeyError> {
    let draft = dir.join(format!(".{name}.{:08x}", u32::from_le_bytes(random::bytes())));
    let written = create_private_dir(dir)
        .and_then(|()| {
            let mut file = create_private_file(&draft)?;
            file.write_all(content)?;
            // The name is not to lead to an empty file after a power loss.
            file.sync_all()
        })
        .and_then(|()| fs::hard_link(&draft, dir.join(name)));
    let removed = fs::remove_file(&draft);
    match written.and(removed) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(|source| KeyError::Io { path: dir.into(), source }),
    }
}

fn create_private_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn create_private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn public_part(key: &Ed25519KeyPair) -> String {
    URL_SAFE_NO_PAD.encode(key.public_key().as_ref())
}

/// Returns the JWK thumbprint of a key (RFC 7638 §3, RFC 8037 §2), which is its id. It does not depend on the name of
/// the key's file.
fn thumbprint(key: &Ed25519KeyPair) -> String {
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, public_part(key));
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, canonical.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_creates_no_key_and_reads_those_that_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        for empty in [dir.path(), &missing] {
            assert!(KeyRing::check(empty, Clock::system()).is_ok());
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(dir.path().join("web-token.pem"), "no key").unwrap();
        assert!(KeyRing::check(dir.path(), Clock::system()).is_err());
    }

    #[test]
    fn first_start_creates_one_private_key_and_the_next_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("deep/keys");
        let first = KeyRing::open(&keys, Clock::system()).unwrap();
        let second = KeyRing::open(&keys, Clock::system()).unwrap();
        assert_eq!(first.signing(), second.signing());
        assert_eq!(fs::read_dir(&keys).unwrap().count(), 1, "no draft is left behind");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(keys.join(FIRST_KEY)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn first_key_is_not_replaced_by_a_concurrent_first_start() {
        let dir = tempfile::tempdir().unwrap();
        make_first_key(dir.path()).unwrap();
        let kid = KeyRing::open(dir.path(), Clock::system()).unwrap().signing().to_owned();
        make_first_key(dir.path()).unwrap();
        assert_eq!(KeyRing::open(dir.path(), Clock::system()).unwrap().signing(), kid);
    }

    #[test]
    fn newest_key_signs_and_all_keys_are_published() {
        let dir = tempfile::tempdir().unwrap();
        let old = KeyRing::open(dir.path(), Clock::system()).unwrap().signing().to_owned();
        let other = tempfile::tempdir().unwrap();
        let new = KeyRing::open(other.path(), Clock::system()).unwrap().signing().to_owned();
        let added = dir.path().join("a.pem");
        fs::copy(other.path().join(FIRST_KEY), &added).unwrap();
        let later =
            fs::metadata(dir.path().join(FIRST_KEY)).unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
        fs::File::options().append(true).open(&added).unwrap().set_modified(later).unwrap();

        let ring = KeyRing::open(dir.path(), Clock::system()).unwrap();
        assert_eq!(ring.signing(), new);
        assert!(ring.sign(&old, b"decided under the old key").is_some());
        assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
    }

    /// Adds a new key to `dir`, in a file with a later modification time than all others. Returns the key's id.
    fn add_key(dir: &Path, name: &str) -> String {
        let other = tempfile::tempdir().unwrap();
        let kid = KeyRing::open(other.path(), Clock::system()).unwrap().signing();
        let newest = key_files(dir).unwrap().last().unwrap().0;
        fs::copy(other.path().join(FIRST_KEY), dir.join(name)).unwrap();
        let added = fs::File::options().append(true).open(dir.join(name)).unwrap();
        added.set_modified(newest + Duration::from_secs(1)).unwrap();
        kid
    }

    #[test]
    fn added_key_is_published_at_once_and_signs_ten_seconds_later() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hands) = Clock::manual(crate::session::Timestamp::from_millis(0));
        let ring = KeyRing::open(dir.path(), clock).unwrap();
        let old = ring.signing();
        let new = add_key(dir.path(), "newer.pem");
        assert!(ring.sign(&new, b"decided at a node that knows it").is_some());
        assert_eq!(ring.jwks()["keys"].as_array().unwrap().len(), 2);
        assert_eq!(ring.signing(), old);
        hands.advance_seconds(10);
        ring.refresh().unwrap();
        assert_eq!(ring.signing(), new);

        fs::write(dir.path().join("half.pem"), "-----BEGIN PRIVATE").unwrap();
        assert!(ring.refresh().is_err());
        assert_eq!(ring.signing(), new, "what cannot be read changes nothing");
        fs::remove_file(dir.path().join("half.pem")).unwrap();
        fs::remove_file(dir.path().join("newer.pem")).unwrap();
        ring.refresh().unwrap();
        assert_eq!(ring.signing(), old);
    }

    #[test]
    fn unknown_key_ids_and_reloads_do_not_shorten_the_time_before_an_added_key_signs() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hands) = Clock::manual(crate::session::Timestamp::from_millis(0));
        let ring = KeyRing::open(dir.path(), clock).unwrap();
        let old = ring.signing();
        let new = add_key(dir.path(), "newer.pem");
        for _ in 0..10 {
            assert!(ring.sign("unknown", b"").is_none());
            ring.refresh().unwrap();
            assert_eq!(ring.signing(), old);
            hands.advance_seconds(1);
        }
        ring.refresh().unwrap();
        assert_eq!(ring.signing(), new);
    }

    #[test]
    fn later_added_key_does_not_delay_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hands) = Clock::manual(crate::session::Timestamp::from_millis(0));
        let ring = KeyRing::open(dir.path(), clock).unwrap();
        let second = add_key(dir.path(), "second.pem");
        ring.refresh().unwrap();
        hands.advance_seconds(10);
        let third = add_key(dir.path(), "third.pem");
        ring.refresh().unwrap();
        assert_eq!(ring.signing(), second);
        // An older key that may sign takes precedence over a newer one that may not yet.
        fs::remove_file(dir.path().join("second.pem")).unwrap();
        ring.refresh().unwrap();
        assert_ne!(ring.signing(), third);
        fs::remove_file(dir.path().join(FIRST_KEY)).unwrap();
        ring.refresh().unwrap();
        assert_eq!(ring.signing(), third, "no other key is left");
    }

    #[test]
    fn code_secret_is_created_once_and_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let key = crate::session::SessionId::from_random([1; 32]).key();
        let code = |secret: CodeSecret| secret.code(&key, 0).to_string();
        let first = code(open_code_secret(&keys).unwrap());
        assert_eq!(code(open_code_secret(&keys).unwrap()), first);
        #[cfg(unix)]
        {
            let file = fs::metadata(keys.join(CODE_SECRET)).unwrap();
            assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777, 0o600);
        }
        fs::write(keys.join(CODE_SECRET), "swordfish").unwrap();
        let error = open_code_secret(&keys).unwrap_err().to_string();
        assert!(error.contains("token.key_dir") && !error.contains("swordfish"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn code_secret_behind_a_link_without_a_target_is_refused_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CODE_SECRET);
        std::os::unix::fs::symlink("missing", &path).unwrap();
        for error in [open_code_secret(dir.path()).err(), read_code_secret(dir.path()).err()] {
            let error = error.unwrap().to_string();
            let place = format!("token.key_dir: {}: ", path.display());
            assert!(error.starts_with(&place) && error.contains("No such file"), "{error}");
        }
    }

    #[test]
    fn pem_file_with_a_block_that_is_cut_off_is_refused_with_the_number_of_the_block() {
        let dir = tempfile::tempdir().unwrap();
        drop(KeyRing::open(dir.path(), Clock::system()).unwrap());
        let file = dir.path().join(FIRST_KEY);
        let text = fs::read_to_string(&file).unwrap();
        let cut = &text[..text.find("-----END").unwrap()];
        for (text, block) in [(cut.to_owned(), "block 1"), (format!("{text}{cut}"), "block 2")] {
            fs::write(&file, text).unwrap();
            let error = KeyRing::open(dir.path(), Clock::system()).unwrap_err().to_string();
            assert!(error.contains(FIRST_KEY) && error.contains(block), "{error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn symbolic_link_that_leads_nowhere_is_refused_by_its_name() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("missing", dir.path().join("link.pem")).unwrap();
        let error = KeyRing::open(dir.path(), Clock::system()).unwrap_err().to_string();
        assert!(error.contains("token.key_dir") && error.contains("link.pem"), "{error}");
    }

    #[test]
    fn pem_file_without_a_key_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("notes.pem"), "hello").unwrap();
        let error = KeyRing::open(dir.path(), Clock::system()).unwrap_err().to_string();
        assert!(error.contains("token.key_dir") && error.contains("notes.pem"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn secret_that_others_may_write_is_refused_and_one_they_may_only_read_is_used() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let ring = KeyRing::open(dir.path(), Clock::system()).unwrap();
        open_code_secret(dir.path()).unwrap();
        for name in [FIRST_KEY, CODE_SECRET] {
            for (mode, is_used) in [
                (0o600, true),
                (0o400, true),
                (0o640, true),
                (0o644, true),
                (0o620, false),
                (0o602, false),
                (0o666, false),
            ] {
                fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
                let opened = KeyRing::open(dir.path(), Clock::system()).map(drop);
                let opened = opened.and_then(|()| read_code_secret(dir.path()).map(drop));
                assert_eq!(opened.is_ok(), is_used, "{name} {mode:o}");
                if let Err(error) = opened {
                    let text = error.to_string();
                    for part in ["token.key_dir", name, &format!("mode {mode:o}"), "chmod 600"] {
                        assert!(text.contains(part), "'{part}' is missing in: {text}");
                    }
                }
                assert_eq!(ring.refresh().is_ok(), is_used || name == CODE_SECRET, "while the server runs");
            }
            fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    #[test]
    fn pem_file_with_a_second_key_is_refused_and_a_byte_order_mark_is_skipped() {
        let dir = tempfile::tempdir().unwrap();
        let kid = KeyRing::open(dir.path(), Clock::system()).unwrap().signing();
        let file = dir.path().join(FIRST_KEY);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, format!("\u{FEFF}{text}")).unwrap();
        assert_eq!(KeyRing::open(dir.path(), Clock::system()).unwrap().signing(), kid);
        let public = pem::encode(&pem::Pem::new("PUBLIC KEY", *b"key"));
        for second in [text.as_str(), &public] {
            fs::write(&file, format!("{text}{second}")).unwrap();
            let error = KeyRing::open(dir.path(), Clock::system()).unwrap_err().to_string();
            assert!(error.contains(FIRST_KEY) && error.contains("2 PEM blocks"), "{error}");
        }
    }

    #[test]
    fn thumbprint_matches_rfc_8037_appendix_a_3() {
        let seed = URL_SAFE_NO_PAD.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
        let key = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        assert_eq!(thumbprint(&key), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }
}
