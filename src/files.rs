//! How many files, and so sockets, this process may open.

/// Raises the limit to what the system lets us have (on Linux, services often begin with 1,024 of half a million);
/// `None` where there is none.
#[cfg(unix)]
#[must_use]
pub fn raise_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current < limit.maximum {
        // If the system refuses, what we have is what we had.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    }
    getrlimit(Resource::Nofile).current
}

/// There is none.
#[cfg(not(unix))]
#[must_use]
pub const fn raise_limit() -> Option<u64> {
    None
}
