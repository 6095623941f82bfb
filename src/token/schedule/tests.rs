use proptest::prelude::*;

use super::*;

const S: fn(u64) -> Duration = Duration::from_secs;

fn situation(turn: Turn, lives: Option<u64>) -> (Instant, Situation) {
    let now = Instant::now();
    let good_until = lives.map(|lives| now + S(lives));
    (
        now,
        Situation {
            kind: GrantKind::StableToken,
            now,
            good_until,
            turn,
            failures: 0,
            sames: 0,
            jitter: 0.0,
            place: 0.0,
        },
    )
}

fn waits(situation: &Situation) -> (Duration, Duration) {
    let next = next_try(situation);
    (next.at - situation.now, next.not_before - situation.now)
}

#[test]
fn a_new_token_is_left_alone_until_its_window() {
    for (lives, place, wait) in [
        (7200, 0.0, 6905),
        (7200, 1.0, 6960),
        (7200, 7.5, 6960),
        (1000, 0.0, 705),
        (310, 0.0, 15),
        (310, 1.0, 70),
        (300, 0.0, 15),
        (299, 0.0, 149),
        (60, 1.0, 30),
    ] {
        let (_, mut situation) = situation(Turn::Renewed, Some(lives));
        situation.place = place;
        let (at, not_before) = waits(&situation);
        assert_eq!((at.as_secs(), not_before), (wait, FLOOR), "{lives} {place}");
    }
}

#[test]
fn the_same_token_within_the_window_is_asked_for_every_fifteen_seconds() {
    for lives in [300, 200, 61, 1] {
        assert_eq!(waits(&situation(Turn::Same, Some(lives)).1).0, S(15), "{lives}");
    }
    assert_eq!(waits(&situation(Turn::Same, Some(5000)).1).0, S(4705));
}

#[test]
fn where_every_call_rotates_asks_in_a_row_are_heard_less_and_less() {
    for (sames, not_before) in [(0, 2), (1, 2), (2, 4), (3, 8), (6, 64), (7, 120), (1000, 120)] {
        let (_, mut situation) = situation(Turn::Renewed, Some(7200));
        (situation.kind, situation.sames) = (GrantKind::Token, sames);
        assert_eq!(waits(&situation), (S(6905), S(not_before)), "{sames}");
        // Even a token that is nearly at its end is no reason to hurry.
        situation.good_until = Some(situation.now + S(60));
        assert!(waits(&situation).0 >= S(not_before), "{sames}");
    }
    let (_, mut situation) = situation(Turn::Same, Some(200));
    situation.kind = GrantKind::Token;
    assert_eq!(waits(&situation).0, S(60), "no looking every few seconds");
}

#[test]
fn wecom_is_looked_at_once_in_the_window_and_then_at_the_end() {
    let (_, mut situation) = situation(Turn::Same, Some(250));
    situation.kind = GrantKind::Wecom;
    assert_eq!(waits(&situation).0, S(251));
    situation.good_until = Some(situation.now + S(5000));
    assert_eq!(waits(&situation).0, S(4705));
    let lives_on = |told, left, granted| lives_on(GrantKind::Wecom, S(told), S(left), S(granted));
    assert_eq!(lives_on(7200, 250, 7200), S(250), "not prolonged before its end");
    assert_eq!(lives_on(7200, 250, 100), S(100));
    assert_eq!(lives_on(250, 0, 7200), S(0), "nor at once after it");
    assert_eq!(lives_on(0, 0, 7200), S(7200), "but when it is said again");
}

#[test]
fn a_loaded_token_waits_for_its_window_and_no_token_for_nothing() {
    assert_eq!(waits(&situation(Turn::Loaded, Some(5000)).1), (S(4705), S(0)));
    assert_eq!(waits(&situation(Turn::Loaded, Some(100)).1), (S(50), S(0)));
    assert_eq!(waits(&situation(Turn::Loaded, None).1), (S(0), S(0)));
}

#[test]
fn fruitless_asks_move_apart_up_to_a_minute() {
    let distances: Vec<_> = (0..9)
        .map(|sames| {
            let (_, situation) = situation(Turn::Same, Some(5000));
            waits(&Situation { sames, ..situation }).1.as_secs()
        })
        .collect();
    assert_eq!(distances, [2, 2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn transient_failures_back_off_further_with_a_live_token_than_with_none() {
    let longest = |lives, failures| {
        let (_, situation) = situation(Turn::Failed(Pace::Backoff), lives);
        waits(&Situation { failures, jitter: 1.0, ..situation }).0.as_secs()
    };
    assert_eq!(
        [1, 2, 3, 4, 5, 6, 99].map(|failures| longest(Some(7000), failures)),
        [2, 2, 4, 8, 16, 30, 30]
    );
    assert_eq!([1, 2, 3, 4, 5, 6, 99].map(|failures| longest(None, failures)), [2, 2, 4, 5, 5, 5, 5]);
    // The token ends in 12 s: not 30, and not before the short cap either.
    assert_eq!(longest(Some(12), 9), 12);
    assert_eq!(longest(Some(1), 9), 5);
}

#[test]
fn a_wait_that_wechat_prescribes_is_never_shortened() {
    for span in [60, 300, 1800, 3600, 86400] {
        for lives in [None, Some(1), Some(7000)] {
            for jitter in [0.0, 0.5, 1.0] {
                let (_, situation) = situation(Turn::Failed(Pace::After(S(span))), lives);
                let (at, not_before) = waits(&Situation { jitter, ..situation });
                assert!(at >= S(span) && at <= S(span).mul_f64(1.06) && at == not_before, "{span} {jitter}");
            }
        }
    }
}

proptest! {
    #[test]
    fn whatever_happened_the_floor_holds_and_asks_only_hasten(
        lives in proptest::option::of(0_u64..8000), kind in 0..4, span in 0_u64..100_000,
        failures in any::<u32>(), sames in any::<u32>(), jitter in any::<f64>(), place in any::<f64>(),
    ) {
        prop_assume!(!jitter.is_nan() && !place.is_nan());
        let turn = match kind {
            0 => Turn::Renewed,
            1 => Turn::Same,
            2 => Turn::Failed(Pace::Backoff),
            _ => Turn::Failed(Pace::After(S(span))),
        };
        let (now, base) = situation(turn, lives);
        let next = next_try(&Situation { failures, sames, jitter, place, ..base });
        prop_assert!(next.not_before >= now + FLOOR);
        // An ask may have to wait longer than the schedule does: then the schedule wins.
        prop_assert!(next.at >= now + FLOOR);
        // With a live token that can be renewed, the next try comes before its end or soon after.
        if let (Some(lives), Turn::Renewed | Turn::Same | Turn::Failed(Pace::Backoff)) = (lives, turn) {
            prop_assert!(next.at <= now + S(lives.max(15)));
        }
    }
}
