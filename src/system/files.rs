//! The limit on open files, which is also the limit on sockets.

/// Raises the soft limit on open files to the hard limit. Returns the limit that then applies, or `None` if there is
/// none.
///
/// On Linux, services often start with a soft limit of 1,024 and a hard limit of half a million.
#[cfg(unix)]
#[must_use]
pub fn raise_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // If the system refuses, the old limit stays in force, and is returned below.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
    getrlimit(Resource::Nofile).current
}

/// Returns `None`, because this system has no such limit.
#[cfg(not(unix))]
#[must_use]
pub const fn raise_limit() -> Option<u64> {
    None
}
