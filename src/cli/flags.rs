//! The commands of the command line, and their flags.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

use super::config_flags::ConfigFlags;
use crate::secret::HIDDEN;

/// Log in on a web page by scanning a QR code with a phone on which you are already logged in.
#[derive(Debug, Parser)]
#[command(name = "qrlogin", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the server
    Serve(ConfigFlags),
    /// Run a demo server on loopback, with a login provider and users of its own; its data is removed when it stops
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
    /// Print the hash of an OAuth client's secret, which is read from standard input
    ///
    /// The hash is an item of secret_hashes in a table [[oauth.clients]].
    HashSecret,
    /// Log in at an OAuth server (RFC 8628) with a QR code in the terminal, and print the tokens as JSON
    Login(super::login::LoginFlags),
    /// Measure a running server, with waiting browsers and logins at a constant rate
    #[cfg(feature = "load")]
    Load(super::load::LoadFlags),
}

/// Hides values in an error of the command line, because one that was typed without its flag or after a wrong flag may
/// be a secret.
pub(super) fn without_values(mut error: clap::Error) -> clap::Error {
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
