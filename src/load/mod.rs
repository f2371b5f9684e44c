//! `qrlogin load`: many browsers that wait, and logins at a given rate, through the API and from outside.
//!
//! It shares no code with the server that it measures, but for the names of the protocol: the browsers are
//! `tungstenite`'s, the calls go through hyper.

mod api;
mod browser;
mod report;
mod usage;

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use thiserror::Error;
use tokio::sync::{Barrier, Semaphore, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::clock::Clock;
use crate::metrics::Stopwatch;
use api::{Api, Target};
use browser::Browser;

use report::Course;
use usage::Usage;

pub use report::Report;

/// Connections over which sessions are generated before the handshakes begin.
const GENERATORS: usize = 16;
/// Phones, and browsers that are about to log in. A server that needs longer for a confirmation than these are due in is
/// measured all the same: from when each was due.
const MAX_LOGINS_AT_ONCE: u32 = 256;
/// A confirmed login that has not arrived after this long is lost.
const LOST_SECONDS: u32 = 10;
/// How long the browsers have to say goodbye.
const GOODBYE_SECONDS: u32 = 10;
/// Nothing says that a poll has arrived: by then it has.
const ARRIVING_SECONDS: u32 = 2;
/// How long the phone's owner thinks before confirming, where the browser must ask again meanwhile.
const THINKING_MILLIS: u32 = 20;
/// Files that are needed besides the sockets.
const SPARE_FILES: u64 = 64;

/// How browsers wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Transport {
    /// On a WebSocket, whose Close is the receipt.
    Websocket,
    /// On a WebSocket, acknowledging the token, as `<qr-login>` does.
    WebsocketAck,
    /// For server-sent events.
    Sse,
    /// By long polling.
    Poll,
}

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where the server is; `http` only.
    pub url: String,
    /// How the browsers wait.
    pub transport: Transport,
    /// Browsers that wait from the beginning to the end.
    pub browsers: usize,
    /// Logins a second, each with a browser of its own, besides.
    pub logins_per_second: u32,
    /// For how long.
    pub seconds: u32,
    /// Handshakes under way at once.
    pub concurrency: usize,
    /// Addresses that the browsers connect from, in turn; none: whichever the system chooses.
    pub sources: Vec<IpAddr>,
    /// The app token of the phone.
    pub app_token: String,
    /// The server's process, if it is on this machine and its memory and processor time are to be measured.
    pub pid: Option<u32>,
}

/// Why there is no report.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Not a URL, or not of the kind that this tool speaks.
    #[error("--url: not of the form http://HOST:PORT (TLS is not spoken: measure behind it)")]
    Url,
    /// The name of the host cannot be resolved.
    #[error("--url: {0}")]
    Resolve(std::io::Error),
    /// More sockets than this process may open.
    #[error("--browsers: {wanted} need {wanted} files and a few more, and this process may open {limit} (ulimit -n)")]
    Files {
        /// The browsers.
        wanted: usize,
        /// The limit.
        limit: u64,
    },
    /// The process is not there, or not to be looked at.
    #[error("--pid: {0}")]
    Process(String),
    /// The server did not do what was asked.
    #[error("{0}")]
    Api(#[from] api::ApiFailure),
}

/// What is counted while it runs.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Microseconds.
    pub(crate) push: Vec<u64>,
    pub(crate) confirmed: u64,
    pub(crate) lost: u64,
    /// By close code, or by what happened instead.
    pub(crate) closed: std::collections::BTreeMap<String, u64>,
    pub(crate) errors: std::collections::BTreeMap<String, u64>,
}

/// Shared by all that runs.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    tally: Arc<Mutex<Tally>>,
    /// When it is said, everybody goes.
    goodbye: CancellationToken,
    clock: Clock,
}

impl Shared {
    fn count(&self, count: impl FnOnce(&mut Tally)) {
        count(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn count_ending(&self, ending: String) {
        self.count(|tally| *tally.closed.entry(ending).or_default() += 1);
    }

    fn note_error(&self, error: &impl ToString) {
        self.count(|tally| *tally.errors.entry(error.to_string()).or_default() += 1);
    }
}

/// Runs it, and says what was measured.
///
/// # Errors
/// The plan cannot be carried out. What goes wrong on the way is in the report.
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
    // In three parts, so that what a browser costs can be told from what a first browser costs.
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
        shared.note_error(&"some browsers could not say goodbye");
    }
    let tally = std::mem::take(&mut *shared.tally.lock().unwrap_or_else(PoisonError::into_inner));
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

/// One session for each browser, before the clock runs.
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

/// Opens a browser for each of these sessions; the tasks that remain are those of the browsers that wait.
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
        // Only when the program is torn down is a semaphore closed.
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

/// Logins at an even rate: each confirmation is due at an instant of its own, and measured from that, so that a server
/// that stalls is measured by all who would have come meanwhile (an open loop). Everything up to the confirmation is
/// done beforehand.
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
                    // The time runs from when all have prepared their first.
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

/// When each confirmation is due.
struct Schedule {
    next: AtomicU32,
    total: u32,
    interval: Duration,
    are_ready: Barrier,
    start: OnceLock<tokio::time::Instant>,
}

impl Schedule {
    /// The number of the next login.
    fn take(&self) -> Option<u32> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        (number < self.total).then_some(number)
    }

    /// When it is to be confirmed.
    fn due(&self, number: u32) -> tokio::time::Instant {
        *self.start.get_or_init(tokio::time::Instant::now) + self.interval * number
    }
}

/// A login that waits to be confirmed.
struct Login {
    session: api::Generated,
    waiting: JoinHandle<()>,
    arrival: oneshot::Receiver<Stopwatch>,
}

impl Login {
    /// Everything up to the confirmation: the code, the browser that waits, the scan.
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
            // The browser has been answered, and is to have asked again.
            shared.clock.sleep_millis(THINKING_MILLIS).await;
        }
        Ok(Self { session, waiting, arrival })
    }

    /// The confirmation, at its time, and the token; measured from when it was due to the frame's arrival.
    async fn finish(
        self,
        phone: &mut Api,
        plan: &Plan,
        shared: &Shared,
        due: tokio::time::Instant,
    ) -> Result<(), LoginFailure> {
        // Being woken late is not the server's fault; coming late, because it took so long before, is.
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
