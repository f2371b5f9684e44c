//! What was measured, as a table or as JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::memory::Memory;
use super::{Plan, Tally};

/// See the module. Times are in microseconds, memory in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Browsers that waited.
    pub browsers: u64,
    /// Browsers that could not be opened.
    pub browsers_failed: u64,
    /// From the first connection to the last 101.
    pub handshakes_per_second: f64,
    /// Logins that the phone was told are confirmed.
    pub logins: u64,
    /// What was asked for.
    pub logins_per_second_wanted: u32,
    /// Of the logins, those whose token did not arrive.
    pub lost: u64,
    /// From the confirm request's start to the frame's arrival.
    pub push_micros: Option<Percentiles>,
    /// Connections by the code with which the server closed them.
    pub closed: BTreeMap<String, u64>,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Of the server, if its process was named.
    pub memory: Option<MemoryReport>,
}

/// Of a distribution.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Percentiles {
    /// Half were faster.
    pub p50: u64,
    /// One in a hundred was slower.
    pub p99: u64,
    /// One in a thousand was slower.
    pub p999: u64,
    /// The slowest.
    pub max: u64,
}

/// What the server held, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MemoryReport {
    /// Resident before the first browser.
    pub resident_before: u64,
    /// Resident with all browsers waiting.
    pub resident_waiting: u64,
    /// Resident after the logins.
    pub resident_after: u64,
    /// For each browser after the first third.
    pub per_browser: u64,
    /// The same, with the kernel's memory for the server's end of the connection: half of what the machine's kernel
    /// took, where the browsers are on the same machine.
    pub per_browser_with_kernel: u64,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        browsers: u64,
        browsers_failed: u64,
        handshake_time: Duration,
        memory: &[(usize, Option<Memory>)],
        after: Option<&Memory>,
        tally: Tally,
    ) -> Self {
        Self {
            browsers,
            browsers_failed,
            handshakes_per_second: rate(browsers, handshake_time),
            logins: tally.confirmed,
            logins_per_second_wanted: plan.logins_per_second,
            lost: tally.lost,
            push_micros: percentiles(&tally.push),
            closed: tally.closed,
            errors: tally.errors,
            memory: memory_report(memory, after),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a load test")]
fn rate(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { (count as f64 / time.as_secs_f64()).round() }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn percentiles(values: &[u64]) -> Option<Percentiles> {
    let mut histogram = Histogram::<u64>::new(3).ok()?;
    for value in values {
        histogram.saturating_record(*value);
    }
    let at = |quantile| histogram.value_at_quantile(quantile);
    (!values.is_empty()).then(|| Percentiles { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: histogram.max() })
}

fn memory_report(memory: &[(usize, Option<Memory>)], after: Option<&Memory>) -> Option<MemoryReport> {
    let (_, before) = memory.first()?;
    let (first_count, first) = memory.get(1)?;
    let (last_count, last) = memory.last()?;
    let (before, first, last) = (before.as_ref()?, first.as_ref()?, last.as_ref()?);
    let browsers = (last_count - first_count).max(1) as u64;
    let resident = last.resident.saturating_sub(first.resident);
    let kernel = last.kernel.saturating_sub(first.kernel) / 2;
    Some(MemoryReport {
        resident_before: before.resident * 1024,
        resident_waiting: last.resident * 1024,
        resident_after: after?.resident * 1024,
        per_browser: resident * 1024 / browsers,
        per_browser_with_kernel: (resident + kernel) * 1024 / browsers,
    })
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
        row("lost", &self.lost)?;
        if let Some(push) = self.push_micros {
            for (name, value) in [("p50", push.p50), ("p99", push.p99), ("p99.9", push.p999), ("max", push.max)] {
                row(&format!("confirm to frame, {name}"), &format!("{value} µs"))?;
            }
        }
        for (code, count) in &self.closed {
            let name = if code.parse::<u16>().is_ok() { format!("closed with {code}") } else { code.clone() };
            row(&name, count)?;
        }
        for (error, count) in &self.errors {
            row(error, count)?;
        }
        if let Some(memory) = self.memory {
            let mib = |bytes: u64| format!("{}.{} MiB", bytes >> 20, ((bytes & 0xF_FFFF) * 10) >> 20);
            row("server's memory before", &mib(memory.resident_before))?;
            row("server's memory, all waiting", &mib(memory.resident_waiting))?;
            row("server's memory after the logins", &mib(memory.resident_after))?;
            row("for each browser", &format!("{} B", memory.per_browser))?;
            row("for each browser, with the kernel", &format!("{} B", memory.per_browser_with_kernel))?;
        }
        Ok(())
    }
}
