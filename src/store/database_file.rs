//! The file of an SQLite database: held by one process, and still the file that was opened.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Behind the database's name: the file that is locked, which holds the id of the process that has it. (The database
/// itself cannot be: closing any handle of it would release SQLite's own locks.)
const LOCK_SUFFIX: &str = "-lock";
/// Behind the database's name: SQLite's own files.
const OWN_SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// A lock on the database, which ends with the process that has it (flock(2)).
#[derive(Debug)]
pub(super) struct DatabaseLock(File);

/// Another process has the database.
#[derive(Debug, Error)]
#[error("process {process} has it; an SQLite database has one server at a time (for several, use Postgres)")]
pub(super) struct InUse {
    process: String,
}

/// What has happened to a file that is open.
#[derive(Debug, Error)]
pub(super) enum Lost {
    #[error("the database file '{0}' has been deleted; what is stored now is lost when the server ends")]
    Deleted(PathBuf),
    #[error("the database file '{0}' has been replaced; what is stored now is lost when the server ends")]
    Replaced(PathBuf),
    #[error("the database file '{0}' is read-only")]
    ReadOnly(PathBuf),
    #[error("the database file '{0}' cannot be written: {1}")]
    Unwritable(PathBuf, Box<dyn std::error::Error + Send + Sync>),
    #[error("the database file '{0}' cannot be looked at: {1}")]
    Unknown(PathBuf, io::Error),
}

/// The files of a database, as they were when it was opened.
#[derive(Debug)]
pub(super) struct DatabaseFiles {
    database: PathBuf,
    known: Vec<(PathBuf, Identity)>,
}

/// The device and inode of a file; nothing where the system has none.
type Identity = Option<(u64, u64)>;

impl DatabaseLock {
    /// Locks the database at this path, which exists.
    ///
    /// # Errors
    /// Another process has it ([`InUse`]), or the lock's file cannot be made.
    pub(super) fn take(database: &Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        // Whatever links lead to it.
        let path = with_suffix(&database.canonicalize()?, LOCK_SUFFIX);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                // (It may be writing just now.)
                drop(file.read_to_string(&mut process));
                let process = if process.is_empty() { "(unknown)".to_owned() } else { process.trim().to_owned() };
                return Err(InUse { process }.into());
            }
            Err(TryLockError::Error(error)) => return Err(format!("{}: {error}", path.display()).into()),
        }
        file.set_len(0)?;
        let mut lock = Self(file);
        lock.renew()?;
        Ok(lock)
    }

    /// Writes down whose it is, again: whether the system still writes where the database is.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.0.rewind()?;
        self.0.write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

impl DatabaseFiles {
    /// The files of the database at this path, which is open.
    ///
    /// # Errors
    /// The system does not say what they are.
    pub(super) fn of(database: &Path) -> io::Result<Self> {
        let mut known = Vec::new();
        for suffix in OWN_SUFFIXES {
            let path = with_suffix(database, suffix);
            match std::fs::metadata(&path) {
                Ok(metadata) => known.push((path, identity(&metadata))),
                // Not in use.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { database: database.to_owned(), known })
    }

    /// Whether they are still there, the same, and may be written by their mode. (Not whether the system writes them.)
    pub(super) fn check(&self) -> Result<(), Lost> {
        for (path, known) in &self.known {
            let metadata = match std::fs::metadata(path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Lost::Deleted(path.clone())),
                Err(error) => return Err(Lost::Unknown(path.clone(), error)),
            };
            if identity(&metadata) != *known {
                return Err(Lost::Replaced(path.clone()));
            }
            if metadata.permissions().readonly() {
                return Err(Lost::ReadOnly(path.clone()));
            }
        }
        Ok(())
    }

    /// A write has failed with this.
    pub(super) fn unwritable(&self, error: Box<dyn std::error::Error + Send + Sync>) -> Lost {
        Lost::Unwritable(self.database.clone(), error)
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there is none")]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
const fn identity(_: &Metadata) -> Identity {
    None
}
