//! The file of an SQLite database: the lock that gives it to one process, and checks that it is still the file that was
//! opened.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::secret::shown_path;

/// Suffix of the lock file, which holds the id of the process that has the lock.
const LOCK_SUFFIX: &str = "-lock";
/// Suffixes of the files of the database, of which the first is the database itself.
const OWN_SUFFIXES: [&str; 3] = ["", "-wal", "-shm"];

/// Creates the database file with mode 0600, because it holds names and addresses. SQLite gives its `-wal` and `-shm`
/// files the same mode. An existing file is not opened: closing it would release SQLite's locks on it if another store
/// of this process has it open.
pub(super) fn create_private_file(path: &Path) -> io::Result<()> {
    if path.try_exists()? {
        return if path.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { Ok(()) };
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// An exclusive lock on the database, which the system releases when the process ends (flock(2)). It locks the lock
/// file, and where possible the database itself, which another path to the same file (a hard link) cannot circumvent.
#[derive(Debug)]
pub(super) struct DatabaseLock {
    file: File,
    /// Must be closed after SQLite has closed the database, because closing any descriptor of a file releases SQLite's
    /// locks on it (fcntl(2)).
    _database: Option<File>,
}

/// The lock is held by another process.
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

/// The reason for which an open database is not usable any more.
#[derive(Debug, Error)]
pub(super) enum DatabaseFileError {
    #[error("the database file '{}' has been deleted; changes stored now are lost when the server ends", shown_path(.0))]
    Deleted(PathBuf),
    #[error("the database file '{}' has been replaced; changes stored now are lost when the server ends", shown_path(.0))]
    Replaced(PathBuf),
    #[error("the database file '{}' is read-only", shown_path(.0))]
    ReadOnly(PathBuf),
    #[error("the database file '{}' cannot be written: {}", shown_path(.0), .1)]
    Unwritable(PathBuf, Box<dyn std::error::Error + Send + Sync>),
    #[error("the database file '{}' cannot be checked: {}", shown_path(.0), .1)]
    Unknown(PathBuf, io::Error),
}

/// The files of a database, as they were when it was opened.
#[derive(Debug)]
pub(super) struct DatabaseFiles {
    database: PathBuf,
    files: Vec<OpenedFile>,
}

/// A file, as it was when the database was opened.
#[derive(Debug)]
struct OpenedFile {
    path: PathBuf,
    /// Path for messages.
    shown: PathBuf,
    identity: Identity,
}

/// Device and inode of a file. `None` on systems without them.
type Identity = Option<(u64, u64)>;

impl DatabaseLock {
    /// Locks the database at this path, which must exist and contain no symbolic link.
    ///
    /// # Errors
    /// Another process has the lock ([`InUse`]), or the lock file cannot be created.
    pub(super) fn take(database: &Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let path = with_suffix(database, LOCK_SUFFIX);
        let mut file = open_lock_file(&path).map_err(|error| format!("{}: {error}", shown_path(&path)))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut process = String::new();
                // Empty if the other process has not written its id yet.
                drop(file.read_to_string(&mut process));
                let process = if process.is_empty() { "(unknown)".to_owned() } else { process.trim().to_owned() };
                return Err(InUse::ByProcess(process).into());
            }
            Err(TryLockError::Error(error)) => return Err(format!("{}: {error}", shown_path(&path)).into()),
        }
        let database = lock_inode(database)?;
        file.set_len(0)?;
        let mut lock = Self { file, _database: database };
        lock.renew()?;
        Ok(lock)
    }

    /// Writes the process id to the lock file. This also tests whether the file system of the database can be written.
    ///
    /// # Errors
    /// The write failed.
    pub(super) fn renew(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        self.file.write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

/// Opens or creates the lock file. Its content is overwritten, so a link to another file is refused.
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

/// Locks the database file itself, by its inode. Returns `None` where that is not possible: on network file systems,
/// where flock(2) conflicts with the byte-range locks of SQLite, and on file systems without flock(2). On local file
/// systems Linux keeps the two kinds of locks apart.
#[cfg(target_os = "linux")]
fn lock_inode(database: &Path) -> Result<Option<File>, Box<dyn std::error::Error + Send + Sync>> {
    /// Magic numbers of statfs(2) for NFS, CIFS, SMB, SMB2, AFS and 9P.
    const NETWORK: [u32; 6] = [0x6969, 0xFF53_4D42, 0x517B, 0xFE53_4D42, 0x5346_414F, 0x0102_1997];
    let file = OpenOptions::new().read(true).write(true).open(database)?;
    let kind = rustix::fs::fstatfs(&file)?.f_type;
    if u32::try_from(kind).is_ok_and(|kind| NETWORK.contains(&kind)) {
        return Ok(None);
    }
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(InUse::ByAnotherPath.into()),
        // The file system does not support flock(2).
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

#[cfg(not(target_os = "linux"))]
fn lock_inode(_: &Path) -> Result<Option<File>, Box<dyn std::error::Error + Send + Sync>> {
    Ok(None)
}

impl DatabaseFiles {
    /// Records the files of an open database. `given` is the path from the settings, and `database` is that path with
    /// symbolic links resolved.
    ///
    /// # Errors
    /// The metadata of a file cannot be read.
    pub(super) fn of(given: &Path, database: &Path) -> io::Result<Self> {
        // Messages show the path from the settings, unless it contains a symbolic link.
        let is_link = std::path::absolute(given)? != database;
        let shown = if is_link { database } else { given };
        let mut files = Vec::new();
        for suffix in OWN_SUFFIXES {
            let path = with_suffix(database, suffix);
            match std::fs::metadata(&path) {
                Ok(metadata) => {
                    files.push(OpenedFile { path, shown: with_suffix(shown, suffix), identity: identity(&metadata) })
                }
                // The database does not use this file.
                Err(error) if error.kind() == io::ErrorKind::NotFound && !suffix.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        if is_link {
            // If the link is changed, the next start would open another file.
            let identity = identity(&std::fs::metadata(given)?);
            files.push(OpenedFile { path: given.to_owned(), shown: given.to_owned(), identity });
        }
        Ok(Self { database: shown.to_owned(), files })
    }

    /// Checks that the files exist, are the same, and are not read-only by their mode.
    pub(super) fn check(&self) -> Result<(), DatabaseFileError> {
        for OpenedFile { path, shown, identity: known } in &self.files {
            let metadata = match std::fs::metadata(path) {
                Ok(metadata) => metadata,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(DatabaseFileError::Deleted(shown.clone()));
                }
                Err(error) => return Err(DatabaseFileError::Unknown(shown.clone(), error)),
            };
            if identity(&metadata) != *known {
                return Err(DatabaseFileError::Replaced(shown.clone()));
            }
            if metadata.permissions().readonly() {
                return Err(DatabaseFileError::ReadOnly(shown.clone()));
            }
        }
        Ok(())
    }

    /// Returns the error for a failed write.
    pub(super) fn unwritable(&self, error: Box<dyn std::error::Error + Send + Sync>) -> DatabaseFileError {
        DatabaseFileError::Unwritable(self.database.clone(), error)
    }
}

/// Appends a suffix to the file name.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have no inodes, so the type is optional")]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt as _;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
const fn identity(_: &Metadata) -> Identity {
    None
}

/// Returns the number of hard links of a file.
#[cfg(unix)]
fn links(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::nlink(metadata)
}

#[cfg(not(unix))]
const fn links(_: &Metadata) -> u64 {
    1
}
