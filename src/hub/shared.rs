//! What records have in common: each of them has a pointer to it, and nothing more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::Sockets;
use crate::metrics::Metrics;

/// More kinds of answers than allowed origins make are not kept for sharing.
const MAX_KINDS: usize = 1024;

/// Where connections are counted, and what the answers to polls have in common.
pub(super) struct Shared {
    pub(super) metrics: Arc<Metrics>,
    pub(super) sockets: Option<Arc<Sockets>>,
    /// The fields of the answer to a long poll, but for those that depend on what is answered.
    pub(super) fields: Box<[u8]>,
}

/// All that is shared.
pub(super) struct Sharing {
    all: Arc<Shared>,
    /// By their fields.
    polls: Mutex<HashMap<Box<[u8]>, Arc<Shared>>>,
}

impl Sharing {
    pub(super) fn new(metrics: Arc<Metrics>, sockets: Option<Arc<Sockets>>) -> Self {
        Self { all: Arc::new(Shared { metrics, sockets, fields: Box::default() }), polls: Mutex::default() }
    }

    /// With all who are not answered in one go.
    pub(super) fn with_all(&self) -> Arc<Shared> {
        self.all.clone()
    }

    /// With the polls whose answers have these fields.
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
    fn polls_of_the_same_fields_share_them_and_a_bounded_number_of_kinds_is_kept() {
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
