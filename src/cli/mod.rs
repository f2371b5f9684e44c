//! The command line: the commands, their flags, and the settings that flags, environment and file give.

mod config_flags;
mod flags;
#[cfg(feature = "load")]
mod load;
mod login;
mod serve;

use std::io::{Read as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::app;
use crate::config::{AppAuthSettings, ConfigError, Loaded, Origins, Settings};
use crate::oauth;
use crate::system::clock::Clock;
use crate::system::memory;
use crate::telemetry::{LogFormat, WriterThread, with_warnings};
use crate::token::sign_app_token;
use config_flags::ConfigFlags;
use flags::{Cli, Command, without_values};

/// An error that ends a command. The process then exits with code 1.
type CliError = Box<dyn std::error::Error>;

/// Time for the runtime's threads to end.
const RUNTIME_STOP_TIME: Duration = Duration::from_millis(500);

/// Runs the command that the command line names. Returns the exit code of the process.
#[must_use]
pub fn main() -> ExitCode {
    memory::keep_together();
    let cli = Cli::try_parse().unwrap_or_else(|error| without_values(error).exit());
    let done = match cli.command {
        Command::Serve(flags) => serve::serve(&flags),
        Command::Demo { lan, config } => serve::demo(lan, &config),
        Command::CheckConfig { strict, config } => check_config(&config, strict).map(succeeded),
        Command::PrintConfig(flags) => print_config(&flags).map(succeeded),
        Command::GenToken { user, name, picture, ttl_seconds, config } => {
            gen_token(&config, &user, name, picture, ttl_seconds).map(succeeded)
        }
        Command::HashSecret => hash_secret().map(succeeded),
        Command::Login(flags) => login::login(flags),
        #[cfg(feature = "load")]
        Command::Load(flags) => load::load(flags).map(succeeded),
    };
    match done {
        Ok(code) => code,
        Err(failure) => {
            print_failure(&failure);
            ExitCode::FAILURE
        }
    }
}

/// Puts the source of a setting in front of an error whose text begins with the setting's key.
fn located(origins: &Origins, failure: impl Into<CliError>) -> CliError {
    let failure = failure.into();
    match origins.of_error(&failure.to_string()) {
        Some(origin) => format!("{origin}: {failure}").into(),
        None => failure,
    }
}

const fn succeeded((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

/// Prints the failure with which the program ends. It uses a thread of its own, because a blocked reader of the output
/// would block the write.
fn print_failure(failure: &CliError) {
    match WriterThread::start("qrlogin-failure", std::io::stderr(), LogFormat::Text) {
        Ok((mut terminal, _writing)) => drop(writeln!(terminal, "qrlogin: {failure}")),
        // The thread cannot be created, so write directly.
        Err(_) => eprintln!("qrlogin: {failure}"),
    }
}

/// Prints the warnings that `serve` would log about the settings, and fails if [`app::check`] refuses them.
fn check_config(flags: &ConfigFlags, strict: bool) -> Result<(), CliError> {
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

fn print_config(flags: &ConfigFlags) -> Result<(), CliError> {
    print!("{}", flags.read(&Settings::default(), true)?.settings.to_toml()?);
    Ok(())
}

fn gen_token(
    flags: &ConfigFlags,
    user: &str,
    name: Option<String>,
    picture: Option<String>,
    ttl_seconds: u32,
) -> Result<(), CliError> {
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
) -> Result<String, CliError> {
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

/// Prints the hash of the client secret on standard input, for `secret_hashes`.
fn hash_secret() -> Result<(), CliError> {
    let mut secret = Zeroizing::new(String::new());
    std::io::stdin().read_to_string(&mut secret)?;
    println!("{}", oauth::hash_secret(&secret).ok_or("a client secret has 22 characters or more")?);
    Ok(())
}

/// Runs a future on a new runtime. Afterwards, waits at most [`RUNTIME_STOP_TIME`] for threads that are still busy.
fn in_runtime<T>(future: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    // At least two threads, because the disk may block one.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let result = runtime.block_on(future);
    runtime.shutdown_timeout(RUNTIME_STOP_TIME);
    result
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn load_is_a_command_if_its_feature_is_enabled() {
        let parsed = Cli::try_parse_from(["qrlogin", "load"]);
        let expected = if cfg!(feature = "load") { None } else { Some(ErrorKind::InvalidSubcommand) };
        assert_eq!(parsed.err().map(|error| error.kind()), expected);
    }
}
