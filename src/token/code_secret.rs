//! The secret of the codes, which all nodes share: a file beside the signing keys.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::key_dir::{KeyError, create_file, read_private, warn_of_exposed};
use crate::session::CodeSecret;
use crate::system::random;

/// Name of the file with the [`CodeSecret`].
pub(super) const CODE_SECRET: &str = "codes.key";

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
    create_file(dir, CODE_SECRET, text.as_bytes())?;
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

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
}
