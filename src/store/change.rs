//! One change of a session on a database of one node: find, decide, write. What is committed becomes a [`Changed`],
//! which announces.

use std::sync::Arc;

use super::committed::{Announcer, Changed, Committed, Stored, Transition, Which};
use super::writer::Failure;
use crate::clock::Clock;
use crate::metrics::Stopwatch;
use crate::node::Hint;
use crate::session::{Refusal, Session, Step};

/// Attempts to write a change over rows that another process changes.
const MAX_ATTEMPTS: usize = 8;

/// The sessions, as a job of the [`Writer`](super::writer::Writer) sees them.
pub(crate) trait Table {
    /// Names a row.
    type Row;

    /// Finds a session.
    fn find(&mut self, which: Which) -> Result<Option<(Self::Row, Session)>, Failure>;

    /// Writes `next` over the row, if the row still has the version before. Returns whether it did.
    fn update(&mut self, row: Self::Row, next: &Session) -> Result<bool, Failure>;
}

/// What a job made of a session; not yet committed.
pub(crate) enum Change {
    Written(Session),
    Found(Session),
    Refused(Refusal, Session),
    Missing,
    Contended,
}

/// Finds the session, decides, and writes the decision.
pub(crate) fn change<T: Table>(
    table: &mut T,
    which: Which,
    transition: &Transition,
    clock: &Clock,
) -> Result<Change, Failure> {
    for _ in 0..MAX_ATTEMPTS {
        let Some((row, found)) = table.find(which)? else { return Ok(Change::Missing) };
        // Taken only now: a change is judged at the instant at which it is written, however long the job was queued.
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
    /// The hint at what was written, if anything was.
    pub(crate) fn hint(&self) -> Option<Hint> {
        let Self::Written(session) = self else { return None };
        Some(Hint { key: session.key, version: session.version, attachment: 0 })
    }

    /// The outcome, once it is committed.
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
