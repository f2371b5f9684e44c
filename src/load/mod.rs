//! `qrlogin load`: measures a running server from outside, with many waiting browsers and logins at a given rate.
//!
//! The browsers use `tungstenite` and the calls use hyper. Of the server's own protocol code, this module uses only the
//! names in `protocol`.

mod api;
mod browser;
mod report;
mod usage;

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::{Barrier, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::metrics::Stopwatch;
use crate::system::clock::Clock;
use api::{Api, Target};
use browser::Browser;

use report::Course;
use usage::Usage;

pub use report::Report;

/// Number of connections over which sessions are generated before the handshakes begin.
const GENERATORS: usize = 16;
/// Maximum number of concurrent logins, each with a phone and a browser. If the server is too slow for them, later
/// logins start late, and their latency still counts from when they were due.
const MAX_LOGINS_AT_ONCE: u32 = 256;
/// Time after the confirmation after which a token that has not arrived counts as lost, in seconds.
const LOST_SECONDS: u32 = 10;
/// Time for all browsers to close their connections at the end, in seconds.
const GOODBYE_SECONDS: u32 = 10;
/// Time for the server to register the long polls, in seconds. It does not answer them, so their arrival cannot be
/// observed.
const ARRIVING_SECONDS: u32 = 2;
/// Time between scan and confirmation with long polls, in milliseconds. In it, the browser polls again.
const THINKING_MILLIS: u32 = 20;
/// Number of open files that are reserved for other purposes than the browsers' sockets.
const SPARE_FILES: u64 = 64;

/// The transport on which browsers wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// A WebSocket, whose Close is the acknowledgement
    Websocket,
    /// A WebSocket with an explicit acknowledgement, as the qr-login element uses it
    WebsocketAck,
    /// Server-sent events
    Sse,
    /// Long polls
    Poll,
}

/// The parameters of a load test.
#[derive(Debug, Clone)]
pub struct Plan {
    /// URL of the server; `http` only.
    pub url: String,
    /// Transport on which the browsers wait.
    pub transport: Transport,
    /// Number of browsers that wait during the whole test.
    pub browsers: usize,
    /// Number of logins per second, each with an additional browser. 0 means none.
    pub logins_per_second: u32,
    /// Duration of the logins, or of the idle measurement if there are none, in seconds.
    pub seconds: u32,
    /// Maximum number of concurrent handshakes of the waiting browsers.
    pub concurrency: usize,
    /// Source addresses of the browsers, used in turn. If empty, the system chooses.
    pub sources: Vec<IpAddr>,
    /// App token of the phones.
    pub app_token: String,
    /// Process id of the server, if its memory and processor time are to be measured. It must run on this machine.
    pub pid: Option<u32>,
}

/// An error that ends a load test without a report.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The URL is malformed or is not http.
    #[error("--url: not of the form http://HOST:PORT (TLS is not supported; measure behind the proxy)")]
    Url,
    /// The host's name cannot be resolved.
    #[error("--url: {0}")]
    Resolve(std::io::Error),
    /// The browsers need more sockets than this process may open.
    #[error("--browsers: {wanted} need {wanted} files and a few more, and this process can open {limit} (ulimit -n)")]
    Files {
        /// Number of browsers.
        wanted: usize,
        /// Limit on open files of this process.
        limit: u64,
    },
    /// The server's process does not exist or cannot be inspected.
    #[error("--pid: {0}")]
    Process(String),
    /// A session could not be generated.
    #[error("{0}")]
    Api(#[from] api::ApiFailure),
}

/// The results that accumulate during a load test.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Times from when a confirmation was due to the arrival of its token, in microseconds.
    pub(crate) push: Vec<u64>,
    /// Number of confirmed logins.
    pub(crate) confirmed: u64,
    /// Number of confirmed logins whose token did not arrive.
    pub(crate) lost: u64,
    /// Number of ended connections, by close code or by a text in its place.
    pub(crate) closed: std::collections::BTreeMap<String, u64>,
    /// Number of errors, by text.
    pub(crate) errors: std::collections::BTreeMap<String, u64>,
}

/// State that all tasks of a load test share.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    tally: Arc<Mutex<Tally>>,
    /// Cancelled at the end of the test, upon which the browsers close their connections.
    goodbye: CancellationToken,
    clock: Clock,
}

impl Shared {
    fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tally.lock());
    }

    fn count_ending(&self, ending: String) {
        self.count(|tally| *tally.closed.entry(ending).or_default() += 1);
    }

    fn note_error(&self, error: &impl ToString) {
        self.count(|tally| *tally.errors.entry(error.to_string()).or_default() += 1);
    }
}

/// Runs a load test. Returns the report.
///
/// # Errors
/// Returns an error if the test cannot be started or the server's process cannot be measured. Errors of single browsers
/// and logins are counted in the report.
pub async fn run(plan: &Plan) -> Result<Report, LoadError> {
    let target = Arc::new(target(plan).await?);
    let limit = usage::open_files_limit();
    if plan.browsers as u64 + SPARE_FILES + u64::from(plan.logins_per_second.min(200)) > limit {
        return Err(LoadError::Files { wanted: plan.browsers, limit });
    }
    let shared = Shared { tally: Arc::default(), goodbye: CancellationToken::new(), clock: Clock::system() };
    let look = || plan.pid.map(|pid| Usage::of(pid).map_err(LoadError::Process)).transpose();

    let mut course = Course { start: look()?, ..Course::default() };
    let ids = generate(plan, &target).await?;
    let mut waiting = JoinSet::new();
    let bar = bar(plan.browsers as u64, "opening");
    // Opened in three parts, because the first browsers cause allocations that later ones do not.
    for part in ids.chunks(plan.browsers.div_ceil(3).max(1)) {
        let (before, started) = (look()?, Stopwatch::start());
        open(plan, part, &target, &shared, &mut waiting, &bar).await;
        let time = started.elapsed();
        if plan.transport == Transport::Poll {
            shared.clock.sleep_seconds(ARRIVING_SECONDS).await;
        }
        course.opened.push(report::Part { browsers: waiting.len() as u64, time, before, after: look()? });
    }
    bar.finish_and_clear();

    let (before, started) = (look()?, Stopwatch::start());
    log_in(plan, &target, &shared).await;
    course.logins =
        Some(report::Part { browsers: waiting.len() as u64, time: started.elapsed(), before, after: look()? });

    shared.goodbye.cancel();
    let all_gone = async { while waiting.join_next().await.is_some() {} };
    if shared.clock.timeout(GOODBYE_SECONDS, all_gone).await.is_none() {
        shared.note_error(&"some browsers could not close their connections");
    }
    let tally = std::mem::take(&mut *shared.tally.lock());
    Ok(Report::new(plan, &course, tally))
}

async fn target(plan: &Plan) -> Result<Target, LoadError> {
    let url = Url::parse(&plan.url).map_err(|_| LoadError::Url)?;
    let (Some(host), Some(port), "http") = (url.host_str(), url.port_or_known_default(), url.scheme()) else {
        return Err(LoadError::Url);
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut addresses = tokio::net::lookup_host((host, port)).await.map_err(LoadError::Resolve)?;
    let address: SocketAddr = addresses.next().ok_or(LoadError::Url)?;
    Ok(Target { address, authority: url.authority().to_owned() })
}

/// Generates one session for each browser, before the measurement. Returns the session ids.
async fn generate(plan: &Plan, target: &Arc<Target>) -> Result<Vec<String>, LoadError> {
    let bar = bar(plan.browsers as u64, "generating");
    let mut tasks = JoinSet::new();
    for number in 0..GENERATORS {
        let share = plan.browsers / GENERATORS + usize::from(number < plan.browsers % GENERATORS);
        let (target, bar) = (target.clone(), bar.clone());
        tasks.spawn(async move {
            let mut api = Api::connect(&target).await?;
            let mut ids = Vec::with_capacity(share);
            for _ in 0..share {
                ids.push(api.generate().await?.id);
                bar.inc(1);
            }
            Ok::<_, api::ApiFailure>(ids)
        });
    }
    let mut ids = Vec::with_capacity(plan.browsers);
    while let Some(made) = tasks.join_next().await {
        ids.extend(made.map_err(|_| api::ApiFailure::Stopped)??);
    }
    bar.finish_and_clear();
    Ok(ids)
}

/// Opens a browser for each of these sessions. Adds a task to `waiting` for each one that waits.
async fn open(
    plan: &Plan,
    ids: &[String],
    target: &Arc<Target>,
    shared: &Shared,
    waiting: &mut JoinSet<()>,
    bar: &ProgressBar,
) {
    let turns = Arc::new(Semaphore::new(plan.concurrency.max(1)));
    let mut opening = JoinSet::new();
    for id in ids {
        // The semaphore is never closed, so this does not fail.
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        let (transport, target, id) = (plan.transport, target.clone(), id.clone());
        let source = source(plan, waiting.len() + opening.len());
        opening.spawn(async move {
            let opened = Browser::open(transport, &target, &id, source).await;
            drop(turn);
            opened
        });
        while let Some(Ok(opened)) = opening.try_join_next() {
            begin_to_wait(opened, shared, waiting, bar);
        }
    }
    while let Some(opened) = opening.join_next().await {
        if let Ok(opened) = opened {
            begin_to_wait(opened, shared, waiting, bar);
        }
    }
}

fn begin_to_wait(
    opened: Result<Browser, browser::OpenFailure>,
    shared: &Shared,
    waiting: &mut JoinSet<()>,
    bar: &ProgressBar,
) {
    match opened {
        Ok(browser) => {
            let shared = shared.clone();
            waiting.spawn(async move { browser.wait(&shared, None).await });
        }
        Err(failure) => shared.note_error(&failure),
    }
    bar.inc(1);
}

fn source(plan: &Plan, number: usize) -> Option<IpAddr> {
    (!plan.sources.is_empty()).then(|| plan.sources[number % plan.sources.len()])
}

/// Runs the logins at a constant rate, or waits if there are none.
///
/// Each confirmation is due at a fixed time, and its latency counts from then. A stall of the server therefore shows in
/// all confirmations that were due meanwhile (open loop). All steps before the confirmation are done beforehand.
async fn log_in(plan: &Plan, target: &Arc<Target>, shared: &Shared) {
    let total = plan.logins_per_second * plan.seconds;
    let bar = bar(if total == 0 { plan.seconds } else { total }.into(), "logging in");
    if total == 0 {
        for _ in 0..plan.seconds {
            shared.clock.sleep_seconds(1).await;
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
    start: OnceLock<tokio::time::Instant>,
}

impl Schedule {
    /// Returns the number of the next login, or `None` if there is none left.
    fn take(&self) -> Option<u32> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.total).then_some(number)
    }

    /// Returns the time at which the login of this number is to be confirmed. The first call starts the schedule.
    fn due(&self, number: u32) -> tokio::time::Instant {
        *self.start.get_or_init(tokio::time::Instant::now) + self.interval * number
    }
}

/// A login that has been scanned and is to be confirmed.
struct Login {
    session: api::Generated,
    waiting: JoinHandle<()>,
    arrival: oneshot::Receiver<Stopwatch>,
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
            shared.clock.sleep_millis(THINKING_MILLIS).await;
        }
        Ok(Self { session, waiting, arrival })
    }

    /// Confirms the login at `due`, waits for its token, and counts the time from `due` to the token's arrival.
    async fn finish(
        self,
        phone: &mut Api,
        plan: &Plan,
        shared: &Shared,
        due: tokio::time::Instant,
    ) -> Result<(), LoginFailure> {
        // If the task is ready in time, measure from its wake-up, because the timer may wake it late. If it is late
        // because the server was slow before, measure from when the confirmation was due.
        let started = if tokio::time::Instant::now() < due {
            tokio::time::sleep_until(due).await;
            Stopwatch::start()
        } else {
            Stopwatch::from(due.into_std())
        };
        phone.phone("confirm", &self.session.code, &plan.app_token).await?;
        let token = shared.clock.timeout(LOST_SECONDS, self.arrival).await;
        shared.count(|tally| tally.confirmed += 1);
        if let Some(Ok(at)) = token {
            shared.count(|tally| tally.push.push(report::micros(started.until(at))));
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
    Api(#[from] api::ApiFailure),
    #[error(transparent)]
    Open(#[from] browser::OpenFailure),
}

fn bar(length: u64, what: &'static str) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length), target).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg:>10} [{bar:40}] {pos}/{len} {per_sec} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
