//! The command `login`.

use std::io::{self, IsTerminal as _, Read as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::{CliError, in_runtime, print_failure};
use crate::device_client::{DeviceClient, DeviceClientSettings, DeviceError, FinishedLogin, PendingLogin};
use crate::qr::Picture;
use crate::secret::{Secret, shown_path};
use crate::system::clock::Clock;

/// Exit code of a login that the user has rejected.
const DENIED: u8 = 3;
/// Exit code of a login whose code has expired.
const EXPIRED: u8 = 4;
/// Path that means the standard input.
const STANDARD_INPUT: &str = "-";
/// Escape sequences for white on black and for the terminal's own colors (ECMA-48 §8.3.117). A QR code needs both colors,
/// and the terminal's own may be dark on light.
const COLORS: (&str, &str) = ("\x1b[97;40m", "\x1b[0m");

#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 logged in, 1 failed, 2 wrong flags, 3 the user rejected the login, 4 the code expired"
)]
pub(super) struct LoginFlags {
    /// Issuer of the OAuth server: https, or http on this machine
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// Id of the client, as registered at the server
    #[arg(long, value_name = "ID")]
    client_id: String,
    /// File with the client's secret, or - for the standard input [default: none, for a public client]
    #[arg(long, value_name = "FILE")]
    client_secret_file: Option<PathBuf>,
    /// Scopes, separated by blanks; with openid, there is an ID token, which is verified
    #[arg(long, value_name = "SCOPES", default_value = "openid profile")]
    scope: String,
    /// Output on the standard output
    #[arg(long, value_enum, default_value_t = Output::Json)]
    output: Output,
}

/// The output of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The server's token response as JSON
    Json,
    /// The access token alone
    AccessToken,
    /// The ID token alone
    IdToken,
}

/// Logs in: shows the code, waits for the user's decision, and prints the tokens. Messages are on the standard error.
pub(super) fn login(flags: LoginFlags) -> Result<ExitCode, CliError> {
    let client_secret = flags.client_secret_file.map(read_secret).transpose()?.unwrap_or_default();
    let settings = DeviceClientSettings {
        issuer: flags.issuer,
        client_id: flags.client_id,
        client_secret,
        scopes: flags.scope.split_whitespace().map(str::to_owned).collect(),
    };
    if flags.output == Output::IdToken && !settings.requests_id_token() {
        return Err("--output id-token needs the scope openid (--scope)".into());
    }
    let done = in_runtime(async {
        let client = DeviceClient::discover(settings, Clock::system()).await?;
        let pending = client.begin().await?;
        show(&pending)?;
        let finished = client.wait(&pending).await?;
        print(&finished, flags.output)
    });
    let Err(failure) = done else { return Ok(ExitCode::SUCCESS) };
    let code = match failure.downcast_ref() {
        Some(DeviceError::Denied) => DENIED,
        Some(DeviceError::Expired) => EXPIRED,
        _ => return Err(failure),
    };
    print_failure(&failure);
    Ok(code.into())
}

/// Reads the client's secret. A line end after it is not a part of it.
fn read_secret(file: PathBuf) -> Result<Secret, CliError> {
    let mut text = String::new();
    let read = if file.as_os_str() == STANDARD_INPUT {
        io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::read_to_string(&file).map(|read| text = read)
    };
    read.map_err(|error| format!("--client-secret-file: {}: {error}", shown_path(&file)))?;
    let secret = text.trim_end_matches(['\n', '\r']);
    if secret.is_empty() {
        return Err(format!("--client-secret-file: {}: it is empty", shown_path(&file)).into());
    }
    Ok(secret.into())
}

/// Shows the code of a login on the standard error: the QR code, and the URL and the code to type.
fn show(login: &PendingLogin) -> io::Result<()> {
    let stderr = io::stderr();
    let (before, after) = if stderr.is_terminal() { COLORS } else { ("", "") };
    let mut text = String::new();
    if let Ok(picture) = Picture::of(&login.qr_url()) {
        text.push_str("Scan this code with your phone:\n\n");
        for line in picture.terminal().lines() {
            text.push_str(&format!("{before}{line}{after}\n"));
        }
        text.push_str("\nOr open ");
    } else {
        text.push_str("Open ");
    }
    let (url, code) = (login.verification_url(), login.user_code());
    let minutes = login.expires_in().as_secs().div_ceil(60);
    let unit = if minutes == 1 { "minute" } else { "minutes" };
    text.push_str(&format!("{url} and enter the code {code}\n\nWaiting for you, for {minutes} {unit} at most.\n"));
    stderr.lock().write_all(text.as_bytes())
}

/// Prints the tokens on the standard output.
fn print(login: &FinishedLogin, output: Output) -> Result<(), CliError> {
    let text = match output {
        Output::Json => {
            let mut members = serde_json::to_value(&login.tokens)?;
            if let Some(members) = members.as_object_mut() {
                // The type of the response writes an ID token that is missing as `null`.
                members.retain(|_, value| !value.is_null());
            }
            serde_json::to_string_pretty(&members)?
        }
        Output::AccessToken => login.access_token().to_owned(),
        Output::IdToken => login.id_token().ok_or("there is no ID token")?,
    };
    writeln!(io::stdout(), "{text}")?;
    if let Some(user) = &login.user {
        writeln!(io::stderr(), "Logged in as {user}.")?;
    }
    Ok(())
}
