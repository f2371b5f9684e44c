//! Log lines are written by a thread of their own, many at once: one that logs waits for nobody, least of all for whoever
//! reads the log, and under load a line costs no call of the system.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines beyond this are lost, and the log says how many.
const MAX_PENDING_BYTES: usize = 4 * 1024 * 1024;
/// What is kept of the buffer from one writing to the next.
const KEPT_BYTES: usize = 64 * 1024;
/// Lines that come within this time of the first are written with it.
const GATHERING: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    lost_lines: u64,
    is_stopping: bool,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    arrived: Condvar,
}

/// Where lines are left.
#[derive(Clone, Default)]
pub(super) struct Lines(Arc<Shared>);

/// Writes until it is dropped.
pub(super) struct Writing {
    lines: Lines,
    thread: Option<JoinHandle<()>>,
}

pub(super) fn start() -> (Lines, Writing) {
    let lines = Lines::default();
    let shared = lines.clone();
    let thread = std::thread::Builder::new().name("qrlogin-log".to_owned()).spawn(move || shared.write_out());
    (lines.clone(), Writing { lines, thread: thread.ok() })
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_out(&self) {
        let mut out = Vec::new();
        loop {
            let mut pending = self.lock();
            while pending.bytes.is_empty() && !pending.is_stopping {
                pending = self.0.arrived.wait(pending).unwrap_or_else(PoisonError::into_inner);
            }
            if !pending.is_stopping {
                let gathered = self.0.arrived.wait_timeout_while(pending, GATHERING, |pending| !pending.is_stopping);
                pending = gathered.unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut out, &mut pending.bytes);
            let (lost_lines, is_stopping) = (std::mem::take(&mut pending.lost_lines), pending.is_stopping);
            drop(pending);
            if lost_lines > 0 {
                out.extend_from_slice(format!("({lost_lines} log lines were lost: nobody read them)\n").as_bytes());
            }
            // There is nowhere to say that this failed.
            drop(io::stderr().write_all(&out));
            if is_stopping {
                return;
            }
            out.clear();
            out.shrink_to(KEPT_BYTES);
        }
    }
}

impl Write for Lines {
    /// A whole line, as `tracing-subscriber` writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut pending = self.lock();
        if pending.bytes.len() + line.len() > MAX_PENDING_BYTES {
            pending.lost_lines += 1;
        } else {
            pending.bytes.extend_from_slice(line);
            if pending.bytes.len() == line.len() {
                self.0.arrived.notify_one();
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.lines.lock().is_stopping = true;
        self.lines.0.arrived.notify_all();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
