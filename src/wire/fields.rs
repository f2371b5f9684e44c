//! The header fields of a request, however it was parsed.

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header fields of a request, parsed by hyper or by `httparse`.
pub trait Fields {
    /// Returns the values of all field lines of a name, in order.
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]>;

    /// Returns the value of the first field line of a name.
    fn line<'a>(&'a self, name: &'a HeaderName) -> Option<&'a [u8]> {
        self.lines(name).next()
    }

    /// Returns the comma-separated items of a field, of all its lines (RFC 9110 §5.3).
    fn items<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.lines(name).flat_map(|line| line.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii)
    }
}

impl Fields for HeaderMap {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

impl Fields for [httparse::Header<'_>] {
    fn lines<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        self.iter().filter(move |field| field.name.eq_ignore_ascii_case(name.as_str())).map(|field| field.value)
    }
}
