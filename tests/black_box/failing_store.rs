//! The store of the tests: a real one that can be made to fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use qrlogin::node::Hint;
use qrlogin::session::{CodeKey, Session as StoredSession, SessionKey, Timestamp};
use qrlogin::store::{Attached, Ended, Heaviest, Replaced, Store, StoreError, Untold};
use tokio::sync::RwLock;

/// A store that can be made to fail, counts how often it is read, and works otherwise.
pub struct FailingStore {
    inner: Arc<dyn Store>,
    fails: AtomicBool,
    /// Queries for sessions by their keys, so far.
    pub reads: AtomicUsize,
    /// Sessions written, so far.
    pub writes: AtomicUsize,
    /// Questions for what is untold, so far.
    pub looks: AtomicUsize,
    /// Whoever holds it for writing holds readings up.
    pub turnstile: RwLock<()>,
}

impl FailingStore {
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            fails: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            looks: AtomicUsize::new(0),
            turnstile: RwLock::default(),
        }
    }

    pub fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    fn answers(&self) -> Result<&dyn Store, StoreError> {
        if self.fails.load(Ordering::SeqCst) {
            Err(StoreError::Unavailable("made to fail".into()))
        } else {
            Ok(&*self.inner)
        }
    }
}

#[async_trait::async_trait]
impl Store for FailingStore {
    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
    async fn insert(&self, session: &StoredSession) -> Result<(), StoreError> {
        self.answers()?.insert(session).await
    }
    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<StoredSession>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        drop(self.turnstile.read().await);
        self.answers()?.read(keys).await
    }
    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        drop(self.turnstile.read().await);
        self.answers()?.attach(keys).await
    }
    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<StoredSession>, StoreError> {
        self.answers()?.find_by_code(code).await
    }
    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<StoredSession>), StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answers()?.read_settled(keys).await
    }
    async fn replace(&self, next: &StoredSession) -> Result<Replaced, StoreError> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.answers()?.replace(next).await
    }
    async fn heaviest(&self, now: Timestamp, limit: u32) -> Result<Heaviest, StoreError> {
        self.answers()?.heaviest(now, limit).await
    }
    async fn untold(&self) -> Result<Vec<Untold>, StoreError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.answers()?.untold().await
    }
    async fn told(&self, hints: &[Hint]) -> Result<(), StoreError> {
        self.answers()?.told(hints).await
    }
    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError> {
        self.answers()?.sweep(expired_before, limit).await
    }
    async fn tidy(&self) -> Result<(), StoreError> {
        self.answers()?.tidy().await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.answers()?.ping().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}
