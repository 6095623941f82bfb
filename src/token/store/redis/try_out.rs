//! `weigate check --online`: whether a Redis can do what weigate needs, tried once.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, timeout};

use super::connect::connect;
use super::fault::RedisFault;
use super::record::Names;
use super::scripts::Script;
use crate::config::Redis;

/// Connects, runs a script, and hears what it publishes itself; how long an answer took. Several attempts where there
/// are several hosts: one of them may be down.
pub async fn try_redis(settings: &Redis) -> Result<Duration, RedisFault> {
    let mut last = RedisFault::Unreachable;
    for attempt in 0..3 {
        match once(settings, attempt).await {
            Ok(took) => return Ok(took),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

async fn once(settings: &Redis, attempt: usize) -> Result<Duration, RedisFault> {
    let names = Names::new(&settings.prefix);
    // A channel of our own: nobody else is to hear this.
    let channel = format!("{}:check", names.channel());
    let (mut connection, mut news, _) = connect(settings, &channel, attempt).await?;
    let trying = async {
        let key = format!("{}:check", names.marker());
        let mut release = Script::Release.on(&[&key]);
        release.arg(1).arg(&channel).arg("1");
        let mut set = ::redis::cmd("SET");
        set.arg(&key).arg(1).arg("PX").arg(1000);
        connection.run::<()>(&set).await?;
        let begun = Instant::now();
        connection.run::<u8>(&release).await?;
        Ok(begun.elapsed())
    };
    let took: ::redis::RedisResult<Duration> =
        timeout(Duration::from_secs(2), trying).await.map_err(|_| RedisFault::TimedOut)?;
    let took = took.map_err(|error| RedisFault::from(&error))?;
    let heard = timeout(Duration::from_secs(2), news.on_message().next()).await;
    if heard.is_ok_and(|message| message.is_some()) { Ok(took) } else { Err(RedisFault::Forbidden) }
}
