//! Lines of output, written by a thread of their own, many at once: a thread that writes a line never waits for the
//! reader of the output, and under load a line costs no system call.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines beyond this are dropped, and the output says how many.
const MAX_PENDING_BYTES: usize = 4 * 1024 * 1024;
/// What is kept of the buffer from one writing to the next.
const KEPT_BYTES: usize = 64 * 1024;
/// Lines that come within this time of the first are written with it.
const GATHERING: Duration = Duration::from_millis(20);
/// How long the program waits, when it ends, for a reader of its output.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    lost_lines: u64,
    is_stopping: bool,
    has_stopped: bool,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<Pending>,
    changed: Condvar,
}

/// Takes lines.
#[derive(Clone, Default)]
pub struct Lines(Arc<Shared>);

/// Writes lines until it is dropped; then what has been said by then, if its reader takes it within a second.
pub struct Writing(Lines);

impl Writing {
    /// Writes to `output` from a thread of this name.
    ///
    /// # Errors
    /// The system gives us no thread.
    pub fn start(name: &str, output: impl Write + Send + 'static) -> io::Result<(Lines, Self)> {
        let lines = Lines::default();
        let (writing, thread) = (Self(lines.clone()), std::thread::Builder::new().name(name.to_owned()));
        let theirs = lines.clone();
        thread.spawn(move || theirs.write_out(output))?;
        Ok((lines, writing))
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_out(&self, mut output: impl Write) {
        let mut out = Vec::new();
        loop {
            let mut pending = self.lock();
            while pending.bytes.is_empty() && !pending.is_stopping {
                pending = self.0.changed.wait(pending).unwrap_or_else(PoisonError::into_inner);
            }
            if !pending.is_stopping {
                let gathered = self.0.changed.wait_timeout_while(pending, GATHERING, |pending| !pending.is_stopping);
                pending = gathered.unwrap_or_else(PoisonError::into_inner).0;
            }
            std::mem::swap(&mut out, &mut pending.bytes);
            let (lost_lines, is_stopping) = (std::mem::take(&mut pending.lost_lines), pending.is_stopping);
            drop(pending);
            if lost_lines > 0 {
                out.extend_from_slice(format!("({lost_lines} log lines were lost: nobody read them)\n").as_bytes());
            }
            // There is nowhere to say that this failed.
            drop(output.write_all(&out).and_then(|()| output.flush()));
            if is_stopping {
                self.lock().has_stopped = true;
                self.0.changed.notify_all();
                return;
            }
            out.clear();
            out.shrink_to(KEPT_BYTES);
        }
    }
}

impl Write for Lines {
    /// Takes one whole line, as `tracing-subscriber` writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut pending = self.lock();
        if pending.bytes.len() + line.len() > MAX_PENDING_BYTES {
            pending.lost_lines += 1;
        } else {
            pending.bytes.extend_from_slice(line);
            if pending.bytes.len() == line.len() {
                self.0.changed.notify_all();
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
        let Self(lines) = self;
        let mut pending = lines.lock();
        pending.is_stopping = true;
        lines.0.changed.notify_all();
        // A reader that does not read must not keep the program from ending: then the thread ends with the process.
        drop(lines.0.changed.wait_timeout_while(pending, PATIENCE, |pending| !pending.has_stopped));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output whose reader reads when it is told to.
    struct Pipe(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_does_not_read_neither_while_it_runs_nor_at_its_end() {
        let (reads, read) = mpsc::channel();
        let out = Arc::default();
        let (mut lines, writing) = Writing::start("test", Pipe(read, Arc::clone(&out))).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..2 * MAX_PENDING_BYTES / line.len() {
            lines.write_all(&line).unwrap();
        }
        drop(writing);
        assert!(out.lock().unwrap().is_empty());
        drop(reads);
    }

    #[test]
    fn what_was_said_is_written_in_order_and_how_much_was_dropped() {
        let (_, read) = mpsc::channel();
        let out = Arc::default();
        let (mut lines, writing) = Writing::start("test", Pipe(read, Arc::clone(&out))).unwrap();
        lines.lock().lost_lines = 3;
        lines.write_all(b"one\n").unwrap();
        lines.write_all(b"two\n").unwrap();
        drop(writing);
        let text = String::from_utf8(out.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "one\ntwo\n(3 log lines were lost: nobody read them)\n");
    }
}
