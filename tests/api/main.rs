//! Tests from outside. Most start a real server on a port of its own and talk to it over real sockets, with a clock that
//! the test moves. Some run the `qrlogin` program.

mod acceptor_refusals;
mod acknowledgements;
mod app_tokens;
mod approve;
mod base_path;
mod browser_page;
mod clocks;
mod codes;
mod crash;
mod database_file;
mod demo_provider;
mod demo_visitor;
mod endings;
mod event_streams;
mod faults;
mod floods;
mod geolocation;
mod heads;
mod introspection;
mod key_sets;
mod limits;
#[cfg(feature = "load")]
mod load;
mod login;
mod login_command;
mod logs;
mod long_polls;
mod many_nodes;
mod oauth;
mod origins;
mod outage;
mod poolers;
mod program;
mod provider_keys;
mod races;
mod refusals;
mod secrecy;
mod settings;
mod signals;
mod signing_keys;
mod slow_readers;
mod stalls;
mod stopping;
mod threats;
mod token_source;
mod warnings;

fn main() -> std::process::ExitCode {
    qrlogin_testing::main()
}
