//! The harness of qrlogin's tests. `tests/api`, `tests/conformance` and `tests/docs` share it.
//!
//! - [`harness`]: a server in this process, whose clock the test moves, with its browsers and phones
//! - [`program`]: the `qrlogin` program as a process
//! - [`services`]: Postgres, PgBouncer and Redis servers that belong to the tests
//! - [`fleet`]: several programs on one database, and complete logins
//! - [`failing_store`]: a store that a test can make fail, stall or panic
//! - [`demo`]: the demo as a server in this process
//! - [`unreliable_bus`]: a bus that loses, repeats and reorders notifications
//! - [`keys`]: app tokens, and directories of signing keys
//! - [`log`]: the warnings that a server in this process logs
//! - [`random`]: random bytes and numbers
//! - [`setting_values`]: values for each setting
//! - [`real_time`]: the machine's clock, [`real_time::until`], which waits for a condition, and [`real_time::within`],
//!   which limits the time of any other wait
//!
//! A test is a function with the attribute [`test`]. It names its requirements: a test whose requirements are missing
//! is reported as ignored, and listed with the reason at the end of the run. With the environment variable
//! `TEST_ALL`, it fails instead. The main function of each test target calls [`main`].
//!
//! ```text
//! use qrlogin_testing::test;
//!
//! #[test(needs(Postgres))]
//! async fn login_is_stored() { … }
//! ```

pub mod demo;
pub mod failing_store;
pub mod fleet;
pub mod harness;
pub mod keys;
pub mod log;
mod needs;
pub mod program;
pub mod random;
pub mod real_time;
mod runner;
pub mod services;
pub mod setting_values;
pub mod unreliable_bus;

// For the attribute `test`.
#[doc(hidden)]
pub use inventory;
pub use needs::{Need, faketime};
pub use qrlogin_testing_macros::test;
pub use runner::{Outcome, Test, block_on, main};
