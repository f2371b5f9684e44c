//! The product, seen from outside: a real server on a port of its own, real sockets, and a clock that the test moves.

mod failing_store;
mod fleet;
mod harness;
mod real_time;
mod services;

mod app_tokens;
mod architecture;
mod browser_page;
mod bus_conformance;
mod codes;
mod crash;
mod database_file;
mod endings;
mod event_streams;
mod faults;
mod floods;
mod heads;
mod key_sets;
mod limits;
mod load;
mod login;
mod long_polls;
mod many_nodes;
mod origins;
mod outage;
mod places;
mod program;
mod races;
mod receipts;
mod refusals;
mod secrecy;
mod store_conformance;
mod stuck;
mod threats;
mod ways_in;
