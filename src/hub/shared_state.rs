//! State that many connections share. A connection stores one pointer to it.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::limits::ConnectionQuota;
use crate::metrics::Metrics;

/// Maximum number of sets of header fields kept for sharing. Polls of one allowed origin have the same set.
const MAX_FIELD_SETS: usize = 1024;

/// State shared by connections: metrics, quotas, and the header fields of a response.
pub(super) struct SharedState {
    pub(super) metrics: Arc<Metrics>,
    pub(super) quota: Option<Arc<ConnectionQuota>>,
    /// Header fields of the response to a long poll that do not depend on its body. Empty for other connections.
    pub(super) fields: Box<[u8]>,
}

/// The shared states of all connections.
pub(super) struct SharedStates {
    /// State of connections other than polls.
    all: Arc<SharedState>,
    /// States of polls, by header fields.
    polls: Mutex<HashMap<Box<[u8]>, Arc<SharedState>>>,
}

impl SharedStates {
    pub(super) fn new(metrics: Arc<Metrics>, quota: Option<Arc<ConnectionQuota>>) -> Self {
        Self { all: Arc::new(SharedState { metrics, quota, fields: Box::default() }), polls: Mutex::default() }
    }

    /// Returns the state of connections that are not polls.
    pub(super) fn with_all(&self) -> Arc<SharedState> {
        self.all.clone()
    }

    /// Returns the state of polls with these header fields.
    pub(super) fn with_polls(&self, fields: &[u8]) -> Arc<SharedState> {
        let mut polls = self.polls.lock();
        if let Some(known) = polls.get(fields) {
            return known.clone();
        }
        let SharedState { metrics, quota, .. } = &*self.all;
        let shared = Arc::new(SharedState { metrics: metrics.clone(), quota: quota.clone(), fields: fields.into() });
        if polls.len() < MAX_FIELD_SETS {
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
        let shared_states = SharedStates::new(Arc::new(Metrics::new()), None);
        let kind = |number: usize| shared_states.with_polls(number.to_string().as_bytes());
        for number in 0..MAX_FIELD_SETS + 10 {
            assert_eq!(*kind(number).fields, *number.to_string().as_bytes());
        }
        assert!(Arc::ptr_eq(&kind(0), &kind(0)) && !Arc::ptr_eq(&kind(0), &kind(1)));
        assert!(Arc::ptr_eq(&kind(MAX_FIELD_SETS - 1), &kind(MAX_FIELD_SETS - 1)));
        assert!(!Arc::ptr_eq(&kind(MAX_FIELD_SETS), &kind(MAX_FIELD_SETS)));
        assert_eq!(shared_states.polls.lock().len(), MAX_FIELD_SETS);
    }
}
