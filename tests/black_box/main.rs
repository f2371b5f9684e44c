//! The product, seen from outside: a real server on a port of its own, real sockets, and a clock that the test moves.

mod harness;

mod architecture;
mod browser_page;
mod command_line;
mod crash;
mod endings;
mod login;
mod origins;
mod outage;
mod races;
mod receipts;
mod refusals;
mod secrecy;
mod store_conformance;
