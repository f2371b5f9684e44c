//! Log in on a web page by scanning a QR code with a phone on which you are already logged in.
//!
//! The map of the code; imports point downwards only (`tests/architecture.rs` sees to it), and ARCHITECTURE.md follows
//! one login through it.

// The program.
pub mod app;
pub mod cli;
pub mod demo;
pub mod load;

// What the outside talks to.
pub mod http;

// One login: its use-cases, and who waits for it.
pub mod hub;
pub mod login;

// What they stand on.
pub mod bus;
pub mod geo;
pub mod limits;
pub mod protocol;
pub mod qr;
pub mod store;
pub mod token;
pub mod websocket;

// What a login is.
pub mod session;

// Needed everywhere.
pub mod cause;
pub mod clock;
pub mod config;
pub mod files;
pub mod memory;
pub mod metrics;
pub mod node;
pub mod postgres;
pub mod random;
pub mod shutdown;
pub mod telemetry;
