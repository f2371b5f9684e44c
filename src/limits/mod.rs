//! Limits on one client: calls per minute, wrong codes per minute, and open connections.
//!
//! A client is an IPv4 address or an IPv6 /64 network ([`crate::session::network_of`]). Memory use does not depend on
//! the number of clients. When the table of rates is full, the clients that call least are evicted first.

mod connections;
mod rate;

use std::net::IpAddr;

use crate::session::network_of;
use crate::system::clock::Clock;
use rate::Rate;

pub use connections::{ConnectionPermit, ConnectionQuota, QuotaCells, QuotaExceeded};

/// Wrong codes allowed per address, as a multiple of those allowed per phone user. Several users can share an address.
const WRONG_CODES_PER_ADDRESS: u32 = 6;

/// A kind of call, which has a rate limit of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A browser generates a session.
    Generate,
    /// A phone scans a code or sends a decision.
    Scan,
    /// A browser reads its session's status, acknowledges its token or cancels.
    Status,
    /// A browser opens a WebSocket or an event stream.
    WebSocket,
}

/// Maximum number of calls per minute and client, by kind. 0 means no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct PerMinute {
    /// Maximum number of [`Call::Generate`] calls.
    pub generate: u32,
    /// Maximum number of [`Call::Scan`] calls.
    pub scan: u32,
    /// Maximum number of unknown or malformed codes of one phone user.
    pub wrong_codes: u32,
    /// Maximum number of [`Call::Status`] calls.
    pub status: u32,
    /// Maximum number of [`Call::WebSocket`] calls.
    pub websocket_opens: u32,
}

/// The error of a call or connection that exceeds a limit of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// Name of the setting that holds the limit.
    pub key: &'static str,
    /// Value of `Retry-After`, in seconds.
    pub retry_after_seconds: u64,
}

/// The rate limits of all clients.
pub struct Limits {
    generate: Option<Rate>,
    scan: Option<Rate>,
    status: Option<Rate>,
    websocket_opens: Option<Rate>,
    wrong_codes_of_user: Option<Rate>,
    wrong_codes_of_address: Option<Rate>,
}

impl Limits {
    /// Creates the limits. Rates are measured in the steady time of `clock`.
    #[must_use]
    pub fn new(per_minute: PerMinute, clock: &Clock) -> Self {
        let rate = |key, per_minute| Rate::new(key, per_minute, clock.clone());
        let wrong_codes = "limits.wrong_codes_per_minute";
        Self {
            generate: rate("limits.generate_per_minute", per_minute.generate),
            scan: rate("limits.scan_per_minute", per_minute.scan),
            status: rate("limits.status_per_minute", per_minute.status),
            websocket_opens: rate("limits.websocket_opens_per_minute", per_minute.websocket_opens),
            wrong_codes_of_user: rate(wrong_codes, per_minute.wrong_codes),
            wrong_codes_of_address: rate(wrong_codes, per_minute.wrong_codes.saturating_mul(WRONG_CODES_PER_ADDRESS)),
        }
    }

    /// Counts a call from `address`.
    ///
    /// # Errors
    /// Returns an error if the call exceeds the rate. Such a call is not counted.
    pub fn admit(&self, call: Call, address: IpAddr) -> Result<(), Exceeded> {
        let rate = match call {
            Call::Generate => &self.generate,
            Call::Scan => &self.scan,
            Call::Status => &self.status,
            Call::WebSocket => &self.websocket_opens,
        };
        rate.as_ref().map_or(Ok(()), |rate| rate.count(&network_of(address)))
    }

    /// Checks whether `user` at `address` may try a code, and counts nothing. Call this before the code is looked up,
    /// so that a client that has sent too many wrong codes does not learn whether another code is right.
    ///
    /// # Errors
    /// Returns an error if the user or the address has used up its wrong codes.
    pub fn may_try_code(&self, user: &str, address: IpAddr) -> Result<(), Exceeded> {
        let of_user = self.wrong_codes_of_user.as_ref().map_or(Ok(()), |rate| rate.check(user));
        let of_address =
            || self.wrong_codes_of_address.as_ref().map_or(Ok(()), |rate| rate.check(&network_of(address)));
        of_user.and_then(|()| of_address())
    }

    /// Counts an unknown or malformed code against `user` and `address`.
    pub fn count_wrong_code(&self, user: &str, address: IpAddr) {
        // `count` fails if concurrent wrong codes have used up the rate. There is nothing more to count then.
        if let Some(rate) = &self.wrong_codes_of_user {
            let _ = rate.count(user);
        }
        if let Some(rate) = &self.wrong_codes_of_address {
            let _ = rate.count(&network_of(address));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Timestamp;

    const HOME: &str = "192.0.2.1";
    const ELSEWHERE: &str = "192.0.2.2";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn client_can_use_its_rate_in_a_burst_and_regains_it_evenly() {
        let (clock, hands) = Clock::manual(Timestamp::from_millis(0));
        let limits = Limits::new(PerMinute { generate: 30, ..PerMinute::default() }, &clock);
        let ask = |from: &str| limits.admit(Call::Generate, address(from));
        assert!((0..30).all(|_| ask(HOME).is_ok()));
        assert_eq!(ask(HOME), Err(Exceeded { key: "limits.generate_per_minute", retry_after_seconds: 2 }));
        assert!(ask(ELSEWHERE).is_ok());
        hands.advance_seconds(2);
        assert!(ask(HOME).is_ok());
        assert!(ask(HOME).is_err());
        assert!((0..1000).all(|_| limits.admit(Call::Status, address(HOME)).is_ok()), "0 is no limit");
    }

    #[test]
    fn addresses_of_an_ipv6_64_network_share_a_rate() {
        let (clock, _hands) = Clock::manual(Timestamp::from_millis(0));
        let limits = Limits::new(PerMinute { generate: 2, ..PerMinute::default() }, &clock);
        let ask = |from: &str| limits.admit(Call::Generate, address(from)).is_ok();
        assert!(ask("2001:db8::1") && ask("2001:db8::2"));
        assert!(!ask("2001:db8::3"));
        assert!(ask("2001:db8:0:1::1"));
        assert!(ask("192.0.2.1") && ask("::ffff:192.0.2.1") && !ask("192.0.2.1"));
    }

    #[test]
    fn too_many_wrong_codes_block_further_codes_of_the_user_and_of_the_address() {
        let (clock, hands) = Clock::manual(Timestamp::from_millis(0));
        let limits = Limits::new(PerMinute { wrong_codes: 10, ..PerMinute::default() }, &clock);
        let home = address(HOME);
        for _ in 0..10 {
            assert!(limits.may_try_code("ann", home).is_ok());
            assert!(limits.may_try_code("ann", home).is_ok(), "a check counts nothing");
            limits.count_wrong_code("ann", home);
        }
        assert_eq!(limits.may_try_code("ann", home).unwrap_err().retry_after_seconds, 6);
        assert!(limits.may_try_code("ann", address(ELSEWHERE)).is_err());
        assert!(limits.may_try_code("bob", home).is_ok());
        for user in 0..5 {
            (0..10).for_each(|_| limits.count_wrong_code(&user.to_string(), home));
        }
        assert!(limits.may_try_code("bob", home).is_err(), "sixty of one address");
        assert!(limits.may_try_code("bob", address(ELSEWHERE)).is_ok());
        hands.advance_seconds(6);
        assert!(limits.may_try_code("ann", home).is_ok());
    }

    #[test]
    fn flood_of_addresses_does_not_evict_a_busy_client() {
        let (clock, _hands) = Clock::manual(Timestamp::from_millis(0));
        let limits = Limits::new(PerMinute { generate: 5, ..PerMinute::default() }, &clock);
        let busy = address(HOME);
        (0..5).for_each(|_| limits.admit(Call::Generate, busy).unwrap());
        for number in 0..300_000_u32 {
            let _ = limits.admit(Call::Generate, IpAddr::from(number.to_be_bytes()));
            // A client that keeps calling is not evicted in favour of clients that call once.
            assert!(number % 1000 > 0 || limits.admit(Call::Generate, busy).is_err(), "after {number}");
        }
        assert!(limits.generate.as_ref().unwrap().client_count() <= rate::MAX_CLIENTS);
    }
}
