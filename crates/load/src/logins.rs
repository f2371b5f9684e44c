//! Logins at a constant rate.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Barrier, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::api::{Api, ApiFailure, Generated, Target};
use crate::browser::{Browser, OpenFailure};
use crate::{Plan, Shared, Transport, bar, report, source};

/// Maximum number of concurrent logins, each with a phone and a browser. If the server is too slow for them, later
/// logins start late, and their latency still counts from when they were due.
const MAX_LOGINS_AT_ONCE: u32 = 256;
/// Time after the confirmation after which a token that has not arrived counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// Time between scan and confirmation with long polls, in which the browser polls again.
const THINKING_TIME: Duration = Duration::from_millis(20);
/// Runs the logins at a constant rate, or waits if there are none.
///
/// Each confirmation is due at a fixed time, and its latency counts from then. A stall of the server therefore shows in
/// all confirmations that were due meanwhile (open loop). All steps before the confirmation are done beforehand.
pub(crate) async fn run(plan: &Plan, target: &Arc<Target>, shared: &Shared) {
    let total = plan.logins_per_second * plan.seconds;
    let bar = bar(if total == 0 { plan.seconds } else { total }.into(), "logging in");
    if total == 0 {
        for _ in 0..plan.seconds {
            sleep(Duration::from_secs(1)).await;
            bar.inc(1);
        }
        bar.finish_and_clear();
        return;
    }
    let count = MAX_LOGINS_AT_ONCE.min(total);
    let schedule = Arc::new(Schedule {
        next: AtomicU32::new(0),
        total,
        interval: Duration::from_secs(1) / plan.logins_per_second,
        are_ready: Barrier::new(count as usize),
        start: OnceLock::new(),
    });
    let mut phones = JoinSet::new();
    for _ in 0..count {
        let (target, shared, schedule) = (target.clone(), shared.clone(), schedule.clone());
        let (plan, bar) = (plan.clone(), bar.clone());
        phones.spawn(async move {
            let mut phone = None;
            let mut is_first = true;
            while let Some(number) = schedule.take() {
                let prepared = Login::prepare(&mut phone, &plan, &target, &shared, number).await;
                if std::mem::take(&mut is_first) {
                    // The schedule starts when all tasks have prepared their first login.
                    schedule.are_ready.wait().await;
                }
                let done = match (prepared, &mut phone) {
                    (Ok(login), Some(phone)) => login.finish(phone, &plan, &shared, schedule.due(number)).await,
                    (Err(error), _) => Err(error),
                    (Ok(_), None) => Ok(()),
                };
                if let Err(error) = done {
                    shared.note_error(&error);
                    phone = None;
                }
                bar.inc(1);
            }
        });
    }
    while phones.join_next().await.is_some() {}
    bar.finish_and_clear();
}

/// The times at which the confirmations are due.
struct Schedule {
    next: AtomicU32,
    total: u32,
    interval: Duration,
    are_ready: Barrier,
    start: OnceLock<Instant>,
}

impl Schedule {
    /// Returns the number of the next login, or `None` if there is none left.
    fn take(&self) -> Option<u32> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.total).then_some(number)
    }

    /// Returns the time at which the login of this number is to be confirmed. The first call starts the schedule.
    fn due(&self, number: u32) -> Instant {
        *self.start.get_or_init(Instant::now) + self.interval * number
    }
}

/// A login that has been scanned and is to be confirmed.
struct Login {
    session: Generated,
    waiting: JoinHandle<()>,
    arrival: oneshot::Receiver<Instant>,
}

impl Login {
    /// Generates a session, opens its browser and scans the code.
    async fn prepare(
        phone: &mut Option<Api>,
        plan: &Plan,
        target: &Arc<Target>,
        shared: &Shared,
        number: u32,
    ) -> Result<Self, LoginFailure> {
        let api = match phone {
            Some(api) => api,
            None => phone.insert(Api::connect(target).await?),
        };
        let session = api.generate().await?;
        let browser = Browser::open(plan.transport, target, &session.id, source(plan, number as usize)).await?;
        let (arrived, arrival) = oneshot::channel();
        let theirs = shared.clone();
        let waiting = tokio::spawn(async move { browser.wait(&theirs, Some(arrived)).await });
        api.phone("scan", &session.code, &plan.app_token).await?;
        if plan.transport == Transport::Poll {
            // The scan has answered the browser's poll, so give it time to poll again.
            sleep(THINKING_TIME).await;
        }
        Ok(Self { session, waiting, arrival })
    }

    /// Confirms the login at `due`, waits for its token, and counts the time from `due` to the token's arrival.
    async fn finish(self, phone: &mut Api, plan: &Plan, shared: &Shared, due: Instant) -> Result<(), LoginFailure> {
        // If the task is ready in time, measure from its wake-up, because the timer may wake it late. If it is late
        // because the server was slow before, measure from when the confirmation was due.
        let started = if Instant::now() < due {
            sleep_until(due).await;
            Instant::now()
        } else {
            due
        };
        phone.phone("confirm", &self.session.code, &plan.app_token).await?;
        let token = timeout(LOST_AFTER, self.arrival).await;
        shared.count(|tally| tally.confirmed += 1);
        if let Ok(Ok(at)) = token {
            shared.count(|tally| tally.push.push(report::micros(at.saturating_duration_since(started))));
            drop(self.waiting.await);
            if matches!(plan.transport, Transport::Sse | Transport::Poll) {
                phone.acknowledge(&self.session.id).await?;
            }
        } else {
            shared.count(|tally| tally.lost += 1);
            self.waiting.abort();
        }
        Ok(())
    }
}

#[derive(Debug, Error)]
enum LoginFailure {
    #[error(transparent)]
    Api(#[from] ApiFailure),
    #[error(transparent)]
    Open(#[from] OpenFailure),
}
