//! The demo's users, secret and settings. Only `qrlogin demo` uses them, never `serve`.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::config::{Secret, Settings};
use crate::qr::Picture;
use crate::session::Timestamp;
use crate::system::random;
use crate::telemetry::LineQueue;
use crate::token::sign_app_token;

const TOKEN_SECONDS: i64 = 3600;

/// A user of the demo.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct DemoUser {
    /// Id of the user, which is the `sub` of the app token.
    pub id: &'static str,
    /// Display name of the user, which is the `name` of the app token.
    pub name: &'static str,
}

/// All users of the demo.
pub const USERS: [DemoUser; 3] = [
    DemoUser { id: "ada", name: "Ada Lovelace" },
    DemoUser { id: "grace", name: "Grace Hopper" },
    DemoUser { id: "alan", name: "Alan Turing" },
];

/// Settings of which [`Demo::new`] replaces the value, and which can then be the cause of an error.
pub const DEMO_SETTINGS: [&str; 2] = ["database_url", "token.key_dir"];

/// State of the demo: the secret that signs app tokens, and the terminal.
#[derive(Clone)]
pub struct Demo {
    secret: Secret,
    /// Terminal in which codes are shown as well.
    terminal: Option<LineQueue>,
}

impl Demo {
    /// Returns a demo with a random secret, and its settings: app tokens are verified with that secret, and the
    /// database and the keys are in `dir`.
    ///
    /// `public` is the address of the bound listener. If there is a `terminal`, codes are shown there as well.
    #[must_use]
    pub fn new(
        mut settings: Settings,
        public: SocketAddr,
        dir: &std::path::Path,
        terminal: Option<LineQueue>,
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
        // Names by which a browser on this machine may open the demo.
        settings
            .allowed_origins
            .extend(["localhost", "127.0.0.1", "[::1]"].map(|host| format!("http://{host}:{port}")));
        (Self { secret, terminal }, settings)
    }

    /// Returns an app token of a demo user, in place of one from a site's own login. Returns `None` if it cannot be
    /// signed.
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

    /// Shows a code in the terminal, if there is one. A phone can then scan it without a browser.
    pub fn show(&self, qr_url: &str) {
        if let (Some(terminal), Ok(picture)) = (&self.terminal, Picture::of(qr_url)) {
            let text = format!("\n{}\n{qr_url}\n\n", picture.terminal());
            // Writing to `LineQueue` never fails.
            drop(terminal.clone().write_all(text.as_bytes()));
        }
    }
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
