//! State that many connections share. A connection stores one pointer to it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::Sockets;
use crate::metrics::Metrics;

/// Maximum number of sets of header fields kept for sharing. Polls of one allowed origin have the same set.
const MAX_KINDS: usize = 1024;

/// State shared by connections: metrics, quotas, and the header fields of an answer.
pub(super) struct Shared {
    pub(super) metrics: Arc<Metrics>,
    pub(super) sockets: Option<Arc<Sockets>>,
    /// Header fields of the answer to a long poll that do not depend on its body. Empty for other connections.
    pub(super) fields: Box<[u8]>,
}

/// The shared states of all connections.
pub(super) struct Sharing {
    /// State of connections other than polls.
    all: Arc<Shared>,
    /// States of polls, by header fields.
    polls: Mutex<HashMap<Box<[u8]>, Arc<Shared>>>,
}

impl Sharing {
    pub(super) fn new(metrics: Arc<Metrics>, sockets: Option<Arc<Sockets>>) -> Self {
        Self { all: Arc::new(Shared { metrics, sockets, fields: Box::default() }), polls: Mutex::default() }
    }

    /// Returns the state of connections that are not polls.
    pub(super) fn with_all(&self) -> Arc<Shared> {
        self.all.clone()
    }

    /// Returns the state of polls with these header fields.
    pub(super) fn with_polls(&self, fields: &[u8]) -> Arc<Shared> {
        let mut polls = self.polls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = polls.get(fields) {
            return known.clone();
        }
        let Shared { metrics, sockets, .. } = &*self.all;
        let shared = Arc::new(Shared { metrics: metrics.clone(), sockets: sockets.clone(), fields: fields.into() });
        if polls.len() < MAX_KINDS {
            polls.insert(fields.into(), shared.clone());
        }
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_with_the_same_fields_share_them_up_to_a_maximum() {
        let sharing = Sharing::new(Arc::new(Metrics::new()), None);
        let kind = |number: usize| sharing.with_polls(number.to_string().as_bytes());
        for number in 0..MAX_KINDS + 10 {
            assert_eq!(*kind(number).fields, *number.to_string().as_bytes());
        }
        assert!(Arc::ptr_eq(&kind(0), &kind(0)) && !Arc::ptr_eq(&kind(0), &kind(1)));
        assert!(Arc::ptr_eq(&kind(MAX_KINDS - 1), &kind(MAX_KINDS - 1)));
        assert!(!Arc::ptr_eq(&kind(MAX_KINDS), &kind(MAX_KINDS)));
        assert_eq!(sharing.polls.lock().unwrap().len(), MAX_KINDS);
    }
}
