use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::*;

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads).unwrap())
}

/// Counts how often each chunk is run.
fn count(pool: &Pool, chunks: usize) -> Vec<usize> {
    let runs: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
    pool.run(chunks, true, &|chunk, _| {
        runs[chunk].fetch_add(1, Ordering::Relaxed);
    });
    runs.into_iter().map(AtomicUsize::into_inner).collect()
}

#[test]
fn every_chunk_runs_once() {
    for threads in 1..=4 {
        let pool = pool(threads);
        for round in 0..2000 {
            let chunks = round % 37;
            assert_eq!(count(&pool, chunks), vec![1; chunks], "{threads} threads, round {round}");
        }
    }
}

/// Workers that have gone to sleep are woken, and take part.
#[test]
fn sleeping_workers_are_woken() {
    let pool = pool(2);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(20));
        let helped = AtomicBool::new(false);
        pool.run(2, true, &|_, thread| {
            helped.fetch_or(thread == 1, Ordering::Relaxed);
            let start = std::time::Instant::now();
            // The caller's chunk waits for the worker to take the other, were it ever so late.
            while thread == 0 && !helped.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(10) {
                yield_now();
            }
        });
        assert!(helped.load(Ordering::Relaxed));
    }
}

/// Two models at once: both get their chunks run, by whomever.
#[test]
fn two_callers_do_not_disturb_each_other() {
    let pool = pool(3);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let _awake = pool.forward();
                for round in 0..3000 {
                    assert_eq!(count(&pool, round % 9), vec![1; round % 9]);
                }
            });
        }
    });
}

/// A panic reaches the caller after all chunks are done, and the pool goes on.
#[test]
fn a_panic_is_the_callers() {
    let pool = pool(2);
    for bad in 0..8 {
        let done = AtomicU64::new(0);
        let region = AssertUnwindSafe(|| {
            pool.run(8, true, &|chunk, _| {
                assert!(chunk != bad, "chunk {chunk}");
                done.fetch_add(1, Ordering::Relaxed);
            });
        });
        assert!(catch_unwind(region).is_err());
        assert_eq!(done.into_inner(), 7);
        assert_eq!(count(&pool, 8), [1; 8]);
    }
}

#[test]
fn small_regions_stay_with_the_caller() {
    let pool = pool(4);
    pool.run(100, false, &|_, thread| assert_eq!(thread, 0));
}

/// Workers end with the pool; otherwise this test would not.
#[test]
fn dropping_the_pool_ends_its_threads() {
    for threads in 1..=4 {
        for wait in [0, 5] {
            let pool = pool(threads);
            count(&pool, 10);
            std::thread::sleep(Duration::from_millis(wait));
            let shared = Arc::downgrade(&pool.shared);
            drop(pool);
            assert_eq!(shared.strong_count(), 0);
        }
    }
}
