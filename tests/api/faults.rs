//! Faults under a constant rate of logins: nodes are killed and frozen, Redis is killed, Postgres is restarted and
//! frozen. No login is lost or delivered to another browser, and no browser receives `expired`. The faults are short
//! here; `scripts/many-nodes` runs them at full length.

use std::sync::Arc;
use std::time::Duration;

use qrlogin_testing::fleet::{Fleet, assert_all_delivered, logins_during};
use qrlogin_testing::real_time::{now, pause, sleep_millis, until};
use qrlogin_testing::services::signal;
use qrlogin_testing::test;

/// Longest time from the end of a fault to the delivery of every confirmed login.
const WITHIN: Duration = Duration::from_secs(10);

/// Returns the length of a fault in milliseconds: a quarter of `seconds`, or all of it at full length.
fn millis_of(seconds: u32) -> u32 {
    let is_whole = std::env::var_os("TEST_WHOLE_FAULTS").is_some();
    if is_whole { seconds * 1000 } else { seconds * 250 }
}

/// Sleeps for the length of a fault.
async fn sleep_fault_seconds(seconds: u32) {
    sleep_millis(millis_of(seconds).into()).await;
}

/// Starts three nodes. Users take up to four seconds to scan and as long to confirm, so many browsers wait when a fault
/// begins.
async fn fleet(with_redis: bool) -> Arc<Fleet> {
    let mut fleet = Fleet::start(3, with_redis).await;
    fleet.user_delay_millis = millis_of(4);
    Arc::new(fleet)
}

/// Runs `fault` while 20 logins begin every second, and asserts that each of them succeeds. The fault's end is the
/// return of `fault`.
async fn survive(name: &str, fleet: &Arc<Fleet>, fault: impl AsyncFnOnce(&Fleet)) {
    let mut fault_end = None;
    let begun = now();
    let logins = logins_during(fleet, 20, async {
        sleep_fault_seconds(4).await;
        fault(fleet).await;
        fault_end = Some(now());
        sleep_fault_seconds(8).await;
    })
    .await;
    let fault_end = fault_end.unwrap();
    assert_all_delivered(&logins, fault_end, WITHIN);
    fleet.until_empty().await;
    let delays = logins.iter().map(|login| login.received.as_ref().unwrap().0 - login.last_call.unwrap());
    let received = logins.iter().map(|login| (login.last_call.unwrap(), login.received.as_ref().unwrap().0));
    let hit: Vec<_> = received.filter(|(asked, received)| *asked < fault_end && *received > fault_end).collect();
    println!(
        "{name}: {} logins in {:.1} s, {} reconnects, longest from confirm to token {:.2} s; {} held up until after the \
         fault's end, the last {:.2} s after it",
        logins.len(),
        begun.elapsed().as_secs_f64(),
        logins.iter().map(|login| login.reconnects.saturating_sub(1)).sum::<u32>(),
        delays.max().unwrap().as_secs_f64(),
        hit.len(),
        hit.iter().map(|(_, received)| (*received - fault_end).as_secs_f64()).fold(0.0, f64::max),
    );
}

#[test(needs(Postgres))]
async fn logins_survive_a_killed_node() {
    let fleet = fleet(false).await;
    survive("node killed", &fleet, async |fleet: &Fleet| {
        fleet.kill(0);
        sleep_fault_seconds(4).await;
        fleet.run(0);
    })
    .await;
}

#[test(needs(Postgres, Linux))]
async fn logins_survive_a_frozen_node() {
    let fleet = fleet(false).await;
    survive("node frozen", &fleet, async |fleet: &Fleet| {
        signal("STOP", &[fleet.pid(0)]);
        sleep_fault_seconds(10).await;
        signal("CONT", &[fleet.pid(0)]);
    })
    .await;
}

#[test(needs(Postgres, Redis))]
async fn logins_survive_a_killed_redis() {
    let fleet = fleet(true).await;
    survive("Redis killed", &fleet, async |fleet: &Fleet| {
        fleet.redis.as_ref().unwrap().kill();
        sleep_fault_seconds(15).await;
        for number in 0..3 {
            assert_eq!(
                fleet.metric(number, "qrlogin_bus_connected").await,
                0,
                "the metric reports that the bus is disconnected"
            );
            assert!(fleet.is_ready(number).await, "the node stays ready");
        }
        fleet.redis.as_ref().unwrap().run();
    })
    .await;
    for number in 0..3 {
        until("the bus is connected again", async || {
            pause(100).await;
            fleet.metric(number, "qrlogin_bus_connected").await == 1
        })
        .await;
    }
}

#[test(needs(Postgres))]
async fn logins_survive_a_restart_of_postgres() {
    let fleet = fleet(false).await;
    survive("Postgres restarted", &fleet, async |fleet: &Fleet| fleet.postgres.restart().await).await;
}

async fn survive_a_frozen_postgres(name: &str, with_redis: bool) {
    let fleet = fleet(with_redis).await;
    survive(name, &fleet, async |fleet: &Fleet| {
        fleet.postgres.freeze();
        sleep_fault_seconds(10).await;
        assert!(!fleet.is_ready(0).await, "a node without its store is not ready");
        fleet.postgres.thaw();
    })
    .await;
    assert!(fleet.is_ready(0).await);
}

#[test(needs(Postgres, Linux))]
async fn logins_survive_a_frozen_postgres_that_is_also_the_bus() {
    survive_a_frozen_postgres("Postgres frozen, the bus as well", false).await;
}

#[test(needs(Postgres, Redis, Linux))]
async fn logins_survive_a_frozen_postgres_with_redis_as_the_bus() {
    survive_a_frozen_postgres("Postgres frozen", true).await;
}

#[test(needs(Postgres))]
async fn logins_survive_a_rolling_restart() {
    let fleet = fleet(false).await;
    survive("rolling restart", &fleet, async |fleet: &Fleet| {
        for number in 0..3 {
            tokio::task::block_in_place(|| fleet.stop(number));
            fleet.run(number);
            sleep_fault_seconds(4).await;
        }
    })
    .await;
}
