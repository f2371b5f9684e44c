//! Whether the phone and the browser lie apart, and what follows.

use std::net::IpAddr;

use crate::config::{RiskPolicy, RiskSettings, RiskSignal};
use crate::geo::Geo;
use crate::session::Client;

/// As it is set.
pub(super) struct Risks(pub(super) RiskSettings);

impl Risks {
    /// In which respects this browser and the phone at `phone` lie apart. Where one of them is is not known, they do not.
    pub(super) fn of(&self, geo: &Geo, browser: &Client, phone: IpAddr) -> Vec<&'static str> {
        let Ok(browser) = browser.ip.parse::<IpAddr>() else { return Vec::new() };
        let country = |address| geo.location(address).and_then(|location| location.country_code);
        let network = |address| geo.network(address).and_then(|network| network.asn);
        let lie_apart = |signal: &RiskSignal| match signal {
            RiskSignal::Country => differ(country(browser), country(phone)),
            RiskSignal::Network => differ(network(browser), network(phone)),
        };
        self.0.signals.iter().filter(|signal| lie_apart(signal)).map(|signal| name(*signal)).collect()
    }

    /// Whether a phone may go on.
    pub(super) fn is_safe(&self, geo: &Geo, browser: &Client, phone: IpAddr) -> bool {
        self.0.policy == RiskPolicy::Report || self.of(geo, browser, phone).is_empty()
    }
}

fn differ<T: PartialEq>(one: Option<T>, other: Option<T>) -> bool {
    one.zip(other).is_some_and(|(one, other)| one != other)
}

const fn name(signal: RiskSignal) -> &'static str {
    match signal {
        RiskSignal::Country => "country",
        RiskSignal::Network => "network",
    }
}
