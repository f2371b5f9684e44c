//! The flags that every command takes: the settings file, and settings that override it.

use std::path::{Path, PathBuf};

use clap::Args;

use super::CliError;
use crate::config::{DEFAULT_FILE, Layers, Loaded, Settings};

#[derive(Debug, Args)]
pub(super) struct ConfigFlags {
    /// File of settings, in TOML [default: qrlogin.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
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
    pub(super) fn read(&self, defaults: &Settings, with_default_file: bool) -> Result<Loaded, CliError> {
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
