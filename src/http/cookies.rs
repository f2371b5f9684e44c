//! The cookies of the server's pages. Each holds one sealed value.

use std::sync::Arc;

use axum::http::HeaderMap;
use axum::http::header::{COOKIE, HeaderValue, SET_COOKIE};
use axum::response::Response;

use crate::config::Settings;
use crate::session::Timestamp;
use crate::token::{Kept, Sealer};

/// Maximum length of `Set-Cookie`, in bytes. Browsers keep cookies of 4,096 bytes (RFC 6265bis §5.6).
const MAX_FIELD_BYTES: usize = 4000;

/// Maximum number of cookies of one kind that are read.
const MAX_OF_A_KIND: usize = 16;

/// The cookies, and the key that seals them.
pub(crate) struct Cookies {
    pub(crate) sealer: Arc<Sealer>,
    /// Whether browsers reach the server by https.
    pub(crate) is_secure: bool,
}

impl Cookies {
    pub(crate) fn of(settings: &Settings, sealer: Arc<Sealer>) -> Self {
        Self { sealer, is_secure: settings.public_url.to_ascii_lowercase().starts_with("https:") }
    }

    /// Returns the value of the cookie for `T`. `part` distinguishes several cookies of one kind.
    pub(crate) fn read<T: Kept>(&self, headers: &HeaderMap, part: &str, now: Timestamp) -> Option<T> {
        let name = self.name::<T>(part);
        let value = pairs(headers).find_map(|(key, value)| (key == name).then_some(value))?;
        self.sealer.kept(value, now)
    }

    /// Returns the values of all cookies for `T`, of any part.
    pub(crate) fn read_all<T: Kept>(&self, headers: &HeaderMap, now: Timestamp) -> Vec<T> {
        let name = self.name::<T>("");
        let named = pairs(headers).filter(|(key, _)| key.starts_with(&name)).take(MAX_OF_A_KIND);
        named.filter_map(|(_, value)| self.sealer.kept(value, now)).collect()
    }

    /// Returns whether the browser has sent any cookie of these pages.
    pub(crate) fn are_sent(&self, headers: &HeaderMap) -> bool {
        let prefix = self.prefix();
        pairs(headers).any(|(key, _)| key.starts_with(prefix))
    }

    /// Returns `Set-Cookie` with this value, or `None` if it is too long for a cookie.
    pub(crate) fn keep<T: Kept>(&self, value: &T, part: &str, now: Timestamp) -> Option<HeaderValue> {
        let sealed = self.sealer.keep(value, now)?;
        let field = self.field::<T>(part, &sealed, T::SECONDS);
        if field.len() > MAX_FIELD_BYTES { None } else { HeaderValue::try_from(field).ok() }
    }

    /// Returns `Set-Cookie` that removes the cookie for `T`.
    pub(crate) fn forget<T: Kept>(&self, part: &str) -> Option<HeaderValue> {
        HeaderValue::try_from(self.field::<T>(part, "", 0)).ok()
    }

    fn field<T: Kept>(&self, part: &str, value: &str, seconds: u32) -> String {
        let name = self.name::<T>(part);
        let secure = if self.is_secure { "; Secure" } else { "" };
        format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
    }

    fn name<T: Kept>(&self, part: &str) -> String {
        format!("{}{}{part}", self.prefix(), T::PURPOSE)
    }

    /// Browsers accept the prefix `__Host-` only from this host, over https, for all paths (RFC 6265bis §4.1.3.2).
    const fn prefix(&self) -> &'static str {
        if self.is_secure { "__Host-qrlogin-" } else { "qrlogin-" }
    }
}

/// Returns the names and values of a request's cookies.
fn pairs(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// Adds cookies to a response.
pub(crate) fn with_cookies(mut response: Response, cookies: impl IntoIterator<Item = Option<HeaderValue>>) -> Response {
    for cookie in cookies.into_iter().flatten() {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    response
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;
    use crate::approve::Opened;

    fn cookies(is_secure: bool) -> Cookies {
        Cookies { sealer: Arc::new(Sealer::new(&[Zeroizing::new([1; 32])])), is_secure }
    }

    fn opened() -> Opened {
        Opened { code: "c".to_owned(), at_millis: 5 }
    }

    #[test]
    fn cookie_is_read_back_until_its_time_is_over() {
        let (cookies, now) = (cookies(true), Timestamp::from_millis(1000));
        let field = cookies.keep(&opened(), "-x", now).unwrap();
        let field = field.to_str().unwrap();
        assert!(field.starts_with("__Host-qrlogin-opened-x="), "{field}");
        assert!(field.ends_with("; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax; Secure"), "{field}");
        let pair = field.split(';').next().unwrap();
        let headers = HeaderMap::from_iter([(COOKIE, HeaderValue::try_from(format!("a=b; {pair}; c=d")).unwrap())]);
        let read = |part, now| cookies.read::<Opened>(&headers, part, now).map(|opened| opened.at_millis);
        assert_eq!(read("-x", now), Some(5));
        assert_eq!(read("-y", now), None);
        assert_eq!(read("-x", now.plus_seconds(3600)), None);
        assert_eq!(cookies.read_all::<Opened>(&headers, now).len(), 1);
        assert!(cookies.are_sent(&headers) && !cookies.are_sent(&HeaderMap::new()));
    }

    #[test]
    fn plain_http_has_names_that_browsers_accept_there() {
        let field = cookies(false).keep(&opened(), "", Timestamp::from_millis(0)).unwrap();
        let field = field.to_str().unwrap();
        assert!(field.starts_with("qrlogin-opened=") && !field.contains("Secure"), "{field}");
    }

    #[test]
    fn too_long_value_is_not_kept() {
        let long = Opened { code: "c".repeat(4000), at_millis: 5 };
        assert!(cookies(true).keep(&long, "", Timestamp::from_millis(0)).is_none());
    }
}
