//! Requests of a phone, and the responses to them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The body of `POST /v1/qr-login/scan` and of `POST /v1/qr-login/reject`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct CodeRequest {
    /// The code, or the scanned URL that contains it.
    pub code: String,
}

/// The body of `POST /v1/qr-login/confirm`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct ConfirmRequest {
    /// The code, or the scanned URL that contains it.
    pub code: String,
    /// The number that the user picked. Required with number matching.
    pub number: Option<String>,
}

/// The response to `POST /v1/qr-login/scan`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScanResponse {
    /// The session's status, always `scanned`.
    pub status: &'static str,
    /// The browser that generated the session.
    pub client: ClientView,
    /// The OAuth client that the user logs in to, if the browser logs in to one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub application: Option<ApplicationView>,
    /// Time until the session expires, in seconds.
    pub expires_in: u64,
    /// With number matching, three numbers. The user picks the one that the browser shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub numbers: Option<[String; 3]>,
    /// With a geolocation database, the signals in which the phone and the browser differ: `country`, `network`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub risk: Option<Vec<&'static str>>,
}

/// The OAuth client that a session is for.
#[derive(Debug, Serialize, ToSchema)]
pub struct ApplicationView {
    /// Name of the client.
    pub name: String,
    /// URL of a logo of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logo: Option<String>,
    /// Scopes that the client asks for.
    pub scopes: Vec<String>,
}

/// The browser that generated a session. Fields that the server does not know are `null`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClientView {
    /// IP address of the browser.
    pub ip: String,
    /// Name and major version of the browser, from `User-Agent`.
    pub browser: Option<String>,
    /// Name of the operating system, from `User-Agent`.
    pub os: Option<String>,
    /// Origin of the page.
    pub origin: Option<String>,
    /// The browser's description of itself, which is not verified.
    pub client_info: Option<String>,
    /// Time at which the session was generated (RFC 3339).
    pub time: String,
    /// Location of the address, with a location database that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<LocationView>,
    /// Network of the address, with a network database that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkView>,
}

/// The location of an address. Unknown fields are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct LocationView {
    /// English name of the city.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// English name of the first-level region, such as a state or province.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// English name of the country.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// Two-letter code of the country (ISO 3166-1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country_code: Option<String>,
}

/// The network of an address. Unknown fields are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct NetworkView {
    /// Number of the autonomous system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    /// Organization that operates the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
}

/// The response to `confirm`, `reject` and `cancel`.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatusResponse {
    /// The session's status after the call.
    pub status: &'static str,
}
