//! Simulated histories of sessions: the real hub, use-cases and queue of the store's jobs, on simulated sockets, time
//! and a model of the database. Phones give up and ask again. Browsers open several connections, lose them and
//! reconnect. The database is locked by another process, is slow, and fails. The server is restarted. The wall clock is
//! set forward and back.
//!
//! A history is determined by its seed. A failure prints it, and `HISTORY_SEED=N cargo test --lib history` runs it
//! again.
//!
//! In each history the following holds:
//!
//! - If a phone was answered 200 to `confirm`, a browser has the token, provided that one is connected or reconnects in
//!   time.
//! - The state `expired` is not delivered for a session that is confirmed in the store.
//! - Of several connections of a session one is given the token, and no older one while a newer one is open. Another
//!   connection is given it again only if it has not been acknowledged.
//! - A call that failed while the database was locked from the call's beginning to its end changes nothing, then or
//!   later.
//! - The count of active connections is 0 at the end.

mod model;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;

use mio::Token;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::connection::{ReadBudget, Readiness, blind_to_others};
use super::registry::Slot;
use super::socket::{Socket, Watch};
use super::{Hub, HubParts, NewConnection, Transport};
use crate::cluster::bus::{Bus as _, Listener, LocalBus};
use crate::hub::poller::PollerHandle;
use crate::login::{Codes, LoginError, LoginParts, Logins, PendingCount, Policy, Verdict};
use crate::metrics::Metrics;
use crate::session::{
    Client, CodeSecret, PhoneUser, Refusal, Rotation, Session, SessionId, SessionKey, State, Timestamp,
};
use crate::store::BatchingReader;
use crate::store::writer::Progress;
use crate::system::clock::{Clock, Hands};
use crate::system::shutdown::Shutdown;
use crate::token::{AppUser, KeyRing, Minter};
use crate::wire::websocket::{Opcode, close_payload, frame};
use model::{Foreign, Machine, ModelStore};

/// Histories in one test run. The variable `HISTORIES` overrides it.
const HISTORIES: u64 = 200_000;
/// Histories within which an injected fault must be found.
const HISTORIES_TO_FIND: u64 = 20_000;
const STEPS: u32 = 48;
const TTL_SECONDS: u32 = 30;
const CLAIM_SECONDS: u32 = 60;
const START: Timestamp = Timestamp::from_millis(1_893_456_000_000);

/// Faults of earlier versions, which the histories must find.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// A change that commits after its caller has gone is not announced, and neither is a state that was found.
    LateCommitIsSilent,
    /// A transaction that SQLite rolled back in the middle of a batch is taken for one that is still open.
    RollbackUnnoticed,
    /// A connection does not know the other connections of its session.
    BlindToOthers,
}

/// Pseudorandom numbers of a seed (splitmix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).unwrap()
    }
}

/// Both ends of a connection.
#[derive(Default)]
struct Pipe {
    written: Vec<u8>,
    incoming: VecDeque<u8>,
    has_hung_up: bool,
    is_let_go: bool,
}

/// The server's end of a connection.
struct End(Arc<Mutex<Pipe>>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.lock().is_let_go = true;
    }
}

impl Read for End {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.0.lock();
        let count = buffer.len().min(pipe.incoming.len());
        if count == 0 {
            return if pipe.has_hung_up { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        for (to, from) in buffer.iter_mut().zip(pipe.incoming.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }
}

impl Write for End {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut pipe = self.0.lock();
        if pipe.has_hung_up {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        pipe.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Socket for End {
    type Poll = ();

    fn unread_bytes(&self) -> io::Result<usize> {
        Ok(self.0.lock().incoming.len())
    }

    fn watch(&mut self, (): &(), _: Token, _: Watch) -> io::Result<()> {
        Ok(())
    }

    fn end_writing(&mut self) {}

    fn discard_unsent(&mut self) {}
}

/// What a browser has read on one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Received {
    statuses: Vec<String>,
    has_token: bool,
    close: Option<u16>,
}

impl Received {
    fn of(mut bytes: &[u8]) -> Self {
        let mut received = Self::default();
        while let [first, length, rest @ ..] = bytes {
            let (length, rest) = match (length, rest) {
                (126, [high, low, rest @ ..]) => (usize::from(u16::from_be_bytes([*high, *low])), rest),
                (length, rest) => (usize::from(*length), rest),
            };
            let Some((payload, rest)) = rest.split_at_checked(length) else { break };
            match first {
                0x81 => {
                    let said: Value = serde_json::from_slice(payload).unwrap();
                    received.statuses.push(said["status"].as_str().unwrap().to_owned());
                    received.has_token |= said.get("web_token").is_some();
                }
                0x88 => received.close = payload.first_chunk().map(|code| u16::from_be_bytes(*code)),
                _ => {}
            }
            bytes = rest;
        }
        received
    }
}

/// One connection of a browser.
struct Tab {
    login: usize,
    acknowledges: bool,
    pipe: Arc<Mutex<Pipe>>,
    slot: Option<Slot>,
    opening: JoinHandle<()>,
    /// What the browser has read, and the number of bytes that this was parsed from.
    received: (usize, Received),
    /// Whether the browser has lost the connection and reads nothing more.
    is_cut: bool,
    has_acknowledged: bool,
    /// Number of the event after which the connection was seen to be open.
    open_at: Option<u32>,
    /// Number of the event after which the connection was seen to have its token.
    token_at: Option<u32>,
}

impl Tab {
    fn received(&mut self) -> &Received {
        let pipe = self.pipe.lock();
        if pipe.written.len() != self.received.0 {
            self.received = (pipe.written.len(), Received::of(&pipe.written));
        }
        &self.received.1
    }
}

/// One call of a phone.
struct Call {
    login: usize,
    /// Number of the call, which names it in the row that it writes.
    number: u32,
    is_yes: bool,
    task: JoinHandle<Result<(), LoginError>>,
    /// Whether the database has been locked since the call's beginning.
    was_locked: bool,
}

/// A session, and what phones and browsers have achieved with it.
struct Login {
    key: SessionKey,
    code: crate::session::Code,
    /// Whether a phone was answered 200 to a confirmation.
    is_confirmed: bool,
    /// Whether an acknowledgement was stored as of the previous event.
    was_claimed: bool,
}

/// A server, until its next restart.
struct Node {
    store: Arc<ModelStore>,
    logins: Arc<Logins>,
    hub: Arc<Hub<End>>,
    metrics: Arc<Metrics>,
    runtime: Runtime,
}

impl Node {
    fn start(machine: &Arc<Machine>, clock: &Clock, fault: Fault, is_numbered: bool, keys: &std::path::Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let within = runtime.enter();
        let store = Arc::new(ModelStore::new(machine.clone(), clock.clone(), fault, is_numbered));
        let (bus, metrics) = (Arc::new(LocalBus::default()), Arc::new(Metrics::new()));
        let shutdown = Shutdown::new();
        let minter =
            Minter::new(KeyRing::open(keys, clock.clone()).unwrap(), "i".to_owned(), "a".to_owned(), 60, Vec::new());
        let codes = Arc::new(codes());
        let logins = Arc::new(Logins::new(LoginParts {
            store: store.clone(),
            reader: BatchingReader::new(store.clone(), shutdown.vital("reader")),
            bus: bus.clone(),
            clock: clock.clone(),
            minter: Arc::new(minter),
            codes: codes.clone(),
            policy: Policy { ttl_seconds: TTL_SECONDS, claim_seconds: CLAIM_SECONDS, heartbeat_seconds: 3600 },
            pending: PendingCount::new(0, TTL_SECONDS),
            metrics: metrics.clone(),
        }));
        let (_, poller) = PollerHandle::prepare().unwrap();
        let parts = HubParts {
            logins: logins.clone(),
            store: store.clone(),
            codes,
            clock: clock.clone(),
            metrics: metrics.clone(),
            heartbeat_seconds: 3600,
            quota: None,
        };
        let hub = Arc::new(Hub::<End>::new(parts, (), poller));
        let listener: std::sync::Weak<dyn Listener> = Arc::<Hub<End>>::downgrade(&hub);
        bus.listen(listener);
        drop((runtime.spawn(hub.clone().run()), runtime.spawn(hub.clone().search_undelivered())));
        drop(within);
        Self { store, logins, hub, metrics, runtime }
    }

    /// Runs all tasks as far as they can.
    fn run_tasks(&self) {
        self.runtime.block_on(async {
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
        });
    }
}

fn codes() -> Codes {
    Codes {
        secret: CodeSecret::new([7; 32]),
        rotation: Rotation::NONE,
        compares_numbers: false,
        public_base: "https://a.example".to_owned(),
    }
}

struct World<'a> {
    dice: Dice,
    fault: Fault,
    is_numbered: bool,
    keys: &'a std::path::Path,
    clock: Clock,
    hands: Hands,
    machine: Arc<Machine>,
    node: Node,
    /// The store's thread while it waits for the disk.
    slow: Option<std::thread::JoinHandle<Progress>>,
    logins: Vec<Login>,
    tabs: Vec<Tab>,
    calls: Vec<Call>,
    next_call: u32,
    /// Calls that must not have changed anything: the index of the session and the number of the call.
    undone: Vec<(usize, u32)>,
    events: u32,
    trace: Vec<String>,
}

impl<'a> World<'a> {
    fn new(seed: u64, fault: Fault, keys: &'a std::path::Path) -> Self {
        let mut dice = Dice(seed);
        let is_numbered = dice.below(2) == 1;
        let (clock, hands) = Clock::manual(START);
        let machine = Arc::new(Machine::default());
        let node = Node::start(&machine, &clock, fault, is_numbered, keys);
        let count = 1 + dice.index(3);
        let mut logins = Vec::new();
        for number in 0..count {
            let mut bytes = [0; 32];
            bytes[..8].copy_from_slice(&dice.next().to_le_bytes());
            bytes[8] = u8::try_from(number).unwrap();
            let key = SessionId::from_random(bytes).key();
            node.store.insert_now(Session {
                key,
                code: key.code_key(),
                version: 1,
                created_at: START,
                expires_at: START.plus_seconds(TTL_SECONDS),
                client: Client::default(),
                scanned_at: None,
                state: State::Pending,
            });
            logins.push(Login { key, code: codes().secret.code(&key, 0), is_confirmed: false, was_claimed: false });
        }
        Self {
            dice,
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
            undone: Vec::new(),
            events: 0,
            trace: Vec::new(),
        }
    }

    fn open_tab(&mut self, login: usize) {
        let key = self.logins[login].key;
        let pipe = Arc::new(Mutex::new(Pipe::default()));
        let acknowledges = self.dice.below(2) == 0;
        let Ok(registration) = self.node.hub.register(key) else { return };
        let slot = Some(registration.slot);
        let (logins, socket) = (self.node.logins.clone(), End(pipe.clone()));
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
            received: (0, Received::default()),
            is_cut: false,
            has_acknowledged: false,
            open_at: None,
            token_at: None,
        });
    }

    fn call(&mut self, login: usize, is_yes: bool) {
        let number = self.next_call;
        self.next_call += 1;
        let user = PhoneUser { id: "ann".to_owned(), name: Some(number.to_string()), picture: None };
        let by = AppUser { user, claims: serde_json::Map::new() };
        let (logins, code) = (self.node.logins.clone(), self.logins[login].code.clone());
        let verdict = if is_yes { Verdict::Confirm(None) } else { Verdict::Reject };
        let task = self.node.runtime.spawn(async move { logins.decide(&code, by, verdict, |_| true).await });
        let was_locked = self.machine.disk.lock().foreign != Foreign::Nothing && self.slow.is_none();
        self.calls.push(Call { login, number, is_yes, task, was_locked });
    }

    /// Takes the answers to phones.
    fn take_answers(&mut self) -> Result<(), String> {
        let is_locked = self.machine.disk.lock().foreign != Foreign::Nothing;
        let mut index = 0;
        while index < self.calls.len() {
            self.calls[index].was_locked &= is_locked;
            if !self.calls[index].task.is_finished() {
                index += 1;
                continue;
            }
            let call = self.calls.swap_remove(index);
            let answer = self.node.runtime.block_on(call.task);
            self.trace.push(format!("  call {} is answered {answer:?}", call.number));
            match answer {
                Ok(Ok(())) => self.logins[call.login].is_confirmed |= call.is_yes,
                Ok(Err(LoginError::Store(_) | LoginError::Contended | LoginError::Read(_))) => {
                    if call.was_locked {
                        self.undone.push((call.login, call.number));
                    }
                }
                Ok(Err(LoginError::Refused(Refusal::Expired | Refusal::AlreadyDecided))) | Err(_) => {}
                Ok(Err(other)) => return Err(format!("call {} failed: {other:?}", call.number)),
            }
        }
        Ok(())
    }

    /// Does what a browser does: reads, acknowledges, and returns the Close.
    fn read(&mut self, index: usize) {
        let tab = &mut self.tabs[index];
        if tab.is_cut {
            return;
        }
        let received = tab.received().clone();
        let mut said = Vec::new();
        if received.has_token && !tab.has_acknowledged {
            tab.has_acknowledged = true;
            if tab.acknowledges {
                frame(&mut said, Opcode::Text, b"ack");
            } else {
                frame(&mut said, Opcode::Close, &close_payload(1000, ""));
            }
        } else if let Some(code) = received.close.filter(|_| !tab.pipe.lock().is_let_go) {
            frame(&mut said, Opcode::Close, &close_payload(code, ""));
        }
        if let [first, length, payload @ ..] = &said[..] {
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

    fn cut(&mut self, index: usize) {
        self.tabs[index].is_cut = true;
        self.tabs[index].pipe.lock().has_hung_up = true;
        self.report(index);
    }

    /// Runs one step of the store's queue, unless its thread waits for the disk.
    fn step_store(&mut self) {
        if self.slow.is_none() {
            self.node.store.step();
        }
    }

    fn be_slow(&mut self) {
        if self.slow.is_some() || self.machine.disk.lock().foreign != Foreign::Nothing {
            return;
        }
        self.machine.be_slow(true);
        let store = self.node.store.clone();
        // The jobs in the queue are run and wait for their commit.
        self.slow = Some(std::thread::spawn(move || store.step()));
        while !self.slow.as_ref().is_some_and(std::thread::JoinHandle::is_finished) && !self.machine.holds_commit() {
            std::thread::yield_now();
        }
        // There was nothing to commit.
        if self.slow.as_ref().is_some_and(std::thread::JoinHandle::is_finished) {
            self.be_fast();
        }
    }

    fn be_fast(&mut self) {
        self.machine.be_slow(false);
        if let Some(slow) = self.slow.take() {
            let _within = self.node.runtime.enter();
            slow.join().unwrap();
        }
    }

    /// Kills the process and starts it again. Committed changes survive.
    fn restart(&mut self) {
        self.be_fast();
        for tab in &mut self.tabs {
            tab.opening.abort();
            tab.is_cut |= !tab.received().has_token;
            tab.slot = None;
        }
        self.calls.clear();
        self.node = Node::start(&self.machine, &self.clock, self.fault, self.is_numbered, self.keys);
    }

    fn pass(&mut self, millis: i64) -> Result<(), String> {
        self.hands.advance_millis(millis);
        self.settle()
    }

    fn settle(&mut self) -> Result<(), String> {
        self.events += 1;
        self.node.run_tasks();
        self.take_answers()?;
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

    fn step(&mut self) -> Result<(), String> {
        let login = self.dice.index(self.logins.len());
        let tab = if self.tabs.is_empty() { None } else { Some(self.dice.index(self.tabs.len())) };
        let choice = self.dice.below(41);
        self.trace.push(format!("{}: {choice} login {login} tab {tab:?}", self.events));
        match choice {
            0..=5 => self.open_tab(login),
            6..=11 => self.call(login, true),
            12 => self.call(login, false),
            13..=18 => {
                if let Some(tab) = tab {
                    self.read(tab);
                }
            }
            19 => {
                if let Some(tab) = tab {
                    self.cut(tab);
                }
            }
            20..=22 => self.step_store(),
            23 => {
                let foreign = [Foreign::Writing, Foreign::Writing, Foreign::Everything][self.dice.index(3)];
                if self.slow.is_none() {
                    self.machine.disk.lock().foreign = foreign;
                }
            }
            24 | 25 => self.machine.disk.lock().foreign = Foreign::Nothing,
            26 => {
                self.be_slow();
                // This is long enough for waiting callers to give up.
                if self.slow.is_some() && self.dice.below(2) == 0 {
                    return self.pass(5_200);
                }
            }
            27 | 28 => self.be_fast(),
            29 => self.machine.disk.lock().fails_commit = true,
            30 => self.machine.disk.lock().fails_statement = true,
            31 if self.dice.below(4) == 0 => self.machine.disk.lock().panics = true,
            32 if self.dice.below(4) == 0 => self.restart(),
            33 => {
                let holds = [&self.node.store.holds_answers, &self.node.store.holds_questions][self.dice.index(2)];
                *holds.lock() ^= true;
            }
            34 | 35 => {
                let number = self.dice.index(8);
                self.node.store.release(number);
            }
            36..=39 => {
                let most = if choice < 38 { 400 } else { 2500 };
                let millis = i64::try_from(self.dice.below(most)).unwrap();
                return self.pass(millis);
            }
            40 => {
                let millis = [-600_000, -3_000, 3_000, 600_000][self.dice.index(4)];
                self.hands.step_wall_millis(millis);
            }
            _ => {}
        }
        self.settle()
    }

    /// Removes all faults and lets phones ask until they are answered, and browsers reconnect.
    fn recover(&mut self) -> Result<(), String> {
        self.be_fast();
        {
            let mut disk = self.machine.disk.lock();
            disk.foreign = Foreign::Nothing;
            (disk.fails_commit, disk.fails_statement, disk.panics) = (false, false, false);
        }
        *self.node.store.holds_answers.lock() = false;
        *self.node.store.holds_questions.lock() = false;
        while self.node.store.release(0) {}
        for _ in 0..8 {
            while self.node.store.writer.has_jobs() {
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
            self.call(login, true);
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
            let has_end = of_login.filter(|tab| !tab.is_cut).any(|tab| {
                let received = tab.received().clone();
                received.has_token
                    || received.statuses.iter().any(|status| !["pending", "scanned"].contains(&&**status))
                    || !tab.pipe.lock().is_let_go && tab.opening.is_finished()
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

    /// Checks what must hold at any time.
    fn check(&mut self) -> Result<(), String> {
        for index in 0..self.tabs.len() {
            let received = self.tabs[index].received().clone();
            let login = self.tabs[index].login;
            if received.has_token && self.tabs[index].token_at.is_none() {
                self.tabs[index].token_at = Some(self.events);
                if self.logins[login].was_claimed {
                    return Err(format!("tab {index} was given a token whose acknowledgement is stored"));
                }
                let together = self.tabs.iter().filter(|tab| tab.login == login && tab.token_at == Some(self.events));
                if together.count() > 1 {
                    return Err(format!("tab {index} is one of two that were given the token at once"));
                }
            }
            if received != Received::default() && self.tabs[index].open_at.is_none() {
                self.tabs[index].open_at = Some(self.events);
            }
            // A connection that was opened in this event may have found that the token had been given already.
            let is_open = |tab: &Tab| {
                let is_up = tab.open_at.is_some_and(|at| at < self.events) && !tab.is_cut;
                is_up && tab.token_at.is_none() && tab.received.1.close.is_none()
            };
            let newer = self.tabs.iter().skip(index + 1).filter(|tab| tab.login == login).any(is_open);
            if newer && self.tabs[index].token_at == Some(self.events) {
                return Err(format!("tab {index} was given the token while a newer one is open"));
            }
            let has_confirmed_row = {
                let disk = self.machine.disk.lock();
                let state = &disk.rows[&self.logins[login].key].session.state;
                self.slow.is_none() && matches!(state, State::Confirmed(_))
            };
            if received.statuses.iter().any(|status| status == "expired") && has_confirmed_row {
                return Err(format!("tab {index} was told expired of a session that is confirmed"));
            }
        }
        Ok(())
    }

    fn check_end(&mut self) -> Result<(), String> {
        for (login, number) in &self.undone {
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
            self.cut(index);
        }
        self.settle()?;
        let active = self.node.metrics.active_connections();
        if active != 0 { Err(format!("{active} connections are counted that have ended")) } else { Ok(()) }
    }
}

fn run(seed: u64, fault: Fault, keys: &std::path::Path) -> Result<(), String> {
    let _blind = (fault == Fault::BlindToOthers).then(blind_to_others);
    let mut world = World::new(seed, fault, keys);
    let mut live = || {
        for _ in 0..STEPS {
            world.step()?;
        }
        world.recover()
    };
    let lived = live();
    world.be_fast();
    let tabs = world.tabs.iter().enumerate().map(|(index, tab)| {
        let received = &tab.received.1;
        let Tab { login, token_at, is_cut, has_acknowledged, .. } = tab;
        format!("tab {index} of login {login}: {received:?}, token at {token_at:?}, {is_cut} {has_acknowledged}")
    });
    world.trace.extend(tabs);
    lived.map_err(|reason| format!("{reason}\nseed {seed} of {fault:?}, which did\n{}", world.trace.join("\n")))
}

/// Runs histories from these seeds. Returns the first failure.
fn explore(fault: Fault, seeds: impl Iterator<Item = u64>) -> Result<(), String> {
    let keys = tempfile::tempdir().unwrap();
    for seed in seeds {
        run(seed, fault, keys.path())?;
    }
    Ok(())
}

#[test]
fn a_confirmed_session_is_delivered_once_whatever_the_store_does() {
    let number = |name: &str| std::env::var(name).ok().map(|number| number.parse::<u64>().expect("a number"));
    let seeds = match number("HISTORY_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HISTORIES").unwrap_or(HISTORIES),
    };
    // Panics that a history injects are not printed.
    let explored = quietly(|| {
        std::thread::scope(|scope| {
            let threads = [0, 1].map(|half| {
                let seeds = seeds.clone();
                scope.spawn(move || explore(Fault::None, seeds.filter(|seed| seed % 2 == half)))
            });
            threads.map(|thread| thread.join().unwrap())
        })
    });
    for half in explored {
        if let Err(found) = half {
            panic!("{found}");
        }
    }
}

#[test]
fn faults_of_earlier_versions_are_found() {
    for fault in [Fault::LateCommitIsSilent, Fault::RollbackUnnoticed, Fault::BlindToOthers] {
        let found = quietly(|| explore(fault, 0..HISTORIES_TO_FIND));
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

/// Runs `what` without the output of injected panics.
fn quietly<T>(what: impl FnOnce() -> T) -> T {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some(model::WANTED_PANIC) {
                print(panic);
            }
        }));
    });
    what()
}
