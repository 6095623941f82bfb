use super::*;

#[test]
fn trust_grows_to_half_of_what_was_seen_and_falls_below_half_of_a_close() {
    let trust = Trust::new();
    assert_eq!(trust.span(), Duration::ZERO);
    trust.seen_alive(Duration::from_millis(499));
    assert_eq!(trust.span(), Duration::ZERO);
    trust.seen_alive(Duration::from_secs(30));
    trust.seen_alive(Duration::from_secs(1));
    assert_eq!(trust.span(), Duration::from_secs(15));
    trust.seen_closed(Duration::from_secs(10));
    assert_eq!(trust.span(), Duration::from_secs(5));
    trust.seen_closed(Duration::from_mins(1));
    assert_eq!(trust.span(), Duration::from_secs(5));
    trust.seen_closed(Duration::from_micros(100));
    assert_eq!(trust.span(), Duration::from_micros(50));
    trust.seen_alive(Duration::from_secs(4));
    assert_eq!(trust.span(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_request_lost_within_the_trusted_time_ends_trust_for_half_a_minute() {
    let trust = Trust::new();
    trust.seen_alive(Duration::from_secs(10));
    // Beyond what was trusted, it only says where the limit is.
    trust.lost_after(Duration::from_secs(8));
    assert_eq!(trust.span(), Duration::from_secs(4));
    trust.lost_after(Duration::from_millis(3));
    assert_eq!(trust.span(), Duration::ZERO);
    trust.seen_alive(Duration::from_secs(10));
    assert!(!trust.would_learn(Duration::from_secs(10)));
    assert_eq!(trust.span(), Duration::ZERO);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(trust.would_learn(Duration::from_secs(2)));
    trust.seen_alive(Duration::from_secs(2));
    assert_eq!(trust.span(), Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_down_is_tried_once_after_each_pause_and_pauses_double_to_30_s() {
    let health = Health::default();
    assert!(health.may_try(Instant::now()));
    for _together in 0..10 {
        health.failed(Instant::now(), ConnectError::Refused);
    }
    for pause in [1, 2, 4, 8, 16, 30, 30] {
        tokio::time::advance(Duration::from_millis(pause * 1000 - 1)).await;
        assert!(!health.may_try(Instant::now()), "just before {pause} s");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(health.may_try(Instant::now()), "after {pause} s");
        assert!(!health.may_try(Instant::now()), "a second request at the same time");
        health.failed(Instant::now(), ConnectError::Timeout);
    }
    assert_eq!(health.cause(), Some(ConnectError::Timeout));
    health.reached();
    assert!(health.may_try(Instant::now()));
}
