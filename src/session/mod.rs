//! One login, as values: its states, who may move it from one to the next, and when.
//!
//! ```text
//! pending ──scan──▶ scanned ──confirm──▶ confirmed ──receipt──▶ claimed
//!    │                 │ └─reject, wrong number─▶ rejected
//!    └──confirm/reject─┘
//!    pending, scanned ──cancel──▶ cancelled
//!    pending, scanned, past `expires_at` ──▶ reads as expired
//!    confirmed, unclaimed past `claimable_until` ──▶ reads as expired
//! ```
//!
//! Everything here is a pure function of values and `now`: no clock, randomness, store or socket.
//! A transition returns the session as it would be; whoever called decides whether that gets written.

mod code;
mod printable;
mod secrets;
mod timestamp;
#[cfg(test)]
mod transitions_test;

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use code::{CODE_PATH, Code, CodeSecret, Numbers, Rotation};
pub use printable::printable;
pub use secrets::{CodeKey, SessionId, SessionKey};
pub use timestamp::Timestamp;

/// One login attempt: a row in the store, a QR code on a page.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// SHA-256 of the browser's secret; the row's key.
    pub key: SessionKey,
    /// What its codes are found under.
    pub code: CodeKey,
    /// Counts the transitions, from 1. Orders events, drops duplicates, and is what a write is compared against.
    pub version: u32,
    /// When the browser asked. All instants of a session are in session time (PROTOCOL.md, Time).
    pub created_at: Timestamp,
    /// From this instant on an undecided session is expired.
    pub expires_at: Timestamp,
    /// Who is asking, as the server saw it.
    pub client: Client,
    /// When a phone first scanned or decided: from here on its codes do not rotate.
    pub scanned_at: Option<Timestamp>,
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

impl Client {
    /// What counts as one client; see [`network_of`].
    #[must_use]
    pub fn network(&self) -> String {
        self.ip.parse().map_or_else(|_| self.ip.clone(), |address| network_of(address).to_string())
    }
}

/// What counts as one client: an address; of IPv6 the network of 64 bits, of which one household has all addresses
/// (RFC 6177).
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
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
    /// Date of the decision by the wall clock, in seconds since the epoch.
    pub iat: i64,
    /// Date of the token's end by the wall clock, in seconds since the epoch.
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
    /// It was given up.
    Cancelled(Cancellation),
}

/// Who gave a session up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// The browser.
    Browser,
    /// The server, which had too many that waited to be scanned.
    Overload,
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
    /// Cancelled, by the browser or by the server.
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
    /// It was cancelled.
    Cancelled,
    /// The code is older than the one before that which is shown.
    OldCode,
    /// Numbers are compared, and the phone has not scanned.
    NotScanned,
    /// The number is not the one that the browser shows; the session is rejected for good.
    WrongNumber,
    /// Another user scanned, and only that user may decide.
    WrongUser,
    /// Another user scanned first.
    AlreadyScanned,
    /// It has been decided otherwise, or by someone else.
    AlreadyDecided,
    /// There is nothing to acknowledge yet.
    NotDecided,
    /// The phone and the browser are in different places, and the policy forbids that.
    Risk,
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
        /// Whether the phone's owner picked the number that the browser shows; `None` if numbers are not compared.
        number_matches: Option<bool>,
    },
    /// No.
    Reject,
}

/// The code that a phone has, in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// The period in which it is shown.
    pub period: u16,
    /// How codes rotate.
    pub rotation: Rotation,
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
            State::Cancelled(_) => Status::Cancelled,
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
            State::Pending | State::Cancelled(_) => None,
        }
    }

    /// A phone scans. Whoever scanned first keeps the session.
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

    /// The phone's owner decides, having scanned or (in one step, where numbers are not compared) without.
    ///
    /// A yes with a wrong number is a no: it steps to [`State::Rejected`].
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

    /// The server gives a session up that nobody has scanned, as it has too many.
    ///
    /// # Errors
    /// Somebody has scanned it, or it has ended.
    pub fn give_way(&self, now: Timestamp) -> Result<Step, Refusal> {
        self.refuse_ended(now)?;
        match self.state {
            State::Pending => Ok(self.step(State::Cancelled(Cancellation::Overload))),
            _ => Err(Refusal::AlreadyScanned),
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
            Ok(()) if self.is_undecided() => Ok(self.step(State::Cancelled(Cancellation::Browser))),
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
            State::Cancelled(_) => Err(Refusal::Cancelled),
            State::Pending | State::Scanned(_) if now >= self.expires_at => Err(Refusal::Expired),
            _ => Ok(()),
        }
    }

    fn refuse_old(&self, code: Presented, now: Timestamp) -> Result<(), Refusal> {
        if code.rotation.admits(self, code.period, now) { Ok(()) } else { Err(Refusal::OldCode) }
    }

    fn step_by_phone(&self, state: State, now: Timestamp) -> Step {
        let scanned_at = self.scanned_at.or(Some(now));
        Step::To(Session { version: self.version + 1, state, scanned_at, ..self.clone() })
    }

    fn step(&self, state: State) -> Step {
        Step::To(Session { version: self.version + 1, state, ..self.clone() })
    }
}
