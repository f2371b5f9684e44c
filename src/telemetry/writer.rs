//! Lines of output, written by a thread of their own, many at once: a thread that writes a line never waits for the
//! reader of the output, and under load a line costs no system call.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

use super::{LogFormat, line};

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
    /// Writes to `output` from a thread of this name. `format` is the form of the line that says how many lines were
    /// lost.
    ///
    /// # Errors
    /// The system gives us no thread.
    pub fn start(name: &str, output: impl Write + Send + 'static, format: LogFormat) -> io::Result<(Lines, Self)> {
        let lines = Lines::default();
        let (writing, thread) = (Self(lines.clone()), std::thread::Builder::new().name(name.to_owned()));
        let theirs = lines.clone();
        thread.spawn(move || theirs.write_out(output, format))?;
        Ok((lines, writing))
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.0.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a line that could not be made.
    pub(super) fn lose_one(&self) {
        self.lock().lost_lines += 1;
        self.0.changed.notify_all();
    }

    fn write_out(&self, output: impl Write, format: LogFormat) {
        let mut out = Outgoing { output, format, bytes: Vec::new(), is_mid_line: false, lost_lines: 0 };
        loop {
            let mut pending = self.lock();
            while pending.bytes.is_empty() && pending.lost_lines == 0 && !pending.is_stopping {
                pending = self.0.changed.wait(pending).unwrap_or_else(PoisonError::into_inner);
            }
            if !pending.is_stopping {
                let gathered = self.0.changed.wait_timeout_while(pending, GATHERING, |pending| !pending.is_stopping);
                pending = gathered.unwrap_or_else(PoisonError::into_inner).0;
            }
            if out.bytes.is_empty() {
                std::mem::swap(&mut out.bytes, &mut pending.bytes);
            } else {
                out.bytes.append(&mut pending.bytes);
            }
            out.lost_lines += std::mem::take(&mut pending.lost_lines);
            let is_stopping = pending.is_stopping;
            drop(pending);
            out.write();
            if is_stopping {
                self.lock().has_stopped = true;
                self.0.changed.notify_all();
                return;
            }
        }
    }
}

/// The output, and what is on its way to it.
struct Outgoing<O> {
    output: O,
    format: LogFormat,
    /// Whole lines, except that the first may be the rest of one.
    bytes: Vec<u8>,
    /// Whether the output has taken a part of the first line.
    is_mid_line: bool,
    /// Number of lines that were lost since the output was last told.
    lost_lines: u64,
}

impl<O: Write> Outgoing<O> {
    /// Writes all lines, and how many were lost before them. Of those that the output does not take, counts the whole
    /// ones as lost, and keeps the rest of one that has been begun: else the next line would be a part of it.
    fn write(&mut self) {
        let notice = self.bytes.len();
        if self.lost_lines > 0 {
            self.bytes.extend_from_slice(line::lost(self.format, self.lost_lines).as_bytes());
        }
        let written = self.write_some();
        if written == self.bytes.len() {
            // There is no other place to report a failure of this.
            drop(self.output.flush());
            self.bytes.clear();
            self.bytes.shrink_to(KEPT_BYTES);
            (self.is_mid_line, self.lost_lines) = (false, 0);
            return;
        }
        let is_mid_line = if written == 0 { self.is_mid_line } else { self.bytes[written - 1] != b'\n' };
        let kept = if is_mid_line {
            let rest = self.bytes[written..].iter().position(|byte| *byte == b'\n');
            rest.map_or(self.bytes.len(), |end| written + end + 1)
        } else {
            written
        };
        if kept > notice {
            // The notice has been begun, and is kept.
            self.lost_lines = 0;
        } else {
            let lost = self.bytes[kept..notice].iter().filter(|byte| **byte == b'\n').count();
            self.lost_lines += u64::try_from(lost).unwrap_or(u64::MAX);
        }
        self.bytes.truncate(kept);
        self.bytes.drain(..written);
        self.bytes.shrink_to(KEPT_BYTES);
        self.is_mid_line = is_mid_line;
    }

    /// Writes until the output fails. Returns the number of bytes that it took.
    fn write_some(&mut self) -> usize {
        let mut written = 0;
        while written < self.bytes.len() {
            match self.output.write(&self.bytes[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process has made the output non-blocking, and its reader is slow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(GATHERING),
                Err(_) => break,
            }
        }
        written
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
        let (mut lines, writing) = Writing::start("test", Pipe(read, Arc::clone(&out)), LogFormat::Text).unwrap();
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
        let (mut lines, writing) = Writing::start("test", Pipe(read, Arc::clone(&out)), LogFormat::Text).unwrap();
        lines.lock().lost_lines = 3;
        lines.write_all(b"one\n").unwrap();
        lines.write_all(b"two\n").unwrap();
        drop(writing);
        let text = String::from_utf8(out.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "one\ntwo\n(3 log lines were lost: they were not read, or could not be written)\n");
    }

    /// An output that takes `room` bytes, and then fails.
    #[derive(Default)]
    struct Disk {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            if taken == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= taken;
            self.taken.extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn failing_output_tears_no_line_and_loses_none_uncounted() {
        for format in [LogFormat::Text, LogFormat::Json] {
            for room in 0..80 {
                let output = Disk { room, ..Disk::default() };
                let mut out = Outgoing { output, format, bytes: Vec::new(), is_mid_line: false, lost_lines: 1 };
                // The output fails in one of the first writes, the next ones, or in neither.
                for room in [0, room / 2, 0, 1000] {
                    for number in 0..3 {
                        out.bytes.extend_from_slice(format!("{{\"line\":{number}}}\n").as_bytes());
                    }
                    out.write();
                    out.output.room += room;
                }
                out.write();
                let (mut written, mut lost) = (0, 0);
                for line in std::str::from_utf8(&out.output.taken).unwrap().lines() {
                    match (serde_json::from_str::<serde_json::Value>(line), format) {
                        (Ok(line), _) if line["event"] == "log_lines_lost" => lost += line["lines"].as_u64().unwrap(),
                        (Ok(line), _) if line["line"].is_u64() => written += 1,
                        (Err(_), LogFormat::Text) if line.ends_with("could not be written)") => {
                            lost += line[1..].split(' ').next().unwrap().parse::<u64>().unwrap();
                        }
                        _ => panic!("{format:?}, room for {room} bytes: {line}"),
                    }
                }
                assert_eq!(written + lost, 4 * 3 + 1, "{format:?}, room for {room} bytes");
            }
        }
    }
}
