//! Requirements of tests: programs and properties of the machine.

use std::path::{Path, PathBuf};

/// A requirement that not every machine meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// The programs of a Postgres server.
    Postgres,
    /// The program PgBouncer.
    PgBouncer,
    /// The program of a Redis server.
    Redis,
    /// Chromium, Node and the packages of `e2e/`.
    Chromium,
    /// Firefox.
    Firefox,
    /// The library that fakes the wall clock of a process.
    Faketime,
    /// The program `openssl`.
    Openssl,
    /// `prlimit`, which changes the limits of a running process.
    Prlimit,
    /// `/proc`, and socket options and signals as Linux has them.
    Linux,
    /// Addresses of 127.0.0.0/8 other than 127.0.0.1.
    LoopbackAddresses,
}

impl Need {
    /// Returns what is missing, if the machine does not meet the requirement.
    pub(crate) fn missing(self) -> Option<String> {
        match self {
            Self::Postgres => missing_program("initdb").or_else(|| missing_program("postgres")),
            Self::PgBouncer => missing_program("pgbouncer"),
            Self::Redis => missing_program("redis-server"),
            Self::Chromium => missing_program("node").or_else(missing_chromium),
            Self::Firefox => missing_program("firefox-esr"),
            Self::Faketime => faketime().is_none().then(|| "libfaketime is not installed".to_owned()),
            Self::Openssl => missing_program("openssl"),
            Self::Prlimit => missing_program("prlimit"),
            Self::Linux => (!cfg!(target_os = "linux")).then(|| "the system is not Linux".to_owned()),
            Self::LoopbackAddresses => {
                std::net::TcpListener::bind("127.0.0.2:0").err().map(|error| format!("127.0.0.2: {error}"))
            }
        }
    }
}

/// Returns the path of a program. Looks in Debian's directories of Postgres, one per version with the last name first,
/// then in `PATH`, and then in `/usr/sbin`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut directories: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    directories.sort();
    directories.reverse();
    directories.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    directories.push("/usr/sbin".into());
    directories.into_iter().map(|directory| directory.join(name)).find(|path| path.is_file())
}

fn missing_program(name: &str) -> Option<String> {
    find_program(name).is_none().then(|| format!("the program {name} is not installed"))
}

fn missing_chromium() -> Option<String> {
    let path = std::env::var_os("CHROMIUM").map_or_else(|| PathBuf::from("/usr/bin/chromium"), PathBuf::from);
    if !path.is_file() {
        return Some(format!("{} does not exist", path.display()));
    }
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e/node_modules/playwright-core");
    (!packages.exists()).then(|| "playwright-core is missing: run npm ci in e2e/".to_owned())
}

/// Returns the path of libfaketime, which Debian installs in a directory per architecture.
pub fn faketime() -> Option<PathBuf> {
    let directories = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut libraries = directories.map(|directory| directory.path().join("faketime/libfaketime.so.1"));
    libraries.find(|path| path.exists())
}
