//! Memory and processor time of a process on this machine, from procfs.

use std::fs;

/// The memory and processor time of a process at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Usage {
    /// Resident memory of the process, in KiB.
    pub(super) resident: u64,
    /// Memory of the whole kernel, in KiB: unreclaimable slab, and the buffers of TCP sockets.
    pub(super) kernel: u64,
    /// Processor time of the process so far, in user and kernel mode, in nanoseconds.
    pub(super) cpu_nanos: u64,
}

impl Usage {
    /// Measures the process of this id.
    ///
    /// # Errors
    /// Returns a description if the process does not exist, has no resident memory, or cannot be inspected.
    pub(super) fn of(pid: u32) -> Result<Self, String> {
        let read = |path: String| fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"));
        let status = read(format!("/proc/{pid}/status"))?;
        let resident = number(&status, "VmRSS:").ok_or_else(|| format!("{pid} has no memory of its own"))?;
        let kernel =
            kernel_kib(&read("/proc/meminfo".to_owned())?, &read("/proc/net/sockstat".to_owned())?, page_kib());
        let cpu_nanos = cpu_nanos(&read(format!("/proc/{pid}/stat"))?).unwrap_or(0);
        Ok(Self { resident, kernel, cpu_nanos })
    }
}

/// Returns the memory of the whole kernel, in KiB. `sockstat` counts the buffers of TCP sockets in pages.
fn kernel_kib(meminfo: &str, sockstat: &str, page_kib: u64) -> u64 {
    let slab = number(meminfo, "SUnreclaim:").unwrap_or(0);
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:"));
    slab + tcp.and_then(|line| number(line, "mem")).unwrap_or(0) * page_kib
}

/// Returns the size of a page of memory, in KiB.
#[cfg(unix)]
fn page_kib() -> u64 {
    rustix::param::page_size() as u64 / 1024
}

#[cfg(not(unix))]
const fn page_kib() -> u64 {
    4
}

/// Returns the sum of `utime` and `stime` of proc_pid_stat(5), in nanoseconds. The fields are found after the process's
/// name, which is in parentheses and may contain spaces and parentheses itself.
fn cpu_nanos(stat: &str) -> Option<u64> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()?.checked_add(fields.get(12)?.parse().ok()?)?;
    Some(ticks.checked_mul(1_000_000_000)? / ticks_per_second())
}

#[cfg(unix)]
fn ticks_per_second() -> u64 {
    rustix::param::clock_ticks_per_second()
}

#[cfg(not(unix))]
const fn ticks_per_second() -> u64 {
    100
}

/// Returns the number that follows this word.
fn number(text: &str, word: &str) -> Option<u64> {
    text.split_whitespace().skip_while(|found| *found != word).nth(1)?.parse().ok()
}

/// Raises the limit on open files of this process to its maximum. Returns the limit that then applies, or `u64::MAX` if
/// there is none.
#[cfg(unix)]
pub(super) fn open_files_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If the system refuses, the old limit stays in force, and is returned below.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns `u64::MAX`, because this system has no such limit.
#[cfg(not(unix))]
pub(super) const fn open_files_limit() -> u64 {
    u64::MAX
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    #[test]
    fn usage_includes_memory_that_the_process_allocates() {
        // `tail` keeps the last 64 MiB of its input in memory until the input ends.
        let mut child = Command::new("tail").args(["-c", "67108864"]).stdin(Stdio::piped()).spawn().unwrap();
        let before = Usage::of(child.id()).unwrap().resident;
        child.stdin.as_mut().unwrap().write_all(&vec![0; 64 << 20]).unwrap();
        let taken_kib = Usage::of(child.id()).unwrap().resident - before;
        child.kill().unwrap();
        child.wait().unwrap();
        assert!((63 << 10..80 << 10).contains(&taken_kib), "64 MiB: {taken_kib} KiB");
        assert!(Usage::of(u32::MAX).is_err());
    }

    #[test]
    fn usage_includes_processor_time_of_the_process() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let (started, mut worked) = (Instant::now(), 0);
        // One thread gets at most one processor's time, and less on a busy machine.
        while worked < 300_000_000 {
            assert!(started.elapsed().as_secs() < 30, "{worked} ns");
            worked = Usage::of(child.id()).unwrap().cpu_nanos;
        }
        let passed = started.elapsed();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(passed.as_millis() >= 280, "300 ms of work in {passed:?}");
    }

    #[test]
    fn processor_time_is_parsed_after_a_name_with_parentheses() {
        let stat = "7 (a ) name) S 1 7 7 0 -1 4194560 1 2 3 4 120 30 5 6 20 0 1 0 1 2 3";
        assert_eq!(cpu_nanos(stat), Some(150 * 1_000_000_000 / ticks_per_second()));
        assert_eq!(number("VmRSS:    123 kB\nVmX: 4", "VmRSS:"), Some(123));
        assert_eq!(number("VmX: 4", "VmRSS:"), None);
    }

    #[test]
    fn kernel_memory_counts_socket_buffers_in_pages_of_the_system() {
        let sockstat = "sockets: used 9\nTCP: inuse 5 orphan 0 tw 0 alloc 7 mem 3\nUDP: inuse 1 mem 100\n";
        for (page_kib, expected) in [(4, 512), (16, 548), (64, 692)] {
            assert_eq!(kernel_kib("SUnreclaim:   500 kB", sockstat, page_kib), expected);
        }
        assert_eq!(kernel_kib("", "", 4), 0);
    }
}
