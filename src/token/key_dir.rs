//! The directory of keys, which all nodes share: its key files, and the creation of files that no other user can read.

use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use thiserror::Error;
use tracing::warn;
use zeroize::Zeroizing;

use super::key_file::{mode_of, pem_blocks};
use super::signing_key::{KeyKind, KeyPair};
use crate::secret::shown_path;
use crate::system::random;

/// Key of the setting that names the directory.
pub(super) const SETTING: &str = "token.key_dir";
/// Mode bits with which the group or others may read a file.
const OTHERS_READ: u32 = 0o044;
/// Mode bits with which the group or others may write a file.
const OTHERS_WRITE: u32 = 0o022;

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
    /// A key file does not hold a signing key of its kind.
    #[error("token.key_dir: {}: not {} in PKCS#8 PEM form", shown_path(.path), .kind.description())]
    NotAKey {
        /// Path of the file.
        path: PathBuf,
        /// Kind of the key that the file should hold.
        kind: KeyKind,
    },
    /// A PEM block of a key file is cut off or damaged.
    #[error("token.key_dir: {path}: block {number} is not a complete PEM block; write one whole private key (PKCS#8)")]
    Broken {
        /// Path of the file.
        path: PathBuf,
        /// Number of the PEM block in the file, from 1.
        number: usize,
    },
    /// A key file holds more than one PEM block.
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
    /// A file of secrets does not hold 32 bytes in base64, or has too many lines.
    #[error(
        "token.key_dir: {}: not 32 bytes in base64; remove it, and a new one is made (codes that are shown at that \
         moment can then no longer be scanned, and users of the approve page log in again)",
        shown_path(.path)
    )]
    NotASecret {
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

/// A file of the directory that holds a signing key.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyFile {
    /// Time of the last modification.
    pub(super) modified: SystemTime,
    pub(super) path: PathBuf,
    pub(super) kind: KeyKind,
}

/// Returns the key files of the directory, oldest first. A missing directory has none.
pub(super) fn key_files(dir: &Path) -> Result<Vec<KeyFile>, KeyError> {
    let failed = |source| KeyError::Io { path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let kind = path.extension().and_then(|extension| KeyKind::of_extension(extension.to_str()?));
        if let Some(kind) = kind {
            match fs::metadata(&path).and_then(|file| file.modified()) {
                Ok(modified) => files.push(KeyFile { modified, path, kind }),
                // For example a symbolic link that leads nowhere.
                Err(source) => return Err(KeyError::Io { path, source }),
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Returns the key in a file, and whether the group or others may read the file.
pub(super) fn read_key(path: &Path, kind: KeyKind) -> Result<(KeyPair, bool), KeyError> {
    let (text, is_exposed) = read_private(path)?;
    let not_a_key = || KeyError::NotAKey { path: path.into(), kind };
    let blocks = pem_blocks(&text).map_err(|number| KeyError::Broken { path: path.into(), number })?;
    let [block] = blocks.as_slice() else {
        let blocks = blocks.len();
        return Err(if blocks == 0 { not_a_key() } else { KeyError::SeveralKeys { path: path.into(), blocks } });
    };
    let pair = KeyPair::from_pkcs8(kind, block.contents()).ok_or_else(not_a_key)?;
    Ok((pair, is_exposed))
}

/// Returns the content of a file that holds a secret, and whether the group or others may read the file.
///
/// # Errors
/// Returns [`KeyError::Io`] if the file cannot be read, and [`KeyError::Writable`] if the group or others may write it,
/// because the secret may then be theirs.
pub(super) fn read_private(path: &Path) -> Result<(Zeroizing<Vec<u8>>, bool), KeyError> {
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

/// Logs that the group or other users may read the file of a secret.
pub(super) fn warn_of_exposed(path: &Path) {
    let path = shown_path(path);
    warn!(event = "key not private", setting = SETTING, %path, "other users can read it; make it private with chmod 600");
}

/// Returns whether every user of the system may add files. The group may, because nodes that mount the directory often
/// share it through a group.
pub(super) fn may_others_add_files(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|metadata| mode_of(&metadata) & 0o002 != 0)
}

/// Creates the first key of a kind, unless another node has created it meanwhile.
pub(super) fn create_first_key(dir: &Path, kind: KeyKind) -> Result<(), KeyError> {
    let document = KeyPair::generate_pkcs8(kind).ok_or(KeyError::Generate)?;
    let text = Zeroizing::new(pem::encode(&pem::Pem::new("PRIVATE KEY", document.as_slice())));
    create_file(dir, kind.first_file(), text.as_bytes())
}

/// Creates a file with this content, unless a file of that name exists.
///
/// The content is written to a draft, which is then hard-linked to the name. The link fails if the name exists, so of
/// two nodes that start at the same time one creates the file. No reader sees a partial file.
pub(super) fn create_file(dir: &Path, name: &str, content: &[u8]) -> Result<(), KeyError> {
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
