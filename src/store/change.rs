//! A change of a session in a database of one node: finds the session, applies the transition, and writes the result. A
//! committed change becomes a [`Changed`].

use std::sync::Arc;

use super::committed::{Announcer, Changed, Committed, SessionSelector, Stored, Transition};
use super::jobs::JobError;
use crate::cluster::node::Notification;
use crate::metrics::Stopwatch;
use crate::session::{Refusal, Session, Step};
use crate::system::clock::Clock;

/// Maximum number of attempts to write a change while another process changes the same row.
const MAX_ATTEMPTS: usize = 8;

/// The table of sessions, as a job uses it.
pub(crate) trait SessionTable {
    /// Identifies a row.
    type RowId;

    /// Returns a session and its row.
    fn find(&mut self, selector: SessionSelector) -> Result<Option<(Self::RowId, Session)>, JobError>;

    /// Writes `next` to the row if the row has the version before `next`. Returns whether it did.
    fn update(&mut self, row: Self::RowId, next: &Session) -> Result<bool, JobError>;
}

/// The result of a job that changes a session, before the commit.
pub(crate) enum UncommittedChange {
    Written(Session),
    Found(Session),
    Refused(Refusal, Session),
    Missing,
    Contended,
}

/// Finds the session, applies the transition, and writes the result.
pub(crate) fn change<T: SessionTable>(
    table: &mut T,
    selector: SessionSelector,
    transition: &Transition,
    clock: &Clock,
) -> Result<UncommittedChange, JobError> {
    for _ in 0..MAX_ATTEMPTS {
        let Some((row, found)) = table.find(selector)? else { return Ok(UncommittedChange::Missing) };
        // Read after the job has waited in the queue: a change is checked against the time of its write.
        let now = clock.now();
        let next = match transition(&found, now) {
            Ok(Step::To(next)) if now < next.writable_until() => next,
            Ok(Step::To(_)) => return Ok(UncommittedChange::Refused(Refusal::Expired, found)),
            Ok(Step::Repeated) => return Ok(UncommittedChange::Found(found)),
            Err(refusal) => return Ok(UncommittedChange::Refused(refusal, found)),
        };
        if table.update(row, &next)? {
            return Ok(UncommittedChange::Written(next));
        }
    }
    Ok(UncommittedChange::Contended)
}

impl UncommittedChange {
    /// Returns the notification of the written version, if one was written.
    pub(crate) fn notification(&self) -> Option<Notification> {
        let Self::Written(session) = self else { return None };
        Some(Notification { key: session.key, version: session.version, attachment: 0 })
    }

    /// Converts the result to the outcome. Call this after the commit.
    pub(crate) fn committed(self, announcer: Arc<dyn Announcer>) -> Changed {
        let committed = |session: Session, is_new| {
            let stored = Stored { session: Arc::new(session), waits: None, is_new, since: Stopwatch::start() };
            Committed::new(stored, announcer)
        };
        match self {
            Self::Written(next) => Changed::Done(committed(next, true)),
            Self::Found(found) => Changed::Done(committed(found, false)),
            Self::Refused(refusal, found) => Changed::Refused(refusal, committed(found, false)),
            Self::Missing => Changed::Missing,
            Self::Contended => Changed::Contended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Client, CodeKey, Confirmation, Grant, PhoneUser, SessionKey, State, Timestamp};

    const EXPIRES_AT: Timestamp = Timestamp::from_millis(300_000);
    const CLAIMABLE_UNTIL: Timestamp = Timestamp::from_millis(400_000);

    /// A table of one session.
    struct OneSession(Session);

    impl SessionTable for OneSession {
        type RowId = ();

        fn find(&mut self, _: SessionSelector) -> Result<Option<((), Session)>, JobError> {
            Ok(Some(((), self.0.clone())))
        }

        fn update(&mut self, (): (), next: &Session) -> Result<bool, JobError> {
            self.0 = next.clone();
            Ok(true)
        }
    }

    fn session(state: State) -> Session {
        Session {
            key: SessionKey([1; 32]),
            code: CodeKey([2; 32]),
            version: 1,
            created_at: Timestamp::from_millis(0),
            expires_at: EXPIRES_AT,
            client: Client::default(),
            request: None,
            scanned_at: None,
            state,
        }
    }

    fn confirmed(claimed: bool) -> State {
        let text = || "text".to_owned();
        State::Confirmed(Confirmation {
            by: PhoneUser { id: text(), name: None, picture: None },
            decided_at: Timestamp::from_millis(1),
            claimable_until: CLAIMABLE_UNTIL,
            grant: Grant {
                kid: text(),
                jti: text(),
                iss: text(),
                sub: text(),
                aud: text(),
                iat: 1,
                exp: 2,
                claims: serde_json::Map::new(),
            },
            claimed,
        })
    }

    /// Applies a transition that leads to `next` and does not check the time. Returns whether the change is written at
    /// this time.
    fn is_written(from: State, to: State, at: Timestamp) -> bool {
        let next = Session { version: 2, ..session(to) };
        let transition: Transition = Arc::new(move |_, _| Ok(Step::To(next.clone())));
        let mut table = OneSession(session(from));
        let (clock, _hands) = Clock::manual(at);
        let changed = change(&mut table, SessionSelector::Key(SessionKey([1; 32])), &transition, &clock).unwrap();
        let is_written = matches!(changed, UncommittedChange::Written(_));
        assert!(is_written || matches!(changed, UncommittedChange::Refused(Refusal::Expired, _)));
        assert_eq!(table.0.version == 2, is_written);
        is_written
    }

    #[test]
    fn decision_is_written_before_the_session_expires_and_not_from_then_on() {
        assert!(is_written(State::Pending, confirmed(false), EXPIRES_AT.plus_millis(-1)));
        assert!(!is_written(State::Pending, confirmed(false), EXPIRES_AT));
    }

    #[test]
    fn acknowledgement_is_written_while_the_token_is_claimable_and_not_from_then_on() {
        assert!(is_written(confirmed(false), confirmed(true), CLAIMABLE_UNTIL.plus_millis(-1)));
        assert!(!is_written(confirmed(false), confirmed(true), CLAIMABLE_UNTIL));
    }
}
