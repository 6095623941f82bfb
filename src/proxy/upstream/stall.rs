//! A clock that is wound by progress and rings when there was none for too long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Rings `span` after the last progress. Costs nothing until somebody has to wait.
#[derive(Debug)]
pub(super) struct Stall {
    span: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    has_progressed: bool,
}

// === impl Stall ===

impl Stall {
    pub(super) fn new(span: Duration) -> Self {
        Self { span, timer: None, has_progressed: false }
    }

    /// Something moved.
    pub(super) fn progress(&mut self) {
        self.has_progressed = true;
    }

    /// Ready when nothing moved for the whole span. To be called whenever nothing can.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = Instant::now() + self.span;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if std::mem::take(&mut self.has_progressed) {
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(cx)
    }
}
