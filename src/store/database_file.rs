//! The file of an SQLite database: held by one process, and still the file that was opened.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Behind the database's name: the file that is locked, which holds the id of the process that has it.
const LOCK_SUFFIX: &str = "-lock";
/// Behind the database's name: SQLite's own files.
const OWN_SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// A lock on the database, which ends with the process that has it (flock(2)): on the lock's file, and where the system
/// permits on the database itself, so that a second name of the file (a hard link) is no way around it.
#[derive(Debug)]
pub(super) struct DatabaseLock {
    file: File,
    /// Closed after SQLite has closed the database: closing any handle releases SQLite's own locks.
    _database: Option<File>,
}

/// Another process has the database.
#[derive(Debug, Error)]
pub(super) enum InUse {
    #[error("process {0} has it; an SQLite database has one server at a time (for several, use Postgres)")]
    ByProcess(String),
    #[error(
        "another process has it by another path (a hard link, or another mount); an SQLite database has one server at a \
         time (for several, use Postgres)"
    )]
    ByAnotherPath,
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
    known: Vec<Known>,
}

/// A file, as it was when the database was opened.
#[derive(Debug)]
struct Known {
    path: PathBuf,
    /// The path, as messages name it.
    shown: PathBuf,
    identity: Identity,
}

/// The device and inode of a file; nothing where the system has none.
type Identity = Option<(u64, u64)>;

impl DatabaseLock {
    /// Locks the database at this path, which exists and leads through no symbolic link.
    ///
    /// # Errors
    /// Another process has it ([`InUse`]), or the lock's file cannot be made.
    pub(super) fn take(database: &Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let path = with_suffix(database, LOCK_SUFFIX);
        let mut file = open_lock_file(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                // (It may be writing just now.)
                drop(file.read_to_string(&mut process));
                let process = if process.is_empty() { "(unknown)".to_owned() } else { process.trim().to_owned() };
                return Err(InUse::ByProcess(process).into());
            }
            Err(TryLockError::Error(error)) => return Err(format!("{}: {error}", path.display()).into()),
        }
        let database = lock_inode(database)?;
        file.set_len(0)?;
        let mut lock = Self { file, _database: database };
        lock.renew()?;
        Ok(lock)
    }

    /// Writes down whose it is, again: whether the system still writes where the database is.
    ///
    /// # Errors
    /// It does not.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

/// Opens the lock's file, or makes it. Its content is overwritten, so a link to another file is refused.
fn open_lock_file(path: &Path) -> Result<File, Box<dyn std::error::Error + Send + Sync>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600).custom_flags(libc::O_NOFOLLOW);
    }
    let file = options.open(path).map_err(|error| -> Box<dyn std::error::Error + Send + Sync> {
        let is_link = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        if is_link { "is a symbolic link; remove it".into() } else { error.into() }
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err("is not a file; remove it".into());
    }
    if links(&metadata) > 1 {
        return Err("is a hard link; remove it".into());
    }
    Ok(file)
}

/// Locks the database itself, by its device and inode. `None` where that would be in the way of SQLite, which locks ranges
/// of bytes: Linux keeps the two kinds of locks apart, but for network file systems.
#[cfg(target_os = "linux")]
fn lock_inode(database: &Path) -> Result<Option<File>, Box<dyn std::error::Error + Send + Sync>> {
    /// `statfs(2)`: NFS, CIFS, SMB and SMB2, AFS, 9P.
    const NETWORK: [u32; 6] = [0x6969, 0xFF53_4D42, 0x517B, 0xFE53_4D42, 0x5346_414F, 0x0102_1997];
    let file = OpenOptions::new().read(true).write(true).open(database)?;
    let kind = rustix::fs::fstatfs(&file)?.f_type;
    if u32::try_from(kind).is_ok_and(|kind| NETWORK.contains(&kind)) {
        return Ok(None);
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(InUse::ByAnotherPath.into()),
        // A file system without such locks.
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(not(target_os = "linux"))]
fn lock_inode(_: &Path) -> Result<Option<File>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(None)
}

impl DatabaseFiles {
    /// The files of an open database: `given` is the path in the settings, and `database` that to which links lead from
    /// there.
    ///
    /// # Errors
    /// The system does not say what they are.
    pub(super) fn of(given: &Path, database: &Path) -> io::Result<Self> {
        // Messages name the files as the settings do, unless a link leads elsewhere.
        let is_link = std::path::absolute(given)? != database;
        let shown = if is_link { database } else { given };
        let mut known = Vec::new();
        for suffix in OWN_SUFFIXES {
            let path = with_suffix(database, suffix);
            match std::fs::metadata(&path) {
                Ok(metadata) => {
                    known.push(Known { path, shown: with_suffix(shown, suffix), identity: identity(&metadata) })
                }
                // Not in use.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        if is_link {
            // A link that leads elsewhere now: the next start would use another file.
            let identity = identity(&std::fs::metadata(given)?);
            known.push(Known { path: given.to_owned(), shown: given.to_owned(), identity });
        }
        Ok(Self { database: shown.to_owned(), known })
    }

    /// Whether they are still there, the same, and may be written by their mode. (Not whether the system writes them.)
    pub(super) fn check(&self) -> Result<(), Lost> {
        for Known { path, shown, identity: known } in &self.known {
            let metadata = match std::fs::metadata(path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Lost::Deleted(shown.clone())),
                Err(error) => return Err(Lost::Unknown(shown.clone(), error)),
            };
            if identity(&metadata) != *known {
                return Err(Lost::Replaced(shown.clone()));
            }
            if metadata.permissions().readonly() {
                return Err(Lost::ReadOnly(shown.clone()));
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

/// How many names a file has.
#[cfg(unix)]
fn links(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
const fn links(_: &Metadata) -> u64 {
    1
}
