//! The nodes that share a store: their names, and the notifications that they exchange.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::session::SessionKey;
use crate::system::random;

/// The name of a node. It is chosen at each start, so a server that restarts is another node: connections of the
/// earlier run are gone.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeName(String);

impl NodeName {
    /// Makes a random name of 64 bits, which no other node has.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:016x}", u64::from_le_bytes(random::bytes())))
    }

    /// Makes a name from its stored form.
    #[must_use]
    pub const fn from_stored(name: String) -> Self {
        Self(name)
    }

    /// Returns the stored form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name of the channel on which this node receives notifications. The statements of the Postgres store
    /// build the same name.
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

/// The connection where the browser of a session waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waits {
    /// Node of the newest connection.
    pub node: NodeName,
    /// Attachment number of the newest connection. It counts the connections of a session over all nodes, from 1.
    pub attachment: u32,
}

/// A notification that a session has reached at least this version and attachment number. It holds no secret. It may be
/// lost, repeated and reordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Notification {
    /// Key of the session.
    pub key: SessionKey,
    /// Version of the session.
    pub version: u32,
    /// Attachment number of its newest connection. Connections with a smaller number are superseded.
    pub attachment: u32,
}

impl Notification {
    /// Parses the output of the `Display` implementation. The statements of the Postgres store write the same format.
    /// Returns `None` if `text` is malformed.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        let key = STANDARD.decode(parts.next()?).ok()?.try_into().ok()?;
        let notification = Self {
            key: SessionKey(key),
            version: parts.next()?.parse().ok()?,
            attachment: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(notification)
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", STANDARD.encode(self.key.0), self.version, self.attachment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notification_parses_from_its_display_output() {
        let notification = Notification { key: SessionKey([0xa7; 32]), version: 3, attachment: 12 };
        assert_eq!(Notification::parse(&notification.to_string()), Some(notification));
    }

    #[test]
    fn malformed_notification_is_not_parsed() {
        let good = Notification { key: SessionKey([1; 32]), version: 2, attachment: 1 }.to_string();
        for bad in ["", "::", &good[1..], &good[..good.len() - 1], &format!("{good}:1"), &good.replace('=', "ä")] {
            assert_eq!(Notification::parse(bad), None, "{bad}");
        }
    }
}
