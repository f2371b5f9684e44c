//! The parts of the server that can fail to open: keys, databases, the bus.

use std::path::Path;
use std::sync::Arc;

use tracing::{info, warn};
use url::Url;

use super::ServeError;
use crate::approve::{Approval, Provider, ProviderSettings};
use crate::cluster::bus::{Bus, LocalBus, PostgresBus, RedisBus};
use crate::cluster::node::NodeName;
use crate::config::{RiskPolicy, RiskSignal, Settings, is_loopback};
use crate::demo::Demo;
use crate::geo::Geo;
use crate::metrics::Metrics;
use crate::oauth::Clients;
use crate::postgres::{self, Postgres};
use crate::session::CodeSecret;
use crate::store::{OpenError, PostgresSetup, PostgresStore, SqliteStore, Store};
use crate::system::clock::Clock;
use crate::token::{
    AppAuth, KeyKind, KeyRing, Sealer, check_cookie_secrets, open_code_secret, open_cookie_secrets, read_code_secret,
};

/// The opened parts of a server, from which [`run`](super::run()) assembles it.
pub struct Parts {
    /// All settings of the server.
    pub settings: Settings,
    /// Source of the time, which follows a shared store.
    pub clock: Clock,
    /// Counters and gauges of `/metrics`.
    pub metrics: Arc<Metrics>,
    /// Store of the sessions.
    pub store: Arc<dyn Store>,
    /// Bus that carries session changes between nodes.
    pub bus: Arc<dyn Bus>,
    /// Keys that sign `web_token`.
    pub keys: KeyRing,
    /// Secret that authenticates codes.
    pub code_secret: CodeSecret,
    /// Verifier of app tokens.
    pub app_auth: AppAuth,
    /// Registered clients of OAuth.
    pub clients: Arc<Clients>,
    /// Sealer of cookies and of the tokens that clients keep. `None` if there is neither an approve page nor a client.
    pub sealer: Option<Arc<Sealer>>,
    /// Provider and cookies of the approve page. `None` if `approve.issuer` is not set.
    pub approval: Option<Approval>,
    /// Locations and networks of client addresses.
    pub geo: Geo,
    /// Users and secret of the demo; `None` in `serve`.
    pub demo: Option<Demo>,
}

impl Parts {
    /// Opens the keys, the databases and the bus that the settings name. With a shared store, the parts use the store's
    /// clock in place of `clock`.
    ///
    /// # Errors
    /// Returns an error for the first part that cannot be opened.
    pub async fn open(settings: Settings, clock: Clock, demo: Option<Demo>) -> Result<Self, ServeError> {
        check_urls(&settings)?;
        warn_of(&settings);
        let keys = KeyRing::open(&settings.token.key_dir, clock.clone())?;
        let code_secret = open_code_secret(&settings.token.key_dir)?;
        let geo = Geo::open(&settings.geoip.city_file, &settings.geoip.asn_file)?;
        let metrics = Arc::new(Metrics::new());
        let app_auth = app_auth(&settings, &clock)?;
        let clients = clients(&settings, &keys)?;
        let sealer = sealer(&settings)?;
        let approval = approval(&settings, &clock, sealer.as_ref(), demo.is_some())?;
        let (clock, store, bus) = if Postgres::is_url(settings.database_url.expose()) {
            open_shared(&settings, &metrics).await?
        } else {
            let store: Arc<dyn Store> = Arc::new(SqliteStore::open(settings.database_url.expose(), clock.clone())?);
            let bus: Arc<dyn Bus> = Arc::new(LocalBus::default());
            (clock, store, bus)
        };
        Ok(Self {
            settings,
            clock,
            metrics,
            store,
            bus,
            keys,
            code_secret,
            app_auth,
            clients,
            sealer,
            approval,
            geo,
            demo,
        })
    }
}

/// Checks for what [`Parts::open`] would refuse, without opening the ports or the database, and without a request.
/// Creates nothing.
///
/// # Errors
/// Returns an error for the first setting that cannot be used.
pub fn check(settings: &Settings, clock: &Clock) -> Result<(), ServeError> {
    check_urls(settings)?;
    warn_of(settings);
    app_auth(settings, clock)?;
    if let Some(provider) = provider_settings(settings, false) {
        Provider::new(provider, clock.clone()).map_err(|error| ServeError::Provider(error.to_string()))?;
    }
    Clients::open(&settings.oauth)?;
    check_cookie_secrets(&settings.token.key_dir)?;
    KeyRing::check(&settings.token.key_dir, clock.clone())?;
    read_code_secret(&settings.token.key_dir)?;
    Geo::open(&settings.geoip.city_file, &settings.geoip.asn_file)?;
    Ok(())
}

/// Warns of settings that can be used, and have no effect because of others.
fn warn_of(settings: &Settings) {
    let is_allowed = |origin: &String| settings.origins().iter().any(|allowed| allowed.matches(origin.as_bytes()));
    if let Some(origin) = settings.code_origin().filter(|origin| !is_allowed(origin)) {
        let advice = "the server refuses the requests of <qr-approve> on this page; add its origin to allowed_origins";
        warn!(event = "page not allowed", setting = "approve.url", origin, "{advice}");
    }
    if settings.risk.policy == RiskPolicy::Deny {
        for signal in &settings.risk.signals {
            let (signal, needs, file) = match signal {
                RiskSignal::Country => ("country", "geoip.city_file", &settings.geoip.city_file),
                RiskSignal::Network => ("network", "geoip.asn_file", &settings.geoip.asn_file),
            };
            if file == Path::new("") {
                warn!(event = "risk not detected", setting = "risk.policy", signal, needs, "no login is refused by it");
            }
        }
    }
}

/// Checks that no setting holds the text that `print-config` shows for a secret, and that `database_url` and `bus_url`
/// can be used, each by itself and together.
///
/// # Errors
/// Returns an error for the first setting that cannot be used.
pub fn check_urls(settings: &Settings) -> Result<(), ServeError> {
    if let Some((key, _)) = settings.secrets().into_iter().find(|(_, secret)| secret.is_hidden()) {
        return Err(ServeError::HiddenSecret(key));
    }
    let (database_url, bus_url) = (settings.database_url.expose(), settings.bus_url.expose());
    if Postgres::is_url(database_url) {
        postgres::check_url(database_url).map_err(OpenError::UrlPart)?;
        if !bus_url.is_empty() {
            RedisBus::check_url(bus_url)?;
        }
        return Ok(());
    }
    check_sqlite_url(database_url).map_err(|reason| OpenError::UrlPart(reason.to_owned()))?;
    SqliteStore::check_url(database_url)?;
    if bus_url.is_empty() { Ok(()) } else { Err(ServeError::BusOfOne) }
}

/// Checks the form of a URL that is not one of Postgres. Refuses a server's address behind `sqlite://`, which would
/// otherwise become the name of a file.
fn check_sqlite_url(url: &str) -> Result<(), &'static str> {
    match url.strip_prefix("sqlite://") {
        Some(file) if file.split_once('@').is_some_and(|(credentials, _)| credentials.contains(':')) => Err(
            "is an sqlite:// URL with a user and a password; sqlite:// takes the name of a file, postgres:// a server",
        ),
        Some(_) => Ok(()),
        None if !url.contains("://") && url.contains('=') => {
            Err("is in libpq's keyword form; write it as postgres://USER:PASSWORD@HOST:PORT/DATABASE")
        }
        None => Err("is not of the form sqlite://FILE or postgres://USER:PASSWORD@HOST/DATABASE"),
    }
}

/// Opens the clock, the store and the bus of a node that shares a Postgres with others.
async fn open_shared(
    settings: &Settings,
    metrics: &Arc<Metrics>,
) -> Result<(Clock, Arc<dyn Store>, Arc<dyn Bus>), ServeError> {
    let (node, clock) = (NodeName::random(), Clock::shared());
    let postgres = Postgres::parse(settings.database_url.expose()).map_err(OpenError::UrlPart)?;
    postgres.check_sessions().await.map_err(OpenError::UrlPart)?;
    let sends_notifications = settings.bus_url.is_empty();
    let bus: Arc<dyn Bus> = if sends_notifications {
        Arc::new(PostgresBus::new(postgres.clone(), node.clone(), metrics.clone()))
    } else {
        Arc::new(RedisBus::new(settings.bus_url.expose(), node.clone(), metrics.clone())?)
    };
    info!(event = "node", name = %node, store = %postgres);
    let max_connections = settings.database_connections;
    let setup = PostgresSetup { node, clock: clock.clone(), max_connections, sends_notifications };
    let store = Arc::new(PostgresStore::open(&postgres, setup).await?);
    Ok((clock, store, bus))
}

/// Returns the verifier of app tokens that the settings describe. It accepts none if users approve on the approve page
/// only.
///
/// # Errors
/// Returns [`ServeError::NoAppAuth`] if none is configured, and [`ServeError::AppAuth`] if it cannot be used.
pub fn app_auth(settings: &Settings, clock: &Clock) -> Result<AppAuth, ServeError> {
    let has_approve_page = !settings.approve.issuer.is_empty();
    let settings = &settings.app_auth;
    let secret = settings.hmac_secret.expose().as_bytes();
    let mut app_auth = if !secret.is_empty() {
        AppAuth::hmac(secret)
    } else if settings.public_key_file != Path::new("") {
        AppAuth::public_key_file(&settings.public_key_file)?
    } else if let Ok(url) = Url::parse(settings.jwks_url.expose()) {
        let is_loopback = is_loopback(&url);
        AppAuth::key_set(url, is_loopback, clock.clone())?
    } else if let Ok(url) = Url::parse(settings.introspection_url.expose()) {
        let is_loopback = is_loopback(&url);
        let (id, secret) = (&settings.introspection_client_id, settings.introspection_client_secret.expose());
        let client = (!id.is_empty()).then_some((id.as_str(), secret));
        AppAuth::introspection(url, is_loopback, client, clock.clone())?
    } else if has_approve_page {
        AppAuth::none()
    } else {
        return Err(ServeError::NoAppAuth);
    };
    if !settings.issuer.is_empty() {
        app_auth = app_auth.with_issuer(&settings.issuer);
    }
    if !settings.audience.is_empty() {
        app_auth = app_auth.with_audience(&settings.audience);
    }
    Ok(app_auth.with_user_claim(&settings.user_claim).with_max_age(settings.max_age_seconds))
}

/// Returns the approve page's provider and cookies, or `None` if `approve.issuer` is not set. The provider of the demo,
/// which `is_demo` says it is, is on this machine at any address.
///
/// # Errors
/// Returns an error if the HTTP client cannot be created.
pub fn approval(
    settings: &Settings,
    clock: &Clock,
    sealer: Option<&Arc<Sealer>>,
    is_demo: bool,
) -> Result<Option<Approval>, ServeError> {
    let (Some(provider), Some(sealer)) = (provider_settings(settings, is_demo), sealer) else { return Ok(None) };
    let provider = Provider::new(provider, clock.clone()).map_err(|error| ServeError::Provider(error.to_string()))?;
    Ok(Some(Approval { provider, sealer: sealer.clone() }))
}

/// Returns the registered clients, and creates the signing keys that they need.
///
/// # Errors
/// Returns an error if a secret or a key cannot be read, or a signing key cannot be created.
pub fn clients(settings: &Settings, keys: &KeyRing) -> Result<Arc<Clients>, ServeError> {
    let clients = Clients::open(&settings.oauth)?;
    if clients.all().any(|client| client.signing_kind() == KeyKind::Rsa) {
        keys.ensure_rsa()?;
    }
    Ok(Arc::new(clients))
}

/// Returns the sealer of cookies and tokens, or `None` if no page and no client needs it.
///
/// # Errors
/// Returns an error if the file with the secrets cannot be read or created.
pub fn sealer(settings: &Settings) -> Result<Option<Arc<Sealer>>, ServeError> {
    if settings.approve.issuer.is_empty() && settings.oauth.clients.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(Sealer::new(&open_cookie_secrets(&settings.token.key_dir)?))))
}

fn provider_settings(settings: &Settings, is_demo: bool) -> Option<ProviderSettings> {
    let approve = &settings.approve;
    let issuer = Url::parse(&approve.issuer).ok()?;
    Some(ProviderSettings {
        issuer: approve.issuer.clone(),
        client_id: approve.client_id.clone(),
        client_secret: approve.client_secret.clone(),
        redirect_url: format!("{}/q/callback", settings.public_base()),
        scopes: approve.scopes.clone(),
        max_age_seconds: settings.app_auth.max_age_seconds,
        is_loopback: is_demo || is_loopback(&issuer),
    })
}
