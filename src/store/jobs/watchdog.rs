//! Keeps the runtime responsive while a job blocks one of its threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;
use std::time::Duration;

use tokio::runtime::Handle;

/// Time between two checks for a long job.
const PERIOD: Duration = Duration::from_millis(10);
/// Number of checks without a batch after which the watchdog sleeps until the next batch. It is small, because an idle
/// server has a batch every 1.5 seconds, and the thread should sleep in between.
const IDLE_CHECKS: u32 = 3;

/// Detects batches that take long.
///
/// A job runs on a thread of the runtime. While the disk blocks that thread, it can happen that no other thread of the
/// runtime polls for I/O, because an idle thread is only woken for a task that is ready. So the watchdog's thread checks
/// every few milliseconds whether the same batch still runs, and then spawns an empty task to wake a thread of the
/// runtime.
#[derive(Default)]
pub(super) struct Watchdog {
    /// Number of begins and ends of batches. It is odd while a batch runs.
    batches: AtomicU64,
    /// Whether the watchdog's thread sleeps until the next batch.
    is_parked: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Watchdog {
    /// Records that a batch begins, and wakes the watchdog's thread if it sleeps.
    pub(super) fn begin(&self) {
        self.batches.fetch_add(1, Ordering::SeqCst);
        if self.is_parked.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Records that a batch has ended.
    pub(super) fn end(&self) {
        self.batches.fetch_add(1, Ordering::SeqCst);
    }

    /// Wakes the watchdog's thread.
    pub(super) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Checks for long batches until `is_closed` returns true. Call this on a thread of its own.
    pub(super) fn run(&self, runtime: &Handle, is_closed: impl Fn() -> bool) {
        drop(self.thread.set(std::thread::current()));
        let (mut seen, mut idle_checks) = (0, 0);
        while !is_closed() {
            std::thread::sleep(PERIOD);
            let now = self.batches.load(Ordering::SeqCst);
            let is_running = now % 2 == 1;
            if is_running && now == seen {
                drop(runtime.spawn(std::future::ready(())));
            }
            idle_checks = if now == seen && !is_running { idle_checks + 1 } else { 0 };
            seen = now;
            if idle_checks >= IDLE_CHECKS {
                idle_checks = 0;
                self.is_parked.store(true, Ordering::SeqCst);
                // Check once more: a batch that began before `is_parked` was set does not wake this thread.
                if self.batches.load(Ordering::SeqCst) == now && !is_closed() {
                    std::thread::park();
                }
                self.is_parked.store(false, Ordering::SeqCst);
            }
        }
    }
}
