//! Puts together what the admin listener shows of the request's way and of this process.

use std::sync::Arc;

use super::reload::Standing;
use crate::admin;
use crate::proxy::upstream;
use crate::proxy::worker::Running;
use crate::telemetry::metrics::{self, Exposition, WorkerCounts};
use crate::token::publish;
use crate::token::store::Figures;

/// The metrics of all workers: what they count of requests, and of connections to WeChat; how
/// the last reload ended, and what a shared store does.
pub(super) fn write_metrics(
    counts: Vec<Arc<WorkerCounts>>,
    workers: &[Running],
    standing: Arc<Standing>,
    store: Option<Figures>,
    published: publish::Figures,
    routes_max: usize,
) -> admin::WriteMetrics {
    let stats: Vec<_> = workers.iter().map(|worker| Arc::clone(&worker.upstream)).collect();
    Box::new(move |to: &mut Exposition| {
        metrics::write(&counts, routes_max, to);
        if let Some(store) = &store {
            store.write(to);
        }
        published.write(to);
        standing.write_metrics(to);
        write_upstream(&stats, to);
    })
}

/// What the workers' connections to WeChat do.
fn write_upstream(stats: &[Arc<upstream::Stats>], to: &mut Exposition) {
    let sum = |of: fn(&upstream::Stats) -> &upstream::Counter| {
        stats.iter().map(|stats| of(stats).value()).sum::<u64>()
    };
    let values = [
        ("weigate_upstream_connections", "gauge", "connections to WeChat open", sum(|s| &s.open)),
        ("weigate_upstream_connections_idle", "gauge", "connections to WeChat unused", sum(|s| &s.idle)),
        ("weigate_upstream_connections_total", "counter", "connections to WeChat made", sum(|s| &s.opened)),
        (
            "weigate_upstream_reuses_total",
            "counter",
            "requests on a connection used before",
            sum(|s| &s.reused),
        ),
        (
            "weigate_upstream_stale_retries_total",
            "counter",
            "GET and HEAD sent again since a pooled connection had died",
            sum(|s| &s.stale_retries),
        ),
        (
            "weigate_upstream_unprocessed_retries_total",
            "counter",
            "requests sent again since WeChat had turned them away unread (HTTP/2)",
            sum(|s| &s.unprocessed_retries),
        ),
        (
            "weigate_upstream_http2_connections_total",
            "counter",
            "connections to WeChat made that speak HTTP/2",
            sum(|s| &s.opened_http2),
        ),
        (
            "weigate_upstream_http2_streams",
            "gauge",
            "requests on their way on HTTP/2 connections",
            sum(|s| &s.streams),
        ),
    ];
    for (name, kind, help, value) in values {
        to.family(name, kind, help);
        to.sample(name, &[], value);
    }
    to.family(
        "weigate_upstream_connect_failures_total",
        "counter",
        "connections to WeChat that failed, by reason",
    );
    for (index, cause) in upstream::ConnectError::ALL.into_iter().enumerate() {
        let failures =
            stats.iter().filter_map(|stats| stats.connect_failures.get(index)).map(upstream::Counter::value);
        to.sample(
            "weigate_upstream_connect_failures_total",
            &[("reason", cause.word())],
            failures.sum::<u64>(),
        );
    }
}
