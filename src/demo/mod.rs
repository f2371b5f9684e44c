//! The demo's users, settings and OpenID provider. Only `qrlogin demo` uses them, never `serve`.

mod provider;

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::config::{ApproveSettings, AuthMethod, GrantType, OAuthClientSettings, Secret, Settings, SigningAlgorithm};
use crate::qr::Picture;
use crate::system::random;
use crate::telemetry::LineQueue;

pub use provider::{AuthorizationError, DemoProvider, Logout, PROVIDER_PATH, TokenError};

/// Client id of the approve page at the demo's provider.
const CLIENT_ID: &str = "qrlogin-demo";
/// Id of the client with which programs on this machine log in at the demo.
const OAUTH_CLIENT_ID: &str = "demo";

/// A user of the demo.
#[derive(Debug, Clone, Copy)]
pub struct DemoUser {
    /// Id of the user, which is the `sub` of the ID token.
    pub id: &'static str,
    /// Display name of the user, which is the `name` of the ID token.
    pub name: &'static str,
}

/// All users of the demo.
pub const USERS: [DemoUser; 3] = [
    DemoUser { id: "ada", name: "Ada Lovelace" },
    DemoUser { id: "grace", name: "Grace Hopper" },
    DemoUser { id: "alan", name: "Alan Turing" },
];

/// Settings of which [`Demo::new`] replaces the value, and which can then be the cause of an error.
pub const DEMO_SETTINGS: [&str; 3] = ["database_url", "token.key_dir", "approve.issuer"];

/// State of the demo: its provider, and the terminal.
#[derive(Clone)]
pub struct Demo {
    provider: Arc<DemoProvider>,
    /// Terminal in which codes are shown as well.
    terminal: Option<LineQueue>,
}

impl Demo {
    /// Returns a demo and its settings: users approve on the approve page and log in at the demo's provider, programs on
    /// this machine log in as the client `demo`, and the database and the keys are in `dir`.
    ///
    /// `public` is the address of the bound listener. If there is a `terminal`, codes are shown there as well.
    #[must_use]
    pub fn new(
        mut settings: Settings,
        public: SocketAddr,
        dir: &std::path::Path,
        terminal: Option<LineQueue>,
    ) -> (Self, Settings) {
        settings.database_url = format!("sqlite://{}", dir.join("demo.db").display()).into();
        settings.bus_url = Secret::default();
        settings.token.key_dir = dir.join("keys");
        settings.app_auth = Settings::default().app_auth;

        let port = public.port();
        if settings.public_url == Settings::default().public_url {
            settings.public_url = match public.ip() {
                ip if ip.is_loopback() => format!("http://localhost:{port}"),
                ip if ip.is_unspecified() => format!("http://{}", SocketAddr::new(network_address(), port)),
                ip => format!("http://{}", SocketAddr::new(ip, port)),
            };
        }
        let own_origin = format!("http://{}", own_address(public));
        settings.approve = ApproveSettings {
            issuer: format!("{own_origin}{PROVIDER_PATH}"),
            client_id: CLIENT_ID.to_owned(),
            client_secret: URL_SAFE_NO_PAD.encode(random::bytes::<32>()).into(),
            ..ApproveSettings::default()
        };
        if !settings.oauth.clients.iter().any(|client| client.id == OAUTH_CLIENT_ID) {
            settings.oauth.clients.push(oauth_client());
        }
        // Names by which a browser on this machine may open the demo, and by which the server reaches its provider.
        let names = ["localhost", "127.0.0.1", "[::1]"].map(|host| format!("http://{host}:{port}"));
        settings.allowed_origins.extend(names.into_iter().chain([own_origin]));
        let provider = Arc::new(DemoProvider::of(&settings));
        (Self { provider, terminal }, settings)
    }

    /// Returns the OpenID provider of the demo.
    #[must_use]
    pub fn provider(&self) -> &DemoProvider {
        &self.provider
    }

    /// Shows a code in the terminal, if there is one. A phone can then scan it without a browser.
    pub fn show(&self, qr_url: &str) {
        if let (Some(terminal), Ok(picture)) = (&self.terminal, Picture::of(qr_url)) {
            let text = format!("\n{}\n{qr_url}\n\n", picture.terminal());
            // Writing to `LineQueue` never fails.
            drop(terminal.clone().write_all(text.as_bytes()));
        }
    }
}

/// Returns a public client for programs on this machine.
fn oauth_client() -> OAuthClientSettings {
    OAuthClientSettings {
        id: OAUTH_CLIENT_ID.to_owned(),
        name: "A program on this computer".to_owned(),
        logo: String::new(),
        redirect_uris: ["127.0.0.1", "localhost"].map(|host| format!("http://{host}/callback")).to_vec(),
        post_logout_redirect_uris: Vec::new(),
        grant_types: vec![GrantType::AuthorizationCode, GrantType::DeviceCode],
        scopes: ["openid", "profile"].map(str::to_owned).to_vec(),
        auth_method: AuthMethod::None,
        secret_files: Vec::new(),
        secret_env: Vec::new(),
        secret_hashes: Vec::new(),
        jwks_file: PathBuf::new(),
        id_token_signed_response_alg: SigningAlgorithm::Rs256,
        require_pkce: true,
    }
}

/// Returns the address at which the server reaches its own listener.
fn own_address(public: SocketAddr) -> SocketAddr {
    let ip = match public.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, public.port())
}

/// Returns the local address from which the system would send packets to other networks, or 127.0.0.1 if there is none.
/// Connecting a UDP socket selects that address and sends nothing.
fn network_address() -> IpAddr {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
            socket.local_addr()
        })
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn demo(listener: &str, public_url: Option<&str>) -> (Demo, Settings) {
        let mut settings = Settings::default();
        if let Some(url) = public_url {
            url.clone_into(&mut settings.public_url);
        }
        Demo::new(settings, listener.parse().unwrap(), Path::new("/nowhere"), None)
    }

    #[test]
    fn browsers_reach_the_provider_by_public_url_and_the_server_by_its_own_listener() {
        let network = network_address();
        let by_network = format!("http://{network}:8080");
        for (listener, public_url, own, public) in [
            ("127.0.0.1:8080", None, "http://127.0.0.1:8080", "http://localhost:8080"),
            ("[::1]:8080", None, "http://[::1]:8080", "http://localhost:8080"),
            ("0.0.0.0:8080", None, "http://127.0.0.1:8080", &*by_network),
            ("[::]:8080", None, "http://[::1]:8080", &*by_network),
            ("192.0.2.7:8080", None, "http://192.0.2.7:8080", "http://192.0.2.7:8080"),
            ("127.0.0.1:8080", Some("https://demo.example/qr/"), "http://127.0.0.1:8080", "https://demo.example/qr"),
        ] {
            let (demo, settings) = demo(listener, public_url);
            let metadata = demo.provider().metadata();
            assert_eq!(settings.approve.issuer, format!("{own}/demo/provider"));
            assert_eq!(metadata["issuer"], settings.approve.issuer, "{listener}");
            assert_eq!(metadata["token_endpoint"], format!("{own}/demo/provider/token"));
            assert_eq!(metadata["jwks_uri"], format!("{own}/demo/provider/jwks.json"));
            assert_eq!(metadata["authorization_endpoint"], format!("{public}/demo/provider/authorize"));
            assert_eq!(metadata["end_session_endpoint"], format!("{public}/demo/provider/logout"));
            assert!(settings.allowed_origins.iter().any(|origin| origin == own), "{listener}");
        }
    }

    #[test]
    fn client_of_programs_is_valid_and_can_be_replaced_by_the_settings() {
        let (_, mut settings) = demo("127.0.0.1:8080", None);
        assert_eq!(settings.check(), Ok(()));
        settings.oauth.clients[0].name = "Another".to_owned();
        let (_, again) = Demo::new(settings.clone(), "127.0.0.1:8080".parse().unwrap(), Path::new("/nowhere"), None);
        assert_eq!(again.oauth.clients, settings.oauth.clients);
    }

    #[test]
    fn secret_of_the_client_is_random_and_signs_no_app_tokens() {
        let secrets: Vec<_> = (0..2).map(|_| demo("127.0.0.1:8080", None).1.approve.client_secret).collect();
        assert!(secrets[0].expose().len() >= 43 && secrets[0] != secrets[1]);
        assert!(demo("127.0.0.1:8080", None).1.app_auth.hmac_secret.is_empty());
    }
}
