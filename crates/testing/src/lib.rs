//! The harness of qrlogin's tests: servers in this process and as processes of their own, the services that they need,
//! and the browsers and phones that call them.

#![expect(missing_docs, reason = "most names of the harness say what they are")]

pub mod failing_store;
pub mod fleet;
pub mod harness;
pub mod program;
pub mod real_time;
pub mod services;
