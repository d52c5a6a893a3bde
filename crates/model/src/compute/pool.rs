//! A fork-join for regions of microseconds.
//!
//! The caller publishes a region, takes chunks of it like everyone else, and at the end waits only for chunks that a
//! worker has begun: a worker that sleeps, or that the system has put aside, costs its help and nothing more. Workers
//! spin while a forward is in progress, for a bounded time, and sleep otherwise. One region runs at a time; who finds
//! the pool taken runs its region alone.
#![expect(unsafe_code, reason = "workers call a closure that lives on the caller's stack")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle, yield_now};

#[cfg(test)]
mod tests;

/// Pauses (some 20–50 ns each) that a worker waits for the next region of a forward before it sleeps.
const SPINS_IN_FORWARD: usize = 4_000;

/// The same between forwards.
const SPINS_BETWEEN: usize = 200;

/// Pauses that the caller waits for begun chunks before it gives up its time slice.
const SPINS_TO_YIELD: usize = 4_000;

/// A chunk's number, and the number of the thread that runs it (the caller is 0).
type Region<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// The threads. Dropping it ends them.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

/// A forward in progress: while it lives, workers await regions awake.
pub(crate) struct Forward<'a>(&'a Shared);

impl Pool {
    /// `threads` with the caller's. Where the system grants fewer, there are fewer.
    pub(crate) fn new(threads: NonZeroUsize) -> Pool {
        let shared = Arc::new(Shared::default());
        let workers = (1..threads.get())
            .map_while(|thread| {
                let shared = Arc::clone(&shared);
                let worker = Builder::new().name(format!("compute-{thread}")).spawn(move || shared.work(thread));
                worker.inspect_err(|error| tracing::warn!(%error, thread, "no further compute thread")).ok()
            })
            .collect();
        Pool { shared, workers }
    }

    pub(crate) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Says that regions will follow each other closely until the guard is dropped.
    pub(crate) fn forward(&self) -> Forward<'_> {
        self.shared.forwards.fetch_add(1, Ordering::Relaxed);
        Forward(&self.shared)
    }

    /// Runs `region` for each chunk, on several threads if it `pays`. A panic in a chunk is the caller's, once the other
    /// chunks are done.
    pub(crate) fn run(&self, chunks: usize, pays: bool, region: &Region<'_>) {
        if pays && chunks > 1 && !self.workers.is_empty() && self.shared.acquire() {
            self.shared.fork_join(chunks, region);
        } else {
            (0..chunks).for_each(|chunk| region(chunk, 0));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.wake();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of its chunks; there is nothing to learn from its end.
            let _ = worker.join();
        }
    }
}

impl Drop for Forward<'_> {
    fn drop(&mut self) {
        self.0.forwards.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A value on cache lines of its own (two: processors fetch them in pairs).
#[derive(Default)]
#[repr(align(128))]
struct Apart<T>(T);

#[derive(Default)]
struct Shared {
    /// Chunks of the region that nobody has taken. Taking one is taking from the region that is there now.
    left: Apart<AtomicUsize>,
    /// Chunks that are not done.
    undone: Apart<AtomicUsize>,
    /// Written by the region's owner while no chunk is left or undone; read by who took a chunk.
    region: Apart<UnsafeCell<Option<(usize, &'static Region<'static>)>>>,
    /// Whether some caller has the pool.
    owned: AtomicBool,
    forwards: AtomicUsize,
    stop: AtomicBool,
    /// Workers that sleep until the gate's number changes.
    asleep: AtomicUsize,
    gate: Mutex<u64>,
    woken: Condvar,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `region` is the one field that is not `Sync`; its comment says who touches it when, and `left` (released by
// the owner, acquired by who takes) and `undone` (the other way) order those accesses.
unsafe impl Sync for Shared {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn acquire(&self) -> bool {
        self.owned.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Runs a region; the caller has acquired the pool.
    fn fork_join(&self, chunks: usize, region: &Region<'_>) {
        // SAFETY: only the lifetime changes. Nobody calls the region after `join`, which returns when all chunks are
        // done, and whoever reads it has taken a chunk.
        let region = unsafe { std::mem::transmute::<&Region<'_>, &'static Region<'static>>(region) };
        // SAFETY: the pool is this caller's, and no chunk of the last region is left or undone.
        unsafe { *self.region.0.get() = Some((chunks, region)) };
        self.undone.0.store(chunks, Ordering::Relaxed);
        self.left.0.store(chunks, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) > 0 {
            self.wake();
        }
        while self.take(0) {}
        self.join();
        let panic = lock(&self.panic).take();
        self.owned.store(false, Ordering::Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Takes a chunk and runs it. False if none is left.
    fn take(&self, thread: usize) -> bool {
        let mut left = self.left.0.load(Ordering::Relaxed);
        while left > 0 {
            match self.left.0.compare_exchange_weak(left, left - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => {
                    self.run_chunk(left, thread);
                    return true;
                }
                Err(now) => left = now,
            }
        }
        false
    }

    /// Runs the chunk that was taken when `left` were left.
    fn run_chunk(&self, left: usize, thread: usize) {
        // SAFETY: the chunk taken is not done, so the owner does not write the region.
        if let Some((chunks, region)) = unsafe { *self.region.0.get() }
            && let Err(panic) = catch_unwind(AssertUnwindSafe(|| region(chunks - left, thread)))
        {
            lock(&self.panic).get_or_insert(panic);
        }
        self.undone.0.fetch_sub(1, Ordering::Release);
    }

    fn join(&self) {
        let mut spins = 0;
        while self.undone.0.load(Ordering::Acquire) > 0 {
            spins += 1;
            if spins < SPINS_TO_YIELD { std::hint::spin_loop() } else { yield_now() }
        }
    }

    fn work(&self, thread: usize) {
        let mut spins = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let enough = if self.forwards.load(Ordering::Relaxed) > 0 { SPINS_IN_FORWARD } else { SPINS_BETWEEN };
            if self.take(thread) {
                spins = 0;
            } else if spins < enough {
                spins += 1;
                std::hint::spin_loop();
            } else {
                self.sleep();
                spins = 0;
            }
        }
    }

    /// Sleeps until a region or the end comes. The announcement and the look at `left` are in the opposite order of the
    /// owner's, so that one of the two sees the other.
    fn sleep(&self) {
        let mut gate = lock(&self.gate);
        let number = *gate;
        self.asleep.fetch_add(1, Ordering::SeqCst);
        if self.left.0.load(Ordering::SeqCst) > 0 || self.stop.load(Ordering::SeqCst) {
            self.asleep.fetch_sub(1, Ordering::SeqCst);
            return;
        }
        while *gate == number {
            gate = self.woken.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake(&self) {
        let mut gate = lock(&self.gate);
        *gate += 1;
        self.asleep.store(0, Ordering::SeqCst);
        self.woken.notify_all();
    }
}
