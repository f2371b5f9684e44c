//! The report of a load test, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::usage::Usage;
use crate::{Plan, Tally};

const SIGNIFICANT_DIGITS: u8 = 3;

/// The results of a load test. Times are in microseconds, memory in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Number of browsers that waited.
    pub browsers: u64,
    /// Number of browsers that could not be opened.
    pub browsers_failed: u64,
    /// Number of opened browsers per second, from the first connection to the last successful handshake.
    pub handshakes_per_second: f64,
    /// Number of logins whose confirmation the server answered with 200.
    pub logins: u64,
    /// Number of logins per second that the plan asked for.
    pub logins_per_second_wanted: u32,
    /// Number of completed logins per second, from the first session to the end of the last login. It is the capacity of
    /// the server if the plan asked for more.
    pub logins_per_second: f64,
    /// Number of confirmed logins whose token did not arrive.
    pub lost: u64,
    /// Time from when a confirmation was due to the arrival of its token.
    pub push_micros: Option<Percentiles>,
    /// Time from when a confirmation was due to the redirect to the OAuth client, if there is one.
    pub redirect_micros: Option<Percentiles>,
    /// Time of a token request of the OAuth client, if there is one.
    pub token_micros: Option<Percentiles>,
    /// Number of ended connections, by close code or by a text in its place.
    pub closed: BTreeMap<String, u64>,
    /// Number of errors, by text.
    pub errors: BTreeMap<String, u64>,
    /// Memory and processor time of the server, if its process was named.
    pub server: Option<ServerReport>,
}

/// Percentiles of a distribution.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// The median.
    pub p50: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p999: u64,
    /// The maximum.
    pub max: u64,
}

/// The memory and processor time of the server.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ServerReport {
    /// Resident memory before the first browser.
    pub resident_before: u64,
    /// Resident memory with all browsers waiting.
    pub resident_waiting: u64,
    /// Resident memory after the logins.
    pub resident_after: u64,
    /// Growth of the resident memory per browser of the second third.
    pub per_browser_of_second_third: u64,
    /// Growth of the resident memory per browser of the last third.
    pub per_browser_of_last_third: u64,
    /// Growth of the resident memory per browser after the first third.
    pub per_browser: u64,
    /// `per_browser` and the kernel's memory for the server's end of the connection. That is taken to be half of the
    /// growth of the whole kernel's memory, as if the browsers ran on the same machine.
    pub per_browser_with_kernel: u64,
    /// Processor time of the server per handshake, in user and kernel mode.
    pub micros_per_handshake: f64,
    /// Processor time of the server per login, if there were logins.
    pub micros_per_login: Option<f64>,
    /// Processor time of the server while all browsers wait, in percent of one processor, if there were no logins.
    pub idle_percent: Option<f64>,
}

/// A part of the test, with the server's memory and processor time before and after it.
#[derive(Debug)]
pub(super) struct Part {
    /// Number of browsers that wait at its end.
    pub(super) browsers: u64,
    pub(super) time: Duration,
    pub(super) before: Option<Usage>,
    pub(super) after: Option<Usage>,
}

/// The measurements of all parts of the test.
#[derive(Debug, Default)]
pub(super) struct Course {
    pub(super) start: Option<Usage>,
    /// The three parts in which the browsers are opened.
    pub(super) opened: Vec<Part>,
    pub(super) logins: Option<Part>,
}

impl Report {
    pub(super) fn new(plan: &Plan, course: &Course, tally: Tally) -> Self {
        let browsers = course.opened.last().map_or(0, |part| part.browsers);
        Self {
            browsers,
            browsers_failed: plan.browsers as u64 - browsers,
            handshakes_per_second: rounded(browsers, course.opened.iter().map(|part| part.time).sum()),
            logins: tally.confirmed,
            logins_per_second_wanted: plan.logins_per_second,
            logins_per_second: rounded(
                tally.completed,
                course.logins.as_ref().map_or(Duration::ZERO, |part| part.time),
            ),
            lost: tally.lost,
            push_micros: percentiles(&tally.push),
            redirect_micros: percentiles(&tally.redirect),
            token_micros: percentiles(&tally.token),
            server: server_report(course, tally.confirmed),
            closed: tally.closed,
            errors: tally.errors,
        }
    }
}

/// Returns the rate per second, rounded to an integer.
#[expect(clippy::cast_precision_loss, reason = "the counts of a load test are far below 2^52")]
fn rounded(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { (count as f64 / time.as_secs_f64()).round() }
}

/// Returns the microseconds per item, rounded to a tenth.
#[expect(clippy::cast_precision_loss, reason = "the times of a load test are far below 2^52 ns")]
fn micros_for_each(nanos: u64, count: u64) -> f64 {
    (nanos as f64 / 100.0 / count.max(1) as f64).round() / 10.0
}

/// Returns the share of `nanos` in `time`, in percent, rounded to a hundredth.
#[expect(clippy::cast_precision_loss, reason = "the times of a load test are far below 2^52 ns")]
fn percent(nanos: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { (nanos as f64 / time.as_nanos() as f64 * 10_000.0).round() / 100.0 }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the percentiles of the values with three significant digits, and their exact maximum.
fn percentiles(values: &[u64]) -> Option<Percentiles> {
    let slowest = *values.iter().max()?;
    let mut histogram = Histogram::<u64>::new_with_max(slowest.max(2), SIGNIFICANT_DIGITS).ok()?;
    for value in values {
        // Recording never fails, because no value exceeds the histogram's maximum.
        histogram.record(*value).ok()?;
    }
    let at = |quantile| histogram.value_at_quantile(quantile).min(slowest);
    Some(Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: slowest })
}

fn server_report(course: &Course, logins: u64) -> Option<ServerReport> {
    let [first, .., last] = &course.opened[..] else { return None };
    let second = course.opened.get(1)?;
    let per_browser = |from: &Part, to: &Part| {
        let grown = to.after?.resident.saturating_sub(from.after?.resident);
        Some(grown * 1024 / (to.browsers - from.browsers).max(1))
    };
    let kernel = last.after?.kernel.saturating_sub(first.after?.kernel) / 2;
    let opening_nanos: u64 = course.opened.iter().filter_map(used_nanos).sum();
    let after = course.logins.as_ref()?;
    Some(ServerReport {
        resident_before: course.start?.resident * 1024,
        resident_waiting: last.after?.resident * 1024,
        resident_after: after.after?.resident * 1024,
        per_browser_of_second_third: per_browser(first, second)?,
        per_browser_of_last_third: per_browser(second, last)?,
        per_browser: per_browser(first, last)?,
        per_browser_with_kernel: per_browser(first, last)? + kernel * 1024 / (last.browsers - first.browsers).max(1),
        micros_per_handshake: micros_for_each(opening_nanos, last.browsers),
        micros_per_login: if logins > 0 { Some(micros_for_each(used_nanos(after)?, logins)) } else { None },
        idle_percent: if logins > 0 { None } else { Some(percent(used_nanos(after)?, after.time)) },
    })
}

fn used_nanos(part: &Part) -> Option<u64> {
    Some(part.after?.cpu_nanos.saturating_sub(part.before?.cpu_nanos))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut row = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<34} {value:>12}");
        row("browsers waiting", &self.browsers)?;
        if self.browsers_failed > 0 {
            row("browsers that could not be opened", &self.browsers_failed)?;
        }
        row("handshakes/s", &self.handshakes_per_second)?;
        row("logins", &self.logins)?;
        if self.logins > 0 {
            row("logins/s", &self.logins_per_second)?;
        }
        row("lost", &self.lost)?;
        for (what, times) in [
            ("confirm to frame", self.push_micros),
            ("confirm to redirect", self.redirect_micros),
            ("token request", self.token_micros),
        ] {
            let Some(times) = times else { continue };
            for (name, value) in [("p50", times.p50), ("p99", times.p99), ("p99.9", times.p999), ("max", times.max)] {
                row(&format!("{what}, {name}"), &format!("{value} µs"))?;
            }
        }
        for (code, count) in &self.closed {
            let name = if code.parse::<u16>().is_ok() { format!("closed with {code}") } else { code.clone() };
            row(&name, count)?;
        }
        for (error, count) in &self.errors {
            row(error, count)?;
        }
        if let Some(server) = self.server {
            let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes & 0xF_FFFF) * 10) >> 20);
            row("server's memory before", &mib(server.resident_before))?;
            row("server's memory, all waiting", &mib(server.resident_waiting))?;
            row("server's memory after the logins", &mib(server.resident_after))?;
            row("for each browser", &format!("{} B", server.per_browser))?;
            row("for each browser, with the kernel", &format!("{} B", server.per_browser_with_kernel))?;
            row("server's CPU for a handshake", &format!("{} µs", server.micros_per_handshake))?;
            if let Some(micros) = server.micros_per_login {
                row("server's CPU for a login", &format!("{micros} µs"))?;
            }
            if let Some(idle) = server.idle_percent {
                row("server's CPU while all wait", &format!("{idle} %"))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_exact_to_three_digits_for_small_and_large_values() {
        assert!(percentiles(&[]).is_none());
        // A thousand values in each unit: 1 to 1,000 µs, ms and s.
        for unit in [1, 1_000, 1_000_000] {
            let values: Vec<u64> = (1..=1000).rev().map(|value| value * unit).collect();
            let found = percentiles(&values).unwrap();
            for (found, expected) in [(found.p50, 500), (found.p99, 990), (found.p999, 999), (found.max, 1000)] {
                let expected = expected * unit;
                assert!(found.abs_diff(expected) <= expected / 1000, "{found} in place of {expected}");
            }
            assert_eq!(found.max, 1000 * unit, "to the microsecond");
        }
        let one = percentiles(&[90_000_000]).unwrap();
        assert_eq!([one.p50, one.max], [90_000_000; 2]);
        let stalled = [vec![300; 900], vec![1_500_000; 100]].concat();
        let found = percentiles(&stalled).unwrap();
        assert_eq!(found.p50, 300);
        assert!(found.p99 >= 1_499_000 && found.max == 1_500_000);
    }

    fn usage(resident: u64, kernel: u64, cpu_millis: u64) -> Option<Usage> {
        Some(Usage { resident, kernel, cpu_nanos: cpu_millis * 1_000_000 })
    }

    fn part(browsers: u64, seconds: u64, before: Option<Usage>, after: Option<Usage>) -> Part {
        Part { browsers, time: Duration::from_secs(seconds), before, after }
    }

    fn plan() -> Plan {
        Plan {
            url: String::new(),
            transport: crate::Transport::Websocket,
            browsers: 3010,
            logins_per_second: 10,
            seconds: 4,
            concurrency: 1,
            sources: Vec::new(),
            app_token: String::new(),
            oauth_client: None,
            pid: Some(1),
        }
    }

    fn course() -> Course {
        Course {
            start: usage(10_000, 100, 0),
            opened: vec![
                part(1000, 1, usage(10_000, 100, 0), usage(10_500, 1100, 50)),
                part(2000, 2, usage(10_500, 1100, 50), usage(10_700, 3100, 90)),
                part(3000, 3, usage(10_700, 3100, 90), usage(11_000, 5100, 150)),
            ],
            logins: Some(part(3000, 4, usage(11_000, 5100, 150), usage(12_000, 5100, 550))),
        }
    }

    #[test]
    fn report_is_computed_from_the_tally_and_the_usages() {
        let tally = Tally { push: vec![400, 600, 800], confirmed: 40, completed: 38, lost: 2, ..Tally::default() };
        let report = Report::new(&plan(), &course(), tally);
        assert_eq!((report.browsers, report.browsers_failed), (3000, 10));
        assert!((report.handshakes_per_second - 500.0).abs() < 0.1, "3,000 in 6 s");
        assert_eq!((report.logins, report.lost, report.logins_per_second_wanted), (40, 2, 10));
        assert!((report.logins_per_second - 10.0).abs() < 0.1, "38 in 4 s, rounded: {}", report.logins_per_second);
        assert!(report.redirect_micros.is_none() && report.token_micros.is_none());
        let server = report.server.unwrap();
        assert_eq!(server.resident_before, 10_000 * 1024);
        assert_eq!(server.resident_waiting, 11_000 * 1024);
        assert_eq!(server.resident_after, 12_000 * 1024);
        assert_eq!(server.per_browser_of_second_third, 200 * 1024 / 1000);
        assert_eq!(server.per_browser_of_last_third, 300 * 1024 / 1000);
        assert_eq!(server.per_browser, 500 * 1024 / 2000);
        assert_eq!(server.per_browser_with_kernel, 500 * 1024 / 2000 + 2000 * 1024 / 2000, "half of 4,000 KiB");
        assert!((server.micros_per_handshake - 50.0).abs() < 0.1, "150 ms for 3,000");
        assert!((server.micros_per_login.unwrap() - 10_000.0).abs() < 0.1, "400 ms for 40");
        assert_eq!(server.idle_percent, None);

        let idle = Report::new(&plan(), &course(), Tally::default()).server.unwrap();
        assert_eq!(idle.micros_per_login, None);
        assert!((idle.idle_percent.unwrap() - 10.0).abs() < 0.01, "400 ms in 4 s");
    }

    #[test]
    fn table_has_a_row_for_each_figure() {
        let tally = Tally {
            push: vec![1_400_000],
            redirect: vec![1_500_000],
            token: vec![2_000],
            confirmed: 1,
            completed: 16,
            closed: [("1000".to_owned(), 5)].into(),
            errors: [("broken".to_owned(), 6)].into(),
            ..Tally::default()
        };
        let table = Report::new(&plan(), &course(), tally).to_string();
        let words = |line: &str| line.split_whitespace().map(ToOwned::to_owned).collect::<Vec<_>>();
        for row in [
            "browsers waiting                           3000",
            "browsers that could not be opened            10",
            "handshakes/s                                500",
            "logins                                        1",
            "logins/s                                      4",
            "lost                                          0",
            "confirm to frame, p50                1400000 µs",
            "confirm to frame, max                1400000 µs",
            "confirm to redirect, p99             1500000 µs",
            "token request, p99.9                    2000 µs",
            "closed with 1000                              5",
            "broken                                        6",
            "server's memory before                  9.7 MiB",
            "server's memory, all waiting           10.7 MiB",
            "server's memory after the logins       11.7 MiB",
            "for each browser                          256 B",
            "server's CPU for a handshake              50 µs",
            "server's CPU for a login             400000 µs",
        ] {
            let has_row = table.lines().any(|line| words(line) == words(row));
            assert!(has_row, "'{row}' is missing in\n{table}");
        }
    }
}
