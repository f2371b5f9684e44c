//! Log in on a web page by scanning a QR code with a phone on which you are already logged in.
//!
//! The crate is the program `qrlogin`. Its public interface is small: the command line ([`cli`]), the states and
//! transitions of a login ([`session`]), and the server side of WebSocket frames ([`websocket`]).
//!
//! A module imports only from modules of lower layers. `tests/docs/architecture.rs` lists the layers and enforces this.
//! ARCHITECTURE.md follows one login through the modules.
//!
//! Only `system::memory` contains `unsafe` code; measurements showed that it is needed there.

// The program: the commands, and the wiring of the server.
#[forbid(unsafe_code)]
mod app;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
mod demo;
#[forbid(unsafe_code)]
mod device_client;
#[forbid(unsafe_code)]
mod tasks;

// The public HTTP interface.
#[forbid(unsafe_code)]
mod http;

// The use cases of a login, and the connections that wait for one.
#[forbid(unsafe_code)]
mod hub;
#[forbid(unsafe_code)]
mod login;
#[forbid(unsafe_code)]
mod oauth;

// Services that the use cases and the pages depend on.
#[forbid(unsafe_code)]
mod approve;
#[forbid(unsafe_code)]
mod cluster;
#[forbid(unsafe_code)]
mod geo;
#[forbid(unsafe_code)]
mod limits;
#[forbid(unsafe_code)]
mod qr;
#[forbid(unsafe_code)]
mod store;
#[forbid(unsafe_code)]
mod token;
#[forbid(unsafe_code)]
mod wire;

// The session: its states and transitions, without I/O.
#[forbid(unsafe_code)]
pub mod session;

// Settings, and what every layer uses.
#[forbid(unsafe_code)]
mod config;
#[forbid(unsafe_code)]
mod metrics;
#[forbid(unsafe_code)]
mod postgres;
#[forbid(unsafe_code)]
mod secret;
mod system;
#[forbid(unsafe_code)]
mod telemetry;

pub use wire::websocket;

/// The modules, for the tests, the benchmarks and the fuzz targets of this repository. Not part of the public
/// interface.
#[cfg(feature = "internals")]
#[doc(hidden)]
#[forbid(unsafe_code)]
pub mod internals {
    macro_rules! export {
        ($($name:ident)*) => { $(pub mod $name { pub use crate::$name::*; })* };
    }
    export!(app approve cluster config demo geo http hub limits login metrics oauth postgres qr secret session store system telemetry token wire);
}
