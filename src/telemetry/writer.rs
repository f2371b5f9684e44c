//! Output of lines through a thread of its own, which writes many lines at a time. A thread that writes a line never
//! waits for the reader of the output, and needs no system call under load.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tracing_subscriber::fmt::MakeWriter;

use super::{LogFormat, line};

/// Maximum length of all pending lines, in bytes. Further lines are dropped and counted.
const MAX_PENDING_BYTES: usize = 4 * 1024 * 1024;
/// Capacity that the writer's buffer keeps after a write, in bytes.
const KEPT_BYTES: usize = 64 * 1024;
/// Time for which the writer waits for more lines after the first one.
const GATHER_TIME: Duration = Duration::from_millis(20);
/// Maximum time that the end of the program is delayed by a slow reader of its output.
const MAX_STOP_DELAY: Duration = Duration::from_secs(1);

#[derive(Default)]
struct PendingLines {
    bytes: Vec<u8>,
    lost_lines: u64,
    is_stopping: bool,
    has_stopped: bool,
}

#[derive(Default)]
struct QueueState {
    pending: Mutex<PendingLines>,
    changed: Condvar,
}

/// The queue of lines for the writer thread. Clones share it. Lines of the default value have no writer thread, and are
/// never written.
#[derive(Clone, Default)]
pub struct LineQueue(Arc<QueueState>);

/// A guard of the writer thread. When it is dropped, the thread writes the pending lines and ends. The drop waits at
/// most a second for that.
pub struct WriterThread(LineQueue);

impl WriterThread {
    /// Starts a thread of this name that writes to `output`. `format` is the format of the line with the number of lost
    /// lines.
    ///
    /// # Errors
    /// Returns an error if the thread cannot be created.
    pub fn start(name: &str, output: impl Write + Send + 'static, format: LogFormat) -> io::Result<(LineQueue, Self)> {
        let lines = LineQueue::default();
        let (writing, thread) = (Self(lines.clone()), std::thread::Builder::new().name(name.to_owned()));
        let queue = lines.clone();
        thread.spawn(move || queue.run_writer(output, format))?;
        Ok((lines, writing))
    }
}

impl LineQueue {
    /// Counts a line that could not be formatted.
    pub(super) fn count_lost_line(&self) {
        self.0.pending.lock().lost_lines += 1;
        self.0.changed.notify_all();
    }

    /// Runs the writer thread until the guard is dropped.
    fn run_writer(&self, output: impl Write, format: LogFormat) {
        let mut out = LineOutput { output, format, bytes: Vec::new(), is_mid_line: false, lost_lines: 0 };
        loop {
            let mut pending = self.0.pending.lock();
            while pending.bytes.is_empty() && pending.lost_lines == 0 && !pending.is_stopping {
                self.0.changed.wait(&mut pending);
            }
            if !pending.is_stopping {
                self.0.changed.wait_while_for(&mut pending, |pending| !pending.is_stopping, GATHER_TIME);
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
                self.0.pending.lock().has_stopped = true;
                self.0.changed.notify_all();
                return;
            }
        }
    }
}

/// The output of the writer thread, and the lines that it has taken from the queue.
struct LineOutput<O> {
    output: O,
    format: LogFormat,
    /// Bytes to be written: whole lines, of which the first may lack a part that has been written.
    bytes: Vec<u8>,
    /// Whether a part of the first line has been written.
    is_mid_line: bool,
    /// Number of lines that were lost since the last notice was written.
    lost_lines: u64,
}

impl<O: Write> LineOutput<O> {
    /// Writes all lines, and then a notice with the number of lost lines, if there are any.
    ///
    /// If the output fails, lines of which nothing was written count as lost. The rest of a line that was written in
    /// part is kept, because the next line would otherwise continue it.
    fn write(&mut self) {
        let notice = self.bytes.len();
        if self.lost_lines > 0 {
            self.bytes.extend_from_slice(line::lost(self.format, self.lost_lines).as_bytes());
        }
        let written = self.write_some();
        if written == self.bytes.len() {
            // A failure cannot be reported anywhere, because this is the log.
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
            // The notice was written in part, and its rest is kept.
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

    /// Writes until everything is written or the output fails. Returns the number of bytes that were written.
    fn write_some(&mut self) -> usize {
        let mut written = 0;
        while written < self.bytes.len() {
            match self.output.write(&self.bytes[written..]) {
                Ok(0) => break,
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares the output has made it non-blocking, and the reader is slow.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(GATHER_TIME),
                Err(_) => break,
            }
        }
        written
    }
}

impl Write for LineQueue {
    /// Queues one whole line, as `tracing-subscriber` writes it in one call. Never fails and never blocks on the
    /// output.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut pending = self.0.pending.lock();
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

impl<'a> MakeWriter<'a> for LineQueue {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for WriterThread {
    fn drop(&mut self) {
        let Self(lines) = self;
        let mut pending = lines.0.pending.lock();
        pending.is_stopping = true;
        lines.0.changed.notify_all();
        // A reader that does not read must not keep the program from ending. The thread then ends with the process.
        lines.0.changed.wait_while_for(&mut pending, |pending| !pending.has_stopped, MAX_STOP_DELAY);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// An output that takes bytes when the sender of its channel sends a message or is dropped.
    struct GatedOutput(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for GatedOutput {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn blocked_reader_delays_neither_writers_nor_the_end_of_the_program() {
        let (open, opened) = mpsc::channel();
        let out = Arc::default();
        let (mut lines, writing) =
            WriterThread::start("test", GatedOutput(opened, Arc::clone(&out)), LogFormat::Text).unwrap();
        let line = [b'x'; 1024];
        for _ in 0..2 * MAX_PENDING_BYTES / line.len() {
            lines.write_all(&line).unwrap();
        }
        drop(writing);
        assert!(out.lock().is_empty());
        drop(open);
    }

    #[test]
    fn pending_lines_are_written_in_order_before_the_notice_of_lost_lines() {
        let (_, opened) = mpsc::channel();
        let out = Arc::default();
        let (mut lines, writing) =
            WriterThread::start("test", GatedOutput(opened, Arc::clone(&out)), LogFormat::Text).unwrap();
        lines.0.pending.lock().lost_lines = 3;
        lines.write_all(b"one\n").unwrap();
        lines.write_all(b"two\n").unwrap();
        drop(writing);
        let text = String::from_utf8(out.lock().clone()).unwrap();
        assert_eq!(text, "one\ntwo\n(3 log lines were lost: they were not read, or could not be written)\n");
    }

    /// An output that takes `room` bytes and then fails.
    #[derive(Default)]
    struct LimitedOutput {
        room: usize,
        taken: Vec<u8>,
    }

    impl Write for LimitedOutput {
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
    fn failing_output_splits_no_line_and_every_lost_line_is_counted() {
        for format in [LogFormat::Text, LogFormat::Json] {
            for room in 0..80 {
                let output = LimitedOutput { room, ..LimitedOutput::default() };
                let mut out = LineOutput { output, format, bytes: Vec::new(), is_mid_line: false, lost_lines: 1 };
                // Depending on `room`, the output fails in one of the first writes, in a later one, or never.
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
