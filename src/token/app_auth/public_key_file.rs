//! The file with the public keys of app tokens (`app_auth.public_key_file`).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use pem::Pem;
use tracing::warn;

use super::AppAuthError;
use super::key::VerifyingKey;
use crate::token::key_file::{mode_of, pem_blocks};

/// Maximum number of keys in a file.
pub(super) const MAX_FILE_KEYS: usize = 16;
/// Mode bit with which others than the owner and the group may write a file.
const OTHERS_WRITE: u32 = 0o002;
/// Mode bit with which the group may write a file.
const GROUP_WRITE: u32 = 0o020;

/// Reads the public keys of a PEM file, one of each block. Logs a file that its group may write.
pub(super) fn read_keys(path: &Path) -> Result<Vec<Arc<VerifyingKey>>, AppAuthError> {
    let failed = |source| AppAuthError::Io { path: path.into(), source };
    let mut file = File::open(path).map_err(failed)?;
    let mode = mode_of(&file.metadata().map_err(failed)?);
    if mode & OTHERS_WRITE != 0 {
        return Err(AppAuthError::Writable { path: path.into(), mode });
    }
    if mode & GROUP_WRITE != 0 {
        let (setting, path) = ("app_auth.public_key_file", path.display());
        let cost = "its group can write it, and so log in as any user; run chmod g-w on it";
        warn!(event = "key of app tokens not private", setting, %path, "{cost}");
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(failed)?;
    let not_a_key = |number| AppAuthError::NotAKey { path: path.into(), number };
    let blocks = pem_blocks(&text).map_err(not_a_key)?;
    if blocks.is_empty() {
        return Err(not_a_key(1));
    }
    if blocks.len() > MAX_FILE_KEYS {
        return Err(AppAuthError::TooManyKeys { path: path.into() });
    }
    let key =
        |(number, block): (usize, &Pem)| VerifyingKey::of_pem(block).map(Arc::new).ok_or_else(|| not_a_key(number));
    (1..).zip(&blocks).map(key).collect()
}
