//! Location and network of a client address, from MaxMind databases.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use maxminddb::geoip2::{Asn, City};
use maxminddb::{MaxMindDbError, Reader};
use parking_lot::RwLock;
use serde::Deserialize;
use thiserror::Error;
use tracing::{info, warn};

use crate::metrics::Stopwatch;
use crate::secret::shown_path;
use crate::telemetry::warnings::Warnings;
use crate::wire::types::{LocationView, NetworkView};

/// The configured databases of locations and networks.
#[derive(Default)]
pub struct Geo {
    locations: Option<GeoDatabase>,
    networks: Option<GeoDatabase>,
}

/// An error of [`Geo::open`]. Every text names the setting.
#[derive(Debug, Error)]
pub enum GeoError {
    /// The file cannot be read.
    #[error("{key}: {}: {source}", shown_path(.path))]
    Io {
        /// Key of the setting.
        key: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The file is not a MaxMind database.
    #[error("{key}: {}: not a MaxMind database: {source}", shown_path(.path))]
    NotADatabase {
        /// Key of the setting.
        key: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the database reader.
        source: MaxMindDbError,
    },
}

/// A database in a file, which the operator replaces from time to time.
struct GeoDatabase {
    key: &'static str,
    path: PathBuf,
    current: RwLock<Current>,
    /// Failures to read the file again.
    not_read: Warnings,
    /// Failures to look up an address.
    not_found: Warnings,
    opened: Stopwatch,
}

#[derive(Clone)]
struct Current {
    reader: Arc<Reader<Vec<u8>>>,
    modified: (SystemTime, u64),
}

impl Geo {
    /// Opens the database of locations and that of networks. An empty path means that there is none.
    ///
    /// # Errors
    /// Returns an error if a file cannot be read or is not a MaxMind database.
    pub fn open(locations: &Path, networks: &Path) -> Result<Self, GeoError> {
        let open = |key, path: &Path| {
            if path == Path::new("") { Ok(None) } else { GeoDatabase::open(key, path).map(Some) }
        };
        Ok(Self { locations: open("geoip.city_file", locations)?, networks: open("geoip.asn_file", networks)? })
    }

    /// Returns whether at least one database is configured.
    #[must_use]
    pub const fn is_set(&self) -> bool {
        self.locations.is_some() || self.networks.is_some()
    }

    /// Returns the location of an address, or `None` if it is not known.
    #[must_use]
    pub fn location(&self, address: IpAddr) -> Option<LocationView> {
        let database = self.locations.as_ref()?;
        let reader = database.reader();
        let found: City<'_> = database.look_up(&reader, address)?;
        let text = |text: Option<&str>| text.map(str::to_owned);
        let country = if found.country.iso_code.is_some() { &found.country } else { &found.registered_country };
        let view = LocationView {
            city: text(found.city.names.english),
            region: text(found.subdivisions.first().and_then(|region| region.names.english)),
            country: text(country.names.english),
            country_code: text(country.iso_code),
        };
        (view != LocationView::default()).then_some(view)
    }

    /// Returns the network (autonomous system) of an address, or `None` if it is not known.
    #[must_use]
    pub fn network(&self, address: IpAddr) -> Option<NetworkView> {
        let database = self.networks.as_ref()?;
        let reader = database.reader();
        let found: Asn<'_> = database.look_up(&reader, address)?;
        let organization = found.autonomous_system_organization.map(str::to_owned);
        let view = NetworkView { asn: found.autonomous_system_number, organization };
        (view != NetworkView::default()).then_some(view)
    }

    /// Reads the files that have changed again. If a file cannot be used, its database stays as it was.
    pub fn refresh(&self) {
        for database in self.locations.iter().chain(&self.networks) {
            match database.refresh() {
                Ok(true) => info!(event = "database read again", setting = database.key),
                Ok(false) => {}
                Err(error) => database.warn(&error),
            }
        }
    }
}

impl GeoDatabase {
    fn open(key: &'static str, path: &Path) -> Result<Self, GeoError> {
        let current = RwLock::new(Current::read(key, path)?);
        let (not_read, not_found, opened) = (Warnings::default(), Warnings::default(), Stopwatch::start());
        Ok(Self { key, path: path.to_owned(), current, not_read, not_found, opened })
    }

    fn warn(&self, error: &GeoError) {
        if let Some(count) = self.not_read.count(self.opened.elapsed()) {
            warn!(event = "database not read", %error, count, "the file that was read before remains in use");
        }
    }

    /// Returns the record of an address. A damaged record counts as none, so that no login fails because of it.
    fn look_up<'a, T: Deserialize<'a>>(&self, reader: &'a Reader<Vec<u8>>, address: IpAddr) -> Option<T> {
        match reader.lookup(address).and_then(|found| found.decode()) {
            Ok(found) => found,
            // The address is IPv6, and the database holds only IPv4.
            Err(MaxMindDbError::InvalidInput { .. }) => None,
            Err(error) => {
                if let Some(count) = self.not_found.count(self.opened.elapsed()) {
                    warn!(
                        event = "address not looked up",
                        setting = self.key,
                        %error,
                        count,
                        "the responses to scans have no location of these browsers"
                    );
                }
                None
            }
        }
    }

    fn reader(&self) -> Arc<Reader<Vec<u8>>> {
        self.current.read().reader.clone()
    }

    fn refresh(&self) -> Result<bool, GeoError> {
        let modified_before = self.current.read().modified;
        if modified(&self.path).map_err(|source| GeoError::Io { key: self.key, path: self.path.clone(), source })?
            == modified_before
        {
            return Ok(false);
        }
        let fresh = Current::read(self.key, &self.path)?;
        *self.current.write() = fresh;
        Ok(true)
    }
}

impl Current {
    fn read(key: &'static str, path: &Path) -> Result<Self, GeoError> {
        let failed = |source| GeoError::Io { key, path: path.to_owned(), source };
        // Taken before the file is read: if the file changes meanwhile, the next refresh reads it again.
        let modified = modified(path).map_err(failed)?;
        let bytes = fs::read(path).map_err(failed)?;
        let not_a_database = |source| GeoError::NotADatabase { key, path: path.to_owned(), source };
        let reader = Arc::new(Reader::from_source(bytes).map_err(not_a_database)?);
        Ok(Self { reader, modified })
    }
}

fn modified(path: &Path) -> io::Result<(SystemTime, u64)> {
    let file = fs::metadata(path)?;
    Ok((file.modified()?, file.len()))
}
