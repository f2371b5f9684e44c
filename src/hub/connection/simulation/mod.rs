//! The state machine of a connection on a simulated socket, with events in random order ([`proptest`]). A run checks
//! that no message is lost, repeated or reordered, that no other bytes are taken for an acknowledgement, that every
//! byte is read, and that the connection ends once.
//!
//! A run is a list of bytes. The first four choose how the connection begins, and each further pair chooses an event:
//! the browser sends something, some of it arrives, the session changes, a change is delivered (late, twice, out of
//! order), a deadline comes, an effect of an earlier turn is performed, the system accepts more bytes or none, a system
//! call fails. Then everything in transit is completed, and the messages that the browser received are compared with
//! the expected ones. At last time passes until the connection has ended.

mod checks;
mod fixture;
mod received;
mod run;
mod scenes;
mod socket;
mod steps;

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use crate::hub::deadlines::SessionTick;
use crate::session::SessionKey;
use crate::wire::websocket::{Opcode, frame};
use fixture::Fixture;
use run::Run;

/// Runs for each of the four kinds of connection: a million in total. The variable `SIMULATION_RUNS` overrides it.
const RUNS: u32 = 250_000;
/// Runs within which an injected fault must be found.
const RUNS_TO_FIND: u32 = 20_000;
/// Exclusive bound of the number of bytes in a run.
const MAX_CHOICES: usize = 72;
/// Maximum number of deadlines handled at once.
const MAX_DUE: usize = 1000;

const KEY: SessionKey = SessionKey([7; 32]);
const EXPIRY: SessionTick = SessionTick(3000);
const HEARTBEAT_SECONDS: u32 = 30;
const ROTATE_SECONDS: u32 = 60;
/// Size of a turn's buffer, in bytes. It is small, so that a few frames exceed a turn's share.
const BUFFER_BYTES: usize = 12;
const MAX_READS: usize = 2;
/// Version of a pending session.
const PENDING: u32 = 1;
/// Version of a scanned session.
const SCANNED: u32 = 2;
/// Version of a decided session.
const DECIDED: u32 = 3;
const EXPIRED: u32 = u32::MAX;

/// The kinds of connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionKind {
    Plain,
    Acknowledging,
    Events,
    Poll,
}

/// The effect that the simulation drops, as a faulty hub would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dropped {
    Nothing,
    ReadsMore,
    ReadsSession,
    ShowsCode,
    StoresAck,
    Ends,
}

fn run(fixture: &Fixture, kind: ConnectionKind, dropped: Dropped, choices: &[u8]) -> Result<(), String> {
    let mut run = Run::new(fixture, kind, dropped);
    let (begin, rest) = choices.split_at(4.min(choices.len()));
    let [early, room, changes, first] = [0, 1, 2, 3].map(|index| begin.get(index).copied().unwrap_or_default());
    for change in 0..changes % 4 {
        // The session may change before the browser opens the connection. A poll would then be answered at once.
        if kind != ConnectionKind::Poll {
            run.change(change);
        }
    }
    run.announced.clear();
    let mut early_bytes = Vec::new();
    if early % 4 == 1 && matches!(kind, ConnectionKind::Plain | ConnectionKind::Acknowledging) {
        run.browser_sends(first);
        early_bytes = std::mem::take(&mut run.socket.0.borrow_mut().in_transit);
    }
    run.open(&early_bytes, usize::from(room) * 4);
    run.check()?;
    for pair in rest.chunks(2) {
        run.step(pair[0], pair.get(1).copied().unwrap_or_default())?;
    }
    run.complete()?;
    run.end()?;
    match fixture.metrics.active_connections() {
        0 => Ok(()),
        left => Err(format!("{left} connections are counted that have ended")),
    }
}

fn explore(kind: ConnectionKind, dropped: Dropped, runs: u32) -> Result<(), String> {
    let fixture = Fixture::new();
    let config = Config { cases: runs, failure_persistence: None, max_shrink_iters: 5_000, ..Config::default() };
    let explored = TestRunner::new(config).run(&vec(any::<u8>(), 0..MAX_CHOICES), |choices| {
        let fixture = if dropped == Dropped::Ends { &Fixture::new() } else { &fixture };
        run(fixture, kind, dropped, &choices).map_err(TestCaseError::fail)
    });
    match explored {
        Ok(()) => Ok(()),
        Err(TestError::Fail(reason, choices)) => Err(format!("{kind:?}: {reason}, by {choices:?}")),
        Err(TestError::Abort(reason)) => Err(reason.to_string()),
    }
}

fn assert_no_failure(kind: ConnectionKind) {
    let runs = std::env::var("SIMULATION_RUNS").map_or(RUNS, |runs| runs.parse().expect("a number of runs"));
    if let Err(found) = explore(kind, Dropped::Nothing, runs) {
        panic!("{found}");
    }
}

#[test]
fn nothing_is_lost_doubled_or_reordered_on_a_plain_websocket() {
    assert_no_failure(ConnectionKind::Plain);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_on_an_acknowledging_websocket() {
    assert_no_failure(ConnectionKind::Acknowledging);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_on_an_event_stream() {
    assert_no_failure(ConnectionKind::Events);
}

#[test]
fn nothing_is_lost_doubled_or_reordered_on_a_long_poll() {
    assert_no_failure(ConnectionKind::Poll);
}

/// The simulation finds each effect that is dropped.
#[test]
fn each_dropped_effect_is_detected() {
    for dropped in [Dropped::ReadsMore, Dropped::ReadsSession, Dropped::ShowsCode, Dropped::StoresAck, Dropped::Ends] {
        let found = explore(ConnectionKind::Plain, dropped, RUNS_TO_FIND);
        assert!(found.is_err(), "that {dropped:?} is dropped was not found");
    }
}

/// Returns a frame as a browser sends it, with a mask of zeros.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    frame(&mut plain, Opcode::Text, payload);
    [&[first, plain[1] | 0x80, 0, 0, 0, 0], &plain[2..]].concat()
}
