//! What a process on this machine holds and uses.

use std::fs;

/// At one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// Memory of the process: resident, in KiB.
    pub(super) resident: u64,
    /// Memory of the kernel, on behalf of everybody: unreclaimable slab, and the sockets' buffers, in KiB.
    pub(super) kernel: u64,
    /// Time on a processor so far, in nanoseconds.
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
        let cpu_nanos = cpu_nanos(&read(format!("/proc/{pid}/stat"))?).unwrap_or(0);
        Ok(Self { resident, kernel: slab + pages.unwrap_or(0) * 4, cpu_nanos })
    }
}

/// `utime` and `stime` of proc_pid_stat(5), which come in ticks; the process's name stands in brackets before them.
fn cpu_nanos(stat: &str) -> Option<u64> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some(ticks * 1_000_000_000 / ticks_per_second())
}

#[cfg(unix)]
fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

#[cfg(not(unix))]
const fn ticks_per_second() -> u64 {
    100
}

/// The number that follows this word.
fn number(text: &str, word: &str) -> Option<u64> {
    text.split_whitespace().skip_while(|found| *found != word).nth(1)?.parse().ok()
}

/// Files that this process may open, after asking for as many as it may ask for.
pub(super) fn open_files_limit() -> u64 {
    crate::files::raise_limit().unwrap_or(u64::MAX)
}
