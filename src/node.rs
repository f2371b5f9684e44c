//! The servers that share a store: how they are called, and what they say to each other.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::random;
use crate::session::SessionKey;

/// One run of one server. A server that starts again is another node: whoever waited at the one before waits no more.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// A name that no other node has.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:016x}", u64::from_le_bytes(random::bytes())))
    }

    /// A name, as it was stored.
    #[must_use]
    pub const fn from_stored(name: String) -> Self {
        Self(name)
    }

    /// As it is stored.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The one channel that this node listens on. (The Postgres store's statements spell it, too.)
    #[must_use]
    pub fn channel(&self) -> String {
        format!("qrlogin_{}", self.0)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a session's browser waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// The node it came to last.
    pub node: NodeName,
    /// Counts the connections of the session, over all nodes, from 1.
    pub attachment: u32,
}

/// "Look at this session": it has come at least this far. Holds no secret; may be lost, repeated, and overtaken by
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hint {
    /// Which session.
    pub key: SessionKey,
    /// Its version.
    pub version: u32,
    /// Its newest connection. Those with a smaller number are no longer told.
    pub attachment: u32,
}

impl Hint {
    /// Reads what [`Hint`]'s `Display` has written (or the Postgres store's statements, which spell it, too).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let key = STANDARD.decode(parts.next()?).ok()?.try_into().ok()?;
        let hint = Self {
            key: SessionKey(key),
            version: parts.next()?.parse().ok()?,
            attachment: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(hint)
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", STANDARD.encode(self.key.0), self.version, self.attachment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_read_as_it_was_written() {
        let hint = Hint { key: SessionKey([0xa7; 32]), version: 3, attachment: 12 };
        assert_eq!(Hint::parse(&hint.to_string()), Some(hint));
    }

    #[test]
    fn what_is_no_hint_is_not_taken_for_one() {
        let good = Hint { key: SessionKey([1; 32]), version: 2, attachment: 1 }.to_string();
        for bad in ["", "::", &good[1..], &good[..good.len() - 1], &format!("{good}:1"), &good.replace('=', "ä")] {
            assert_eq!(Hint::parse(bad), None, "{bad}");
        }
    }
}
