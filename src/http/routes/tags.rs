//! The tags of calls in the description of the API.

/// Tag of the calls of the browser.
pub(crate) const BROWSER: &str = "browser";
/// Tag of the calls of the phone.
pub(crate) const PHONE: &str = "phone";
/// Tag of calls that are open to every client.
pub(crate) const ANYONE: &str = "anyone";
