//! The commands `serve` and `demo`, which run the server.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use tracing::{error, info, warn};

use super::config_flags::ConfigFlags;
use super::{CliError, in_runtime, located};
use crate::app::{self, Listeners, Parts, Reload};
use crate::config::{ConfigError, Loaded, Settings, Warning};
use crate::demo::{DEMO_SETTINGS, Demo, USERS};
use crate::system::clock::Clock;
use crate::system::files;
use crate::system::shutdown::{Shutdown, Signal, Signals};
use crate::telemetry::{Log, LogFormat, WriterThread};

/// Runs the server until it has stopped, and reads the settings again at each SIGHUP.
pub(super) fn serve(flags: &ConfigFlags) -> Result<ExitCode, CliError> {
    let Loaded { settings, warnings, origins } = flags.read(&Settings::default(), true)?;
    let log = Log::start(&settings.log.level, settings.log.format);
    log_warnings(&warnings);
    let served = in_runtime(async {
        let listeners = Listeners::bind(&settings)?;
        let parts = Parts::open(settings, Clock::system(), None).await?;
        let reload = Reload::default();
        run_until_stopped(parts, listeners, &Shutdown::new(), reload.clone(), || {
            match flags.read(&Settings::default(), true) {
                Ok(Loaded { settings, warnings, .. }) => {
                    log_warnings(&warnings);
                    log.set_level(&settings.log.level);
                    info!(event = "reloading", log_level = settings.log.level, "other settings need a restart");
                }
                Err(error) => warn!(event = "settings not read", %error, "log.level is unchanged"),
            }
            reload.ask();
        })
        .await
    });
    Ok(logged(&log, served.map_err(|failure| located(&origins, failure))))
}

/// Runs the demo until it has stopped. Refuses an address that is not loopback, unless `lan` is set.
pub(super) fn demo(lan: bool, flags: &ConfigFlags) -> Result<ExitCode, CliError> {
    let mut defaults = Settings::default();
    if lan {
        defaults.listen.set_ip(std::net::Ipv4Addr::UNSPECIFIED.into());
    }
    let Loaded { settings, warnings, mut origins } = flags.read(&defaults, false)?;
    if !lan && !settings.listen.ip().is_loopback() {
        let reason = "the demo listens on loopback only; to scan with a real phone, add --lan".to_owned();
        return Err(located(&origins, ConfigError::Invalid { key: "listen", reason }));
    }
    for key in DEMO_SETTINGS {
        origins.forget(key);
    }
    let log = Log::start(&settings.log.level, settings.log.format);
    log_warnings(&warnings);
    Ok(logged(&log, run_demo(settings, lan).map_err(|failure| located(&origins, failure))))
}

fn run_demo(settings: Settings, lan: bool) -> Result<(), CliError> {
    let (mut terminal, _writing) = WriterThread::start("qrlogin-terminal", std::io::stdout(), LogFormat::Text)?;
    let dir = tempfile::Builder::new().prefix("qrlogin-demo-").tempdir()?;
    in_runtime(async {
        let listeners = Listeners::bind(&settings)?;
        let public = listeners.public.local_addr()?;
        let (demo, settings) = Demo::new(settings, public, dir.path(), Some(terminal.clone()));
        let how = if lan { "scan the code it shows" } else { "open the link below the code in a second window" };
        writeln!(terminal, "Open {} in a browser, and {how}.", settings.public_base())?;
        if lan {
            let names: Vec<_> = USERS.iter().map(|user| user.name).collect();
            let names = names.join(" or ");
            writeln!(terminal, "Warning: everyone in this network can open it, and log in as {names}.")?;
        }
        let parts = Parts::open(settings, Clock::system(), Some(demo)).await?;
        let shutdown = Shutdown::new();
        // SIGHUP means that the terminal has been closed. A stop in order removes the demo's data.
        let hung_up = || shutdown.stop();
        run_until_stopped(parts, listeners, &shutdown, Reload::default(), hung_up).await
    })
}

/// Runs the server until it has stopped. A first SIGTERM or SIGINT asks it to stop, and a second one ends the process
/// at once. SIGHUP calls `on_hang_up`.
async fn run_until_stopped(
    parts: Parts,
    listeners: Listeners,
    shutdown: &Shutdown,
    reload: Reload,
    on_hang_up: impl Fn(),
) -> Result<(), CliError> {
    // Each waiting connection is an open file.
    let _ = files::raise_limit();
    // Handle signals before the server answers, so that a supervisor which sees it up can stop it in order.
    let mut signals = Signals::listen()?;
    let drain_seconds = parts.settings.shutdown.drain_seconds;
    let running = app::run(parts, listeners, shutdown.clone(), reload);
    let handling = async {
        loop {
            match signals.next().await {
                Signal::Stop if shutdown.is_stopping() => std::process::exit(1),
                Signal::Stop => shutdown.stop(),
                Signal::Reload => on_hang_up(),
            }
        }
    };
    let stopping = async {
        shutdown.asked().await;
        stop_in_time(drain_seconds);
        std::future::pending().await
    };
    tokio::select! {
        ran = running => Ok(ran?),
        () = handling => Ok(()),
        () = stopping => Ok(()),
    }
}

/// Starts a thread that ends the process if it has not stopped by itself within the time that a stop may take.
fn stop_in_time(drain_seconds: u32) {
    let patience = Duration::from_secs(u64::from(drain_seconds) + app::MAX_STOP_SECONDS);
    // A thread and not a task, because the runtime itself may be stuck.
    let watching = std::thread::Builder::new().name("qrlogin-stop".to_owned()).spawn(move || {
        std::thread::sleep(patience);
        error!(event = "stopped by force", "the server did not stop within {} s", patience.as_secs());
        // Gives the log's thread time to write the line.
        std::thread::sleep(Duration::from_millis(200));
        std::process::exit(1);
    });
    drop(watching);
}

/// Returns the exit code of a command that has a log. Writes a failure to the log, in the log's format.
fn logged(log: &Log, done: Result<(), CliError>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log.log_failure(&*failure);
            ExitCode::FAILURE
        }
    }
}

/// Logs the warnings about the settings.
fn log_warnings(warnings: &[Warning]) {
    for Warning { origin, key, reason } in warnings {
        warn!(event = "setting_unclean", origin, key, reason);
    }
}
