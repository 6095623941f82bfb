//! What control breaks on purpose: faults, which spoil answers, and holds, which keep them back.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::seen::matches;

/// A fault: which requests it meets, and what it does to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The path it meets; with `*` at the end, every path that begins so.
    pub path: String,
    /// The method it meets; `None`: every one.
    #[serde(default)]
    pub method: Option<String>,
    /// Requests that pass unharmed first.
    #[serde(default)]
    pub skip: u64,
    /// Requests it meets; `None`: until it is removed.
    #[serde(default)]
    pub count: Option<u64>,
    /// What it does.
    pub does: FaultDoes,
}

/// What a fault does. The ones marked *instead* keep the request from having any effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultDoes {
    /// Instead: never answers.
    Hang,
    /// Instead: this status, without a body.
    Status(u16),
    /// Instead: closes the connection without an answer.
    Close,
    /// Closes the connection without an answer, after the request had its effect.
    ActThenClose,
    /// Closes the connection after this many bytes of the body.
    CutBody(u64),
    /// Delays the head, and then lets the body drip.
    Slow(Slowness),
    /// Instead: this errcode, as WeChat words it.
    Errcode(i64),
    /// Instead: bytes that are no HTTP, then the end of the connection.
    Garbage,
    /// Instead: 200, `text/html; charset=gbk`, nothing (seen in 2017, §1).
    Empty,
    /// Instead: a token answer whose token has this many characters.
    Oversize(usize),
    /// This many bytes after the body's end, on a connection that stays open.
    ExtraBytes(usize),
    /// The answer in chunks, without `Content-Length`.
    Chunked,
    /// Instead: this answer.
    Reply(ArrangedReply),
}

/// How slow an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Slowness {
    /// Before the head.
    pub head_ms: u64,
    /// Bytes of the body at a time; 0: all at once.
    pub drip_bytes: usize,
    /// Between two such pieces.
    pub drip_ms: u64,
}

/// An answer as control wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArrangedReply {
    /// The status.
    #[serde(default = "ok")]
    pub status: u16,
    /// The type.
    #[serde(default = "json")]
    pub content_type: String,
    /// The body.
    pub body: String,
}

/// When a hold keeps a request back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Before it is judged: what happens to its token meanwhile counts.
    #[default]
    BeforeJudging,
    /// After it was judged and had its effect, before the answer.
    AfterJudging,
}

/// A fault as control shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FaultView {
    /// What removes it.
    pub id: u64,
    /// The fault; `skip` and `count` are what is left of them.
    pub fault: Fault,
    /// Requests it has met.
    pub met: u64,
}

/// A hold as control shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HoldView {
    /// What releases it.
    pub id: u64,
    /// The path it keeps back; with `*` at the end, every path that begins so.
    pub path: String,
    /// When it does.
    pub when: When,
    /// Requests it keeps back now.
    pub held: usize,
}

/// All faults and holds.
#[derive(Debug, Default)]
pub(super) struct Mischief {
    faults: Vec<FaultView>,
    holds: Vec<Hold>,
    last_id: u64,
}

/// Open when its sender is gone.
#[derive(Debug)]
struct Hold {
    id: u64,
    path: String,
    when: When,
    gate: watch::Sender<()>,
}

// === impl Mischief ===

impl Mischief {
    pub(super) fn add(&mut self, fault: Fault) -> u64 {
        let id = self.new_id();
        if self.faults.len() >= RULES_MAX {
            self.faults.remove(0);
        }
        self.faults.push(FaultView { id, fault, met: 0 });
        id
    }

    pub(super) fn remove(&mut self, id: u64) -> bool {
        let before = self.faults.len();
        self.faults.retain(|known| known.id != id);
        self.faults.len() < before
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(super) fn faults(&self) -> Vec<FaultView> {
        self.faults.clone()
    }

    /// The first fault that meets this request; it is counted as met, and goes when it is used up.
    pub(super) fn meet(&mut self, method: &str, path: &str) -> Option<FaultDoes> {
        let meets = |fault: &Fault| {
            matches(&fault.path, path)
                && fault.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
        };
        let at = self.faults.iter_mut().position(|known| {
            let met = meets(&known.fault);
            let passes = met && known.fault.skip > 0;
            known.fault.skip -= u64::from(passes);
            met && !passes
        })?;
        let known = self.faults.get_mut(at)?;
        known.met += 1;
        let does = known.fault.does.clone();
        if let Some(count) = &mut known.fault.count {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.faults.remove(at);
            }
        }
        Some(does)
    }

    pub(super) fn hold(&mut self, path: &str, when: When) -> u64 {
        let id = self.new_id();
        if self.holds.len() >= RULES_MAX {
            self.holds.remove(0);
        }
        self.holds.push(Hold { id, path: path.to_owned(), when, gate: watch::Sender::new(()) });
        id
    }

    pub(super) fn release(&mut self, id: u64) -> bool {
        let before = self.holds.len();
        self.holds.retain(|hold| hold.id != id);
        self.holds.len() < before
    }

    pub(super) fn release_all(&mut self) {
        self.holds.clear();
    }

    pub(super) fn holds(&self) -> Vec<HoldView> {
        let view = |hold: &Hold| HoldView {
            id: hold.id,
            path: hold.path.clone(),
            when: hold.when,
            held: hold.gate.receiver_count(),
        };
        self.holds.iter().map(view).collect()
    }

    /// The gate that a request on this path waits at.
    pub(super) fn gate(&self, path: &str, when: When) -> Option<watch::Receiver<()>> {
        let hold = self.holds.iter().find(|hold| hold.when == when && matches(&hold.path, path))?;
        Some(hold.gate.subscribe())
    }

    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

// === impl Slowness ===

impl Slowness {
    pub(super) fn head(self) -> Duration {
        Duration::from_millis(self.head_ms)
    }
}

fn ok() -> u16 {
    200
}

fn json() -> String {
    "application/json; encoding=utf-8".to_owned()
}

/// Faults, and holds; the oldest goes beyond that.
const RULES_MAX: usize = 1000;
