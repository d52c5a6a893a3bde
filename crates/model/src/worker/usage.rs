//! What a model's thread has done since it began, for metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use speculative::roofline::Work;

/// Counted by the model's thread, read by others.
#[derive(Debug, Default)]
pub(super) struct Counters {
    forwards: AtomicU64,
    forward_ns: AtomicU64,
    rows: AtomicU64,
    flops: AtomicU64,
    bytes: AtomicU64,
    select_ns: AtomicU64,
    cached_tokens: AtomicU64,
    uncached_tokens: AtomicU64,
    shared_pages: AtomicU64,
}

/// What a model's thread has done, and the memory that its sessions take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Forward passes, each once for all sessions in it.
    pub forwards: u64,
    /// Time in them.
    pub forward: Duration,
    /// Their rows, over all sessions.
    pub rows: u64,
    /// Their counted work.
    pub work: Work,
    /// Time in choosing tokens.
    pub select: Duration,
    /// Tokens of prompts that others had left in the cache.
    pub cached_tokens: u64,
    /// Tokens of prompts that nobody had.
    pub uncached_tokens: u64,
    /// Bytes set aside for the caches of open sessions.
    pub kv_reserved_bytes: u64,
    /// Bytes of what prompts share.
    pub kv_shared_bytes: u64,
    /// Bytes that the caches of sessions may take.
    pub kv_limit_bytes: u64,
}

impl Counters {
    pub(super) fn forward(&self, took: Duration, rows: usize, work: Work) {
        self.forwards.fetch_add(1, Relaxed);
        self.forward_ns.fetch_add(took.as_nanos() as u64, Relaxed);
        self.rows.fetch_add(rows as u64, Relaxed);
        self.flops.fetch_add(work.flops, Relaxed);
        self.bytes.fetch_add(work.bytes, Relaxed);
    }

    pub(super) fn select(&self, took: Duration) {
        self.select_ns.fetch_add(took.as_nanos() as u64, Relaxed);
    }

    pub(super) fn prompt(&self, cached: usize, uncached: usize) {
        self.cached_tokens.fetch_add(cached as u64, Relaxed);
        self.uncached_tokens.fetch_add(uncached as u64, Relaxed);
    }

    pub(super) fn share(&self, pages: usize) {
        self.shared_pages.store(pages as u64, Relaxed);
    }

    /// With the memory of `reserved` pages of so many bytes, of `most`.
    pub(super) fn usage(&self, page_bytes: usize, reserved: usize, most: usize) -> Usage {
        let bytes = |pages: u64| pages * page_bytes as u64;
        Usage {
            forwards: self.forwards.load(Relaxed),
            forward: Duration::from_nanos(self.forward_ns.load(Relaxed)),
            rows: self.rows.load(Relaxed),
            work: Work { flops: self.flops.load(Relaxed), bytes: self.bytes.load(Relaxed) },
            select: Duration::from_nanos(self.select_ns.load(Relaxed)),
            cached_tokens: self.cached_tokens.load(Relaxed),
            uncached_tokens: self.uncached_tokens.load(Relaxed),
            kv_reserved_bytes: bytes(reserved as u64),
            kv_shared_bytes: bytes(self.shared_pages.load(Relaxed)),
            kv_limit_bytes: bytes(most as u64),
        }
    }
}
