//! The location of the browser, and the risk policy for phones in other locations.

use std::path::{Path, PathBuf};

use maxminddb_writer::Database;
use maxminddb_writer::metadata::IpVersion;
use maxminddb_writer::paths::IpAddrWithMask;
use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use qrlogin_testing::harness::{Answer, RiskPolicy, RiskSignal, Server, Settings};
use qrlogin_testing::real_time::until;
use qrlogin_testing::test;

/// An address in Berlin. [`BERLIN_ELSEWHERE`] is in the same place and another network, [`JAPAN`] in the same network
/// and another country, and [`NOWHERE`] in no database.
const BERLIN: &str = "192.0.2.1";
const BERLIN_ELSEWHERE: &str = "192.0.2.200";
const JAPAN: &str = "198.51.100.1";
const NOWHERE: &str = "203.0.113.1";

#[derive(Serialize)]
struct Network {
    autonomous_system_number: u32,
    autonomous_system_organization: &'static str,
}

fn write<T: Serialize>(path: &Path, kind: &str, entries: &[(&str, T)]) {
    let mut database = Database::default();
    database.metadata.ip_version = IpVersion::V4;
    database.metadata.binary_format_major_version = 2;
    database.metadata.database_type = kind.to_owned();
    for (network, value) in entries {
        let value = database.insert_value(value).unwrap();
        database.insert_node(network.parse::<IpAddrWithMask>().unwrap(), value);
    }
    database.write_to(std::fs::File::create(path).unwrap()).unwrap();
}

fn databases() -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (city, asn) = (dir.path().join("city.mmdb"), dir.path().join("asn.mmdb"));
    let berlin = json!({
        "city": { "names": { "en": "Berlin", "de": "Berlin" } },
        "subdivisions": [{ "iso_code": "BE", "names": { "en": "State of Berlin" } }],
        "country": { "iso_code": "DE", "names": { "en": "Germany" } },
    });
    let japan = json!({ "registered_country": { "iso_code": "JP", "names": { "en": "Japan" } } });
    write(&city, "GeoLite2-City", &[("192.0.2.0/24", berlin), ("198.51.100.0/24", japan)]);
    let network = |autonomous_system_number, autonomous_system_organization| Network {
        autonomous_system_number,
        autonomous_system_organization,
    };
    let networks = [
        ("192.0.2.0/25", network(64_500, "Example Net")),
        ("192.0.2.128/25", network(64_501, "Mobile Example")),
        ("198.51.100.0/24", network(64_500, "Example Net")),
    ];
    write(&asn, "GeoLite2-ASN", &networks);
    (dir, city, asn)
}

/// Writes a city database with one network, whose place has no name.
pub fn write_city_file(path: &Path) {
    write(path, "GeoLite2-City", &[("192.0.2.0/24", json!({}))]);
}

async fn server(city: &PathBuf, asn: &PathBuf, change: impl FnOnce(&mut Settings)) -> Server {
    Server::start_with(|settings| {
        settings.geoip.city_file.clone_from(city);
        settings.geoip.asn_file.clone_from(asn);
        settings.trusted_proxies = vec!["127.0.0.1".to_owned()];
        change(settings);
    })
    .await
}

async fn post_from(server: &Server, address: &str, path: &str, body: Value) -> Answer {
    let request = server.http.post(format!("{}/v1/qr-login/{path}", server.base)).header("x-forwarded-for", address);
    let token = server.app_token(json!({ "sub": "ann" }));
    Answer::of(request.bearer_auth(token).json(&body).send().await.unwrap()).await
}

async fn code_from(server: &Server, address: &str) -> Value {
    json!({ "code": post_from(server, address, "generate", json!({})).await.body["code"] })
}

#[test]
async fn scan_returns_the_location_and_the_network_of_the_browser() {
    let (_dir, city, asn) = databases();
    let server = server(&city, &asn, |_| {}).await;
    let code = code_from(&server, BERLIN).await;
    let scan = post_from(&server, BERLIN, "scan", code).await.body;
    let berlin = json!({ "city": "Berlin", "region": "State of Berlin", "country": "Germany", "country_code": "DE" });
    assert_eq!(scan["client"]["location"], berlin);
    assert_eq!(scan["client"]["network"], json!({ "asn": 64_500, "organization": "Example Net" }));
    assert_eq!(scan["risk"], json!([]));

    let expected = [
        (BERLIN, JAPAN, json!(["country"])),
        (BERLIN, BERLIN_ELSEWHERE, json!(["network"])),
        (BERLIN_ELSEWHERE, JAPAN, json!(["country", "network"])),
        (BERLIN, NOWHERE, json!([])),
        (NOWHERE, JAPAN, json!([])),
    ];
    for (browser, phone, risk) in expected {
        let code = code_from(&server, browser).await;
        let scan = post_from(&server, phone, "scan", code.clone()).await;
        assert_eq!((scan.status.as_u16(), &scan.body["risk"]), (200, &risk), "{browser} {phone}");
        assert_eq!(post_from(&server, phone, "confirm", code).await.status, 200, "the risk is only reported");
    }
    let code = code_from(&server, NOWHERE).await;
    let scan = post_from(&server, NOWHERE, "scan", code).await.body;
    assert!(scan["client"].get("location").is_none() && scan["client"].get("network").is_none(), "{scan}");
    server.stop().await;
}

#[test]
async fn deny_policy_refuses_scan_and_confirm_from_another_location_but_not_reject() {
    let (_dir, city, asn) = databases();
    let deny = |signals: Vec<RiskSignal>| {
        move |settings: &mut Settings| {
            settings.risk.policy = RiskPolicy::Deny;
            settings.risk.signals = signals;
        }
    };
    let both = server(&city, &asn, deny(vec![RiskSignal::Country, RiskSignal::Network])).await;
    for phone in [JAPAN, BERLIN_ELSEWHERE] {
        let code = code_from(&both, BERLIN).await;
        assert_eq!(post_from(&both, phone, "scan", code.clone()).await.refusal(), "403 risk");
        assert_eq!(post_from(&both, phone, "confirm", code.clone()).await.refusal(), "403 risk");
        assert_eq!(post_from(&both, BERLIN, "scan", code.clone()).await.status, 200, "nothing has changed");
        assert_eq!(post_from(&both, phone, "reject", code).await.status, 200);
    }
    both.stop().await;

    let country = server(&city, &asn, deny(vec![RiskSignal::Country])).await;
    let code = code_from(&country, BERLIN).await;
    assert_eq!(post_from(&country, JAPAN, "scan", code.clone()).await.refusal(), "403 risk");
    assert_eq!(post_from(&country, BERLIN_ELSEWHERE, "scan", code).await.body["risk"], json!([]));
    country.stop().await;
}

#[test]
async fn session_state_takes_precedence_over_risk() {
    let (_dir, city, asn) = databases();
    let server = server(&city, &asn, |settings| settings.risk.policy = RiskPolicy::Deny).await;
    let refusal =
        async |address: &str, path: &str, code: &Value| post_from(&server, address, path, code.clone()).await.refusal();
    // A repeated decision has its earlier answer, also from a phone that has changed networks.
    let confirmed = code_from(&server, BERLIN).await;
    assert_eq!(refusal(BERLIN, "confirm", &confirmed).await, "200");
    for phone in [BERLIN_ELSEWHERE, JAPAN, BERLIN] {
        assert_eq!(refusal(phone, "confirm", &confirmed).await, "200", "{phone}");
        assert_eq!(refusal(phone, "reject", &confirmed).await, "409 already_decided", "{phone}");
    }
    let rejected = code_from(&server, BERLIN).await;
    assert_eq!(refusal(JAPAN, "reject", &rejected).await, "200");
    assert_eq!(refusal(JAPAN, "confirm", &rejected).await, "409 already_decided");

    let request = json!({});
    let generated = post_from(&server, BERLIN, "generate", request).await.body;
    let cancelled = json!({ "code": generated["code"] });
    let cancel = json!({ "session_id": generated["session_id"] });
    assert_eq!(post_from(&server, BERLIN, "cancel", cancel).await.status, 200);
    let expired = code_from(&server, BERLIN).await;
    // A scan alone is not a decision, so its session's risk counts until it has been decided.
    let scanned = code_from(&server, BERLIN).await;
    assert_eq!(refusal(BERLIN, "scan", &scanned).await, "200");
    assert_eq!(refusal(JAPAN, "scan", &scanned).await, "200", "a repeated scan has its earlier answer");
    assert_eq!(refusal(JAPAN, "confirm", &scanned).await, "403 risk");
    server.hands.advance_seconds(300);
    for phone in [BERLIN, JAPAN] {
        for path in ["scan", "confirm"] {
            assert_eq!(refusal(phone, path, &cancelled).await, "410 cancelled", "{path} from {phone}");
            assert_eq!(refusal(phone, path, &expired).await, "410 expired", "{path} from {phone}");
            assert_eq!(refusal(phone, path, &scanned).await, "410 expired", "{path} from {phone}");
        }
    }
    server.stop().await;
}

#[test]
async fn scan_without_a_database_has_no_location_and_no_risk() {
    let none = PathBuf::new();
    let server = server(&none, &none, |settings| settings.risk.policy = RiskPolicy::Deny).await;
    let code = code_from(&server, BERLIN).await;
    let scan = server
        .request(Method::POST, "/v1/qr-login/scan", Some(&server.app_token(json!({ "sub": "ann" }))), Some(code))
        .await;
    assert_eq!(scan.status, 200);
    assert!(scan.body.get("risk").is_none() && scan.body["client"].get("location").is_none(), "{}", scan.body);
    server.stop().await;
}

#[test]
async fn replaced_database_is_read_again() {
    let (_dir, city, asn) = databases();
    let server = server(&asn, &PathBuf::new(), |_| {}).await;
    let located = async || {
        let code = code_from(&server, BERLIN).await;
        post_from(&server, BERLIN, "scan", code).await.body["client"]["location"]["city"].clone()
    };
    assert_eq!(located().await, Value::Null, "a database of networks knows no places");
    let fresh = asn.with_extension("fresh");
    std::fs::copy(&city, &fresh).unwrap();
    std::fs::rename(&fresh, &asn).unwrap();
    server.hands.advance_seconds(60);
    until("the new file is read", async || located().await == "Berlin").await;
    std::fs::write(&fresh, "half a file").unwrap();
    std::fs::rename(&fresh, &asn).unwrap();
    server.hands.advance_seconds(60);
    server.metrics().await;
    assert_eq!(located().await, "Berlin", "an unreadable file changes nothing");
    server.stop().await;
}
