//! Conformance suites of the traits `Store` and `Bus`: what every implementation must do.

mod bus_conformance;
mod store_conformance;
