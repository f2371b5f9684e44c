//! The machine of a history: the rows of its database, the faults that are to come, and its disk, which may be slow.

use std::collections::HashMap;

use parking_lot::{Condvar, Mutex};

use crate::session::{Session, SessionKey};

/// A lock of the database that another process holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ForeignLock {
    #[default]
    Nothing,
    Writing,
    Everything,
}

/// The state that survives a restart, and the next faults.
#[derive(Default)]
pub(super) struct DatabaseState {
    pub(super) rows: HashMap<SessionKey, ModelRow>,
    pub(super) foreign: ForeignLock,
    /// Whether the next commit fails.
    pub(super) fails_commit: bool,
    /// Whether the next statement fails, and its transaction with it.
    pub(super) fails_statement: bool,
    /// Whether the next statement panics.
    pub(super) panics: bool,
    /// Whether another process has committed since the last query for undelivered changes.
    pub(super) has_foreign_commits: bool,
}

#[derive(Debug, Clone)]
pub(super) struct ModelRow {
    pub(super) session: Session,
    /// Number of the session's connections, if the store numbers them.
    pub(super) attachment: u32,
}

/// The disk, and a gate at which commits wait while the disk is slow.
#[derive(Default)]
pub(super) struct Machine {
    pub(super) disk: Mutex<DatabaseState>,
    gate: Mutex<Gate>,
    changed: Condvar,
}

#[derive(Default)]
struct Gate {
    is_slow: bool,
    /// Whether a commit waits at the gate.
    is_waiting: bool,
}

impl Machine {
    pub(super) fn set_slow(&self, is_slow: bool) {
        self.gate.lock().is_slow = is_slow;
        self.changed.notify_all();
    }

    /// Returns whether a commit waits for the disk.
    pub(super) fn holds_commit(&self) -> bool {
        self.gate.lock().is_waiting
    }

    pub(super) fn wait_while_slow(&self) {
        let mut gate = self.gate.lock();
        while gate.is_slow {
            gate.is_waiting = true;
            self.changed.wait(&mut gate);
        }
        gate.is_waiting = false;
    }
}
