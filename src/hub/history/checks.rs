//! The checks of a history: after each event, and at its end.

use super::socket::ReadMessages;
use super::world::{History, Tab};
use crate::session::State;

impl History<'_> {
    /// Checks what must hold at any time.
    pub(super) fn check(&mut self) -> Result<(), String> {
        for index in 0..self.tabs.len() {
            let received = self.tabs[index].received().clone();
            let login = self.tabs[index].login;
            if received.has_token && self.tabs[index].token_at.is_none() {
                self.tabs[index].token_at = Some(self.events);
                if self.logins[login].was_claimed {
                    return Err(format!("tab {index} received a token whose acknowledgement is stored"));
                }
                let together = self.tabs.iter().filter(|tab| tab.login == login && tab.token_at == Some(self.events));
                if together.count() > 1 {
                    return Err(format!("tab {index} is one of two that received the token at once"));
                }
            }
            if received != ReadMessages::default() && self.tabs[index].open_at.is_none() {
                self.tabs[index].open_at = Some(self.events);
            }
            // A connection that was opened in this event may have found that the token had been given already.
            let is_open = |tab: &Tab| {
                let is_up = tab.open_at.is_some_and(|at| at < self.events) && !tab.is_disconnected;
                is_up && tab.token_at.is_none() && tab.received.1.close.is_none()
            };
            let newer = self.tabs.iter().skip(index + 1).filter(|tab| tab.login == login).any(is_open);
            if newer && self.tabs[index].token_at == Some(self.events) {
                return Err(format!("tab {index} received the token while a newer one is open"));
            }
            let has_confirmed_row = {
                let disk = self.machine.disk.lock();
                let state = &disk.rows[&self.logins[login].key].session.state;
                self.slow.is_none() && matches!(state, State::Confirmed(_))
            };
            if received.statuses.iter().any(|status| status == "expired") && has_confirmed_row {
                return Err(format!("tab {index} received expired for a session that is confirmed"));
            }
        }
        Ok(())
    }

    pub(super) fn check_end(&mut self) -> Result<(), String> {
        for (login, number) in &self.failed_while_locked {
            let disk = self.machine.disk.lock();
            let user = disk.rows[&self.logins[*login].key].session.user().and_then(|user| user.name.clone());
            if user == Some(number.to_string()) {
                return Err(format!("call {number} had failed before it could begin, and was done all the same"));
            }
        }
        for (index, login) in self.logins.iter().enumerate() {
            let state = self.machine.disk.lock().rows[&login.key].session.state.clone();
            if login.is_confirmed && !matches!(state, State::Confirmed(_)) {
                return Err(format!("login {index} was confirmed with 200, and is {state:?}"));
            }
            let given = self.tabs.iter().filter(|tab| tab.login == index && tab.token_at.is_some());
            if login.is_confirmed && given.count() == 0 {
                return Err(format!("login {index} was confirmed with 200, and no browser has its token"));
            }
        }
        for index in 0..self.tabs.len() {
            self.disconnect(index);
        }
        self.settle()?;
        let active = self.node.metrics.active_connections();
        if active != 0 { Err(format!("{active} connections are counted that have ended")) } else { Ok(()) }
    }
}
