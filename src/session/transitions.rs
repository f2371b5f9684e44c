//! The transitions of a session: each event as a pure function from a session to the next one, or to a refusal.

use super::{Cancellation, Confirmation, Grant, PhoneUser, Rotation, Session, State, Timestamp};

impl Session {
    /// Returns the session as scanned by this user. The first user that scans keeps the session.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn scan(&self, by: &PhoneUser, code: Presented, now: Timestamp) -> Result<Step, Refusal> {
        self.refuse_ended(now)?;
        self.refuse_old(code, now)?;
        match &self.state {
            State::Pending => Ok(self.step_by_phone(State::Scanned(by.clone()), now)),
            _ if self.user().is_some_and(|user| user.id == by.id) => Ok(Step::Repeated),
            State::Scanned(_) => Err(Refusal::AlreadyScanned),
            _ => Err(Refusal::AlreadyDecided),
        }
    }

    /// Returns the session with the decision of this user. The user need not have scanned before, unless numbers are
    /// matched: then only a rejection is possible without a scan.
    ///
    /// A confirmation with a wrong number steps to [`State::Rejected`].
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn decide(&self, by: &PhoneUser, code: Presented, decision: Decision, now: Timestamp) -> Result<Step, Refusal> {
        self.refuse_ended(now)?;
        self.refuse_old(code, now)?;
        match (&self.state, decision) {
            (State::Scanned(scanner), _) if scanner.id != by.id => Err(Refusal::WrongUser),
            (State::Pending, Decision::Confirm { number_matches: Some(_), .. }) => Err(Refusal::NotScanned),
            (State::Scanned(_), Decision::Confirm { number_matches: Some(false), .. }) => {
                Ok(self.step_by_phone(State::Rejected(by.clone()), now))
            }
            (State::Pending | State::Scanned(_), Decision::Confirm { grant, claimable_until, .. }) => {
                let confirmation =
                    Confirmation { by: by.clone(), decided_at: now, claimable_until, grant, claimed: false };
                Ok(self.step_by_phone(State::Confirmed(confirmation), now))
            }
            (State::Pending | State::Scanned(_), Decision::Reject) => {
                Ok(self.step_by_phone(State::Rejected(by.clone()), now))
            }
            (State::Confirmed(earlier), Decision::Confirm { number_matches: None | Some(true), .. })
                if earlier.by.id == by.id =>
            {
                Ok(Step::Repeated)
            }
            (State::Rejected(rejecter), Decision::Reject) if rejecter.id == by.id => Ok(Step::Repeated),
            (State::Rejected(rejecter), Decision::Confirm { number_matches: Some(false), .. })
                if rejecter.id == by.id =>
            {
                Ok(Step::Repeated)
            }
            _ => Err(Refusal::AlreadyDecided),
        }
    }

    /// Returns the session as cancelled by the server, because too many sessions are pending.
    ///
    /// # Errors
    /// The session has been scanned, or it has ended.
    pub fn cancel_for_overload(&self, now: Timestamp) -> Result<Step, Refusal> {
        self.refuse_ended(now)?;
        match self.state {
            State::Pending => Ok(self.step(State::Cancelled(Cancellation::Overload))),
            _ => Err(Refusal::AlreadyScanned),
        }
    }

    /// Returns the session as cancelled by the browser.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn cancel(&self, now: Timestamp) -> Result<Step, Refusal> {
        match self.refuse_ended(now) {
            Err(Refusal::Cancelled) => Ok(Step::Repeated),
            Err(refusal) => Err(refusal),
            Ok(()) if self.is_undecided() => Ok(self.step(State::Cancelled(Cancellation::Browser))),
            Ok(()) => Err(Refusal::AlreadyDecided),
        }
    }

    /// Returns the session with its token acknowledged. After that the token is not delivered again. The browser of an
    /// OAuth client has received no token, so its acknowledgement changes nothing.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn acknowledge(&self, now: Timestamp) -> Result<Step, Refusal> {
        self.refuse_ended(now)?;
        match &self.state {
            State::Pending | State::Scanned(_) => Err(Refusal::NotDecided),
            State::Confirmed(_) if self.request.is_some() => Ok(Step::Repeated),
            State::Confirmed(confirmation) if confirmation.claimed => Ok(Step::Repeated),
            State::Confirmed(confirmation) if now >= confirmation.claimable_until => Err(Refusal::Expired),
            State::Confirmed(confirmation) => {
                Ok(self.step(State::Confirmed(Confirmation { claimed: true, ..confirmation.clone() })))
            }
            _ => Err(Refusal::AlreadyDecided),
        }
    }

    /// Returns the session with its result collected by the OAuth client. It can be collected once.
    ///
    /// # Errors
    /// [`Refusal::AlreadyDecided`] if it was collected before, otherwise see [`Refusal`].
    pub fn collect(&self, now: Timestamp) -> Result<Step, Refusal> {
        self.refuse_ended(now)?;
        match &self.state {
            State::Pending | State::Scanned(_) => Err(Refusal::NotDecided),
            State::Confirmed(confirmation) if self.request.is_some() && !confirmation.claimed => {
                if now >= confirmation.claimable_until {
                    return Err(Refusal::Expired);
                }
                Ok(self.step(State::Confirmed(Confirmation { claimed: true, ..confirmation.clone() })))
            }
            _ => Err(Refusal::AlreadyDecided),
        }
    }

    /// Refuses events on a cancelled or expired session. A decided session passes, because the same user may repeat the
    /// decision.
    fn refuse_ended(&self, now: Timestamp) -> Result<(), Refusal> {
        match self.state {
            State::Cancelled(_) => Err(Refusal::Cancelled),
            State::Pending | State::Scanned(_) if now >= self.expires_at => Err(Refusal::Expired),
            _ => Ok(()),
        }
    }

    /// Refuses a code that has rotated out.
    fn refuse_old(&self, code: Presented, now: Timestamp) -> Result<(), Refusal> {
        if code.rotation.admits(self, code.period, now) { Ok(()) } else { Err(Refusal::OldCode) }
    }

    /// Returns the next version in this state. The first event of a phone sets `scanned_at`.
    fn step_by_phone(&self, state: State, now: Timestamp) -> Step {
        let scanned_at = self.scanned_at.or(Some(now));
        Step::To(Session { version: self.version + 1, state, scanned_at, ..self.clone() })
    }

    /// Returns the next version in this state.
    fn step(&self, state: State) -> Step {
        Step::To(Session { version: self.version + 1, state, ..self.clone() })
    }
}

/// The result of a permitted event.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "the value is matched at once and not stored")]
pub enum Step {
    /// The session to write, with the next version.
    To(Session),
    /// The same event was applied before. There is nothing to write, and the caller gets the same response again.
    Repeated,
}

/// The reason for which an event is not permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The session has expired.
    Expired,
    /// The session was cancelled.
    Cancelled,
    /// The code has rotated out: it is older than the one before the current one.
    OldCode,
    /// The phone has not scanned the code, which number matching requires.
    NotScanned,
    /// The phone has sent no number, which number matching requires.
    NoNumber,
    /// The number is not the one that the browser shows. The session is rejected.
    WrongNumber,
    /// Another user has scanned the code, and only that user may decide.
    WrongUser,
    /// Another user has scanned the code.
    AlreadyScanned,
    /// The session has been decided, in another way or by another user.
    AlreadyDecided,
    /// There is no token to acknowledge yet.
    NotDecided,
    /// The phone and the browser are in different locations, which the risk policy forbids.
    Risk,
}

/// The decision of the phone user.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Confirms. The browser may fetch the token until `claimable_until`.
    Confirm {
        /// Claims of the token.
        grant: Grant,
        /// Time until which the browser may fetch the token.
        claimable_until: Timestamp,
        /// Whether the phone user picked the number that the browser shows. `None` without number matching.
        number_matches: Option<bool>,
    },
    /// Rejects the login of the browser.
    Reject,
}

/// The period of a code that a phone has sent and whose MAC is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// Period in which the code is shown.
    pub period: u16,
    /// Rotation by which the age of the code is checked.
    pub rotation: Rotation,
}
