//! Each fault of the token endpoint has its reaction and its budget of calls.

use tokio::time::{Instant, sleep};
use weigate::token::store::MemoryStore;
use weigate::token::{TokenHandle, TokenStore, start};
use weigate::types::{AccountName, AppId};

use super::model::{Fault, Model, Wall, life, secs, within};

/// A keeper with its first token, and the model behind it.
async fn settled(seed: u64) -> (Model, Wall, TokenHandle, weigate::token::KeeperTask) {
    let (model, wall) = (Model::new(), Wall::new());
    let (handle, task) = start(life("shop", seed, &wall), model.clone(), MemoryStore::default());
    handle.wait(within(5)).await.unwrap();
    (model, wall, handle, task)
}

fn serves(handle: &TokenHandle) -> bool {
    handle.current(Instant::now()).is_some()
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_240_s_at_the_refresh_fails_no_request() {
    for seed in 0..50 {
        let (model, _wall, handle, task) = settled(seed).await;
        sleep(secs(6900)).await;
        model.set(Fault::Down);
        let outage = Instant::now();
        for _ in 0..240 {
            sleep(secs(1)).await;
            assert!(serves(&handle), "seed {seed}");
        }
        assert!(model.calls_since(outage) <= 40, "seed {seed}: {} calls", model.calls_since(outage));
        model.set(Fault::None);
        sleep(secs(35)).await;
        assert_eq!(handle.status().generation.0, 2, "seed {seed}: not refreshed 35 s after the heal");
        task.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn with_no_token_at_hand_a_heal_is_noticed_within_seconds() {
    for seed in 0..50 {
        let (model, wall) = (Model::new(), Wall::new());
        model.set(Fault::Down);
        let (handle, task) = start(life("shop", seed, &wall), model.clone(), MemoryStore::default());
        sleep(secs(3600)).await;
        model.set(Fault::None);
        sleep(secs(6)).await;
        assert!(serves(&handle), "seed {seed}");
        task.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_a_person_can_cure_is_asked_for_every_five_minutes() {
    for code in [
        40001, 40125, 40013, 40002, 41002, 41004, 43002, 61024, 40243, 50004, 50007, 40164, 89501, 89503,
        89505,
    ] {
        let (model, wall) = (Model::new(), Wall::new());
        let healthy = Model::new();
        model.rejects(code);
        let (sick, sick_task) = start(life("sick", 7, &wall), model.clone(), MemoryStore::default());
        let (sound, sound_task) = start(life("well", 8, &wall), healthy, MemoryStore::default());
        sleep(secs(3)).await;

        // Callers and time change nothing about the distance, and are answered at once.
        let hour = Instant::now();
        while hour.elapsed() < secs(3600) {
            let before = Instant::now();
            let refused = sick.wait(within(30)).await.unwrap_err();
            assert!(before.elapsed() < secs(1));
            assert!(refused.retry_after >= secs(1) && refused.retry_after <= secs(320), "{refused:?}");
            assert!(serves(&sound), "one sick account touches no other");
            sleep(secs(20)).await;
        }
        assert!((11..=13).contains(&model.calls()), "{code}: {} calls", model.calls());

        let last = sick.status().last.unwrap();
        assert!(last.advice.as_ref().is_some_and(|advice| advice.len() > 20), "{code}");
        assert_eq!(last.ip.map(|ip| ip.to_string()).as_deref(), Some("203.0.113.7"));
        if code == 40164 {
            assert!(last.advice.unwrap().contains("203.0.113.7"));
        }
        model.set(Fault::None);
        sleep(secs(320)).await;
        assert!(serves(&sick), "{code}: cured");
        sick_task.stop().await;
        sound_task.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_daily_quota_costs_at_most_two_calls_in_the_hour_after_it() {
    let (model, _wall, handle, task) = settled(7).await;
    model.rejects(45009);
    sleep(secs(6970)).await;
    let first = model.state().calls.last().copied().unwrap();
    sleep((first + secs(3600)).saturating_duration_since(Instant::now())).await;
    let after = model.calls_since(first) - 1;
    assert!((1..=2).contains(&after), "{after} calls");
    assert_eq!(handle.status().last.unwrap().word, "daily_quota");
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_minute_quota_waits_a_minute() {
    let (model, wall) = (Model::new(), Wall::new());
    model.rejects(45011);
    let (_handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
    sleep(secs(3600)).await;
    let calls = model.state().calls.clone();
    assert!(calls.len() > 50);
    assert!(calls.windows(2).all(|pair| pair[1] - pair[0] >= secs(60)));
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_blocked_address_is_left_alone_as_long_as_the_block_lasts() {
    for (code, hours) in [(89507, 1), (89506, 24)] {
        let (model, wall) = (Model::new(), Wall::new());
        model.rejects(code);
        let (_handle, task) = start(life("shop", 7, &wall), model.clone(), MemoryStore::default());
        sleep(secs(hours * 3600 - 10)).await;
        assert_eq!(model.calls(), 1, "{code}");
        sleep(secs(hours * 3600 / 10 + 20)).await;
        assert_eq!(model.calls(), 2, "{code}");
        task.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn forty_malformed_replies_are_never_stored_and_the_old_token_stays() {
    let (model, wall) = (Model::new(), Wall::new());
    let store = MemoryStore::default();
    let (handle, task) = start(life("shop", 7, &wall), model.clone(), store.clone());
    handle.wait(within(5)).await.unwrap();
    let mut malformed = Vec::new();
    for token in ["", "a b", "a\\r\\nHost: x", "a\\u0000", "a&b=c", "a%20", "密", "a/b", "a=", "a+b"] {
        malformed.push(format!(r#"{{"access_token":"{token}","expires_in":7200}}"#));
    }
    for lives in [
        "0",
        "-1",
        "1",
        "59",
        "7201",
        "1e18",
        "1000000000000000000",
        "7200.5",
        "\"7200\"",
        "null",
        "[]",
        "true",
    ] {
        malformed.push(format!(r#"{{"access_token":"91_bad","expires_in":{lives}}}"#));
    }
    for other in [
        "",
        " ",
        "\n",
        "<html>",
        "<!DOCTYPE html><p>91_bad",
        "OK",
        "null",
        "0",
        "[]",
        "{}",
        "{",
        "\u{feff}{}",
        "\"91_bad\"",
        r#"{"access_token":"91_bad"}"#,
        r#"{"access_token":"91_bad","expires_in":72"#,
        r#"{"errcode":"40001"}"#,
        r#"{"errcode":0,"errmsg":"ok"}"#,
        r#"{"expires_in":7200}"#,
        r#"{"access_token":["91_bad"],"expires_in":7200}"#,
    ] {
        malformed.push(other.to_owned());
    }
    malformed.push(format!(r#"{{"access_token":"{}","expires_in":7200}}"#, "a".repeat(1025)));
    malformed
        .push(format!(r#"{{"access_token":"91_bad","expires_in":7200,"x":"{}"}}"#, "x".repeat(10 << 20)));
    assert!(malformed.len() >= 40, "{}", malformed.len());

    // From the window on, past the end of the old token, every reply is one of these.
    sleep(secs(6900)).await;
    for reply in malformed {
        model.set(Fault::Says(reply.clone()));
        let calls = model.calls();
        while model.calls() == calls {
            sleep(secs(1)).await;
        }
        sleep(secs(1)).await;
        let status = handle.status();
        assert_eq!((status.generation.0, status.last.unwrap().word), (1, "malformed"), "{reply:.80}");
        let (shop, app_id) = (AccountName::parse("shop").unwrap(), AppId::parse("wx-shop").unwrap());
        let stored = store.load(&shop, &app_id).await.unwrap().unwrap();
        assert_eq!(stored.access_token.expose(), "1_token");
    }
    model.set(Fault::None);
    sleep(secs(35)).await;
    assert!(handle.status().generation.0 == 2 && serves(&handle));
    task.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_takes_ten_seconds_and_no_request() {
    let (model, _wall, handle, task) = settled(7).await;
    sleep(secs(6900)).await;
    model.set(Fault::Hangs);
    for _ in 0..250 {
        sleep(secs(1)).await;
        let before = Instant::now();
        assert!(serves(&handle) && before.elapsed().is_zero());
    }
    assert_eq!(handle.status().last.unwrap().word, "timed_out");
    model.set(Fault::None);
    sleep(secs(45)).await;
    assert_eq!(handle.status().generation.0, 2);
    task.stop().await;
}
