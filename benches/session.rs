//! Transitions of a session, and the check of a code.

use std::hint::black_box;

use criterion::Criterion;
use qrlogin::session::{
    Client, Code, CodeSecret, Decision, Grant, PhoneUser, Presented, Rotation, Session, SessionId, SessionKey, State,
    Timestamp,
};
use serde_json::Map;

/// A code of a session whose codes do not rotate.
pub const CODE: Presented = Presented { period: 0, rotation: Rotation::NONE };

/// Returns the user that scans and confirms.
pub fn user() -> PhoneUser {
    PhoneUser { id: "ann".to_owned(), name: Some("Ann".to_owned()), picture: None }
}

/// Returns a pending session that was created at this time.
pub fn pending(key: SessionKey, created_at: Timestamp) -> Session {
    Session {
        key,
        code: key.code_key(),
        version: 1,
        created_at,
        expires_at: created_at.plus_seconds(300),
        client: Client {
            ip: "192.0.2.7".to_owned(),
            browser: Some("Firefox 143".to_owned()),
            os: Some("Linux".to_owned()),
            origin: Some("https://site.example".to_owned()),
            client_info: None,
        },
        request: None,
        scanned_at: None,
        state: State::Pending,
    }
}

/// Returns a confirmation at this time.
pub fn confirmation(now: Timestamp) -> Decision {
    let grant = Grant {
        kid: "key-1".to_owned(),
        jti: "token-1".to_owned(),
        iss: "https://login.example".to_owned(),
        sub: "ann".to_owned(),
        aud: "https://site.example".to_owned(),
        iat: now.as_seconds(),
        exp: now.plus_seconds(3600).as_seconds(),
        claims: Map::new(),
    };
    Decision::Confirm { grant, claimable_until: now.plus_seconds(60), number_matches: None }
}

pub fn benchmarks(criterion: &mut Criterion) {
    let now = Timestamp::from_millis(1_700_000_000_000);
    let key = SessionId::from_random([7; 32]).key();
    let (session, user) = (pending(key, now), user());
    let mut group = criterion.benchmark_group("session");
    group.bench_function("scan", |bencher| {
        bencher.iter(|| black_box(&session).scan(&user, CODE, now));
    });
    group.bench_function("confirm", |bencher| {
        bencher.iter(|| black_box(&session).decide(&user, CODE, confirmation(now), now));
    });
    let secret = CodeSecret::new([1; 32]);
    let url = format!("https://login.example/q/{}", secret.code(&key, 0));
    group.bench_function("check_code", |bencher| {
        bencher.iter(|| secret.period_of(&Code::from_scan(black_box(&url)).expect("a code")));
    });
    group.finish();
}
