//! The load test behind `qrlogin load`: measures a running server from outside, with many waiting browsers and logins at
//! a given rate.
//!
//! The crate shares no code with the server. The browsers use `tungstenite`, the calls use hyper, and the names on the
//! wire are those of PROTOCOL.md, as with any other client.

#![forbid(unsafe_code)]

mod api;
mod browser;
mod logins;
mod oauth;
mod report;
mod usage;

use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::api::{Api, Target};
use crate::browser::Browser;
use crate::report::Course;
use crate::usage::Usage;

pub use api::ApiFailure;
pub use oauth::OAuthClient;
pub use report::Report;

/// Number of connections over which sessions are generated before the handshakes begin.
const GENERATORS: usize = 16;
/// Time for all browsers to close their connections at the end.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(10);
/// Time for the server to register the long polls. It does not answer them, so their arrival cannot be observed.
const POLL_ARRIVAL: Duration = Duration::from_secs(2);
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
    /// OAuth client to which all browsers log in, or `None` for logins without one.
    pub oauth_client: Option<OAuthClient>,
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
    /// Times from when a confirmation was due to the redirect to the OAuth client, in microseconds.
    pub(crate) redirect: Vec<u64>,
    /// Times of the token requests of the OAuth client, in microseconds.
    pub(crate) token: Vec<u64>,
    /// Number of logins that ended without an error.
    pub(crate) completed: u64,
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

/// Runs a load test. Returns the report.
///
/// # Errors
/// Returns an error if the test cannot be started or the server's process cannot be measured. Errors of single browsers
/// and logins are counted in the report.
pub async fn run(plan: &Plan) -> Result<Report, LoadError> {
    let target = Arc::new(target(plan).await?);
    let limit = usage::open_files_limit();
    let files = SPARE_FILES + logins::files(plan);
    if (plan.browsers as u64).saturating_add(files) > limit {
        return Err(LoadError::Files { wanted: plan.browsers, limit });
    }
    let shared = Shared { tally: Arc::default(), goodbye: CancellationToken::new() };
    let look = || plan.pid.map(|pid| Usage::of(pid).map_err(LoadError::Process)).transpose();

    let mut course = Course { start: look()?, ..Course::default() };
    let ids = generate(plan, &target).await?;
    let mut waiting = JoinSet::new();
    let bar = bar(plan.browsers as u64, "opening");
    // Opened in three parts, because the first browsers cause allocations that later ones do not.
    for part in ids.chunks(plan.browsers.div_ceil(3).max(1)) {
        let (before, started) = (look()?, Instant::now());
        open(plan, part, &target, &shared, &mut waiting, &bar).await;
        let time = started.elapsed();
        if plan.transport == Transport::Poll {
            sleep(POLL_ARRIVAL).await;
        }
        course.opened.push(report::Part { browsers: waiting.len() as u64, time, before, after: look()? });
    }
    bar.finish_and_clear();

    let (before, started) = (look()?, Instant::now());
    logins::run(plan, &target, &shared).await;
    course.logins =
        Some(report::Part { browsers: waiting.len() as u64, time: started.elapsed(), before, after: look()? });

    shared.goodbye.cancel();
    let all_gone = async { while waiting.join_next().await.is_some() {} };
    if timeout(GOODBYE_PATIENCE, all_gone).await.is_err() {
        shared.note_error(&"some browsers could not close their connections");
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

/// Generates one session for each browser, before the measurement. Returns the session ids.
async fn generate(plan: &Plan, target: &Arc<Target>) -> Result<Vec<String>, LoadError> {
    let bar = bar(plan.browsers as u64, "generating");
    let mut tasks = JoinSet::new();
    for number in 0..GENERATORS {
        let share = plan.browsers / GENERATORS + usize::from(number < plan.browsers % GENERATORS);
        let (target, bar, client) = (target.clone(), bar.clone(), plan.oauth_client.clone());
        tasks.spawn(async move {
            let mut api = Api::connect(&target).await?;
            let mut ids = Vec::new();
            for _ in 0..share {
                ids.push(api.generate(client.as_ref()).await?.id);
                bar.inc(1);
            }
            Ok::<_, api::ApiFailure>(ids)
        });
    }
    let mut ids = Vec::new();
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
    let turns = Arc::new(Semaphore::new(plan.concurrency.clamp(1, Semaphore::MAX_PERMITS)));
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

fn bar(length: u64, what: &'static str) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length), target).with_message(what);
    if let Ok(style) = ProgressStyle::with_template("{msg:>10} [{bar:40}] {pos}/{len} {per_sec} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}
