//! How much one client may ask for: calls in a minute, wrong codes, connections at once.
//!
//! A client is an address, of IPv6 a network of 64 bits ([`crate::session::network_of`]). What is kept of clients is
//! bounded, however many there are, and forgets first who asks least.

mod rate;
mod sockets;

use std::net::IpAddr;

use crate::clock::Clock;
use crate::session::network_of;
use rate::Rate;

pub use sockets::{Cells, Full, Seat, Sockets};

/// Guessers share an address with others more often than a name.
const WRONG_CODES_PER_ADDRESS: u32 = 6;

/// What is counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// A code is asked for.
    Generate,
    /// A phone scans or decides.
    Scan,
    /// A browser asks how its session stands, or ends it.
    Status,
    /// A WebSocket is opened.
    WebSocket,
}

/// How many of each in a minute; 0: any number.
#[derive(Debug, Clone, Copy, Default)]
pub struct PerMinute {
    /// See [`Call::Generate`].
    pub generate: u32,
    /// See [`Call::Scan`].
    pub scan: u32,
    /// Of one phone user.
    pub wrong_codes: u32,
    /// See [`Call::Status`].
    pub status: u32,
    /// See [`Call::WebSocket`].
    pub websocket_opens: u32,
}

/// It is too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// The setting that says so.
    pub key: &'static str,
    /// When to ask again.
    pub retry_after_seconds: u64,
}

/// All rates.
pub struct Limits {
    generate: Option<Rate>,
    scan: Option<Rate>,
    status: Option<Rate>,
    websocket_opens: Option<Rate>,
    wrong_codes_of_user: Option<Rate>,
    wrong_codes_of_address: Option<Rate>,
}

impl Limits {
    /// These rates, in this clock's time.
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

    /// Counts a call of this address.
    ///
    /// # Errors
    /// It is one too many, and not counted.
    pub fn admit(&self, call: Call, address: IpAddr) -> Result<(), Exceeded> {
        let rate = match call {
            Call::Generate => &self.generate,
            Call::Scan => &self.scan,
            Call::Status => &self.status,
            Call::WebSocket => &self.websocket_opens,
        };
        rate.as_ref().map_or(Ok(()), |rate| rate.count(&network_of(address)))
    }

    /// Whether this user at this address may try a code: whoever has tried too many wrong ones may not try a right one.
    ///
    /// # Errors
    /// They may not.
    pub fn may_try_code(&self, user: &str, address: IpAddr) -> Result<(), Exceeded> {
        let of_user = self.wrong_codes_of_user.as_ref().map_or(Ok(()), |rate| rate.look(user));
        let of_address = || self.wrong_codes_of_address.as_ref().map_or(Ok(()), |rate| rate.look(&network_of(address)));
        of_user.and_then(|()| of_address())
    }

    /// Counts a wrong code.
    pub fn note_wrong_code(&self, user: &str, address: IpAddr) {
        // (Who came meanwhile is counted next time.)
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
    fn an_address_has_its_minutes_share_at_once_and_then_evenly() {
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
    fn an_ipv6_network_is_one_client() {
        let (clock, _hands) = Clock::manual(Timestamp::from_millis(0));
        let limits = Limits::new(PerMinute { generate: 2, ..PerMinute::default() }, &clock);
        let ask = |from: &str| limits.admit(Call::Generate, address(from)).is_ok();
        assert!(ask("2001:db8::1") && ask("2001:db8::2"));
        assert!(!ask("2001:db8::3"));
        assert!(ask("2001:db8:0:1::1"));
        assert!(ask("192.0.2.1") && ask("::ffff:192.0.2.1") && !ask("192.0.2.1"));
    }

    #[test]
    fn whoever_guesses_may_not_try_a_right_one_either() {
        let (clock, hands) = Clock::manual(Timestamp::from_millis(0));
        let limits = Limits::new(PerMinute { wrong_codes: 10, ..PerMinute::default() }, &clock);
        let home = address(HOME);
        for _ in 0..10 {
            assert!(limits.may_try_code("ann", home).is_ok());
            assert!(limits.may_try_code("ann", home).is_ok(), "looking counts nothing");
            limits.note_wrong_code("ann", home);
        }
        assert_eq!(limits.may_try_code("ann", home).unwrap_err().retry_after_seconds, 6);
        assert!(limits.may_try_code("ann", address(ELSEWHERE)).is_err());
        assert!(limits.may_try_code("bob", home).is_ok());
        for user in 0..5 {
            (0..10).for_each(|_| limits.note_wrong_code(&user.to_string(), home));
        }
        assert!(limits.may_try_code("bob", home).is_err(), "sixty of one address");
        assert!(limits.may_try_code("bob", address(ELSEWHERE)).is_ok());
        hands.advance_seconds(6);
        assert!(limits.may_try_code("ann", home).is_ok());
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_than_its_share() {
        let (clock, _hands) = Clock::manual(Timestamp::from_millis(0));
        let limits = Limits::new(PerMinute { generate: 5, ..PerMinute::default() }, &clock);
        let busy = address(HOME);
        (0..5).for_each(|_| limits.admit(Call::Generate, busy).unwrap());
        for number in 0..300_000_u32 {
            let _ = limits.admit(Call::Generate, IpAddr::from(number.to_be_bytes()));
            // Who asks on and on is not forgotten for those who come once.
            assert!(number % 1000 > 0 || limits.admit(Call::Generate, busy).is_err(), "after {number}");
        }
        assert!(limits.generate.as_ref().unwrap().remembered() <= rate::MAX_CLIENTS);
    }
}
