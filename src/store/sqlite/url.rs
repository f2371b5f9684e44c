//! The path of the database file in `database_url`.

use std::path::PathBuf;

use crate::store::OpenError;

/// Returns the path in a URL. An error does not quote the URL, because the URL of another store may hold a password.
pub(super) fn path_of(url: &str) -> Result<PathBuf, OpenError> {
    let Some(file) = url.strip_prefix("sqlite://") else {
        let scheme = url.split_once("://").map_or("(no scheme)", |(scheme, _)| scheme);
        return Err(OpenError::Url(scheme.to_owned()));
    };
    let is_escape = |text: &[u8]| text[0] == b'%' && text[1..].iter().all(u8::is_ascii_hexdigit);
    let reason = if file.is_empty() {
        "names no file; write sqlite://FILE, or sqlite:///DIRECTORY/FILE"
    } else if file.starts_with(":memory:") {
        "a database in memory would be another one for each connection, and would end with the server; name a file: \
         sqlite://FILE"
    } else if file.starts_with("file:") {
        "SQLite's own URIs (file:…) are not read; write the path itself: sqlite://FILE. For a file whose name begins \
         so, write sqlite://./file:…"
    } else if file.contains('?') {
        "sqlite:// takes no parameters, so the path may hold no '?'; write sqlite://FILE alone"
    } else if file.as_bytes().windows(3).any(is_escape) {
        "the path is percent-encoded; write each character of it as it is: sqlite://FILE"
    } else if file.contains(char::is_control) {
        "the path has a control character"
    } else {
        return Ok(file.into());
    };
    Err(OpenError::UrlPart(reason.to_owned()))
}
