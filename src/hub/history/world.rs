//! The state of a history: sessions, the browsers' connections and the phones' calls, and the actions on them.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::machine::{ForeignLock, Machine};
use super::node::{Node, codes};
use super::random::SeededRandom;
use super::socket::{Pipe, ReadMessages, ServerEnd};
use super::{InjectedFault, START, TTL_SECONDS};
use crate::hub::connection::{ReadBudget, Readiness};
use crate::hub::registry::Slot;
use crate::hub::{NewConnection, Transport};
use crate::login::{LoginError, Verdict};
use crate::session::{Client, Code, PhoneUser, Refusal, Session, SessionId, SessionKey, State};
use crate::store::jobs::Progress;
use crate::system::clock::{Clock, Hands};
use crate::token::AppUser;
use crate::wire::websocket::{Opcode, close_payload, frame};

/// A history: the server, its sessions and their clients.
pub(super) struct History<'a> {
    pub(super) random: SeededRandom,
    pub(super) fault: InjectedFault,
    pub(super) is_numbered: bool,
    pub(super) keys: &'a Path,
    pub(super) clock: Clock,
    pub(super) hands: Hands,
    pub(super) machine: Arc<Machine>,
    pub(super) node: Node,
    /// The store's thread while it waits for the disk.
    pub(super) slow: Option<std::thread::JoinHandle<Progress>>,
    pub(super) logins: Vec<SimulatedLogin>,
    pub(super) tabs: Vec<Tab>,
    pub(super) calls: Vec<PhoneCall>,
    pub(super) next_call: u32,
    /// Calls that must not have changed anything: the index of the session and the number of the call.
    pub(super) failed_while_locked: Vec<(usize, u32)>,
    pub(super) events: u32,
    pub(super) trace: Vec<String>,
}

/// One connection of a browser.
pub(super) struct Tab {
    pub(super) login: usize,
    pub(super) acknowledges: bool,
    pub(super) pipe: Arc<Mutex<Pipe>>,
    pub(super) slot: Option<Slot>,
    pub(super) opening: JoinHandle<()>,
    /// Messages that the browser has read, and the number of bytes from which they were parsed.
    pub(super) received: (usize, ReadMessages),
    /// Whether the browser has lost the connection and reads nothing more.
    pub(super) is_disconnected: bool,
    pub(super) has_acknowledged: bool,
    /// Number of the event after which the connection was seen to be open.
    pub(super) open_at: Option<u32>,
    /// Number of the event after which the connection was seen to have its token.
    pub(super) token_at: Option<u32>,
}

impl Tab {
    pub(super) fn received(&mut self) -> &ReadMessages {
        let pipe = self.pipe.lock();
        if pipe.written.len() != self.received.0 {
            self.received = (pipe.written.len(), ReadMessages::of(&pipe.written));
        }
        &self.received.1
    }
}

/// One call of a phone.
pub(super) struct PhoneCall {
    pub(super) login: usize,
    /// Number of the call, which names it in the row that it writes.
    pub(super) number: u32,
    pub(super) is_confirmation: bool,
    pub(super) task: JoinHandle<Result<(), LoginError>>,
    /// Whether the database has been locked since the call's beginning.
    pub(super) was_locked: bool,
}

/// A session, and what phones and browsers have achieved with it.
pub(super) struct SimulatedLogin {
    pub(super) key: SessionKey,
    pub(super) code: Code,
    /// Whether a phone was answered 200 to a confirmation.
    pub(super) is_confirmed: bool,
    /// Whether an acknowledgement was stored as of the previous event.
    pub(super) was_claimed: bool,
}

impl<'a> History<'a> {
    pub(super) fn new(seed: u64, fault: InjectedFault, keys: &'a Path) -> Self {
        let mut random = SeededRandom(seed);
        let is_numbered = random.below(2) == 1;
        let (clock, hands) = Clock::manual(START);
        let machine = Arc::new(Machine::default());
        let node = Node::start(&machine, &clock, fault, is_numbered, keys);
        let count = 1 + random.index(3);
        let mut logins = Vec::new();
        for number in 0..count {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&random.next().to_le_bytes());
            bytes[8] = u8::try_from(number).unwrap();
            let key = SessionId::from_random(bytes).key();
            node.store.insert_now(Session {
                key,
                code: key.code_key(),
                version: 1,
                created_at: START,
                expires_at: START.plus_seconds(TTL_SECONDS),
                client: Client::default(),
                request: None,
                scanned_at: None,
                state: State::Pending,
            });
            logins.push(SimulatedLogin {
                key,
                code: codes().secret.code(&key, 0),
                is_confirmed: false,
                was_claimed: false,
            });
        }
        Self {
            random,
            fault,
            is_numbered,
            keys,
            clock,
            hands,
            machine,
            node,
            slow: None,
            logins,
            tabs: Vec::new(),
            calls: Vec::new(),
            next_call: 1,
            failed_while_locked: Vec::new(),
            events: 0,
            trace: Vec::new(),
        }
    }
}

impl History<'_> {
    pub(super) fn open_tab(&mut self, login: usize) {
        let key = self.logins[login].key;
        let pipe = Arc::new(Mutex::new(Pipe::default()));
        let acknowledges = self.random.below(2) == 0;
        let Ok(registration) = self.node.hub.register(key) else { return };
        let slot = Some(registration.slot);
        let (logins, socket) = (self.node.logins.clone(), ServerEnd(pipe.clone()));
        let opening = self.node.runtime.spawn(async move {
            let mut found = logins.attach(&[key]).await;
            let Some(Ok(found)) = found.remove(&key) else { return };
            let transport = Transport::WebSocket { acknowledges };
            let connection = NewConnection { socket, response: Vec::new(), early: Vec::new(), transport, permit: None };
            registration.open(connection, &found);
        });
        self.tabs.push(Tab {
            login,
            acknowledges,
            pipe,
            slot,
            opening,
            received: (0, ReadMessages::default()),
            is_disconnected: false,
            has_acknowledged: false,
            open_at: None,
            token_at: None,
        });
    }

    pub(super) fn decide(&mut self, login: usize, is_confirmation: bool) {
        let number = self.next_call;
        self.next_call += 1;
        let user = PhoneUser { id: "ann".to_owned(), name: Some(number.to_string()), picture: None };
        let by = AppUser { user, claims: serde_json::Map::new() };
        let (logins, code) = (self.node.logins.clone(), self.logins[login].code.clone());
        let verdict = if is_confirmation { Verdict::Confirm(None) } else { Verdict::Reject };
        let task = self.node.runtime.spawn(async move { logins.decide(code.into(), by, verdict, |_| true).await });
        let was_locked = self.machine.disk.lock().foreign != ForeignLock::Nothing && self.slow.is_none();
        self.calls.push(PhoneCall { login, number, is_confirmation, task, was_locked });
    }

    /// Collects the results of the calls that have ended.
    pub(super) fn collect_results(&mut self) -> Result<(), String> {
        let is_locked = self.machine.disk.lock().foreign != ForeignLock::Nothing;
        let mut index = 0;
        while index < self.calls.len() {
            self.calls[index].was_locked &= is_locked;
            if !self.calls[index].task.is_finished() {
                index += 1;
                continue;
            }
            let call = self.calls.swap_remove(index);
            let result = self.node.runtime.block_on(call.task);
            self.trace.push(format!("  call {} returned {result:?}", call.number));
            match result {
                Ok(Ok(())) => self.logins[call.login].is_confirmed |= call.is_confirmation,
                Ok(Err(LoginError::Store(_) | LoginError::Contended | LoginError::Read(_))) => {
                    if call.was_locked {
                        self.failed_while_locked.push((call.login, call.number));
                    }
                }
                Ok(Err(LoginError::Refused(Refusal::Expired | Refusal::AlreadyDecided))) | Err(_) => {}
                Ok(Err(other)) => return Err(format!("call {} failed: {other:?}", call.number)),
            }
        }
        Ok(())
    }

    /// Reads as a browser does: acknowledges the token, and returns the Close.
    pub(super) fn read(&mut self, index: usize) {
        let tab = &mut self.tabs[index];
        if tab.is_disconnected {
            return;
        }
        let received = tab.received().clone();
        let mut sent = Vec::new();
        if received.has_token && !tab.has_acknowledged {
            tab.has_acknowledged = true;
            if tab.acknowledges {
                frame(&mut sent, Opcode::Text, b"ack");
            } else {
                frame(&mut sent, Opcode::Close, &close_payload(1000, ""));
            }
        } else if let Some(code) = received.close.filter(|_| !tab.pipe.lock().is_dropped) {
            frame(&mut sent, Opcode::Close, &close_payload(code, ""));
        }
        if let [first, length, payload @ ..] = &sent[..] {
            let masked = [&[*first, length | 0x80, 0, 0, 0, 0], payload].concat();
            tab.pipe.lock().incoming.extend(masked);
        }
        self.report(index);
    }

    fn report(&mut self, index: usize) {
        let tab = &self.tabs[index];
        let Some(slot) = tab.slot.filter(|_| tab.opening.is_finished()) else { return };
        let is_last = tab.pipe.lock().has_hung_up;
        let mut buffer = [0; 256];
        let share = ReadBudget { buffer: &mut buffer, max_reads: 4 };
        let _within = self.node.runtime.enter();
        self.node.hub.act(slot, |connection, turn| {
            connection.ready(Readiness { is_writable: false, is_last }, share, turn);
        });
    }

    pub(super) fn disconnect(&mut self, index: usize) {
        self.tabs[index].is_disconnected = true;
        self.tabs[index].pipe.lock().has_hung_up = true;
        self.report(index);
    }

    /// Runs one step of the store's queue, unless its thread waits for the disk.
    pub(super) fn step_store(&mut self) {
        if self.slow.is_none() {
            self.node.store.step();
        }
    }

    pub(super) fn stall_disk(&mut self) {
        if self.slow.is_some() || self.machine.disk.lock().foreign != ForeignLock::Nothing {
            return;
        }
        self.machine.set_slow(true);
        let store = self.node.store.clone();
        // The jobs in the queue are run and wait for their commit.
        self.slow = Some(std::thread::spawn(move || store.step()));
        while !self.slow.as_ref().is_some_and(std::thread::JoinHandle::is_finished) && !self.machine.holds_commit() {
            std::thread::yield_now();
        }
        // There was nothing to commit.
        if self.slow.as_ref().is_some_and(std::thread::JoinHandle::is_finished) {
            self.resume_disk();
        }
    }

    pub(super) fn resume_disk(&mut self) {
        self.machine.set_slow(false);
        if let Some(slow) = self.slow.take() {
            let _within = self.node.runtime.enter();
            slow.join().unwrap();
        }
    }

    /// Kills the process and starts it again. Committed changes survive.
    pub(super) fn restart(&mut self) {
        self.resume_disk();
        for tab in &mut self.tabs {
            tab.opening.abort();
            tab.is_disconnected |= !tab.received().has_token;
            tab.slot = None;
        }
        self.calls.clear();
        self.node = Node::start(&self.machine, &self.clock, self.fault, self.is_numbered, self.keys);
    }

    pub(super) fn pass(&mut self, millis: i64) -> Result<(), String> {
        self.hands.advance_millis(millis);
        self.settle()
    }

    pub(super) fn settle(&mut self) -> Result<(), String> {
        self.events += 1;
        self.node.run_tasks();
        self.collect_results()?;
        self.check()?;
        // While a commit waits for the disk, the stored state is unknown.
        if self.slow.is_some() {
            return Ok(());
        }
        let disk = self.machine.disk.lock();
        for login in &mut self.logins {
            let state = &disk.rows[&login.key].session.state;
            login.was_claimed = matches!(state, State::Confirmed(confirmation) if confirmation.claimed);
        }
        Ok(())
    }
}
