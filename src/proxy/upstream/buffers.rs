//! Read and write buffers, lent for as long as a request needs them.
//!
//! # Why
//!
//! A connection that owns its buffers keeps them while it is idle, and there are thousands of idle connections; a
//! buffer made anew for each request costs an allocation. So each worker has a small stack of them. Last in, first
//! out: the one just given back is still in the processor's cache.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

use bytes::BytesMut;

/// A worker's spare buffers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers(Rc<RefCell<Vec<BytesMut>>>);

/// A buffer on loan; empty at first, goes back when dropped.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: BytesMut,
    home: Buffers,
}

/// Room for TLS to work in, one record after another: for all connections of a worker to one host.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) incoming: RefCell<Vec<u8>>,
    pub(super) outgoing: RefCell<Vec<u8>>,
}

// === impl Buffers ===

impl Buffers {
    pub(super) fn take(&self) -> Buffer {
        let spare = self.0.borrow_mut().pop();
        let bytes = spare.unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES));
        Buffer { bytes, home: self.clone() }
    }

    #[cfg(test)]
    pub(super) fn spare(&self) -> usize {
        self.0.borrow().len()
    }

    fn give_back(&self, mut bytes: BytesMut) {
        bytes.clear();
        let mut spare = self.0.borrow_mut();
        // `try_reclaim` says no while a frame that was split off is still in someone's hands.
        if spare.len() < SPARE_BUFFERS_MAX
            && bytes.capacity() <= SPARE_BYTES_MAX
            && bytes.try_reclaim(BUFFER_BYTES)
        {
            spare.push(bytes);
        }
    }
}

// === impl Buffer ===

impl Deref for Buffer {
    type Target = BytesMut;

    fn deref(&self) -> &BytesMut {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

/// Room for a head and a small body: most of WeChat's replies are below 2 KiB.
pub(super) const BUFFER_BYTES: usize = 4 * 1024;

/// A buffer that grew beyond this is freed, not kept.
const SPARE_BYTES_MAX: usize = 32 * 1024;

/// 64 buffers are 256 KiB to 2 MiB a worker; more requests than that at one time allocate.
const SPARE_BUFFERS_MAX: usize = 64;
