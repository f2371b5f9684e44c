//! Logins at a constant rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Barrier, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::api::{Api, ApiFailure, Generated, Target};
use crate::browser::{Browser, OpenFailure};
use crate::oauth::OAuthConnections;
use crate::{Plan, Shared, Transport, bar, report, source};

/// Maximum number of concurrent logins, each with a phone and a browser. If the server is too slow for them, later
/// logins start late, and their latency still counts from when they were due.
const MAX_LOGINS_AT_ONCE: u32 = 256;
/// Time after the confirmation after which a token that has not arrived counts as lost.
const LOST_AFTER: Duration = Duration::from_secs(10);
/// Time between scan and confirmation with long polls, in which the browser polls again.
const THINKING_TIME: Duration = Duration::from_millis(20);

/// Returns the number of logins of the whole test.
fn total(plan: &Plan) -> u64 {
    u64::from(plan.logins_per_second) * u64::from(plan.seconds)
}

/// Returns the number of logins that are in progress at the same time.
fn concurrent(plan: &Plan) -> u32 {
    u32::try_from(total(plan)).unwrap_or(u32::MAX).min(MAX_LOGINS_AT_ONCE)
}

/// Returns the number of files that the logins need at the same time: sockets of the phone and the browser, and with
/// OAuth those of [`OAuthConnections`].
pub(crate) fn files(plan: &Plan) -> u64 {
    u64::from(concurrent(plan)) * if plan.oauth_client.is_some() { 4 } else { 2 }
}

/// Returns the time from the start of the schedule to the login of this number, rounded down to a nanosecond.
fn offset(number: u64, per_second: u32) -> Duration {
    let per_second = u64::from(per_second);
    Duration::from_secs(number / per_second) + Duration::from_nanos(number % per_second * 1_000_000_000 / per_second)
}

/// Runs the logins at a constant rate, or waits if there are none.
///
/// Each confirmation is due at a fixed time, and its latency counts from then. A stall of the server therefore shows in
/// all confirmations that were due meanwhile (open loop). All steps before the confirmation are done beforehand.
pub(crate) async fn run(plan: &Plan, target: &Arc<Target>, shared: &Shared) {
    let total = total(plan);
    let bar = bar(if total == 0 { plan.seconds.into() } else { total }, "logging in");
    if total == 0 {
        for _ in 0..plan.seconds {
            sleep(Duration::from_secs(1)).await;
            bar.inc(1);
        }
        bar.finish_and_clear();
        return;
    }
    let count = concurrent(plan);
    let schedule = Arc::new(Schedule {
        next: AtomicU64::new(0),
        total,
        per_second: plan.logins_per_second,
        are_ready: Barrier::new(count as usize),
        start: OnceLock::new(),
    });
    let mut phones = JoinSet::new();
    for _ in 0..count {
        let (target, shared, schedule) = (target.clone(), shared.clone(), schedule.clone());
        let (plan, bar) = (plan.clone(), bar.clone());
        phones.spawn(async move {
            let mut connections = None;
            let mut is_first = true;
            while let Some(number) = schedule.take() {
                let prepared = Login::prepare(&mut connections, &plan, &target, &shared, number).await;
                if std::mem::take(&mut is_first) {
                    // The schedule starts when all tasks have prepared their first login.
                    schedule.are_ready.wait().await;
                }
                let done = match (prepared, &mut connections) {
                    (Ok(login), Some(open)) => login.finish(open, &plan, &shared, schedule.due(number)).await,
                    (Err(error), _) => Err(error),
                    (Ok(_), None) => Ok(()),
                };
                if let Err(error) = done {
                    shared.note_error(&error);
                    connections = None;
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
    next: AtomicU64,
    total: u64,
    /// Number of logins per second, at least 1.
    per_second: u32,
    are_ready: Barrier,
    start: OnceLock<Instant>,
}

impl Schedule {
    /// Returns the number of the next login, or `None` if there is none left.
    fn take(&self) -> Option<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.total).then_some(number)
    }

    /// Returns the time at which the login of this number is to be confirmed. The first call starts the schedule.
    fn due(&self, number: u64) -> Instant {
        *self.start.get_or_init(Instant::now) + offset(number, self.per_second)
    }
}

/// The connections of a task, which its logins use in turn.
struct Connections {
    phone: Api,
    oauth: Option<OAuthConnections>,
}

impl Connections {
    async fn open(plan: &Plan, target: &Target) -> Result<Self, ApiFailure> {
        let phone = Api::connect(target).await?;
        let oauth = if plan.oauth_client.is_some() { Some(OAuthConnections::open(target).await?) } else { None };
        Ok(Self { phone, oauth })
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
        connections: &mut Option<Connections>,
        plan: &Plan,
        target: &Arc<Target>,
        shared: &Shared,
        number: u64,
    ) -> Result<Self, LoginFailure> {
        let Connections { phone, oauth } = match connections {
            Some(connections) => connections,
            None => connections.insert(Connections::open(plan, target).await?),
        };
        let generator = oauth.as_mut().map_or(&mut *phone, |oauth| &mut oauth.browser);
        let session = generator.generate(plan.oauth_client.as_ref()).await?;
        let browser =
            Browser::open(plan.transport, target, &session.id, source(plan, usize::try_from(number).unwrap_or(0)))
                .await?;
        let (arrived, arrival) = oneshot::channel();
        let theirs = shared.clone();
        let waiting = tokio::spawn(async move { browser.wait(&theirs, Some(arrived)).await });
        phone.phone("scan", &session.code, &plan.app_token).await?;
        if plan.transport == Transport::Poll {
            // The scan has answered the browser's poll, so give it time to poll again.
            sleep(THINKING_TIME).await;
        }
        Ok(Self { session, waiting, arrival })
    }

    /// Confirms the login at `due`, waits for its token, and counts the time from `due` to the token's arrival. The
    /// browser of an OAuth client goes on to the client, which requests its tokens.
    async fn finish(
        self,
        connections: &mut Connections,
        plan: &Plan,
        shared: &Shared,
        due: Instant,
    ) -> Result<(), LoginFailure> {
        let Self { session, waiting, arrival } = self;
        let Connections { phone, oauth } = connections;
        // If the task is ready in time, measure from its wake-up, because the timer may wake it late. If it is late
        // because the server was slow before, measure from when the confirmation was due.
        let started = if Instant::now() < due {
            sleep_until(due).await;
            Instant::now()
        } else {
            due
        };
        let since_started = |at: Instant| report::micros(at.saturating_duration_since(started));
        let confirmed = CancellationToken::new();
        let confirm = async {
            phone.phone("confirm", &session.code, &plan.app_token).await?;
            shared.count(|tally| tally.confirmed += 1);
            confirmed.cancel();
            Ok::<_, ApiFailure>(())
        };
        let lost = async {
            confirmed.cancelled().await;
            sleep(LOST_AFTER).await;
        };
        // The browser goes on when the token arrives. It does not wait for the answer to the phone.
        let follow = async {
            let at = tokio::select! { at = arrival => at.ok(), () = lost => None };
            let Some(at) = at else { return Ok((false, None)) };
            shared.count(|tally| tally.push.push(since_started(at)));
            let (Some(oauth), Some(page)) = (&mut *oauth, &session.page) else { return Ok((true, None)) };
            let code = oauth.browser.go_on(page).await?;
            let redirected = since_started(Instant::now());
            shared.count(|tally| tally.redirect.push(redirected));
            Ok((true, Some(code)))
        };
        let ((), (has_arrived, code)) = tokio::try_join!(confirm, follow)?;
        if !has_arrived {
            shared.count(|tally| tally.lost += 1);
            waiting.abort();
            return Ok(());
        }
        if let (Some(oauth), Some(client), Some(code)) = (oauth, &plan.oauth_client, code) {
            let requested = Instant::now();
            oauth.client.redeem(client, &code).await?;
            shared.count(|tally| tally.token.push(report::micros(requested.elapsed())));
        }
        drop(waiting.await);
        // The session of an OAuth client ends with its token request.
        if plan.oauth_client.is_none() && matches!(plan.transport, Transport::Sse | Transport::Poll) {
            phone.acknowledge(&session.id).await?;
        }
        shared.count(|tally| tally.completed += 1);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(logins_per_second: u32, seconds: u32) -> Plan {
        Plan {
            url: String::new(),
            transport: Transport::Websocket,
            browsers: 0,
            logins_per_second,
            seconds,
            concurrency: 1,
            sources: Vec::new(),
            app_token: String::new(),
            oauth_client: None,
            pid: None,
        }
    }

    #[test]
    fn counts_of_logins_do_not_overflow() {
        for (per_second, seconds, logins, at_once) in [
            (0, 10, 0, 0),
            (50, 0, 0, 0),
            (20, 1, 20, 20),
            (500, 10, 5000, 256),
            (u32::MAX, 3600, 15_461_882_262_000, 256),
        ] {
            let plan = plan(per_second, seconds);
            assert_eq!((total(&plan), concurrent(&plan)), (logins, at_once));
            assert_eq!(files(&plan), u64::from(at_once) * 2);
        }
    }

    #[test]
    fn logins_are_due_at_a_constant_rate_without_a_rounding_error_that_grows() {
        assert_eq!(offset(0, 3), Duration::ZERO);
        assert_eq!(offset(1, 3), Duration::from_nanos(333_333_333));
        assert_eq!(offset(10_800, 3), Duration::from_secs(3600));
        assert_eq!(offset(u64::from(u32::MAX) * 3600, u32::MAX), Duration::from_secs(3600));
        assert_eq!(offset(3_000_000_000, u32::MAX), Duration::from_nanos(698_491_931));
    }
}
