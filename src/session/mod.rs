//! The session: its states, the events that move it from one state to the next, and who may cause them until when.
//!
//! ```text
//! pending ──scan──▶ scanned ──confirm──▶ confirmed ──ack──▶ claimed
//!    │                 │ └─reject, wrong number─▶ rejected
//!    └──confirm/reject─┘
//!    pending, scanned ──cancel──▶ cancelled
//!    pending, scanned, past `expires_at` ──▶ reads as expired
//!    confirmed, unclaimed past `claimable_until` ──▶ reads as expired
//! ```
//!
//! All functions are pure: they depend on their arguments and `now`, and use no clock, randomness, store or socket.
//! A transition returns the next session as a value. The caller writes it to the store.

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

/// One login attempt: a row in the store, for which a page shows a QR code.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// SHA-256 of the session id. Primary key of the row.
    pub key: SessionKey,
    /// Key under which codes of this session find it.
    pub code: CodeKey,
    /// Number of the version, which counts transitions from 1. It orders notifications, discards duplicates, and is
    /// compared when a change is written.
    pub version: u32,
    /// Time of creation. All times of a session are session time (PROTOCOL.md, Time).
    pub created_at: Timestamp,
    /// Time from which the session is expired if it is undecided.
    pub expires_at: Timestamp,
    /// The browser, as the server saw it.
    pub client: Client,
    /// Time of the first scan or decision, from which the codes do not rotate.
    pub scanned_at: Option<Timestamp>,
    /// State of the session, without regard to the time.
    pub state: State,
}

/// The browser of a session, as the phone user sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Client {
    /// IP address of the request.
    pub ip: String,
    /// Name and version of the browser by its user agent, such as `Chrome 140`.
    pub browser: Option<String>,
    /// Operating system by the user agent, such as `Windows 10`.
    pub os: Option<String>,
    /// Origin of the page, as the browser sent it.
    pub origin: Option<String>,
    /// Free text that the page sent about itself. It is not verified.
    pub client_info: Option<String>,
}

impl Client {
    /// Returns the network that counts as one client, see [`network_of`]. Returns `ip` unchanged if it is not an IP
    /// address.
    #[must_use]
    pub fn network(&self) -> String {
        self.ip.parse().map_or_else(|_| self.ip.clone(), |address| network_of(address).to_string())
    }
}

/// Returns the network that counts as one client: an IPv4 address itself, or the /64 network of an IPv6 address,
/// because an end site is assigned at least a /64 (RFC 6177).
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// A user of the system that qrlogin is integrated into, as the app token describes the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneUser {
    /// Stable id of the user. The other fields are never compared.
    pub id: String,
    /// Display name (OpenID Connect Core §5.1, `name`).
    pub name: Option<String>,
    /// Picture URL (OpenID Connect Core §5.1, `picture`).
    pub picture: Option<String>,
}

/// The claims of the `web_token` and the key that signs it. The decision fixes them, so every delivery carries the same
/// token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Id of the signing key.
    pub kid: String,
    /// Id of the token (RFC 7519, section 4.1.7).
    pub jti: String,
    /// Issuer of the token.
    pub iss: String,
    /// Id of the user.
    pub sub: String,
    /// Audience of the token.
    pub aud: String,
    /// Time of the decision by the wall clock, in seconds since the Unix epoch.
    pub iat: i64,
    /// Time of expiry of the token by the wall clock, in seconds since the Unix epoch.
    pub exp: i64,
    /// Claims of the app token that are copied to the `web_token`.
    pub claims: Map<String, Value>,
}

/// The state of a session, without regard to the time. See [`Session::status`].
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// No phone has scanned the code.
    Pending,
    /// The phone of this user has scanned the code.
    Scanned(PhoneUser),
    /// The user has confirmed.
    Confirmed(Confirmation),
    /// The user has rejected, or has picked a wrong number.
    Rejected(PhoneUser),
    /// The browser or the server has cancelled the session.
    Cancelled(Cancellation),
}

/// The party that cancelled a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancellation {
    /// The browser cancelled it.
    Browser,
    /// The server cancelled it, because too many sessions were pending.
    Overload,
}

/// A confirmation and what it allows.
#[derive(Debug, Clone, PartialEq)]
pub struct Confirmation {
    /// The user that confirmed.
    pub by: PhoneUser,
    /// Time of the decision.
    pub decided_at: Timestamp,
    /// Time until which the browser may fetch its token.
    pub claimable_until: Timestamp,
    /// Claims of the token.
    pub grant: Grant,
    /// Whether the browser has acknowledged its token. After that the token is not delivered again.
    pub claimed: bool,
}

/// The status of a session at a point in time, see [`Session::status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// No phone has scanned the code.
    Pending,
    /// A phone has scanned the code.
    Scanned,
    /// Confirmed; the token has not been acknowledged and can be fetched.
    Confirmed,
    /// Confirmed; the browser has acknowledged the token.
    Claimed,
    /// Rejected by the phone user.
    Rejected,
    /// Cancelled, by the browser or by the server.
    Cancelled,
    /// Expired: undecided at `expires_at`, or unacknowledged at `claimable_until`.
    Expired,
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
    /// Rejects.
    Reject,
}

/// The period of a code that a phone presented, with the rotation by which its age is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Presented {
    /// Period in which the code is shown.
    pub period: u16,
    /// Rotation of codes.
    pub rotation: Rotation,
}

impl Session {
    /// Returns the status of the session at `now`.
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

    /// Returns whether the session is pending or scanned. Such a session expires at `expires_at`.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        matches!(self.state, State::Pending | State::Scanned(_))
    }

    /// Returns the phone user that scanned or decided.
    #[must_use]
    pub fn user(&self) -> Option<&PhoneUser> {
        match &self.state {
            State::Scanned(user) | State::Rejected(user) => Some(user),
            State::Confirmed(confirmation) => Some(&confirmation.by),
            State::Pending | State::Cancelled(_) => None,
        }
    }

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
    pub fn give_way(&self, now: Timestamp) -> Result<Step, Refusal> {
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

    /// Returns the session with its token acknowledged. After that the token is not delivered again.
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

    /// Returns the time from which this version must not be written any more: `claimable_until` for an acknowledgement,
    /// `expires_at` for every other change.
    #[must_use]
    pub fn writable_until(&self) -> Timestamp {
        match &self.state {
            State::Confirmed(confirmation) if confirmation.claimed => confirmation.claimable_until,
            _ => self.expires_at,
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
