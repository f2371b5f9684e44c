//! Runs the registered tests. Their display and arguments are those of Rust's own test harness, which cannot ignore a
//! test for a reason that is known only when it runs.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::Need;

/// A registered test. The attribute `test` makes it.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Path of the function, with the name of the test target.
    pub path: &'static str,
    /// Requirements of the test.
    pub needs: &'static [Need],
    /// Reason for which the test runs only on request (`--ignored`).
    pub ignored: Option<&'static str>,
    /// The test.
    pub run: fn() -> Result<(), String>,
}

inventory::collect!(Test);

/// The value that a test returns.
pub trait Outcome {
    /// Returns the reason for which the test has failed, if it has.
    fn result(self) -> Result<(), String>;
}

impl Outcome for () {
    /// Returns the reason for which the test has failed, if it has.
    fn result(self) -> Result<(), String> {
        Ok(())
    }
}

impl<E: Debug> Outcome for Result<(), E> {
    /// Returns the reason for which the test has failed, if it has.
    fn result(self) -> Result<(), String> {
        self.map_err(|error| format!("{error:?}"))
    }
}

/// Runs an async test on a runtime with a thread for each core.
pub fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(test)
}

/// Runs the tests that the command line selects, and lists those whose requirements are missing.
pub fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let requires_all = std::env::var_os("TEST_ALL").is_some_and(|value| !value.is_empty());
    let mut missing = BTreeMap::new();
    for test in inventory::iter::<Test> {
        for need in test.needs {
            missing.entry(*need).or_insert_with(|| need.missing());
        }
    }
    let mut not_run: BTreeMap<Need, Vec<String>> = BTreeMap::new();
    let mut trials = Vec::new();
    for test in inventory::iter::<Test> {
        let name = test.path.split_once("::").map_or(test.path, |(_, name)| name);
        let unmet = test.needs.iter().find_map(|need| Some((*need, missing[need].clone()?)));
        let runs_on_request = test.ignored.is_some();
        // nextest reads the ignored tests from the list. Otherwise, the trial itself gives the reason.
        let is_listed_as_ignored = runs_on_request || (unmet.is_some() && arguments.list && !requires_all);
        let on_request = arguments.ignored || arguments.include_ignored;
        let trial_unmet = unmet.clone();
        let trial = Trial::ignorable_test(name, move || match trial_unmet {
            Some((need, reason)) if requires_all || on_request => Err(format!("needs {need:?}: {reason}").into()),
            Some((need, reason)) => Ok(Completion::ignored_with(format!("needs {need:?}: {reason}"))),
            None => run(test, name),
        });
        let trial = trial.with_ignored_flag(is_listed_as_ignored);
        if let Some((need, _)) = unmet
            && !runs_on_request
            && !arguments.is_filtered_out(&trial)
        {
            not_run.entry(need).or_default().push(name.to_owned());
        }
        trials.push(trial);
    }
    trials.sort_by(|one, other| one.name().cmp(other.name()));
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list && !requires_all && !not_run.is_empty() {
        println!("not run, because this machine lacks a requirement (with TEST_ALL=1, these tests fail):");
        for (need, tests) in not_run {
            let reason = missing[&need].as_deref().unwrap_or_default();
            println!("    {need:?} ({reason}): {}\n        {}", tests.len(), tests.join("\n        "));
        }
        println!();
    }
    conclusion.exit_code()
}

/// Maximum duration of a test, in seconds. A longer test has failed. `TEST_SECONDS` changes it.
const TEST_SECONDS: u64 = 600;

/// Runs a test on a thread with its name, which panics show. Gives a test up that exceeds its time, so that it fails
/// by its name instead of hanging.
fn run(test: &Test, name: &str) -> Result<Completion, Failed> {
    let seconds = std::env::var("TEST_SECONDS").map_or(TEST_SECONDS, |seconds| seconds.parse().unwrap());
    let (ended, end) = mpsc::channel();
    let body = test.run;
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let result = body();
        // The receiver is gone if the test has been given up.
        drop(ended.send(result));
    });
    let thread = thread.unwrap();
    match end.recv_timeout(Duration::from_secs(seconds)) {
        Ok(result) => {
            drop(thread.join());
            result.map(|()| Completion::Completed).map_err(Failed::from)
        }
        Err(RecvTimeoutError::Timeout) => Err(format!("still running after {seconds} s").into()),
        Err(RecvTimeoutError::Disconnected) => match thread.join() {
            Ok(()) => Err("the test ended without a result".into()),
            Err(panic) => std::panic::resume_unwind(panic),
        },
    }
}
