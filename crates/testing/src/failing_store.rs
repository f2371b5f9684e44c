//! The store of the tests: a real store that a test can make fail, stall or panic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use qrlogin::internals::cluster::node::Notification;
use qrlogin::internals::store::{
    Announcer, Attached, Changed, Ended, LargestNetwork, Record, RecordId, SessionSelector, Store, StoreError, Stored,
    Transition, Undelivered,
};
use qrlogin::session::{CodeKey, Session as StoredSession, SessionKey, Timestamp};
use tokio::sync::RwLock;

/// A store that counts its calls, and that works unless a test makes it fail.
pub struct FailingStore {
    inner: Arc<dyn Store>,
    fails: AtomicBool,
    panics: AtomicBool,
    /// Number of queries for sessions by their keys.
    pub reads: AtomicUsize,
    /// Number of changes that the real store has answered.
    pub writes: AtomicUsize,
    /// Number of queries for undelivered changes.
    pub undelivered_reads: AtomicUsize,
    /// Number of queries for the oldest sessions of the address that has most of them.
    pub largest_network_reads: AtomicUsize,
    /// Delays `read` and `attach` while a test holds it for writing.
    pub read_gate: RwLock<()>,
    /// Number of sessions that arriving connections have asked for and the real store has read.
    pub attached: AtomicUsize,
    /// Delays the answers of `attach` while a test holds it for writing.
    pub attach_gate: RwLock<()>,
    /// Delays the answers of `change`, whose writes are done, while a test holds it for writing.
    pub change_gate: RwLock<()>,
    /// Whether writes are done but not announced, and answered with an error: as if the node had died in between.
    loses_answers: AtomicBool,
    /// Number of writes whose answer was lost.
    lost_answers: AtomicUsize,
    /// Time by which the clock of `read_settled` is behind, in milliseconds.
    lag_millis: AtomicI64,
}

impl FailingStore {
    /// Wraps a store.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self {
            inner,
            fails: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            reads: AtomicUsize::new(0),
            writes: AtomicUsize::new(0),
            undelivered_reads: AtomicUsize::new(0),
            largest_network_reads: AtomicUsize::new(0),
            read_gate: RwLock::default(),
            attached: AtomicUsize::new(0),
            attach_gate: RwLock::default(),
            change_gate: RwLock::default(),
            loses_answers: AtomicBool::new(false),
            lost_answers: AtomicUsize::new(0),
            lag_millis: AtomicI64::new(0),
        }
    }

    /// Makes all calls fail, or work again.
    pub fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// Makes all calls panic, or work again.
    pub fn panic(&self, panics: bool) {
        self.panics.store(panics, Ordering::SeqCst);
    }

    /// Makes writes succeed unannounced and be answered with an error, or work again.
    pub fn lose_answers(&self, loses: bool) {
        self.loses_answers.store(loses, Ordering::SeqCst);
    }

    /// Returns the number of writes whose answer was lost.
    pub fn lost_answers(&self) -> usize {
        self.lost_answers.load(Ordering::SeqCst)
    }

    /// Returns the answer of a write, unless answers are lost.
    fn answered<T>(&self, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if !self.loses_answers.load(Ordering::SeqCst) {
            return answer;
        }
        self.lost_answers.fetch_add(1, Ordering::SeqCst);
        Err(StoreError::Unavailable("its answer was lost".into()))
    }

    /// Sets the time by which the clock of `read_settled` is behind.
    pub fn lag(&self, millis: i64) {
        self.lag_millis.store(millis, Ordering::SeqCst);
    }

    /// Returns the number of undelivered changes that the node finds in the store.
    pub async fn undelivered_count(&self) -> usize {
        self.inner.undelivered().await.unwrap().len()
    }

    fn works(&self) -> Result<&dyn Store, StoreError> {
        assert!(!self.panics.load(Ordering::SeqCst), "made to panic");
        if self.fails.load(Ordering::SeqCst) {
            Err(StoreError::Unavailable("made to fail".into()))
        } else {
            Ok(&*self.inner)
        }
    }
}

/// An announcer that announces nothing.
struct NoAnnouncements;

impl Announcer for NoAnnouncements {
    fn announce(&self, _stored: &Stored) {}
}

#[async_trait::async_trait]
impl Store for FailingStore {
    fn is_shared(&self) -> bool {
        self.inner.is_shared()
    }
    async fn insert(&self, session: &StoredSession) -> Result<(), StoreError> {
        self.works()?.insert(session).await
    }
    async fn read(&self, keys: &[SessionKey]) -> Result<Vec<StoredSession>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        drop(self.read_gate.read().await);
        self.works()?.read(keys).await
    }
    async fn attach(&self, keys: &[SessionKey]) -> Result<Vec<Attached>, StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        drop(self.read_gate.read().await);
        let attached = self.works()?.attach(keys).await;
        self.attached.fetch_add(keys.len(), Ordering::SeqCst);
        drop(self.attach_gate.read().await);
        attached
    }
    async fn find_by_code(&self, code: &CodeKey) -> Result<Option<StoredSession>, StoreError> {
        self.works()?.find_by_code(code).await
    }
    async fn read_settled(&self, keys: &[SessionKey]) -> Result<(Timestamp, Vec<StoredSession>), StoreError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let (now, sessions) = self.works()?.read_settled(keys).await?;
        Ok((now.plus_millis(-self.lag_millis.load(Ordering::SeqCst)), sessions))
    }
    async fn change(
        &self,
        selector: SessionSelector,
        transition: Transition,
        announcer: Arc<dyn Announcer>,
    ) -> Result<Changed, StoreError> {
        let loses = self.loses_answers.load(Ordering::SeqCst);
        let announcer = if loses { Arc::new(NoAnnouncements) } else { announcer };
        let changed = self.works()?.change(selector, transition, announcer).await;
        self.writes.fetch_add(1, Ordering::SeqCst);
        drop(self.change_gate.read().await);
        if loses {
            return Err(StoreError::Unavailable("its answer was lost".into()));
        }
        changed
    }
    async fn largest_network(&self, now: Timestamp, limit: u32) -> Result<LargestNetwork, StoreError> {
        self.largest_network_reads.fetch_add(1, Ordering::SeqCst);
        self.works()?.largest_network(now, limit).await
    }
    async fn undelivered(&self) -> Result<Vec<Undelivered>, StoreError> {
        self.undelivered_reads.fetch_add(1, Ordering::SeqCst);
        self.works()?.undelivered().await
    }
    async fn mark_delivered(&self, notifications: &[Notification]) -> Result<(), StoreError> {
        self.works()?.mark_delivered(notifications).await
    }
    async fn sweep(&self, expired_before: Timestamp, limit: u32) -> Result<Vec<Ended>, StoreError> {
        self.works()?.sweep(expired_before, limit).await
    }
    async fn insert_record(&self, record: &Record) -> Result<bool, StoreError> {
        self.answered(self.works()?.insert_record(record).await)
    }
    async fn read_record(&self, id: &RecordId) -> Result<Option<Record>, StoreError> {
        self.works()?.read_record(id).await
    }
    async fn replace_record(&self, record: &Record) -> Result<bool, StoreError> {
        self.answered(self.works()?.replace_record(record).await)
    }
    async fn delete_record(&self, id: &RecordId) -> Result<bool, StoreError> {
        self.works()?.delete_record(id).await
    }
    async fn sweep_records(&self, expired_before: Timestamp, limit: u32) -> Result<u32, StoreError> {
        self.works()?.sweep_records(expired_before, limit).await
    }
    async fn maintain(&self) -> Result<(), StoreError> {
        self.works()?.maintain().await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.works()?.ping().await
    }
    async fn close(&self) {
        self.inner.close().await;
    }
}
