//! What a process on this machine holds and uses.

use std::fs;

/// At one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// Memory of the process: resident, in KiB.
    pub(super) resident: u64,
    /// Memory of the kernel, on behalf of everybody: unreclaimable slab, and the sockets' buffers, in KiB.
    pub(super) kernel: u64,
    /// Time on a processor so far, of the threads that there are now, in nanoseconds.
    pub(super) cpu_nanos: u64,
}

impl Usage {
    /// Of the process of this id, now.
    pub(super) fn of(pid: u32) -> Result<Self, String> {
        let read = |path: String| fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"));
        let status = read(format!("/proc/{pid}/status"))?;
        let resident = number(&status, "VmRSS:").ok_or_else(|| format!("{pid} has no memory of its own"))?;
        let slab = number(&read("/proc/meminfo".to_owned())?, "SUnreclaim:").unwrap_or(0);
        let sockets = read("/proc/net/sockstat".to_owned())?;
        let pages = sockets.lines().find(|line| line.starts_with("TCP:")).and_then(|line| number(line, "mem"));
        let mut cpu_nanos = 0;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_err(|error| error.to_string())?;
        for thread in threads.flatten() {
            // One that has just ended has none.
            let times = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            cpu_nanos += times.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
        }
        Ok(Self { resident, kernel: slab + pages.unwrap_or(0) * 4, cpu_nanos })
    }
}

/// The number that follows this word.
fn number(text: &str, word: &str) -> Option<u64> {
    text.split_whitespace().skip_while(|found| *found != word).nth(1)?.parse().ok()
}

/// Files that this process may open, after asking for as many as it may ask for.
pub(super) fn open_files_limit() -> u64 {
    crate::files::raise_limit().unwrap_or(u64::MAX)
}
