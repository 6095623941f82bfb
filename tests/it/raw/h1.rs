//! HTTP/1.1 as hostile clients write it.

use crate::harness::{Setup, wechat};
use crate::probes::h1;

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_or_sent_on_in_one() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let probes = h1::all();
    assert!(probes.len() >= 133, "{}", probes.len());
    let mut faults = Vec::new();
    for probe in &probes {
        if let Err(fault) = h1::judge(proxy.address, &wechat, probe).await {
            faults.push(format!("{}: {fault}", probe.name));
        }
    }
    println!("{} of {} HTTP/1.1 probes", probes.len() - faults.len(), probes.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
