//! Tests of the transitions: every combination of state, event and user, and properties of event sequences.

use proptest::prelude::*;

use super::*;

const CREATED: Timestamp = Timestamp::from_millis(1_000_000);
const EXPIRES: Timestamp = CREATED.plus_seconds(300);
const DECIDED: Timestamp = EXPIRES.plus_millis(-1000);
const CLAIMABLE_UNTIL: Timestamp = DECIDED.plus_seconds(60);

/// A time before `expires_at`.
const EARLY: Timestamp = CREATED.plus_seconds(10);
/// From `expires_at` on, before `claimable_until`.
const LATE: Timestamp = EXPIRES;
/// A time from `claimable_until` on.
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
        code: id.key().code_key(),
        version: 1,
        created_at: CREATED,
        expires_at: EXPIRES,
        client: Client::default(),
        request: None,
        scanned_at: None,
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

/// A code that does not rotate.
const CODE: Presented = Presented { period: 0, rotation: Rotation::NONE };

fn apply(session: &Session, event: Event, now: Timestamp) -> Result<Step, Refusal> {
    match event {
        Event::Scan(by) => session.scan(&user(by), CODE, now),
        Event::Confirm(by) => session.decide(&user(by), CODE, yes(by, now, None), now),
        Event::Reject(by) => session.decide(&user(by), CODE, Decision::Reject, now),
        Event::Cancel => session.cancel(now),
        Event::Claim => session.acknowledge(now),
    }
}

fn yes(by: &str, now: Timestamp, number_matches: Option<bool>) -> Decision {
    Decision::Confirm { grant: grant_to(by), claimable_until: now.plus_seconds(60), number_matches }
}

/// Returns the name of the outcome of an event.
fn outcome(state: &State, event: Event, now: Timestamp) -> &'static str {
    let before = session(state.clone());
    named(&before, apply(&before, event, now))
}

fn named(before: &Session, step: Result<Step, Refusal>) -> &'static str {
    match step {
        Ok(Step::Repeated) => "repeated",
        Ok(Step::To(after)) => {
            assert_eq!(after.version, before.version + 1, "a change is one version on");
            match after.state {
                State::Pending => "pending",
                State::Scanned(_) => "scanned",
                State::Confirmed(confirmation) if confirmation.claimed => "claimed",
                State::Confirmed(_) => "confirmed",
                State::Rejected(_) => "rejected",
                State::Cancelled(_) => "cancelled",
            }
        }
        Err(Refusal::Expired) => "!expired",
        Err(Refusal::Risk) => "!risk",
        Err(Refusal::Cancelled) => "!cancelled",
        Err(Refusal::WrongUser) => "!wrong_user",
        Err(Refusal::AlreadyScanned) => "!already_scanned",
        Err(Refusal::AlreadyDecided) => "!already_decided",
        Err(Refusal::NotDecided) => "!not_decided",
        Err(Refusal::OldCode) => "!old_code",
        Err(Refusal::NotScanned) => "!not_scanned",
        Err(Refusal::NoNumber) => "!no_number",
        Err(Refusal::WrongNumber) => "!wrong_number",
    }
}

#[test]
fn every_state_has_an_outcome_for_every_event_and_user() {
    use Event::{Cancel, Claim, Confirm, Reject, Scan};
    let events =
        [Scan("ann"), Scan("bob"), Confirm("ann"), Confirm("bob"), Reject("ann"), Reject("bob"), Cancel, Claim];
    let (scanned, rejected) = (State::Scanned(user("ann")), State::Rejected(user("ann")));
    let cancelled = State::Cancelled(Cancellation::Browser);
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
        ("cancelled", &cancelled,        EARLY,      called_off),
        ("cancelled", &cancelled,        LATE,       called_off),
        ("cancelled", &cancelled,        AFTERWARDS, called_off),
    ];
    for (name, state, now, expected) in table {
        let answers: Vec<_> = events.iter().map(|event| outcome(state, *event, now)).collect();
        assert_eq!(answers.join(" "), expected, "{name} at {now}");
    }
}

#[test]
fn number_matching_requires_a_scan_and_a_wrong_number_rejects() {
    let answer = |state: &State, by: &str, is_right: bool| {
        let before = session(state.clone());
        named(&before, before.decide(&user(by), CODE, yes(by, EARLY, Some(is_right)), EARLY))
    };
    let (scanned, rejected) = (State::Scanned(user("ann")), State::Rejected(user("ann")));
    let confirmed = confirmed_by("ann", false);
    #[rustfmt::skip]
    let table = [
        // state            ann right,          wrong;              bob right,          wrong
        (&State::Pending, ["!not_scanned",     "!not_scanned",     "!not_scanned",     "!not_scanned"]),
        (&scanned,        ["confirmed",        "rejected",         "!wrong_user",      "!wrong_user"]),
        (&confirmed,      ["repeated",         "!already_decided", "!already_decided", "!already_decided"]),
        (&rejected,       ["!already_decided", "repeated",         "!already_decided", "!already_decided"]),
    ];
    for (state, expected) in table {
        let answers = [("ann", true), ("ann", false), ("bob", true), ("bob", false)];
        assert_eq!(answers.map(|(by, is_right)| answer(state, by, is_right)), expected, "{state:?}");
    }
}

#[test]
fn code_is_accepted_for_one_more_period_and_does_not_age_after_the_scan() {
    let rotation = Rotation { period_seconds: 20 };
    let at = |seconds| CREATED.plus_seconds(seconds);
    let scan = |session: &Session, by: &str, period, now| {
        named(session, session.scan(&user(by), Presented { period, rotation }, now))
    };
    let fresh = session(State::Pending);
    assert_eq!(scan(&fresh, "ann", 0, at(39)), "scanned");
    assert_eq!(scan(&fresh, "ann", 0, at(40)), "!old_code");
    assert_eq!(scan(&fresh, "ann", 1, at(59)), "scanned");
    assert_eq!(scan(&fresh, "ann", 1, at(60)), "!old_code");
    assert_eq!(scan(&fresh, "ann", 3, at(60)), "scanned");
    assert_eq!(rotation.period_at(&fresh, at(59)), 2);

    let Ok(Step::To(scanned)) = fresh.scan(&user("ann"), Presented { period: 1, rotation }, at(59)) else { panic!() };
    assert_eq!(scanned.scanned_at, Some(at(59)));
    assert_eq!(rotation.period_at(&scanned, at(299)), 2, "from the scan on nothing rotates");
    assert_eq!(scan(&scanned, "ann", 1, at(299)), "repeated");
    assert_eq!(scan(&scanned, "ann", 0, at(299)), "!old_code");
    assert_eq!(scan(&scanned, "bob", 2, at(299)), "!already_scanned");
    let decided = scanned.decide(&user("ann"), Presented { period: 1, rotation }, yes("ann", at(299), None), at(299));
    assert_eq!(named(&scanned, decided), "confirmed");
    let one_step = fresh.decide(&user("ann"), Presented { period: 0, rotation }, Decision::Reject, at(40));
    assert_eq!(named(&fresh, one_step), "!old_code");
}

#[test]
fn only_pending_sessions_are_cancelled_for_overload() {
    let cancel_for_overload = |state: State, now| {
        let before = session(state);
        named(&before, before.cancel_for_overload(now))
    };
    assert_eq!(cancel_for_overload(State::Pending, EARLY), "cancelled");
    assert_eq!(cancel_for_overload(State::Pending, LATE), "!expired");
    assert_eq!(cancel_for_overload(State::Scanned(user("ann")), EARLY), "!already_scanned");
    assert_eq!(cancel_for_overload(confirmed_by("ann", false), EARLY), "!already_scanned");
}

#[test]
fn ipv6_addresses_of_one_64_bit_network_are_one_client() {
    let network = |ip: &str| Client { ip: ip.to_owned(), ..Client::default() }.network();
    assert_eq!(network("192.0.2.7"), "192.0.2.7");
    assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    assert_eq!(network("::ffff:192.0.2.7"), "192.0.2.7");
}

#[test]
fn status_depends_on_state_and_time() {
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
    assert_eq!(reads(State::Cancelled(Cancellation::Browser), AFTERWARDS), Status::Cancelled);
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
    fn no_event_sequence_decides_twice_or_late_or_for_two_users(
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
                (State::Cancelled(_), Event::Cancel) => decisions.push(next.state.clone()),
                unexpected => prop_assert!(false, "{:?}", unexpected),
            }
            current = next;
        }
        prop_assert!(decisions.len() <= 1, "two decisions: {:?}", decisions);
        prop_assert!(receipts <= 1, "two receipts");
    }
}

#[test]
fn result_of_an_oauth_client_is_collected_once_and_not_by_the_browsers_acknowledgement() {
    let request = OAuthRequest { client_id: "tv".to_owned(), scopes: Vec::new(), redirect: None };
    let of_client = |state| Session { request: Some(Box::new(request.clone())), ..session(state) };
    let confirmed = of_client(confirmed_by("ann", false));
    assert_eq!(named(&confirmed, confirmed.acknowledge(LATE)), "repeated");
    assert_eq!(named(&confirmed, confirmed.collect(LATE)), "claimed");
    assert_eq!(named(&confirmed, confirmed.collect(AFTERWARDS)), "!expired");
    let claimed = of_client(confirmed_by("ann", true));
    assert_eq!(named(&claimed, claimed.collect(LATE)), "!already_decided");
    let pending = of_client(State::Pending);
    assert_eq!(named(&pending, pending.collect(EARLY)), "!not_decided");
    let of_browser = session(confirmed_by("ann", false));
    assert_eq!(named(&of_browser, of_browser.collect(LATE)), "!already_decided");
}
