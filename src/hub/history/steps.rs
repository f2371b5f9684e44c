//! The random events of a history, and the recovery after them.

use super::machine::ForeignLock;
use super::world::History;
use crate::session::State;

impl History<'_> {
    pub(super) fn step(&mut self) -> Result<(), String> {
        let login = self.random.index(self.logins.len());
        let tab = if self.tabs.is_empty() { None } else { Some(self.random.index(self.tabs.len())) };
        let choice = self.random.below(41);
        self.trace.push(format!("{}: {choice} login {login} tab {tab:?}", self.events));
        match choice {
            0..=5 => self.open_tab(login),
            6..=11 => self.decide(login, true),
            12 => self.decide(login, false),
            13..=18 => {
                if let Some(tab) = tab {
                    self.read(tab);
                }
            }
            19 => {
                if let Some(tab) = tab {
                    self.disconnect(tab);
                }
            }
            20..=22 => self.step_store(),
            23 => {
                let foreign =
                    [ForeignLock::Writing, ForeignLock::Writing, ForeignLock::Everything][self.random.index(3)];
                if self.slow.is_none() {
                    self.machine.disk.lock().foreign = foreign;
                }
            }
            24 | 25 => self.machine.disk.lock().foreign = ForeignLock::Nothing,
            26 => {
                self.stall_disk();
                // This is long enough for waiting callers to give up.
                if self.slow.is_some() && self.random.below(2) == 0 {
                    return self.pass(5_200);
                }
            }
            27 | 28 => self.resume_disk(),
            29 => self.machine.disk.lock().fails_commit = true,
            30 => self.machine.disk.lock().fails_statement = true,
            31 if self.random.below(4) == 0 => self.machine.disk.lock().panics = true,
            32 if self.random.below(4) == 0 => self.restart(),
            33 => {
                let holds =
                    [&self.node.store.holds_after_read, &self.node.store.holds_before_read][self.random.index(2)];
                *holds.lock() ^= true;
            }
            34 | 35 => {
                let number = self.random.index(8);
                self.node.store.release(number);
            }
            36..=39 => {
                let most = if choice < 38 { 400 } else { 2500 };
                let millis = i64::try_from(self.random.below(most)).unwrap();
                return self.pass(millis);
            }
            40 => {
                let millis = [-600_000, -3_000, 3_000, 600_000][self.random.index(4)];
                self.hands.step_wall_millis(millis);
            }
            _ => {}
        }
        self.settle()
    }

    /// Removes all faults and lets phones ask until they are answered, and browsers reconnect.
    pub(super) fn recover(&mut self) -> Result<(), String> {
        self.resume_disk();
        {
            let mut disk = self.machine.disk.lock();
            disk.foreign = ForeignLock::Nothing;
            (disk.fails_commit, disk.fails_statement, disk.panics) = (false, false, false);
        }
        *self.node.store.holds_after_read.lock() = false;
        *self.node.store.holds_before_read.lock() = false;
        while self.node.store.release(0) {}
        for _ in 0..8 {
            while self.node.store.jobs.has_jobs() {
                self.node.store.step();
            }
            self.settle()?;
        }
        // A phone asks again if its call was answered with an error.
        let unanswered: Vec<_> = (0..self.logins.len())
            .filter(|login| {
                let row = &self.machine.disk.lock().rows[&self.logins[*login].key];
                matches!(row.session.state, State::Confirmed(_)) && !self.logins[*login].is_confirmed
            })
            .collect();
        for login in unanswered {
            self.decide(login, true);
        }
        for _ in 0..30 {
            for tab in 0..self.tabs.len() {
                self.read(tab);
            }
            self.pass(100)?;
        }
        // A browser without an open connection reconnects, unless the session's end was delivered to it.
        for login in 0..self.logins.len() {
            let of_login = self.tabs.iter_mut().filter(|tab| tab.login == login);
            let has_end = of_login.filter(|tab| !tab.is_disconnected).any(|tab| {
                let received = tab.received().clone();
                received.has_token
                    || received.statuses.iter().any(|status| !["pending", "scanned"].contains(&&**status))
                    || !tab.pipe.lock().is_dropped && tab.opening.is_finished()
            });
            if !has_end {
                self.open_tab(login);
                self.settle()?;
            }
        }
        for _ in 0..30 {
            for tab in 0..self.tabs.len() {
                self.read(tab);
            }
            self.pass(100)?;
        }
        self.check_end()
    }
}
