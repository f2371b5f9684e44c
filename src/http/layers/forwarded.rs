//! The `Forwarded` header field (RFC 7239), read from the right.
//!
//! A field line can begin with text that a client has sent and ends with the element that the nearest proxy has added.
//! So elements, parameters and quoted strings are split off at the end of the line. An unbalanced quote further left
//! cannot change how the elements to its right are read.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Maximum length of a port, in digits (RFC 7239 §6).
const MAX_PORT_DIGITS: usize = 5;

/// Returns the address in the `for` parameter of each element of a field line, the last element first.
///
/// An element without one address is `None`: `for` is missing or repeated, or its node is `unknown`, obfuscated or
/// malformed. Empty elements are skipped (RFC 9110 §5.6.1.2).
pub(crate) fn addresses_from_right(line: &[u8]) -> impl Iterator<Item = Option<IpAddr>> {
    split_from_right(line, b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty()).map(forwarded_for)
}

/// Returns the address of a node, which may have a port (RFC 7239 §6): `192.0.2.1`, `192.0.2.1:4711`, `[2001:db8::1]`,
/// `[2001:db8::1]:_port`. Also takes an IPv6 address without brackets, as `X-Forwarded-For` has it.
pub(crate) fn node_address(node: &[u8]) -> Option<IpAddr> {
    let node = str::from_utf8(node).ok()?;
    if let Ok(address) = node.parse() {
        return Some(address);
    }
    let (address, port) = match node.strip_prefix('[') {
        Some(node) => {
            let (address, port) = node.split_once(']')?;
            let (address, _zone) = address.split_once('%').unwrap_or((address, ""));
            (address.parse::<Ipv6Addr>().ok()?.into(), port)
        }
        None => {
            let (address, port) = node.split_at(node.find(':')?);
            (address.parse::<Ipv4Addr>().ok()?.into(), port)
        }
    };
    (port.is_empty() || port.strip_prefix(':').is_some_and(is_port)).then_some(address)
}

fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        }
        None => (1..=MAX_PORT_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut nodes = split_from_right(element, b';').filter_map(|pair| {
        let (name, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| value[1..].trim_ascii())
    });
    let node = nodes.next()?;
    // No parameter may occur twice (RFC 7239 §4): which one the proxy meant is unknown.
    if nodes.next().is_some() { None } else { node_address(&unquoted(node)?) }
}

/// Returns the parts of `text` between separators that are outside quoted strings, the last part first.
fn split_from_right(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let (before, part) = split_last(rest?, separator);
        rest = before;
        Some(part)
    })
}

fn split_last(text: &[u8], separator: u8) -> (Option<&[u8]>, &[u8]) {
    let mut end = text.len();
    while let Some(at) = text[..end].iter().rposition(|byte| [separator, b'"'].contains(byte)) {
        if text[at] == separator {
            return (Some(&text[..at]), &text[at + 1..]);
        }
        let Some(opening) = opening_quote(&text[..at]) else { break };
        end = opening;
    }
    (None, text)
}

/// Returns the index of the quote that opens the quoted string at the end of `text`. The closing quote has been cut
/// off, so this is the last quote that is not part of a quoted pair (RFC 9110 §5.6.4).
fn opening_quote(text: &[u8]) -> Option<usize> {
    let mut end = text.len();
    while let Some(at) = text[..end].iter().rposition(|byte| *byte == b'"') {
        let backslashes = text[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        if backslashes % 2 == 0 {
            return Some(at);
        }
        end = at;
    }
    None
}

/// Returns the content of a quoted string, or the value as it is if it has no quotes.
fn unquoted(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !value.contains(&b'"') {
        return Some(Cow::Borrowed(value));
    }
    let content = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if !content.contains(&b'\\') {
        return Some(Cow::Borrowed(content));
    }
    let mut bytes = content.iter();
    let unescaped =
        std::iter::from_fn(|| bytes.next().and_then(|byte| if *byte == b'\\' { bytes.next() } else { Some(byte) }));
    Some(Cow::Owned(unescaped.copied().collect()))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn read(line: &str) -> Vec<Option<String>> {
        addresses_from_right(line.as_bytes()).map(|address| address.map(|address| address.to_string())).collect()
    }

    #[test]
    fn nodes_of_all_forms_have_their_address() {
        for (node, address) in [
            ("192.0.2.1", "192.0.2.1"),
            (r#""192.0.2.1""#, "192.0.2.1"),
            (r#""192.0.2.1:4711""#, "192.0.2.1"),
            (r#""192.0.2.1:99999""#, "192.0.2.1"),
            (r#""192.0.2.1:_gazonk""#, "192.0.2.1"),
            (r#""\1\9\2.0.2.1""#, "192.0.2.1"),
            (r#""[2001:db8::7]""#, "2001:db8::7"),
            (r#""[2001:DB8::7]:4711""#, "2001:db8::7"),
            (r#""[2001:db8::7]:_a.b-c_d""#, "2001:db8::7"),
            (r#""[::ffff:192.0.2.1]:80""#, "::ffff:192.0.2.1"),
            // These forms violate the grammar, but proxies send them and they are not ambiguous.
            ("192.0.2.1:4711", "192.0.2.1"),
            ("[2001:db8::7]:4711", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
            (r#""[fe80::1%eth0]:80""#, "fe80::1"),
        ] {
            for line in [
                format!("for={node}"),
                format!("For = {node} ;proto=https"),
                format!(r#"host="a\"b;for=9.9.9.9, c";FOR={node}"#),
                format!(";;for={node};"),
            ] {
                assert_eq!(read(&line), [Some(address.to_owned())], "{line}");
            }
        }
    }

    #[test]
    fn elements_without_exactly_one_address_are_none() {
        for element in [
            "for=unknown",
            "for=Unknown",
            "for=_hidden",
            r#"for="_hidden:_port""#,
            r#"for="unknown:80""#,
            "for=",
            r#"for="""#,
            "for",
            "proto=https",
            "by=192.0.2.1",
            "for=192.0.2.1;for=192.0.2.2",
            "for=192.0.2.1;For=192.0.2.1",
            r#"for="192.0.2.1"#,
            r#"for=192.0.2.1""#,
            r#"for="192.0.2.1:""#,
            r#"for="192.0.2.1:123456""#,
            r#"for="192.0.2.1:_""#,
            r#"for="[2001:db8::7""#,
            r#"for="[2001:db8::7]4711""#,
            r#"for="[192.0.2.1]""#,
            r#"for=" 192.0.2.1""#,
            "for=192.0.2.1.5",
            "for=192.0.2.256",
            "for=login.example",
            "xfor=192.0.2.1",
            r#"host="for=192.0.2.1""#,
            r#"host=";for=192.0.2.1;""#,
        ] {
            assert_eq!(read(element), [None], "{element}");
        }
    }

    #[test]
    fn elements_are_split_outside_quoted_strings_and_from_the_right() {
        let some = |addresses: &[&str]| addresses.iter().map(|address| Some((*address).to_owned())).collect::<Vec<_>>();
        for (line, addresses) in [
            (r#"for=203.0.113.7;host="a, for=9.9.9.9;x=""#, some(&["203.0.113.7"])),
            (r#"for=203.0.113.7;host="a\", for=9.9.9.9;x=\"""#, some(&["203.0.113.7"])),
            (r#"for=192.0.2.1;host="a\\", for=192.0.2.2"#, some(&["192.0.2.2", "192.0.2.1"])),
            (r#"host="";for=192.0.2.1;x="","#, some(&["192.0.2.1"])),
            (", ,for=192.0.2.1,, for=192.0.2.2 ,\t", some(&["192.0.2.2", "192.0.2.1"])),
            ("", vec![]),
            (" , ", vec![]),
        ] {
            assert_eq!(read(line), addresses, "{line}");
        }
        // Text of a client, to which a proxy has added its element.
        for forged in
            [r#"for=""#, r#"for="\"#, r#"host="a, for=9.9.9.9"#, r#"for=9.9.9.9;host=""#, r#"""#, r#"\""#, r#"""""#]
        {
            assert_eq!(read(&format!("{forged}, for=203.0.113.7"))[0].as_deref(), Some("203.0.113.7"), "{forged}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn any_bytes_have_at_most_one_element_per_byte(line in vec(any::<u8>(), 0..200)) {
            prop_assert!(addresses_from_right(&line).count() <= line.len());
        }
    }
}
