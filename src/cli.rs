//! The command line: the commands, their flags, and the settings that flags, environment and file give.

#[cfg(feature = "load")]
mod load;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value};
use tracing::{error, info, warn};

use crate::app::{self, Listeners, Parts, Reload};
use crate::config::{AppAuthSettings, ConfigError, DEFAULT_FILE, Layers, Loaded, Origins, Settings, Warning};
use crate::demo::{DEMO_SETTINGS, Demo, USERS};
use crate::secret::HIDDEN;
use crate::system::clock::Clock;
use crate::system::files;
use crate::system::memory;
use crate::system::shutdown::{Shutdown, Signal, Signals};
use crate::telemetry::{Log, LogFormat, Writing, with_warnings};
use crate::token::sign_app_token;

type Failure = Box<dyn std::error::Error>;

/// Time for the runtime's threads to end.
const RUNTIME_PATIENCE: Duration = Duration::from_millis(500);

/// Log in on a web page by scanning a QR code with a phone on which you are already logged in.
#[derive(Debug, Parser)]
#[command(name = "qrlogin", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(ConfigFlags),
    /// Run a demo server on loopback, with a phone page and demo users; its data is removed when it stops
    Demo {
        /// Listen on all addresses, so that a phone in the same network can scan
        #[arg(long)]
        lan: bool,
        #[command(flatten)]
        config: ConfigFlags,
    },
    /// Check the settings, and print the warnings that serve would log about them
    CheckConfig {
        /// Fail if there is a warning
        #[arg(long)]
        strict: bool,
        #[command(flatten)]
        config: ConfigFlags,
    },
    /// Print the settings that result from flags, environment and file, with secrets hidden
    PrintConfig(ConfigFlags),
    /// Print an app token for tests, signed with app_auth.hmac_secret
    GenToken {
        /// Id of the user (the claim app_auth.user_claim)
        #[arg(long, value_name = "NAME")]
        user: String,
        /// Display name of the user (the claim name)
        #[arg(long)]
        name: Option<String>,
        /// URL of the user's picture (the claim picture)
        #[arg(long, value_name = "URL")]
        picture: Option<String>,
        /// Lifetime of the token, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
        ttl_seconds: u32,
        #[command(flatten)]
        config: ConfigFlags,
    },
    /// Measure a running server, with waiting browsers and logins at a constant rate
    #[cfg(feature = "load")]
    Load(load::LoadFlags),
}

#[derive(Debug, Args)]
struct ConfigFlags {
    /// File of settings, in TOML [default: qrlogin.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on for browsers and phones
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address to listen on for /livez, /readyz and /metrics
    #[arg(long, value_name = "ADDRESS")]
    ops_listen: Option<String>,
    /// Base of the URL in the QR code
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// Database of the sessions: sqlite://FILE, or postgres://... for several nodes
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Redis that carries notifications between nodes, in place of Postgres: redis://...
    #[arg(long, value_name = "URL")]
    bus_url: Option<String>,
    /// Set any setting, as in session.ttl_seconds=120; can be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl ConfigFlags {
    /// Returns the settings of flags, environment and file, laid over `defaults`. Without `--config`, reads
    /// [`DEFAULT_FILE`] if it exists and `with_default_file` is true.
    fn read(&self, defaults: &Settings, with_default_file: bool) -> Result<Loaded, Failure> {
        let mut layers = Layers::over(defaults);
        match &self.config {
            Some(file) => layers.file(file)?,
            None if with_default_file && Path::new(DEFAULT_FILE).exists() => layers.file(Path::new(DEFAULT_FILE))?,
            None => {}
        }
        layers.environment(std::env::vars_os())?;
        let named = [
            ("listen", "--listen", &self.listen),
            ("ops_listen", "--ops-listen", &self.ops_listen),
            ("public_url", "--public-url", &self.public_url),
            ("database_url", "--database-url", &self.database_url),
            ("bus_url", "--bus-url", &self.bus_url),
        ];
        for (key, flag, value) in named {
            if let Some(value) = value {
                layers.text(key, value, flag)?;
            }
        }
        for setting in &self.set {
            let (key, value) = setting.split_once('=').ok_or("--set: write it as KEY=VALUE")?;
            layers.text(key.trim(), value, "--set")?;
        }
        Ok(layers.finish()?)
    }
}

/// Runs the command that the command line names. Returns the exit code of the process.
#[must_use]
pub fn main() -> ExitCode {
    memory::keep_together();
    let cli = Cli::try_parse().unwrap_or_else(|error| without_values(error).exit());
    let done = match cli.command {
        Command::Serve(flags) => serve(&flags),
        Command::Demo { lan, config } => demo(lan, &config),
        Command::CheckConfig { strict, config } => check_config(&config, strict).map(succeeded),
        Command::PrintConfig(flags) => print_config(&flags).map(succeeded),
        Command::GenToken { user, name, picture, ttl_seconds, config } => {
            gen_token(&config, &user, name, picture, ttl_seconds).map(succeeded)
        }
        #[cfg(feature = "load")]
        Command::Load(flags) => load::load(flags).map(succeeded),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            say(&failure);
            ExitCode::FAILURE
        }
    }
}

/// Hides values in an error of the command line, because one that was typed without its flag or after a wrong flag may
/// be a secret.
fn without_values(mut error: clap::Error) -> clap::Error {
    let is_flag = |text: &str| {
        let name = text.strip_prefix("--");
        name.is_some_and(|name| name.len() <= 24 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'))
    };
    for kind in [ContextKind::InvalidArg, ContextKind::InvalidSubcommand, ContextKind::InvalidValue] {
        let Some(ContextValue::String(text)) = error.get(kind) else { continue };
        let is_known = error.kind() != ErrorKind::UnknownArgument;
        let is_shown = kind == ContextKind::InvalidArg && (is_known || is_flag(text));
        if !is_shown {
            error.insert(kind, ContextValue::String(HIDDEN.to_owned()));
        }
    }
    error
}

/// Puts the source of a setting in front of an error whose text begins with the setting's key.
fn located(origins: &Origins, failure: impl Into<Failure>) -> Failure {
    let failure = failure.into();
    match origins.of_error(&failure.to_string()) {
        Some(origin) => format!("{origin}: {failure}").into(),
        None => failure,
    }
}

/// Logs the warnings about the settings.
fn log_warnings(warnings: &[Warning]) {
    for Warning { origin, key, reason } in warnings {
        warn!(event = "setting_unclean", origin, key, reason);
    }
}

const fn succeeded((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Returns the exit code of a command that has a log. Writes a failure to the log, in the log's format.
fn logged(log: &Log, done: Result<(), Failure>) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            log.say_failure(&*failure);
            ExitCode::FAILURE
        }
    }
}

/// Prints the failure with which the program ends. It uses a thread of its own, because a blocked reader of the output
/// would block the write.
fn say(failure: &Failure) {
    match Writing::start("qrlogin-failure", std::io::stderr(), LogFormat::Text) {
        Ok((mut terminal, _writing)) => drop(writeln!(terminal, "qrlogin: {failure}")),
        // The thread cannot be created, so write directly.
        Err(_) => eprintln!("qrlogin: {failure}"),
    }
}

fn serve(flags: &ConfigFlags) -> Result<ExitCode, Failure> {
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

fn demo(lan: bool, flags: &ConfigFlags) -> Result<ExitCode, Failure> {
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

fn run_demo(settings: Settings, lan: bool) -> Result<(), Failure> {
    let (mut terminal, _writing) = Writing::start("qrlogin-terminal", std::io::stdout(), LogFormat::Text)?;
    let dir = tempfile::Builder::new().prefix("qrlogin-demo-").tempdir()?;
    in_runtime(async {
        let listeners = Listeners::bind(&settings)?;
        let public = listeners.public.local_addr()?;
        let (demo, settings) = Demo::new(settings, public, dir.path(), Some(terminal.clone()));
        writeln!(terminal, "Open {} in a browser, and scan the code it shows.", settings.public_base())?;
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
) -> Result<(), Failure> {
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

/// Prints the warnings that `serve` would log about the settings, and fails if [`app::check`] refuses them.
fn check_config(flags: &ConfigFlags, strict: bool) -> Result<(), Failure> {
    let Loaded { settings, warnings, origins } = flags.read(&Settings::default(), true)?;
    let (checked, events) = with_warnings(|| app::check(&settings, &Clock::system()));
    let warnings: Vec<_> = warnings.iter().map(ToString::to_string).chain(events).collect();
    for warning in &warnings {
        eprintln!("qrlogin: warning: {warning}");
    }
    checked.map_err(|error| located(&origins, error))?;
    if strict && !warnings.is_empty() {
        return Err("the settings can be used, but cause a warning (--strict)".into());
    }
    println!("The settings can be used.");
    Ok(())
}

fn print_config(flags: &ConfigFlags) -> Result<(), Failure> {
    print!("{}", flags.read(&Settings::default(), true)?.settings.to_toml()?);
    Ok(())
}

fn gen_token(
    flags: &ConfigFlags,
    user: &str,
    name: Option<String>,
    picture: Option<String>,
    ttl_seconds: u32,
) -> Result<(), Failure> {
    let Loaded { settings, origins, .. } = flags.read(&Settings::default(), true)?;
    let token = app_token(&settings.app_auth, user, name, picture, ttl_seconds);
    println!("{}", token.map_err(|failure| located(&origins, failure))?);
    Ok(())
}

fn app_token(
    settings: &AppAuthSettings,
    user: &str,
    name: Option<String>,
    picture: Option<String>,
    ttl_seconds: u32,
) -> Result<String, Failure> {
    if settings.hmac_secret.is_empty() || settings.hmac_secret.is_hidden() {
        let reason = "must be set (QRLOGIN_APP_AUTH__HMAC_SECRET): it signs the token".to_owned();
        return Err(ConfigError::Invalid { key: "app_auth.hmac_secret", reason }.into());
    }
    let now = Clock::system().wall().as_seconds();
    let set = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let texts = [
        (settings.user_claim.as_str(), Some(user.to_owned())),
        ("name", name),
        ("picture", picture),
        ("iss", set(&settings.issuer)),
        ("aud", set(&settings.audience)),
    ];
    let mut claims: Map<String, Value> =
        texts.into_iter().filter_map(|(claim, text)| Some((claim.to_owned(), text?.into()))).collect();
    claims.insert("iat".to_owned(), now.into());
    claims.insert("exp".to_owned(), (now + i64::from(ttl_seconds)).into());
    Ok(sign_app_token(settings.hmac_secret.expose().as_bytes(), &claims).ok_or("the token could not be signed")?)
}

/// Runs `what` on a new runtime. Afterwards, waits at most [`RUNTIME_PATIENCE`] for threads that are still busy.
fn in_runtime<T>(what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // At least two threads, because the disk may block one.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let done = runtime.block_on(what);
    runtime.shutdown_timeout(RUNTIME_PATIENCE);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_a_command_if_its_feature_is_enabled() {
        let parsed = Cli::try_parse_from(["qrlogin", "load"]);
        let expected = if cfg!(feature = "load") { None } else { Some(ErrorKind::InvalidSubcommand) };
        assert_eq!(parsed.err().map(|error| error.kind()), expected);
    }
}
