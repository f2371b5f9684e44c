//! One login, as values: its states, who may move it from one to the next, and when.
//!
//! ```text
//! pending ──scan──▶ scanned ──confirm──▶ confirmed ──receipt──▶ claimed
//!    │                 │ └────reject───▶ rejected
//!    └──confirm/reject─┘
//!    pending, scanned ──cancel──▶ cancelled
//!    pending, scanned, past `expires_at` ──▶ reads as expired
//!    confirmed, unclaimed past `claimable_until` ──▶ reads as expired
//! ```
//!
//! Everything here is a pure function of values and `now`: no clock, randomness, store or socket.
//! A transition returns the session as it would be; whoever called decides whether that gets written.

mod secrets;
mod timestamp;
#[cfg(test)]
mod transitions_test;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use secrets::{Code, CodeKey, SessionId, SessionKey};
pub use timestamp::Timestamp;

/// One login attempt: a row in the store, a QR code on a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// SHA-256 of the browser's secret; the row's key.
    pub key: SessionKey,
    /// SHA-256 of the code in the QR picture.
    pub code: CodeKey,
    /// Counts the transitions, from 1. Orders events, drops duplicates, and is what a write is compared against.
    pub version: u32,
    /// When the browser asked.
    pub created_at: Timestamp,
    /// From this instant on an undecided session is expired.
    pub expires_at: Timestamp,
    /// Who is asking, as the server saw it.
    pub client: Client,
    /// Where the login stands.
    pub state: State,
}

/// What the server knows of the browser that asks; shown to the phone's owner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// The address the request came from.
    pub ip: String,
    /// From the user agent, such as `Chrome 140`.
    pub browser: Option<String>,
    /// From the user agent, such as `Windows 10`.
    pub os: Option<String>,
    /// The page's origin, as the browser sent it.
    pub origin: Option<String>,
    /// The browser's own unverified word.
    pub client_info: Option<String>,
}

/// A user of the integrator's own system, as the app token named them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneUser {
    /// The stable id; the only field that is ever compared.
    pub id: String,
    /// Display name (OpenID Connect Core §5.1, `name`).
    pub name: Option<String>,
    /// Picture URL (OpenID Connect Core §5.1, `picture`).
    pub picture: Option<String>,
}

/// What is in the `web_token`, fixed by the decision so that every delivery is the same token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// The signing key, by its id.
    pub kid: String,
    /// The token's own id.
    pub jti: String,
    /// Who signs.
    pub iss: String,
    /// The user's id.
    pub sub: String,
    /// For whom the token is.
    pub aud: String,
    /// Seconds since the epoch.
    pub iat: i64,
    /// Seconds since the epoch.
    pub exp: i64,
    /// Claims of the app token that are passed on.
    pub claims: Map<String, Value>,
}

/// Where a login stands, before `now` is looked at; see [`Session::status`].
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Waiting for a phone.
    Pending,
    /// This user's phone is looking at it.
    Scanned(PhoneUser),
    /// The user said yes.
    Confirmed(Confirmation),
    /// The user said no.
    Rejected(PhoneUser),
    /// The browser gave up.
    Cancelled,
}

/// A yes, and what follows from it.
#[derive(Debug, Clone, PartialEq)]
pub struct Confirmation {
    /// Who said yes.
    pub by: PhoneUser,
    /// When.
    pub decided_at: Timestamp,
    /// Until when the browser may fetch its token.
    pub claimable_until: Timestamp,
    /// What the token says.
    pub grant: Grant,
    /// The browser's receipt is in; the token is not given again.
    pub claimed: bool,
}

/// How a session reads at an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Waiting for a phone.
    Pending,
    /// A phone has scanned.
    Scanned,
    /// Confirmed, and the token may be fetched.
    Confirmed,
    /// Confirmed, and the token has been received.
    Claimed,
    /// Rejected by the phone's owner.
    Rejected,
    /// Cancelled by the browser.
    Cancelled,
    /// Out of time, undecided or unclaimed.
    Expired,
}

/// What a permitted event does.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "taken apart at once, never kept")]
pub enum Step {
    /// The session as it is to be written, one version on.
    To(Session),
    /// The same user did the same before: nothing to write, the same answer again.
    Repeated,
}

/// Why an event is not permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The session is out of time.
    Expired,
    /// The browser gave up.
    Cancelled,
    /// Another user scanned, and only that user may decide.
    WrongUser,
    /// Another user scanned first.
    AlreadyScanned,
    /// It has been decided otherwise, or by someone else.
    AlreadyDecided,
    /// There is nothing to acknowledge yet.
    NotDecided,
}

/// What the phone's owner decides.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Yes; the browser is given what `grant` says, until `claimable_until`.
    Confirm {
        /// What the token says.
        grant: Grant,
        /// Until when the browser may fetch it.
        claimable_until: Timestamp,
    },
    /// No.
    Reject,
}

impl Session {
    /// How this session reads at `now`.
    #[must_use]
    pub fn status(&self, now: Timestamp) -> Status {
        match &self.state {
            State::Confirmed(confirmation) if confirmation.claimed => Status::Claimed,
            State::Confirmed(confirmation) if now < confirmation.claimable_until => Status::Confirmed,
            State::Confirmed(_) => Status::Expired,
            State::Rejected(_) => Status::Rejected,
            State::Cancelled => Status::Cancelled,
            State::Pending | State::Scanned(_) if now >= self.expires_at => Status::Expired,
            State::Pending => Status::Pending,
            State::Scanned(_) => Status::Scanned,
        }
    }

    /// Whether nobody has decided: such a session expires at `expires_at`.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        matches!(self.state, State::Pending | State::Scanned(_))
    }

    /// The phone user who scanned or decided.
    #[must_use]
    pub fn user(&self) -> Option<&PhoneUser> {
        match &self.state {
            State::Scanned(user) | State::Rejected(user) => Some(user),
            State::Confirmed(confirmation) => Some(&confirmation.by),
            State::Pending | State::Cancelled => None,
        }
    }

    /// A phone scans. Whoever scanned first keeps the session.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn scan(&self, by: &PhoneUser, now: Timestamp) -> Result<Step, Refusal> {
        self.refuse_ended(now)?;
        match &self.state {
            State::Pending => Ok(self.step(State::Scanned(by.clone()))),
            _ if self.user().is_some_and(|user| user.id == by.id) => Ok(Step::Repeated),
            State::Scanned(_) => Err(Refusal::AlreadyScanned),
            _ => Err(Refusal::AlreadyDecided),
        }
    }

    /// The phone's owner decides, having scanned or (in one step) without.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn decide(&self, by: &PhoneUser, decision: Decision, now: Timestamp) -> Result<Step, Refusal> {
        self.refuse_ended(now)?;
        match (&self.state, decision) {
            (State::Scanned(scanner), _) if scanner.id != by.id => Err(Refusal::WrongUser),
            (State::Pending | State::Scanned(_), Decision::Confirm { grant, claimable_until }) => {
                Ok(self.step(State::Confirmed(Confirmation {
                    by: by.clone(),
                    decided_at: now,
                    claimable_until,
                    grant,
                    claimed: false,
                })))
            }
            (State::Pending | State::Scanned(_), Decision::Reject) => Ok(self.step(State::Rejected(by.clone()))),
            (State::Confirmed(earlier), Decision::Confirm { .. }) if earlier.by.id == by.id => Ok(Step::Repeated),
            (State::Rejected(rejecter), Decision::Reject) if rejecter.id == by.id => Ok(Step::Repeated),
            _ => Err(Refusal::AlreadyDecided),
        }
    }

    /// The browser gives up.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn cancel(&self, now: Timestamp) -> Result<Step, Refusal> {
        match self.refuse_ended(now) {
            Err(Refusal::Cancelled) => Ok(Step::Repeated),
            Err(refusal) => Err(refusal),
            Ok(()) if self.is_undecided() => Ok(self.step(State::Cancelled)),
            Ok(()) => Err(Refusal::AlreadyDecided),
        }
    }

    /// The browser's receipt: from here on the token is not given again.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn claim(&self, now: Timestamp) -> Result<Step, Refusal> {
        self.refuse_ended(now)?;
        match &self.state {
            State::Pending | State::Scanned(_) => Err(Refusal::NotDecided),
            State::Confirmed(confirmation) if confirmation.claimed => Ok(Step::Repeated),
            State::Confirmed(confirmation) if now >= confirmation.claimable_until => Err(Refusal::Expired),
            State::Confirmed(confirmation) => {
                Ok(self.step(State::Confirmed(Confirmation { claimed: true, ..confirmation.clone() })))
            }
            _ => Err(Refusal::AlreadyDecided),
        }
    }

    /// The instant from which this version may no longer be written: a decision (as a scan or a cancellation) before
    /// the session's end, a receipt before the claim's.
    #[must_use]
    pub fn writable_until(&self) -> Timestamp {
        match &self.state {
            State::Confirmed(confirmation) if confirmation.claimed => confirmation.claimable_until,
            _ => self.expires_at,
        }
    }

    /// What nobody can do anything to any more. A decided session is not among them: its decider may ask again.
    fn refuse_ended(&self, now: Timestamp) -> Result<(), Refusal> {
        match self.state {
            State::Cancelled => Err(Refusal::Cancelled),
            State::Pending | State::Scanned(_) if now >= self.expires_at => Err(Refusal::Expired),
            _ => Ok(()),
        }
    }

    fn step(&self, state: State) -> Step {
        Step::To(Session { version: self.version + 1, state, ..self.clone() })
    }
}
