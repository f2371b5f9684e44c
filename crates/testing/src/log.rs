//! The warnings that a server in this process logs.

pub use qrlogin::internals::telemetry::with_warnings;
