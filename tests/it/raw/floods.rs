//! HTTP/2 clients that make work: each is turned away, and others are served meanwhile.

use weigate::sandbox::When;

use super::frames::{Frame, PREFACE, Raw, SETTINGS, first_of, frame, get, reset};
use super::{Then, is_well, try_talk};
use crate::harness::{Setup, wechat};
use crate::probes::floods::{self, HELD};

const ENHANCE_YOUR_CALM: u32 = 0xb;

#[tokio::test]
async fn a_flood_ends_its_connection_and_nothing_else() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let floods = floods::all();
    wechat.control().hold(HELD, When::BeforeJudging);
    let mut faults = Vec::new();
    let mut told = 0;
    for (name, flood) in &floods {
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[]), flood].concat();
        let (heard, is_well) =
            tokio::join!(try_talk(proxy.address, &bytes, Then::Wait), is_well(proxy.address));
        let Some(heard) = heard else {
            faults.push(format!("{name}: the connection stays open"));
            continue;
        };
        told += usize::from(parse(&heard).iter().any(|frame| frame.goaway() == Some(ENHANCE_YOUR_CALM)));
        if !is_well {
            faults.push(format!("{name}: others were not served"));
        }
    }
    println!("{} of {} floods, {told} of them told why", floods.len() - faults.len(), floods.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(is_well(proxy.address).await);
}

/// "Rapid reset" at a pace that h2 does not notice (reliability.md §0.4): each request is on its way to WeChat before
/// it is reset, and costs the connection it went on.
#[tokio::test]
async fn paced_resets_cost_a_few_connections_and_then_the_client_its_own() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    wechat.control().hold(HELD, When::BeforeJudging);
    let before = proxy.metric("weigate_upstream_connections_total").await;
    let mut raw = Raw::open(proxy.address, &[]).await;
    let mut rounds = 0;
    while rounds < 1000 {
        let stream = rounds * 2 + 1;
        if !raw.send(&get(stream, HELD)).await || !raw.ping().await || !raw.send(&reset(stream)).await {
            break;
        }
        rounds += 1;
    }
    let opened = proxy.metric("weigate_upstream_connections_total").await - before;
    println!("{rounds} paced resets, {opened} connections to WeChat");
    assert!(rounds < 500 && opened <= 20, "{rounds} resets, {opened} connections");
    assert!(is_well(proxy.address).await);
}

#[tokio::test]
async fn a_client_that_resets_now_and_then_is_no_flood() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    wechat.control().hold(HELD, When::BeforeJudging);
    let mut raw = Raw::open(proxy.address, &[]).await;
    for round in 0..60 {
        let (held, good) = (round * 4 + 1, round * 4 + 3);
        raw.send(&[get(held, HELD), get(good, "/cgi-bin/user/info?openid=x")].concat()).await;
        let frames = raw.until(|frame| frame.ends(good)).await;
        assert!(frames.last().is_some_and(|frame| frame.ends(good)), "{round}: {frames:?}");
        assert!(frames.iter().all(|frame| frame.goaway().is_none()), "{round}: {frames:?}");
        raw.send(&reset(held)).await;
    }
}

/// The frames in `bytes`.
fn parse(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some((frame, length)) = first_of(bytes) {
        frames.push(frame);
        bytes = &bytes[length..];
    }
    frames
}
