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

mod checks;
mod machine;
mod model;
mod node;
mod random;
mod socket;
mod steps;
mod world;

use std::path::Path;

use super::connection::blind_to_others;
use crate::session::Timestamp;
use world::{History, Tab};

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
enum InjectedFault {
    #[default]
    None,
    /// A change that commits after its caller has gone is not announced, and neither is a state that was found.
    LateCommitIsSilent,
    /// A transaction that SQLite rolled back in the middle of a batch is taken for one that is still open.
    RollbackUnnoticed,
    /// A connection does not know the other connections of its session.
    BlindToOthers,
}

fn run(seed: u64, fault: InjectedFault, keys: &Path) -> Result<(), String> {
    let _blind = (fault == InjectedFault::BlindToOthers).then(blind_to_others);
    let mut history = History::new(seed, fault, keys);
    let mut live = || {
        for _ in 0..STEPS {
            history.step()?;
        }
        history.recover()
    };
    let lived = live();
    history.resume_disk();
    let tabs = history.tabs.iter().enumerate().map(|(index, tab)| {
        let received = &tab.received.1;
        let Tab { login, token_at, is_disconnected, has_acknowledged, .. } = tab;
        format!(
            "tab {index} of login {login}: {received:?}, token at {token_at:?}, {is_disconnected} {has_acknowledged}"
        )
    });
    history.trace.extend(tabs);
    lived.map_err(|reason| format!("{reason}\nseed {seed} of {fault:?}, which did\n{}", history.trace.join("\n")))
}

/// Runs histories from these seeds. Returns the first failure.
fn explore(fault: InjectedFault, seeds: impl Iterator<Item = u64>) -> Result<(), String> {
    let keys = tempfile::tempdir().unwrap();
    for seed in seeds {
        run(seed, fault, keys.path())?;
    }
    Ok(())
}

#[test]
fn confirmed_session_is_delivered_once_under_any_fault_of_the_store() {
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
                scope.spawn(move || explore(InjectedFault::None, seeds.filter(|seed| seed % 2 == half)))
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
fn faults_of_earlier_versions_are_detected() {
    for fault in [InjectedFault::LateCommitIsSilent, InjectedFault::RollbackUnnoticed, InjectedFault::BlindToOthers] {
        let found = quietly(|| explore(fault, 0..HISTORIES_TO_FIND));
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

/// Runs `work` without the output of injected panics.
fn quietly<T>(work: impl FnOnce() -> T) -> T {
    static HOOK: std::sync::Once = std::sync::Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if panic.payload_as_str() != Some(model::INJECTED_PANIC) {
                print(panic);
            }
        }));
    });
    work()
}
