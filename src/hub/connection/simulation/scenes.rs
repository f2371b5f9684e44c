//! Cases with a given order of events, which a random run reaches seldom or cannot check.

use std::io;
use std::sync::Arc;

use super::socket::SimulatedSocket;
use super::{ConnectionKind, Dropped, Fixture, KEY, Run, masked};
use crate::hub::connection::read::MAX_MESSAGE_BYTES;
use crate::hub::connection::timers::PATIENCE_SECONDS;
use crate::hub::connection::{Connection, Readiness};
use crate::hub::deadlines::{Lag, Tick};
use crate::metrics::{CloseReason, Stopwatch};
use crate::session::{Client, Session, State, Timestamp};
use crate::wire::websocket::close_payload;

/// Returns an open connection on which `pending` has been delivered, unless it is a poll.
fn connection(fixture: &Fixture, kind: ConnectionKind) -> Run<'_> {
    let mut run = Run::new(fixture, kind, Dropped::Nothing);
    run.open(&[], 1 << 16);
    run
}

/// Returns what the server has written since the last call.
fn written(run: &Run<'_>) -> Vec<u8> {
    std::mem::take(&mut run.socket.0.borrow_mut().written)
}

/// Delivers bytes of the browser and handles all readiness that follows.
fn receives(run: &mut Run<'_>, bytes: &[u8]) {
    run.send(bytes, None);
    run.socket.0.borrow_mut().arrive(usize::MAX);
    while run.socket.0.borrow().is_readable || run.reads_more > 0 {
        run.report();
        if run.reads_more > 0 {
            run.perform(0);
        }
    }
}

#[test]
fn timed_out_event_stream_ends_by_heartbeat_and_other_failures_end_by_network() {
    let fixture = Fixture::new();
    for (kind, failure, reason) in [
        (ConnectionKind::Events, io::ErrorKind::TimedOut, CloseReason::Heartbeat),
        (ConnectionKind::Events, io::ErrorKind::ConnectionReset, CloseReason::Network),
        (ConnectionKind::Plain, io::ErrorKind::TimedOut, CloseReason::Network),
        (ConnectionKind::Plain, io::ErrorKind::ConnectionReset, CloseReason::Network),
    ] {
        let mut run = connection(&fixture, kind);
        run.socket.0.borrow_mut().failure = Some(failure);
        run.ready(Readiness { is_writable: false, is_last: true });
        assert_eq!(run.ended_by, Some(reason), "{kind:?} {failure}");
    }
}

#[test]
fn session_ended_by_a_step_of_session_time_leaves_the_store_its_full_time() {
    let fixture = Fixture::new();
    let mut run = connection(&fixture, ConnectionKind::Acknowledging);
    run.now = Tick(2000);
    run.lag = Lag(-400_000);
    run.act(|record, turn| record.session_time_stepped(turn));
    run.pass_time(1);
    assert_eq!((run.reads, run.is_waiting()), (1, true));
    // The store does not answer for a minute.
    let ended_by = |run: &Run<'_>| run.record.as_ref().filter(|it| !it.is_waiting()).map(|it| it.reason);
    run.pass_time(10 * PATIENCE_SECONDS - 20);
    assert_eq!(ended_by(&run), None);
    // An attempt follows one second after the one before.
    run.pass_time(20);
    run.pass_time(20);
    assert_eq!(ended_by(&run), Some(CloseReason::Unavailable));
}

#[test]
fn bytes_after_a_violation_are_discarded_up_to_a_maximum() {
    let fixture = Fixture::new();
    let mut run = connection(&fixture, ConnectionKind::Plain);
    receives(&mut run, &[0xFF, 0xFF]);
    let mut receive = |bytes: usize| run.act(|record, turn| record.receive(&mut vec![0; bytes], turn));
    receive(4 * 1024 * 1024 - 1);
    receive(0);
    assert!(run.record.is_some());
    run.act(|record, turn| record.receive(&mut [0], turn));
    assert_eq!(run.ended_by, Some(CloseReason::Protocol));

    // The same holds if the Close was not accepted at once.
    let mut run = connection(&fixture, ConnectionKind::Plain);
    run.socket.0.borrow_mut().room_bytes = 0;
    receives(&mut run, &[0xFF, 0xFF]);
    run.socket.0.borrow_mut().grow_room(1 << 16);
    run.report();
    run.act(|record, turn| record.receive(&mut [0], turn));
    assert!(run.record.is_some());
}

#[test]
fn event_streams_and_polls_end_at_a_read_above_the_maximum_message_length() {
    let fixture = Fixture::new();
    for kind in [ConnectionKind::Events, ConnectionKind::Poll] {
        let mut run = connection(&fixture, kind);
        run.act(|record, turn| record.receive(&mut [0; MAX_MESSAGE_BYTES as usize], turn));
        assert!(run.is_waiting());
        run.act(|record, turn| record.receive(&mut [0; MAX_MESSAGE_BYTES as usize + 1], turn));
        assert_eq!(run.ended_by, Some(CloseReason::Protocol));
    }
}

#[test]
fn ping_message_is_answered_unless_bytes_are_unsent() {
    let fixture = Fixture::new();
    let mut run = connection(&fixture, ConnectionKind::Acknowledging);
    written(&run);
    receives(&mut run, &masked(0x81, b"ping"));
    assert_eq!(written(&run), [0x82, 0]);
    run.socket.0.borrow_mut().room_bytes = 0;
    run.deliver("scanned");
    receives(&mut run, &masked(0x81, b"ping"));
    run.socket.0.borrow_mut().grow_room(1 << 16);
    run.report();
    assert_eq!(written(&run), fixture.message("scanned").frames.frame());
}

#[test]
fn violation_after_the_token_closes_with_1002_and_after_the_ack_with_1000() {
    let fixture = Fixture::new();
    let mut run = connection(&fixture, ConnectionKind::Acknowledging);
    run.deliver("confirmed");
    written(&run);
    receives(&mut run, &[0xFF, 0xFF]);
    assert_eq!(written(&run), [&[0x88, 2][..], &1002_u16.to_be_bytes()].concat());
    assert_eq!(run.acks_in_all, 0);

    let mut run = connection(&fixture, ConnectionKind::Acknowledging);
    run.deliver("confirmed");
    written(&run);
    receives(&mut run, &[masked(0x81, b"ack"), vec![0xFF, 0xFF]].concat());
    assert_eq!((run.acks, written(&run)), (1, vec![]), "the acknowledgement is being stored");
    run.perform(3);
    assert_eq!(written(&run), [&[0x88, 2][..], &1000_u16.to_be_bytes()].concat());
}

#[test]
fn ack_begun_before_the_token_is_ignored() {
    let fixture = Fixture::new();
    let ack = masked(0x81, b"ack");
    for begun in 1..ack.len() {
        let mut run = connection(&fixture, ConnectionKind::Acknowledging);
        receives(&mut run, &ack[..begun]);
        run.deliver("confirmed");
        receives(&mut run, &ack[begun..]);
        assert_eq!(run.acks, 0, "begun by {begun} bytes");
        receives(&mut run, &ack);
        assert_eq!(run.acks, 1);
    }
}

#[test]
fn close_in_two_pieces_is_returned_with_its_code() {
    let fixture = Fixture::new();
    let mut run = connection(&fixture, ConnectionKind::Plain);
    let close = masked(0x88, &close_payload(1001, ""));
    run.socket.0.borrow_mut().room_bytes = 0;
    run.deliver("scanned");
    receives(&mut run, &close[..3]);
    run.socket.0.borrow_mut().grow_room(1 << 16);
    run.report();
    written(&run);
    receives(&mut run, &close[3..]);
    assert_eq!(written(&run), [&[0x88, 2][..], &1001_u16.to_be_bytes()].concat());
    assert_eq!(run.ended_by, Some(CloseReason::Client));
}

#[test]
fn write_deadline_starts_anew_after_all_bytes_were_accepted() {
    let fixture = Fixture::new();
    let mut run = connection(&fixture, ConnectionKind::Plain);
    run.socket.0.borrow_mut().room_bytes = 0;
    run.deliver("scanned");
    run.pass_time(21);
    // In one turn the message is accepted whole and the pong is not.
    let missing = run.unsent_bytes();
    run.socket.0.borrow_mut().grow_room(missing);
    receives(&mut run, &masked(0x89, b"ping"));
    assert_eq!(run.unsent_bytes(), 6);
    run.pass_time(49);
    run.check().unwrap();
    assert!(run.record.is_some());
    run.pass_time(1);
    run.check().unwrap();
    assert_eq!((run.now.0, run.ended_by), (71, Some(CloseReason::Slow)));
}

#[test]
fn push_that_cannot_be_written_ends_the_connection() {
    let fixture = Fixture::new();
    let mut run = connection(&fixture, ConnectionKind::Plain);
    run.socket.0.borrow_mut().failure = Some(io::ErrorKind::BrokenPipe);
    run.deliver("scanned");
    assert_eq!(run.ended_by, Some(CloseReason::Network));
}

#[test]
fn push_is_counted_when_its_last_byte_is_written() {
    let fixture = Fixture::new();
    let pushes = || {
        let metrics = fixture.metrics.render();
        let count = metrics.lines().find_map(|line| line.strip_prefix("qrlogin_push_seconds_count "));
        count.expect("the count of pushes").parse::<u32>().unwrap()
    };
    let push = |run: &mut Run<'_>, status| {
        let message = fixture.message(status);
        run.act(|record, turn| record.deliver(message, Some(Stopwatch::start()), turn));
    };
    let mut run = connection(&fixture, ConnectionKind::Plain);
    push(&mut run, "scanned");
    assert_eq!(pushes(), 1);
    run.socket.0.borrow_mut().room_bytes = 5;
    push(&mut run, "rejected");
    assert_eq!(pushes(), 1);
    run.socket.0.borrow_mut().grow_room(1 << 16);
    run.report();
    assert_eq!(pushes(), 2);
    // The change is delivered while a frame of the browser is incomplete.
    let mut run = connection(&fixture, ConnectionKind::Plain);
    receives(&mut run, &masked(0x8A, b"pong")[..3]);
    push(&mut run, "scanned");
    assert_eq!(pushes(), 3);
}

#[test]
fn latest_change_during_the_handshake_is_kept_in_any_order() {
    let at = |version: u32| {
        Arc::new(Session {
            key: KEY,
            code: KEY.code_key(),
            version,
            created_at: Timestamp::from_millis(0),
            expires_at: Timestamp::from_millis(300_000),
            client: Client::default(),
            request: None,
            scanned_at: None,
            state: State::Pending,
        })
    };
    for order in [[2, 3, 3], [3, 2, 2], [2, 3, 2]] {
        let mut record = Connection::<SimulatedSocket>::opening(KEY, 1);
        let (first, rest) = (at(order[0]), [at(order[1]), at(order[2])]);
        assert!(record.keep_if_opening(&first, Stopwatch::start()));
        for session in &rest {
            assert!(record.keep_if_opening(session, Stopwatch::start()));
        }
        let (kept, _) = record.rare.take().unwrap().kept_change.unwrap();
        assert_eq!(kept.version, 3);
        assert!(order[1] == 2 || Arc::ptr_eq(&kept, &rest[0]), "the first of its version");
    }
}
