//! The state of the HTTP interface. A handler or layer takes only its own part of it.

use std::sync::Arc;

use axum::extract::FromRef;
use tokio_util::task::TaskTracker;

use super::arrive::Arrivals;
use super::cookies::Cookies;
use super::layers::RequestChecks;
use super::layers::base::BasePath;
use super::layers::body::BodyLimits;
use super::layers::client::TrustedProxies;
use super::layers::host::Hosts;
use super::layers::limit::ClientLimits;
use super::layers::observe::Observer;
use super::layers::origin::OriginPolicy;
use super::layers::risk::Risks;
use super::routes::approve::ApprovePages;
use super::routes::browser::Browsers;
use super::routes::demo::DemoPages;
use super::routes::oauth::OAuthPages;
use super::routes::openapi::ApiDescription;
use super::routes::phone::Phones;
use crate::approve::Approval;
use crate::config::Settings;
use crate::demo::Demo;
use crate::geo::Geo;
use crate::hub::Hub;
use crate::login::{Codes, Logins};
use crate::metrics::Metrics;
use crate::oauth::{Clients, OAuth};
use crate::system::clock::Clock;
use crate::system::shutdown::Shutdown;
use crate::token::{AppAuth, Minter, Sealer};

/// State of the routes of the public port.
#[derive(Clone, FromRef)]
pub struct AppState {
    pub(super) browsers: Arc<Browsers>,
    pub(super) phones: Arc<Phones>,
    pub(super) arrivals: Arc<Arrivals>,
    pub(super) checks: Arc<RequestChecks>,
    pub(super) observer: Arc<Observer>,
    pub(super) minter: Arc<Minter>,
    pub(super) description: Arc<ApiDescription>,
    pub(super) approve: Arc<ApprovePages>,
    /// Endpoints of OAuth. `None` without clients.
    pub(super) oauth: Option<Arc<OAuthPages>>,
    /// Pages of the demo. `None` in `serve`.
    pub(super) demo: Option<Arc<DemoPages>>,
}

/// The parts from which an [`AppState`] is assembled.
pub struct AppParts {
    /// Use cases of a login.
    pub logins: Arc<Logins>,
    /// Waiting connections.
    pub hub: Arc<Hub>,
    /// Codes of sessions.
    pub codes: Arc<Codes>,
    /// Minter of tokens, which has the public keys.
    pub minter: Arc<Minter>,
    /// Verifier of app tokens.
    pub app_auth: Arc<AppAuth>,
    /// Provider and cookies of the approve page. `None` if `approve.issuer` is not set.
    pub approval: Option<Approval>,
    /// Use cases of OAuth, and the sealer of its cookies. `None` without clients.
    pub oauth: Option<(OAuth, Arc<Sealer>)>,
    /// Registered clients of OAuth.
    pub clients: Arc<Clients>,
    /// Limits on the calls and connections of clients.
    pub limits: ClientLimits,
    /// Locations and networks of addresses.
    pub geo: Arc<Geo>,
    /// Source of time.
    pub clock: Clock,
    /// Metrics of requests.
    pub metrics: Arc<Metrics>,
    /// Secret and terminal of the demo. Without it the demo's routes do not exist.
    pub demo: Option<Demo>,
    /// Signal to stop.
    pub shutdown: Shutdown,
    /// Tracks upgrades whose connections are not yet in the hub.
    pub upgrades: TaskTracker,
}

impl AppState {
    /// Assembles the state of the handlers and layers.
    #[must_use]
    pub fn new(settings: &Settings, parts: AppParts) -> Self {
        let AppParts {
            logins,
            hub,
            codes,
            minter,
            app_auth,
            approval,
            oauth,
            clients,
            limits,
            geo,
            clock,
            metrics,
            demo,
            shutdown,
            upgrades,
        } = parts;
        let (limits, base) = (Arc::new(limits), Arc::new(BasePath::of(settings)));
        let checks = RequestChecks {
            origins: OriginPolicy::of(settings),
            hosts: if demo.is_some() { Hosts::of(settings) } else { Hosts::default() },
            proxies: TrustedProxies::of(settings),
            limits: limits.clone(),
            base: base.clone(),
            bodies: BodyLimits::of(settings, clock.clone(), shutdown),
        };
        let phones = Arc::new(Phones {
            logins: logins.clone(),
            app_auth,
            limits: limits.clone(),
            clients,
            risks: Risks::new(settings.risk.clone(), geo),
            code_url: settings.code_url(),
            clock: clock.clone(),
            metrics: metrics.clone(),
        });
        let approve = ApprovePages::new(settings, approval, base.clone(), clock.clone(), phones.clone());
        let heartbeat_seconds = settings.session.heartbeat_seconds;
        let oauth = oauth.map(|(oauth, sealer)| OAuthPages {
            oauth,
            logins: logins.clone(),
            codes: codes.clone(),
            cookies: Cookies::of(settings, sealer),
            base: base.clone(),
            clock: clock.clone(),
            limits: limits.clone(),
            heartbeat_seconds,
            origin: settings.public_origin().unwrap_or_default(),
        });
        Self {
            browsers: Arc::new(Browsers {
                logins: logins.clone(),
                codes,
                clock: clock.clone(),
                base: base.clone(),
                heartbeat_seconds,
                demo: demo.clone(),
            }),
            phones,
            approve: Arc::new(approve),
            oauth: oauth.map(Arc::new),
            arrivals: Arc::new(Arrivals { hub, logins: logins.clone(), limits, upgrades }),
            checks: Arc::new(checks),
            observer: Arc::new(Observer::new(metrics, logins, clock.clone())),
            minter,
            description: Arc::new(ApiDescription::of(settings)),
            demo: demo.map(|demo| Arc::new(DemoPages { demo, base, clock })),
        }
    }
}
