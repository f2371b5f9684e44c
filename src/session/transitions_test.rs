//! Every state × event × user, and what no sequence of events may reach.

use proptest::prelude::*;

use super::*;

const CREATED: Timestamp = Timestamp::from_millis(1_000_000);
const EXPIRES: Timestamp = CREATED.plus_seconds(300);
const DECIDED: Timestamp = EXPIRES.plus_millis(-1000);
const CLAIMABLE_UNTIL: Timestamp = DECIDED.plus_seconds(60);

/// While undecided sessions live.
const EARLY: Timestamp = CREATED.plus_seconds(10);
/// After `expires_at`, within the claim.
const LATE: Timestamp = EXPIRES;
/// After the claim's end.
const AFTERWARDS: Timestamp = CLAIMABLE_UNTIL;

fn user(id: &str) -> PhoneUser {
    PhoneUser { id: id.into(), name: Some(format!("Name of {id}")), picture: None }
}

fn grant_to(id: &str) -> Grant {
    Grant {
        kid: "key".into(),
        jti: format!("token of {id}"),
        iss: "https://login.example".into(),
        sub: id.into(),
        aud: "https://login.example".into(),
        iat: 1,
        exp: 2,
        claims: Map::new(),
    }
}

fn confirmed_by(id: &str, claimed: bool) -> State {
    State::Confirmed(Confirmation {
        by: user(id),
        decided_at: DECIDED,
        claimable_until: CLAIMABLE_UNTIL,
        grant: grant_to(id),
        claimed,
    })
}

fn session(state: State) -> Session {
    let id = SessionId::from_random([1; 32]);
    Session {
        key: id.key(),
        code: id.code().key(),
        version: 1,
        created_at: CREATED,
        expires_at: EXPIRES,
        client: Client::default(),
        state,
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Scan(&'static str),
    Confirm(&'static str),
    Reject(&'static str),
    Cancel,
    Claim,
}

fn apply(session: &Session, event: Event, now: Timestamp) -> Result<Step, Refusal> {
    match event {
        Event::Scan(by) => session.scan(&user(by), now),
        Event::Confirm(by) => {
            let confirm = Decision::Confirm { grant: grant_to(by), claimable_until: now.plus_seconds(60) };
            session.decide(&user(by), confirm, now)
        }
        Event::Reject(by) => session.decide(&user(by), Decision::Reject, now),
        Event::Cancel => session.cancel(now),
        Event::Claim => session.claim(now),
    }
}

/// What an event did, in a word.
fn outcome(state: &State, event: Event, now: Timestamp) -> &'static str {
    let before = session(state.clone());
    match apply(&before, event, now) {
        Ok(Step::Repeated) => "repeated",
        Ok(Step::To(after)) => {
            assert_eq!(after.version, before.version + 1, "a change is one version on");
            match after.state {
                State::Pending => "pending",
                State::Scanned(_) => "scanned",
                State::Confirmed(confirmation) if confirmation.claimed => "claimed",
                State::Confirmed(_) => "confirmed",
                State::Rejected(_) => "rejected",
                State::Cancelled => "cancelled",
            }
        }
        Err(Refusal::Expired) => "!expired",
        Err(Refusal::Cancelled) => "!cancelled",
        Err(Refusal::WrongUser) => "!wrong_user",
        Err(Refusal::AlreadyScanned) => "!already_scanned",
        Err(Refusal::AlreadyDecided) => "!already_decided",
        Err(Refusal::NotDecided) => "!not_decided",
    }
}

#[test]
fn every_state_answers_every_event_of_every_user() {
    use Event::{Cancel, Claim, Confirm, Reject, Scan};
    let events =
        [Scan("ann"), Scan("bob"), Confirm("ann"), Confirm("bob"), Reject("ann"), Reject("bob"), Cancel, Claim];
    let (scanned, rejected) = (State::Scanned(user("ann")), State::Rejected(user("ann")));
    let (confirmed, claimed) = (confirmed_by("ann", false), confirmed_by("ann", true));

    let ended = "!expired !expired !expired !expired !expired !expired !expired !expired";
    let called_off = "!cancelled !cancelled !cancelled !cancelled !cancelled !cancelled repeated !cancelled";
    let refused = "repeated !already_decided !already_decided !already_decided repeated !already_decided !already_decided !already_decided";
    let agreed = |claim: &str| {
        format!(
            "repeated !already_decided repeated !already_decided !already_decided !already_decided !already_decided {claim}"
        )
    };
    #[rustfmt::skip]
    let table: [(&str, &State, Timestamp, &str); 17] = [
        // state                        when        scan ann, bob; confirm ann, bob; reject ann, bob; cancel; claim
        ("pending",   &State::Pending,   EARLY,      "scanned scanned confirmed confirmed rejected rejected cancelled !not_decided"),
        ("pending",   &State::Pending,   LATE,       ended),
        ("pending",   &State::Pending,   AFTERWARDS, ended),
        ("scanned",   &scanned,          EARLY,      "repeated !already_scanned confirmed !wrong_user rejected !wrong_user cancelled !not_decided"),
        ("scanned",   &scanned,          LATE,       ended),
        ("scanned",   &scanned,          AFTERWARDS, ended),
        ("confirmed", &confirmed,        EARLY,      &agreed("claimed")),
        ("confirmed", &confirmed,        LATE,       &agreed("claimed")),
        ("confirmed", &confirmed,        AFTERWARDS, &agreed("!expired")),
        ("claimed",   &claimed,          EARLY,      &agreed("repeated")),
        ("claimed",   &claimed,          LATE,       &agreed("repeated")),
        ("claimed",   &claimed,          AFTERWARDS, &agreed("repeated")),
        ("rejected",  &rejected,         EARLY,      refused),
        ("rejected",  &rejected,         AFTERWARDS, refused),
        ("cancelled", &State::Cancelled, EARLY,      called_off),
        ("cancelled", &State::Cancelled, LATE,       called_off),
        ("cancelled", &State::Cancelled, AFTERWARDS, called_off),
    ];
    for (name, state, now, expected) in table {
        let answers: Vec<_> = events.iter().map(|event| outcome(state, *event, now)).collect();
        assert_eq!(answers.join(" "), expected, "{name} at {now}");
    }
}

#[test]
fn a_session_reads_as_what_it_is_at_each_instant() {
    let reads = |state: State, now| session(state).status(now);
    let last = |end: Timestamp| end.plus_millis(-1);
    assert_eq!(reads(State::Pending, last(EXPIRES)), Status::Pending);
    assert_eq!(reads(State::Pending, EXPIRES), Status::Expired);
    assert_eq!(reads(State::Scanned(user("ann")), last(EXPIRES)), Status::Scanned);
    assert_eq!(reads(State::Scanned(user("ann")), EXPIRES), Status::Expired);
    assert_eq!(reads(confirmed_by("ann", false), last(CLAIMABLE_UNTIL)), Status::Confirmed);
    assert_eq!(reads(confirmed_by("ann", false), CLAIMABLE_UNTIL), Status::Expired);
    assert_eq!(reads(confirmed_by("ann", true), CLAIMABLE_UNTIL), Status::Claimed);
    assert_eq!(reads(State::Rejected(user("ann")), AFTERWARDS), Status::Rejected);
    assert_eq!(reads(State::Cancelled, AFTERWARDS), Status::Cancelled);
}

fn any_event() -> impl Strategy<Value = Event> {
    let users = prop::sample::select(vec!["ann", "bob", "cyd"]);
    prop_oneof![
        users.clone().prop_map(Event::Scan),
        users.clone().prop_map(Event::Confirm),
        users.prop_map(Event::Reject),
        Just(Event::Cancel),
        Just(Event::Claim),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_events_decides_twice_or_too_late_or_for_two_users(
        events in prop::collection::vec((any_event(), 0_u32..200), 1..30),
    ) {
        let mut current = session(State::Pending);
        let mut now = CREATED;
        let mut scanner: Option<String> = None;
        let mut decisions: Vec<State> = Vec::new();
        let mut receipts = 0;
        for (event, seconds) in events {
            now = now.plus_seconds(seconds);
            let before = current.clone();
            let Ok(Step::To(next)) = apply(&current, event, now) else { continue };
            prop_assert!(now < next.writable_until(), "written in time");
            prop_assert_ne!(&next.state, &before.state);
            match (&next.state, event) {
                (State::Scanned(by), Event::Scan(name)) => {
                    prop_assert_eq!(&by.id, name);
                    scanner = Some(by.id.clone());
                }
                (State::Confirmed(confirmation), Event::Claim) => {
                    prop_assert!(confirmation.claimed && now < confirmation.claimable_until);
                    receipts += 1;
                }
                (decided, Event::Confirm(by) | Event::Reject(by)) => {
                    prop_assert!(now < current.expires_at, "a decision after expiry");
                    prop_assert_eq!(&next.user().unwrap().id, by);
                    if let Some(scanner) = &scanner {
                        prop_assert_eq!(scanner, by, "a decision by another than the scanner");
                    }
                    decisions.push(decided.clone());
                }
                (State::Cancelled, Event::Cancel) => decisions.push(State::Cancelled),
                unexpected => prop_assert!(false, "{:?}", unexpected),
            }
            current = next;
        }
        prop_assert!(decisions.len() <= 1, "two decisions: {:?}", decisions);
        prop_assert!(receipts <= 1, "two receipts");
    }
}
