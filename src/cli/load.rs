//! The command `load`.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use qrlogin_load::{OAuthClient, Plan, Transport};

use super::config_flags::ConfigFlags;
use super::{CliError, app_token, in_runtime, located};
use crate::config::{Loaded, Settings};
use crate::secret::shown_path;

/// Lifetime of the app token of a load test, in seconds. It is longer than the longest `--seconds`.
const LOAD_TOKEN_SECONDS: u32 = 2 * 3600;

#[derive(Debug, Args)]
pub(super) struct LoadFlags {
    /// URL of the server, http only [default: the address of the setting listen]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Number of browsers that wait during the whole test
    #[arg(long, value_name = "COUNT", default_value_t = 1000)]
    browsers: usize,
    /// Transport on which the browsers wait
    #[arg(long, value_enum, default_value_t = Transport::Websocket)]
    transport: Transport,
    /// Number of logins per second, each with a browser of its own; 0 means none
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    logins_per_second: u32,
    /// Duration of the test once all browsers wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Maximum number of concurrent handshakes
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    concurrency: usize,
    /// Source addresses of the browsers, used in turn (127.0.0.1,127.0.0.2); one address has about 28,000 ports
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    sources: Vec<IpAddr>,
    /// App token of the phone [default: one signed with app_auth.hmac_secret]
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Log in to this registered OAuth client, by authorization code
    #[arg(long, value_name = "ID", requires = "oauth_redirect_uri")]
    oauth_client: Option<String>,
    /// Redirect URI of the OAuth client, to which no request is sent
    #[arg(long, value_name = "URI", requires = "oauth_client")]
    oauth_redirect_uri: Option<String>,
    /// File with the secret of the OAuth client, unless it is public
    #[arg(long, value_name = "FILE", requires = "oauth_client")]
    oauth_client_secret_file: Option<PathBuf>,
    /// Process id of the server, to measure its memory and processor time
    #[arg(long, value_name = "ID")]
    pid: Option<u32>,
    /// Print the report as JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigFlags,
}

/// Runs the load test and prints its report.
pub(super) fn load(flags: LoadFlags) -> Result<(), CliError> {
    let Loaded { settings, origins, .. } = flags.config.read(&Settings::default(), true)?;
    let app_token = match flags.token {
        Some(token) => token,
        None => app_token(&settings.app_auth, "load", None, None, LOAD_TOKEN_SECONDS)
            .map_err(|failure| located(&origins, failure))?,
    };
    let secret = flags.oauth_client_secret_file.as_deref().map(read_secret).transpose()?;
    let oauth_client = flags.oauth_client.zip(flags.oauth_redirect_uri);
    let oauth_client = oauth_client.map(|(id, redirect_uri)| OAuthClient { id, redirect_uri, secret });
    let plan = Plan {
        url: flags.url.unwrap_or_else(|| format!("http://{}", settings.listen)),
        transport: flags.transport,
        browsers: flags.browsers,
        logins_per_second: flags.logins_per_second,
        seconds: flags.seconds,
        concurrency: flags.concurrency,
        sources: flags.sources,
        app_token,
        oauth_client,
        pid: flags.pid,
    };
    let report = in_runtime(async { Ok(qrlogin_load::run(&plan).await?) })?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// Reads the secret of the OAuth client. A line end after it is not a part of it.
fn read_secret(file: &Path) -> Result<String, CliError> {
    let text = fs::read_to_string(file);
    let text = text.map_err(|error| format!("--oauth-client-secret-file: {}: {error}", shown_path(file)))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}
