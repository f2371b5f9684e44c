//! Log in on a web page by scanning a QR code with a phone on which you are already logged in.
//!
//! The map of the code; imports point downwards only (`tests/architecture.rs` sees to it), and ARCHITECTURE.md follows
//! one login through it.
//!
//! `unsafe` stands in `memory` alone, where it was measured to be needed.

// The program.
#[forbid(unsafe_code)]
pub mod app;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod demo;
#[forbid(unsafe_code)]
pub mod load;

// What the outside talks to.
#[forbid(unsafe_code)]
pub mod http;

// One login: its use-cases, and who waits for it.
#[forbid(unsafe_code)]
pub mod hub;
#[forbid(unsafe_code)]
pub mod login;

// What they stand on.
#[forbid(unsafe_code)]
pub mod bus;
#[forbid(unsafe_code)]
pub mod geo;
#[forbid(unsafe_code)]
pub mod http1;
#[forbid(unsafe_code)]
pub mod limits;
#[forbid(unsafe_code)]
pub mod protocol;
#[forbid(unsafe_code)]
pub mod qr;
#[forbid(unsafe_code)]
pub mod store;
#[forbid(unsafe_code)]
pub mod token;
#[forbid(unsafe_code)]
pub mod websocket;

// What a login is.
#[forbid(unsafe_code)]
pub mod session;

// Needed everywhere.
#[forbid(unsafe_code)]
pub mod cause;
#[forbid(unsafe_code)]
pub mod clock;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod files;
pub mod memory;
#[forbid(unsafe_code)]
pub mod metrics;
#[forbid(unsafe_code)]
pub mod node;
#[forbid(unsafe_code)]
pub mod postgres;
#[forbid(unsafe_code)]
pub mod random;
#[forbid(unsafe_code)]
pub mod secret;
#[forbid(unsafe_code)]
pub mod shutdown;
#[forbid(unsafe_code)]
pub mod telemetry;
#[forbid(unsafe_code)]
pub mod warnings;
