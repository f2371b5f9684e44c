//! `qrlogin demo`: the server with a phone page and users of its own. `serve` has none of this.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::{Secret, Settings};
use crate::qr::Picture;
use crate::random;
use crate::session::Timestamp;
use crate::telemetry::Lines;
use crate::token::sign_app_token;

const TOKEN_SECONDS: i64 = 3600;

/// Somebody to log in as.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DemoUser {
    /// The `sub` of the app token.
    pub id: &'static str,
    /// Display name.
    pub name: &'static str,
}

/// Who there is to log in as.
pub const USERS: [DemoUser; 3] = [
    DemoUser { id: "ada", name: "Ada Lovelace" },
    DemoUser { id: "grace", name: "Grace Hopper" },
    DemoUser { id: "alan", name: "Alan Turing" },
];

/// What the demo's pages need of the server.
#[derive(Clone)]
pub struct Demo {
    secret: Secret,
    /// Where codes are shown too.
    terminal: Option<Lines>,
}

impl Demo {
    /// A demo with a secret of its own, and the settings that go with it: loopback or the whole network, a database
    /// and keys in `dir`.
    ///
    /// `public` is the address it really listens on. Codes are shown in the `terminal` too, if there is one.
    #[must_use]
    pub fn new(
        mut settings: Settings,
        public: SocketAddr,
        dir: &std::path::Path,
        terminal: Option<Lines>,
    ) -> (Self, Settings) {
        let secret = Secret::from(URL_SAFE_NO_PAD.encode(random::bytes::<32>()));
        settings.database_url = format!("sqlite://{}", dir.join("demo.db").display()).into();
        settings.bus_url = Secret::default();
        settings.token.key_dir = dir.join("keys");
        settings.app_auth = Settings::default().app_auth;
        settings.app_auth.hmac_secret = secret.clone();

        let port = public.port();
        if settings.public_url == Settings::default().public_url {
            settings.public_url = match public.ip() {
                ip if ip.is_loopback() => format!("http://localhost:{port}"),
                ip if ip.is_unspecified() => format!("http://{}", SocketAddr::new(network_address(), port)),
                ip => format!("http://{}", SocketAddr::new(ip, port)),
            };
        }
        // Whatever this machine is called by whoever sits before it.
        settings
            .allowed_origins
            .extend(["localhost", "127.0.0.1", "[::1]"].map(|host| format!("http://{host}:{port}")));
        (Self { secret, terminal }, settings)
    }

    /// An app token of a demo user, as the site's own login would give the phone one.
    #[must_use]
    pub fn app_token(&self, user: &DemoUser, now: Timestamp) -> Option<String> {
        let claims = Map::from_iter([
            ("sub".to_owned(), Value::from(user.id)),
            ("name".to_owned(), Value::from(user.name)),
            ("iat".to_owned(), Value::from(now.as_seconds())),
            ("exp".to_owned(), Value::from(now.as_seconds() + TOKEN_SECONDS)),
        ]);
        sign_app_token(self.secret.expose().as_bytes(), &claims)
    }

    /// Shows a code in the terminal, for whoever has a phone at hand and no browser.
    pub fn show(&self, qr_url: &str) {
        if let (Some(terminal), Ok(picture)) = (&self.terminal, Picture::of(qr_url)) {
            let text = format!("\n{}\n{qr_url}\n\n", picture.terminal());
            // Lines take everything.
            drop(terminal.clone().write_all(text.as_bytes()));
        }
    }
}

/// This machine's address in its network: the one from which packets to elsewhere would leave. (Connecting a UDP
/// socket sends nothing.)
fn network_address() -> IpAddr {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| {
            socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
            socket.local_addr()
        })
        .map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}
