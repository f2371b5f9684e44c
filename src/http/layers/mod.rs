//! The layers that requests pass through, and the checks that they make: origins, host names, addresses, limits.

pub(super) mod base;
pub(super) mod body;
pub(super) mod client;
pub(super) mod forwarded;
pub(super) mod host;
pub(super) mod limit;
pub(super) mod observe;
pub(super) mod origin;
pub(super) mod risk;
