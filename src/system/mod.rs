//! What the server needs of its machine: time, random bytes, memory, files, HTTP requests, and the signal to stop.

#[forbid(unsafe_code)]
pub mod clock;
#[forbid(unsafe_code)]
pub mod files;
#[forbid(unsafe_code)]
pub mod http_client;
pub mod memory;
#[forbid(unsafe_code)]
pub mod random;
#[forbid(unsafe_code)]
pub mod reload;
#[forbid(unsafe_code)]
pub mod shutdown;
