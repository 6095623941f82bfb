//! What systemd is told (`Type=notify`, `Type=notify-reload`, `WatchdogSec=`); without systemd, nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The start is over, or a reload.
pub(super) fn is_ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload has begun; [`is_ready`] ends it.
pub(super) fn reloads() {
    // Of `Type=notify-reload` the time is part (man 5 systemd.service).
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(_) => tell(&[NotifyState::Reloading]),
    }
}

/// A stop has begun.
pub(super) fn stops() {
    tell(&[NotifyState::Stopping]);
}

/// Does `work`, and tells systemd's watchdog meanwhile that the one who does it still turns.
pub(super) async fn watched<T>(work: impl Future<Output = T>) -> T {
    let mut limit_us = 0;
    let every = sd_notify::watchdog_enabled(false, &mut limit_us)
        .then(|| Duration::from_micros(limit_us / 3))
        .filter(|every| !every.is_zero());
    let Some(every) = every else { return work.await };
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(every);
    loop {
        tokio::select! {
            done = work.as_mut() => return done,
            _ = ticks.tick() => tell(&[NotifyState::Watchdog]),
        }
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::debug!(cause = %error, "systemd could not be told");
    }
}
