//! The session: its states, and the transitions between them with their conditions.
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
//!
//! # Example
//!
//! A user scans and confirms. Each transition takes the time at which it happens.
//!
//! ```
//! use qrlogin::session::{
//!     Client, Decision, Grant, PhoneUser, Presented, Refusal, Rotation, Session, SessionId, State, Status, Step, Timestamp,
//! };
//!
//! let start = Timestamp::from_millis(1_700_000_000_000);
//! let key = SessionId::from_random([7; 32]).key();
//! let pending = Session {
//!     key,
//!     code: key.code_key(),
//!     version: 1,
//!     created_at: start,
//!     expires_at: start.plus_seconds(300),
//!     client: Client { ip: "192.0.2.7".to_owned(), ..Client::default() },
//!     request: None,
//!     scanned_at: None,
//!     state: State::Pending,
//! };
//! assert_eq!(pending.status(start), Status::Pending);
//! assert_eq!(pending.status(pending.expires_at), Status::Expired);
//!
//! let ann = PhoneUser { id: "ann".to_owned(), name: None, picture: None };
//! let code = Presented { period: 0, rotation: Rotation::NONE };
//! let now = start.plus_seconds(5);
//! let Step::To(scanned) = pending.scan(&ann, code, now)? else { panic!("the first scan is a change") };
//! assert_eq!(scanned.status(now), Status::Scanned);
//! assert_eq!(scanned.scan(&ann, code, now), Ok(Step::Repeated));
//!
//! let bob = PhoneUser { id: "bob".to_owned(), ..ann.clone() };
//! assert_eq!(scanned.decide(&bob, code, Decision::Reject, now), Err(Refusal::WrongUser));
//!
//! let grant = Grant {
//!     kid: "key-1".to_owned(),
//!     jti: "token-1".to_owned(),
//!     iss: "https://login.example".to_owned(),
//!     sub: ann.id.clone(),
//!     aud: "https://site.example".to_owned(),
//!     iat: now.as_seconds(),
//!     exp: now.plus_seconds(3600).as_seconds(),
//!     claims: serde_json::Map::new(),
//! };
//! let decision = Decision::Confirm { grant, claimable_until: now.plus_seconds(60), number_matches: None };
//! let Step::To(confirmed) = scanned.decide(&ann, code, decision, now)? else { panic!("the decision is a change") };
//! assert_eq!(confirmed.status(now), Status::Confirmed);
//! assert_eq!((confirmed.version, confirmed.user()), (3, Some(&ann)));
//! # Ok::<(), Refusal>(())
//! ```

mod code;
mod code_url;
mod oauth_request;
mod printable;
mod secrets;
mod timestamp;
mod transitions;
#[cfg(test)]
mod transitions_test;

use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use code::{Code, CodeSecret, Numbers, Rotation};
pub use code_url::{CODE_PATH, CODE_PLACEHOLDER, CodeUrl};
pub use oauth_request::{OAuthRequest, Redirect, ResponseMode};
pub use printable::printable;
pub use secrets::{CodeKey, SessionId, SessionKey};
pub use timestamp::Timestamp;
pub use transitions::{Decision, Presented, Refusal, Step};

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
    /// Request of the OAuth client that collects the result. `None` if the browser receives a `web_token`.
    pub request: Option<Box<OAuthRequest>>,
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
    /// Whether the browser has acknowledged its token, or the OAuth client has collected its tokens. After that the
    /// token is not delivered again.
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

    /// Returns whether the session is that of a device that may only poll (RFC 8628). It cannot be given another code, nor
    /// a number to show.
    #[must_use]
    pub fn is_of_device(&self) -> bool {
        self.request.as_ref().is_some_and(|request| request.redirect.is_none())
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

    /// Returns the time from which this version must not be written any more: `claimable_until` for an acknowledgement,
    /// `expires_at` for every other change.
    #[must_use]
    pub fn writable_until(&self) -> Timestamp {
        match &self.state {
            State::Confirmed(confirmation) if confirmation.claimed => confirmation.claimable_until,
            _ => self.expires_at,
        }
    }
}
