//! Nodes are killed and frozen, Redis is killed, Postgres restarted and frozen, under logins that go on all the time: none
//! is lost, none given to anybody else, nobody is told `expired`. Short here; `scripts/faults` runs it at full length.

use std::sync::Arc;
use std::time::Duration;

use crate::fleet::{Fleet, all_are_well, logins_during};
use crate::real_time::{now, pause, sleep_millis, until};
use crate::services::signal;

/// From a fault's end to the delivery of every login that was confirmed.
const WITHIN: Duration = Duration::from_secs(10);

/// Of a fault that is to last this long a part, unless it is asked for in whole.
fn millis_of(seconds: u32) -> u32 {
    let is_whole = std::env::var_os("QRLOGIN_TEST_WHOLE_FAULTS").is_some();
    if is_whole { seconds * 1000 } else { seconds * 250 }
}

async fn lasts(seconds: u32) {
    sleep_millis(millis_of(seconds).into()).await;
}

/// People take up to four seconds to scan, and as long to confirm: so when something fails, many wait.
async fn fleet(with_redis: bool) -> Arc<Fleet> {
    let mut fleet = Fleet::start(3, with_redis).await;
    fleet.people_millis = millis_of(4);
    Arc::new(fleet)
}

/// What is done to the fleet while 20 logins begin every second; the last instruction marks the fault's end.
async fn survive(name: &str, fleet: &Arc<Fleet>, fault: impl AsyncFnOnce(&Fleet)) {
    let mut fault_end = None;
    let begun = now();
    let logins = logins_during(fleet, 20, async {
        lasts(4).await;
        fault(fleet).await;
        fault_end = Some(now());
        lasts(8).await;
    })
    .await;
    let fault_end = fault_end.unwrap();
    all_are_well(&logins, fault_end, WITHIN);
    fleet.until_empty().await;
    let delays = logins.iter().map(|login| login.told.as_ref().unwrap().0 - login.asked.unwrap());
    let told = logins.iter().map(|login| (login.asked.unwrap(), login.told.as_ref().unwrap().0));
    let hit: Vec<_> = told.filter(|(asked, told)| *asked < fault_end && *told > fault_end).collect();
    println!(
        "{name}: {} logins in {:.1} s, {} reconnects, longest from confirm to token {:.2} s; {} held up until after the \
         fault's end, the last {:.2} s after it",
        logins.len(),
        begun.elapsed().as_secs_f64(),
        logins.iter().map(|login| login.reconnects.saturating_sub(1)).sum::<u32>(),
        delays.max().unwrap().as_secs_f64(),
        hit.len(),
        hit.iter().map(|(_, told)| (*told - fault_end).as_secs_f64()).fold(0.0, f64::max),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_killed_and_comes_back() {
    let fleet = fleet(false).await;
    survive("node killed", &fleet, async |fleet: &Fleet| {
        fleet.kill(0);
        lasts(4).await;
        fleet.run(0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_frozen() {
    let fleet = fleet(false).await;
    survive("node frozen", &fleet, async |fleet: &Fleet| {
        signal("STOP", &[fleet.pid(0)]);
        lasts(10).await;
        signal("CONT", &[fleet.pid(0)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_killed() {
    let fleet = fleet(true).await;
    survive("Redis killed", &fleet, async |fleet: &Fleet| {
        fleet.redis.as_ref().unwrap().kill();
        lasts(15).await;
        for number in 0..3 {
            assert_eq!(fleet.metric(number, "qrlogin_bus_connected").await, 0, "the node says so");
            assert!(fleet.is_ready(number).await, "and goes on");
        }
        fleet.redis.as_ref().unwrap().run();
    })
    .await;
    for number in 0..3 {
        until("the bus is back", async || {
            pause(100).await;
            fleet.metric(number, "qrlogin_bus_connected").await == 1
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_restarted() {
    let fleet = fleet(false).await;
    survive("Postgres restarted", &fleet, async |fleet: &Fleet| fleet.postgres.restart().await).await;
}

async fn postgres_is_frozen(name: &str, with_redis: bool) {
    let fleet = fleet(with_redis).await;
    survive(name, &fleet, async |fleet: &Fleet| {
        fleet.postgres.freeze();
        lasts(10).await;
        assert!(!fleet.is_ready(0).await, "nobody is to be sent there");
        fleet.postgres.thaw();
    })
    .await;
    assert!(fleet.is_ready(0).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_frozen_which_is_the_bus_as_well() {
    postgres_is_frozen("Postgres frozen, the bus as well", false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_frozen_while_redis_goes_on() {
    postgres_is_frozen("Postgres frozen", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_restarted_one_after_the_other() {
    let fleet = fleet(false).await;
    survive("rolling restart", &fleet, async |fleet: &Fleet| {
        for number in 0..3 {
            tokio::task::block_in_place(|| fleet.stop(number));
            fleet.run(number);
            lasts(4).await;
        }
    })
    .await;
}
