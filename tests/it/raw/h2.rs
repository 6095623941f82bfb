//! HTTP/2 as hostile clients write it.

use crate::harness::{Setup, wechat};
use crate::probes::h2;

#[tokio::test]
async fn what_http_1_cannot_say_is_refused_or_harmless() {
    let wechat = wechat().await;
    let proxy = Setup::new().start(&wechat).await;
    let probes = h2::all();
    assert!(probes.len() >= 35, "{}", probes.len());
    let mut faults = Vec::new();
    for probe in &probes {
        if let Err(fault) = h2::judge(proxy.address, &wechat, probe).await {
            faults.push(format!("{}: {fault}", probe.name));
        }
    }
    println!("{} of {} HTTP/2 probes", probes.len() - faults.len(), probes.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
