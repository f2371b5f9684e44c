//! Tests of clocks whose hands are moved, and of shared clocks.

use super::*;

#[test]
fn session_time_never_goes_back_with_concurrent_readers() {
    let (clock, hands) = Clock::manual(Timestamp::from_millis(0));
    hands.step_wall_millis(-3_600_000);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = clock.now();
                for _ in 0..50_000 {
                    let now = clock.now();
                    assert!(now >= last);
                    last = now;
                }
            });
        }
        scope.spawn(|| (0..5_000).for_each(|_| hands.advance_millis(50)));
    });
    // The clocks have advanced by 250 s, and session time was slewed back by 5 ms a second.
    let now_millis = clock.now().as_millis();
    assert!((248_749..=248_751).contains(&now_millis), "{now_millis}");
}

#[test]
fn dates_follow_a_step_of_the_wall_clock_at_once() {
    let (clock, hands) = Clock::manual(Timestamp::from_millis(1_000_000_000));
    let expires_at = clock.now().plus_seconds(300);
    assert_eq!(clock.date_of(expires_at), expires_at);
    hands.step_wall_millis(999);
    assert_eq!(clock.date_of(expires_at), expires_at);
    hands.step_wall_millis(-600_999);
    assert_eq!(clock.wall(), Timestamp::from_millis(999_400_000));
    assert_eq!(clock.now(), Timestamp::from_millis(1_000_000_000));
    assert_eq!(clock.date_of(expires_at), clock.wall().plus_seconds(300));
    hands.advance_seconds(100);
    assert_eq!(clock.steady(), Duration::from_secs(100));
    assert_eq!(clock.now(), Timestamp::from_millis(1_000_099_500));
    assert_eq!(clock.wall(), Timestamp::from_millis(999_500_000));
}

#[test]
fn shared_clock_follows_the_store() {
    let clock = Clock::shared();
    let (hour_ahead, at_once) = (clock.now().plus_seconds(3600), Duration::ZERO);
    clock.follow(hour_ahead, at_once);
    assert!(clock.now().millis_since(hour_ahead) < 1000);
    assert!(clock.wall().millis_since(hour_ahead) < 1000);
    let behind = hour_ahead.plus_millis(-5000);
    clock.follow(behind, at_once);
    assert!(clock.now().millis_since(behind) < 1000);
}

#[test]
fn slow_answer_moves_a_shared_clock_only_as_far_as_it_proves_it_wrong() {
    let clock = Clock::shared();
    let start = clock.now().plus_seconds(60);
    clock.follow(start, Duration::ZERO);
    clock.follow(start.plus_millis(-10_000), Duration::from_secs(20));
    assert!(clock.now().millis_since(start) < 1000);
    clock.follow(start.plus_millis(-10_000), Duration::from_secs(7));
    let moved = clock.now();
    assert!(moved < start && moved.millis_since(start.plus_millis(-3000)) < 1000);
}

#[tokio::test]
async fn shared_clock_notifies_of_a_step_and_not_of_the_first_reading() {
    let clock = Clock::shared();
    let is_stepped = async || tokio::select! { biased; () = clock.stepped() => true, () = async {} => false };
    let steps = async |millis: i64| {
        clock.follow(clock.now().plus_millis(millis), Duration::ZERO);
        is_stepped().await
    };
    assert!(!steps(600_000).await, "the first reading");
    assert!(!steps(500).await);
    assert!(!steps(-500).await);
    assert!(steps(-600_000).await);
    assert!(!is_stepped().await);
    assert!(steps(2000).await);
}
