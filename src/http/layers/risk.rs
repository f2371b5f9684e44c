//! Compares the locations of the phone and the browser, and applies `risk.policy`.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::{RiskPolicy, RiskSettings, RiskSignal};
use crate::geo::Geo;
use crate::session::Client;

/// The settings `[risk]`, and the locations that they compare.
pub(crate) struct Risks {
    settings: RiskSettings,
    geo: Arc<Geo>,
}

impl Risks {
    pub(crate) const fn new(settings: RiskSettings, geo: Arc<Geo>) -> Self {
        Self { settings, geo }
    }

    /// Returns the locations of addresses.
    pub(crate) fn geo(&self) -> &Geo {
        &self.geo
    }

    /// Returns the signals in which the browser and the phone at address `phone` differ. A signal that is unknown for
    /// either of them does not count as a difference.
    pub(crate) fn of(&self, browser: &Client, phone: IpAddr) -> Vec<&'static str> {
        let Ok(browser) = browser.ip.parse::<IpAddr>() else { return Vec::new() };
        let country = |address| self.geo.location(address).and_then(|location| location.country_code);
        let network = |address| self.geo.network(address).and_then(|network| network.asn);
        let differs = |signal: &RiskSignal| match signal {
            RiskSignal::Country => differ(country(browser), country(phone)),
            RiskSignal::Network => differ(network(browser), network(phone)),
        };
        self.settings.signals.iter().filter(|signal| differs(signal)).map(|signal| name(*signal)).collect()
    }

    /// Returns whether `risk.policy` lets the phone scan and confirm.
    pub(crate) fn is_safe(&self, browser: &Client, phone: IpAddr) -> bool {
        self.settings.policy == RiskPolicy::Report || self.of(browser, phone).is_empty()
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
