//! Several nodes on one Postgres, without sticky sessions.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use crate::clocks::faketime;
use qrlogin_testing::fleet::{Fleet, Login, assert_all_delivered, logins_during};
use qrlogin_testing::harness::{Browser, Seen, Server, token_in};
use qrlogin_testing::random;
use qrlogin_testing::real_time::{now, sleep_millis, until};
use qrlogin_testing::services::{Postgres, Redis};
use qrlogin_testing::test;
use qrlogin_testing::unreliable_bus::UnreliableBus;

/// Starts nodes in this process, on a database of their own. The bus is this Redis, or Postgres if there is none.
pub async fn nodes(count: usize, redis: Option<&Redis>) -> (Arc<Postgres>, Vec<Server>) {
    nodes_of(count, redis, async |url, bus_url, keys| Server::node(url, bus_url, keys, |bus| bus).await).await
}

async fn nodes_of(
    count: usize,
    redis: Option<&Redis>,
    node: impl AsyncFn(&str, Option<&str>, PathBuf) -> Server,
) -> (Arc<Postgres>, Vec<Server>) {
    let postgres = Postgres::shared().await;
    let (url, bus_url) = (postgres.database().await, redis.map(Redis::url));
    let mut servers = Vec::new();
    for _ in 0..count {
        servers.push(node(&url, bus_url.as_deref(), postgres.keys()).await);
    }
    for server in &servers {
        until("the bus is connected", async || server.metric("qrlogin_bus_connected").await == 1).await;
    }
    (postgres, servers)
}

async fn login_across_nodes(redis: Option<&Redis>) {
    let (_postgres, nodes) = nodes(3, redis).await;
    let [asked, waits, decides] = nodes.as_slice() else { unreachable!() };
    let session = asked.generate().await;
    let mut browser = waits.browser(&session).await;
    browser.frame("pending").await;
    let ann = decides.phone("ann");
    assert_eq!(ann.scan(&session).await.status, 200);
    assert_eq!(browser.frame("scanned").await["user"]["name"], "Name of ann");
    assert_eq!(ann.confirm(&session).await.status, 200);
    let seen = browser.rest().await;
    assert!(token_in(&seen).is_some(), "{seen:?}");
    assert_eq!(seen.last(), Some(&Seen::Close(1000, String::new())));
    waits.until_active(0).await;
    assert_eq!(asked.status(&session).await.body["claimed"], true, "the acknowledgement is visible at every node");
    // Other decisions cross nodes as well.
    for verb in ["reject", "cancel"] {
        let session = asked.generate().await;
        let mut browser = waits.browser(&session).await;
        browser.frame("pending").await;
        let answer = if verb == "reject" { ann.reject(&session).await } else { decides.cancel(&session).await };
        assert_eq!(answer.status, 200);
        browser.frame(if verb == "reject" { "rejected" } else { "cancelled" }).await;
        browser.closed(1000).await;
    }
}

#[test(needs(Postgres))]
async fn login_across_nodes_is_delivered_by_the_postgres_bus() {
    login_across_nodes(None).await;
}

#[test(needs(Postgres, Redis))]
async fn login_across_nodes_is_delivered_by_the_redis_bus() {
    login_across_nodes(Some(&Redis::start())).await;
}

async fn newer_connection_supersedes_the_older_ones(redis: Option<&Redis>) {
    let (_postgres, nodes) = nodes(2, redis).await;
    let [here, there] = nodes.as_slice() else { unreachable!() };
    for _ in 0..20 {
        let session = here.generate().await;
        let mut tabs = Vec::new();
        for node in [here, there, here, there] {
            let mut tab = node.browser(&session).await;
            tab.frame("pending").await;
            tabs.push(tab);
        }
        let mut newest = tabs.pop().unwrap();
        for mut older in tabs {
            older.closed(4409).await;
        }
        assert_eq!(here.phone("ann").confirm(&session).await.status, 200);
        newest.frame("confirmed").await;
        newest.closed(1000).await;
    }
    for node in [here, there] {
        node.until_active(0).await;
    }
    assert_eq!(here.closed("replaced").await + there.closed("replaced").await, 60);
    assert_eq!(here.closed("decided").await + there.closed("decided").await, 20);
}

#[test(needs(Postgres))]
async fn newer_connection_at_another_node_supersedes_by_the_postgres_bus() {
    newer_connection_supersedes_the_older_ones(None).await;
}

#[test(needs(Postgres, Redis))]
async fn newer_connection_at_another_node_supersedes_by_the_redis_bus() {
    newer_connection_supersedes_the_older_ones(Some(&Redis::start())).await;
}

#[test(needs(Postgres))]
async fn one_of_concurrent_connections_at_several_nodes_remains() {
    let (_postgres, nodes) = nodes(3, None).await;
    for _ in 0..10 {
        let session = nodes[0].generate().await;
        let tabs = join_all((0..12).map(|index| nodes[index % 3].browser(&session))).await;
        nodes[1].until_active_in_all(&nodes, 1).await;
        assert_eq!(nodes[0].phone("ann").confirm(&session).await.status, 200);
        let seen = join_all(tabs.into_iter().map(Browser::rest)).await;
        assert_eq!(seen.iter().filter(|seen| token_in(seen).is_some()).count(), 1);
        nodes[1].until_active_in_all(&nodes, 0).await;
    }
}

async fn logins_complete_on_an_unreliable_bus(redis: Option<&Redis>) {
    let unreliable = async |url: &str, bus_url: Option<&str>, keys| {
        Server::node(url, bus_url, keys, |bus| Arc::new(UnreliableBus::new(bus))).await
    };
    let (_postgres, nodes) = nodes_of(3, redis, unreliable).await;
    let any = || &nodes[random::below(3) as usize];
    let longest = join_all((0..120).map(|index| async move {
        let session = any().generate().await;
        let mut older = any().browser(&session).await;
        older.frame("pending").await;
        let mut browser = any().browser(&session).await;
        browser.frame("pending").await;
        let user = format!("user {index}");
        let phone = any().phone(&user);
        assert_eq!(phone.scan(&session).await.status, 200);
        assert_eq!(browser.frame("scanned").await["user"]["name"], format!("Name of {user}"));
        assert_eq!(any().phone(&user).confirm(&session).await.status, 200);
        let confirmed = now();
        let seen = browser.rest().await;
        let delay = confirmed.elapsed();
        let frames = seen.iter().filter(|seen| matches!(seen, Seen::Frame(_))).count();
        assert_eq!((frames, token_in(&seen).is_some()), (1, true), "{seen:?}");
        older.closed(4409).await;
        delay
    }))
    .await
    .into_iter()
    .max();
    println!("the longest from the phone's 200 to the browser's end: {longest:?}");
    nodes[0].until_active_in_all(&nodes, 0).await;
    until("the store has no undelivered change", async || {
        for node in &nodes {
            if node.store.undelivered_count().await > 0 {
                return false;
            }
        }
        true
    })
    .await;
}

#[test(needs(Postgres))]
async fn unreliable_postgres_bus_loses_no_login() {
    logins_complete_on_an_unreliable_bus(None).await;
}

#[test(needs(Postgres, Redis))]
async fn unreliable_redis_bus_loses_no_login() {
    logins_complete_on_an_unreliable_bus(Some(&Redis::start())).await;
}

#[test(needs(Postgres))]
async fn waiting_connections_cause_no_query_for_their_sessions() {
    let (_postgres, nodes) = nodes(3, None).await;
    let mut browsers = Vec::new();
    for node in nodes.iter().cycle().take(150) {
        let session = nodes[0].generate().await;
        let mut browser = node.browser(&session).await;
        browser.frame("pending").await;
        browsers.push(browser);
    }
    let reads = || nodes.iter().map(|node| node.store.reads.load(Ordering::SeqCst)).sum::<usize>();
    let (before, looks) =
        (reads(), || nodes.iter().map(|node| node.store.undelivered_reads.load(Ordering::SeqCst)).min().unwrap());
    let looked = looks();
    until("each node has looked twice", async || {
        sleep_millis(50).await;
        looks() >= looked + 2
    })
    .await;
    assert_eq!(reads(), before);
    for node in &nodes {
        assert_eq!(node.active().await, 50);
    }
}

#[test(needs(Postgres, Faketime))]
async fn sessions_expire_on_time_at_nodes_whose_clocks_disagree() {
    let library = faketime();
    let fleet = Fleet::start(0, false).await;
    for offset in ["+0s", "+3s", "-3s"] {
        fleet.add(&[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME", offset),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("QRLOGIN_SESSION__TTL_SECONDS", "4"),
        ]);
    }
    let ws = |node: usize, session: &serde_json::Value| {
        let url = format!("{}{}", fleet.base_of(node).replace("http", "ws"), session["ws_path"].as_str().unwrap());
        async move { Browser::send(tungstenite_request(&url)).await.unwrap() }
    };
    let cases: Vec<(usize, usize)> = (0..3).flat_map(|asked| (0..3).map(move |waits| (asked, waits))).collect();
    join_all(cases.into_iter().map(|(asked, waits)| {
        let (fleet, ws) = (&fleet, &ws);
        async move {
            let begun = now();
            let session = fleet.generate_at(asked).await;
            let mut older = ws(asked, &session).await;
            let expires_in = older.frame("pending").await["expires_in"].as_u64().unwrap();
            assert!((3..=4).contains(&expires_in), "{expires_in}");
            let mut browser = ws(waits, &session).await;
            browser.frame("pending").await;
            older.closed(4409).await;
            browser.frame("expired").await;
            let lasted = begun.elapsed().as_secs_f64();
            assert!(lasted > 3.9, "asked at {asked}, waited at {waits}: {lasted} s");
            browser.closed(1000).await;
        }
    }))
    .await;
    fleet.until_empty().await;
}

fn tungstenite_request(url: &str) -> tokio_tungstenite::tungstenite::http::Request<()> {
    tokio_tungstenite::tungstenite::client::IntoClientRequest::into_client_request(url).unwrap()
}

#[test(needs(Postgres))]
async fn added_signing_key_is_used_by_all_nodes_without_a_restart() {
    let fleet = Arc::new(Fleet::start(2, false).await);
    let kid = |login: &Login| {
        let token = &login.received.as_ref().unwrap().1;
        token.split('.').next().unwrap().to_owned()
    };
    let before = kid(&fleet.clone().login().await);
    fleet.add_key();
    // A new node reads the new key at its start and signs with it. The other nodes must be able to use the key too.
    fleet.add(&[]);
    let mut after = Vec::new();
    until("the new key signs", async || {
        after.push(fleet.clone().login().await);
        after.iter().any(|login| kid(login) != before) && after.len() >= 20
    })
    .await;
    assert_all_delivered(&after, now(), Duration::from_secs(10));
}

#[test(needs(Postgres, Redis), ignore = "takes minutes: run by scripts/many-nodes")]
async fn ten_thousand_logins_on_four_nodes_and_on_one() {
    for (bus, with_redis) in [("Postgres alone", false), ("Redis", true)] {
        for count in [1, 4, 1, 4] {
            let fleet = Arc::new(Fleet::start(count, with_redis).await);
            let logins = logins_during(&fleet, 100, sleep_millis(100_000)).await;
            assert_all_delivered(&logins, now(), Duration::from_secs(10));
            fleet.until_empty().await;
            let mut delays: Vec<_> =
                logins.iter().map(|login| login.received.as_ref().unwrap().0 - login.last_call.unwrap()).collect();
            delays.sort_unstable();
            let of = |share: usize| delays[delays.len() * share / 1000].as_secs_f64() * 1000.0;
            println!(
                "{bus}, nodes {count}: {} logins, from confirm to token p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms",
                delays.len(),
                of(500),
                of(990),
                of(999)
            );
        }
    }
}
