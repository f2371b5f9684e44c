//! Log in on a web page by scanning a QR code with a phone on which you are already logged in.
//!
//! A module imports only from modules of lower layers. `tests/docs/architecture.rs` lists the layers and enforces
//! this. ARCHITECTURE.md follows one login through the modules.
//!
//! Only [`system::memory`] contains `unsafe` code; measurements showed that it is needed there.

// The program: the commands, and the wiring of the server.
#[forbid(unsafe_code)]
pub mod app;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod demo;
#[forbid(unsafe_code)]
pub mod load;
#[forbid(unsafe_code)]
mod tasks;

// The public HTTP interface.
#[forbid(unsafe_code)]
pub mod http;

// The use cases of a login, and the connections that wait for one.
#[forbid(unsafe_code)]
pub mod hub;
#[forbid(unsafe_code)]
pub mod login;

// Services that the use cases depend on.
#[forbid(unsafe_code)]
pub mod cluster;
#[forbid(unsafe_code)]
pub mod geo;
#[forbid(unsafe_code)]
pub mod limits;
#[forbid(unsafe_code)]
pub mod qr;
#[forbid(unsafe_code)]
pub mod store;
#[forbid(unsafe_code)]
pub mod token;
#[forbid(unsafe_code)]
pub mod wire;

// The session: its states and transitions, without I/O.
#[forbid(unsafe_code)]
pub mod session;

// Settings, and what every layer uses.
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod metrics;
#[forbid(unsafe_code)]
pub mod postgres;
#[forbid(unsafe_code)]
pub mod secret;
pub mod system;
#[forbid(unsafe_code)]
pub mod telemetry;
