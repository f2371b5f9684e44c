//! Records of OAuth: state that outlives a session and has an end.

use crate::session::Timestamp;

/// Id of a record: a SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordId(pub [u8; 32]);

/// A row of the table `records`: a refresh token family, a single sign-on session, a user code, or the id of a used
/// assertion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Id, by which the record is found.
    pub id: RecordId,
    /// Version of the record. The caller chooses the first one, and each change adds 1.
    pub version: u32,
    /// Time from which the record may be swept. A record may be read after it, so the reader must check it.
    pub expires_at: Timestamp,
    /// Content, without NUL characters, because Postgres does not store them.
    pub data: String,
}
