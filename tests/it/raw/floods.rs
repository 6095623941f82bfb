//! HTTP/2 clients that make work: each is turned away, and others are served meanwhile.

use weigate::sandbox::When;

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, Raw, SETTINGS, block, fields,
    frame, get, parse, reset,
};
use super::{Then, is_well, try_talk};
use crate::harness::{Setup, wechat};

const ENHANCE_YOUR_CALM: u32 = 0xb;
/// Another than the others' requests go to.
const HELD: &str = "/cgi-bin/menu/get";

#[tokio::test]
async fn a_flood_ends_its_connection_and_nothing_else() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let open = frame(HEADERS, END_HEADERS, 1, &block(&fields("POST", "/cgi-bin/user/info")));
    let begun = frame(HEADERS, 0, 1, &block(&fields("GET", "/cgi-bin/user/info")));
    // 1: a name and value of 4 KB go into the table; 2: they are named a few thousand times, a byte each.
    let mut bomb = vec![0x40, 1, b'x', 127, 0x81, 0x1f];
    bomb.extend([b'a'; 4096]);
    bomb.resize(bomb.len() + 12_000, 0xbe);
    let many = |frame: Vec<u8>, times: usize| frame.repeat(times);
    let burst: Vec<u8> = (0..2000).flat_map(|n| [get(n * 2 + 1, HELD), reset(n * 2 + 1)].concat()).collect();
    let no_reset: Vec<u8> =
        (0..2000).flat_map(|n| [get(n * 2 + 1, HELD), frame(8, 0, n * 2 + 1, &[0; 4])].concat()).collect();
    let floods: [(&str, Vec<u8>); 16] = [
        ("PING", many(frame(PING, 0, 0, b"flooding"), 100_000)),
        ("PING's answer", many(frame(PING, ACK, 0, b"flooding"), 100_000)),
        ("SETTINGS", many(frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]), 100_000)),
        ("empty SETTINGS", many(frame(SETTINGS, 0, 0, &[]), 100_000)),
        ("PRIORITY", many(frame(2, 0, 3, &[0, 0, 0, 0, 9]), 100_000)),
        ("empty DATA", [open.clone(), many(frame(DATA, 0, 1, b""), 100_000)].concat()),
        ("unknown frames", many(frame(99, 0, 0, b""), 100_000)),
        ("window updates", many(frame(8, 0, 0, &[0, 0, 0, 1]), 100_000)),
        ("window updates of a stream", [open, many(frame(8, 0, 1, &[0, 0, 0, 1]), 100_000)].concat()),
        ("resets of a stream", [get(1, HELD), many(reset(1), 100_000)].concat()),
        ("empty CONTINUATION", [begun.clone(), many(frame(CONTINUATION, 0, 1, b""), 100_000)].concat()),
        (
            "CONTINUATION",
            [begun, many(frame(CONTINUATION, 0, 1, &block(&[("x", [b'a'; 1000])])), 20_000)].concat(),
        ),
        (
            "HPACK bomb",
            (0..2000).flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &bomb)).collect(),
        ),
        ("burst of resets", burst),
        ("resets that we are made to send", no_reset),
        (
            "broken streams",
            (0..5000)
                .flat_map(|n| frame(HEADERS, END_HEADERS | END_STREAM, n * 2 + 1, &block(&[("X", "1")])))
                .collect(),
        ),
    ];
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
