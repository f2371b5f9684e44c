//! The shared secrets beside the signing keys: that of the codes, and those of the approve page's cookies.

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
/// Name of the file with the secrets of the approve page's cookies.
pub(super) const COOKIE_SECRETS: &str = "cookies.key";

/// A secret: 32 random bytes.
pub type SecretBytes = Zeroizing<[u8; 32]>;

/// Reads the secret of the codes, which all nodes share: 32 random bytes in base64, in a file beside the signing keys.
/// Creates the file if it does not exist.
///
/// # Errors
/// Returns an error if the file cannot be read or created, if it does not hold 32 bytes in base64, or if the group or
/// others may write it.
pub fn open_code_secret(dir: &Path) -> Result<CodeSecret, KeyError> {
    let secrets = open_secrets(dir, CODE_SECRET)?;
    one_of(dir, secrets)
}

/// Reads the secret of the codes, see [`open_code_secret`]. Returns `None` if the file does not exist.
///
/// # Errors
/// Returns an error if the file cannot be read, if it does not hold 32 bytes in base64, or if the group or others may
/// write it.
pub fn read_code_secret(dir: &Path) -> Result<Option<CodeSecret>, KeyError> {
    read_secrets(dir, CODE_SECRET)?.map(|secrets| one_of(dir, secrets)).transpose()
}

/// Reads the secrets of the approve page's cookies, which all nodes share: a line for each, with 32 random bytes in
/// base64, in a file beside the signing keys. Creates the file with one secret if it does not exist.
///
/// The first secret encrypts, and all decrypt, so a new one is added as the first line.
///
/// # Errors
/// Returns an error if the file cannot be read or created, if a line does not hold 32 bytes in base64, or if the group
/// or others may write it.
pub fn open_cookie_secrets(dir: &Path) -> Result<Vec<SecretBytes>, KeyError> {
    open_secrets(dir, COOKIE_SECRETS)
}

/// Checks the file of [`open_cookie_secrets`], if it exists.
///
/// # Errors
/// Returns the errors of [`open_cookie_secrets`]. Creates nothing.
pub fn check_cookie_secrets(dir: &Path) -> Result<(), KeyError> {
    read_secrets(dir, COOKIE_SECRETS).map(drop)
}

fn one_of(dir: &Path, secrets: Vec<SecretBytes>) -> Result<CodeSecret, KeyError> {
    match secrets.as_slice() {
        [secret] => Ok(CodeSecret::new(**secret)),
        _ => Err(KeyError::NotASecret { path: dir.join(CODE_SECRET) }),
    }
}

fn open_secrets(dir: &Path, name: &str) -> Result<Vec<SecretBytes>, KeyError> {
    if let Some(secrets) = read_secrets(dir, name)? {
        return Ok(secrets);
    }
    let text = Zeroizing::new(STANDARD.encode(Zeroizing::new(random::bytes::<32>()).as_slice()) + "\n");
    create_file(dir, name, text.as_bytes())?;
    // Read back, because another node may have created the file first.
    read_secrets(dir, name)?.ok_or_else(|| KeyError::NotASecret { path: dir.join(name) })
}

/// Reads the lines of a file of secrets. Returns `None` if the file does not exist.
fn read_secrets(dir: &Path, name: &str) -> Result<Option<Vec<SecretBytes>>, KeyError> {
    let path = dir.join(name);
    // Behind a link whose target is missing, no file can be created, so the error of reading it is returned.
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound && !path.is_symlink();
    let (text, is_exposed) = match read_private(&path) {
        Err(KeyError::Io { source, .. }) if is_missing(&source) => return Ok(None),
        read => read?,
    };
    if is_exposed {
        warn_of_exposed(&path);
    }
    let secret = |line: &[u8]| {
        let bytes = STANDARD.decode(line.trim_ascii()).map(Zeroizing::new).ok()?;
        <[u8; 32]>::try_from(bytes.as_slice()).ok().map(Zeroizing::new)
    };
    let secrets: Option<Vec<_>> = text.trim_ascii().split(|byte| *byte == b'\n').map(secret).collect();
    secrets.map(Some).ok_or(KeyError::NotASecret { path })
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
