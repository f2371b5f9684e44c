//! A change of a session in a database of one node: find the session, apply the transition, write the result. A
//! committed change becomes a [`Changed`].

use std::sync::Arc;

use super::committed::{Announcer, Changed, Committed, Stored, Transition, Which};
use super::writer::Failure;
use crate::cluster::node::Notification;
use crate::metrics::Stopwatch;
use crate::session::{Refusal, Session, Step};
use crate::system::clock::Clock;

/// Maximum number of attempts to write a change while another process changes the same row.
const MAX_ATTEMPTS: usize = 8;

/// The table of sessions, as a job of the [`Writer`](super::writer::Writer) uses it.
pub(crate) trait Table {
    /// Identifies a row.
    type Row;

    /// Returns a session and its row.
    fn find(&mut self, which: Which) -> Result<Option<(Self::Row, Session)>, Failure>;

    /// Writes `next` to the row if the row has the version before `next`. Returns whether it did.
    fn update(&mut self, row: Self::Row, next: &Session) -> Result<bool, Failure>;
}

/// The result of a job that changes a session, before the commit.
pub(crate) enum Change {
    Written(Session),
    Found(Session),
    Refused(Refusal, Session),
    Missing,
    Contended,
}

/// Finds the session, applies the transition, and writes the result.
pub(crate) fn change<T: Table>(
    table: &mut T,
    which: Which,
    transition: &Transition,
    clock: &Clock,
) -> Result<Change, Failure> {
    for _ in 0..MAX_ATTEMPTS {
        let Some((row, found)) = table.find(which)? else { return Ok(Change::Missing) };
        // Read after the job has waited in the queue: a change is checked against the time of its write.
        let now = clock.now();
        let next = match transition(&found, now) {
            Ok(Step::To(next)) if now < next.writable_until() => next,
            Ok(Step::To(_)) => return Ok(Change::Refused(Refusal::Expired, found)),
            Ok(Step::Repeated) => return Ok(Change::Found(found)),
            Err(refusal) => return Ok(Change::Refused(refusal, found)),
        };
        if table.update(row, &next)? {
            return Ok(Change::Written(next));
        }
    }
    Ok(Change::Contended)
}

impl Change {
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
