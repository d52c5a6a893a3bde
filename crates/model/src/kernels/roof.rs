//! What the machine does at best: reading, and multiply-adds in registers.

use super::bytes::Bytes;
use super::isa::Kernel;
use super::simd::{LANES, Simd};
use crate::compute::Compute;

/// Bytes that one thread reads in one go.
const READ_CHUNK: usize = 128 << 10;

/// Chains of multiply-adds at once: twice what any processor so far needs to hide their latency.
const CHAINS: usize = 12;

/// Multiply-adds of each chain in one go.
const LINKS: usize = 1 << 15;

/// Memory of the kind that weights are in.
pub(crate) fn memory(len: usize) -> Bytes {
    let mut bytes = Bytes::zeroed(len);
    // Pages that nobody wrote to could all be the one page of zeros.
    bytes.fill(0x3c);
    bytes
}

/// Memory that is read from end to end, in pieces.
pub(crate) struct Reading<'a>(Vec<&'a [u8]>);

impl<'a> Reading<'a> {
    pub(crate) fn new(runs: impl IntoIterator<Item = &'a [u8]>) -> Reading<'a> {
        Reading(runs.into_iter().flat_map(|run| run.chunks(READ_CHUNK)).collect())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|piece| piece.len()).sum()
    }

    /// Reads all of it on all threads, with the prefetches that a matmul makes or without.
    pub(crate) fn run(&self, compute: &Compute, prefetch: bool) {
        let path = compute.path();
        compute.pool().run(self.0.len(), true, &|piece, _| {
            // SAFETY: the kernel asks for nothing.
            std::hint::black_box(unsafe { path.run(Read { bytes: self.0[piece], prefetch }) });
        });
    }
}

/// Multiplies and adds in the registers of all threads. Returns how many operations that was.
pub(crate) fn multiply_add(compute: &Compute) -> u64 {
    let path = compute.path();
    compute.pool().run(compute.threads(), true, &|_, _| {
        // SAFETY: the kernel asks for nothing.
        std::hint::black_box(unsafe { path.run(MultiplyAdd) });
    });
    (compute.threads() * LINKS * CHAINS * 2 * LANES) as u64
}

struct Read<'a> {
    bytes: &'a [u8],
    prefetch: bool,
}

impl Kernel for Read<'_> {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        const LINES: usize = 8;
        // SAFETY: whole chunks of the slice; prefetches may go beyond.
        unsafe {
            let mut greatest = [S::splat(0.0); LINES];
            for chunk in self.bytes.chunks_exact(LINES * LANES * size_of::<f32>()) {
                for (line, greatest) in greatest.iter_mut().enumerate() {
                    let from = chunk.as_ptr().cast::<f32>().wrapping_add(line * LANES);
                    if self.prefetch {
                        S::prefetch(from.wrapping_add(4 * LINES * LANES).cast());
                    }
                    for part in 0..S::PARTS {
                        *greatest = S::max(*greatest, S::load(from.add(part * S::WIDTH)));
                    }
                }
            }
            let mut lanes = [0.0; LANES];
            for greatest in &greatest {
                S::store(lanes.as_mut_ptr(), S::max(S::load(lanes.as_ptr()), *greatest));
            }
            lanes[0]
        }
    }
}

struct MultiplyAdd;

impl Kernel for MultiplyAdd {
    type Output = f32;

    #[inline(always)]
    unsafe fn run<S: Simd>(self) -> f32 {
        // SAFETY: registers only.
        unsafe {
            let factor = S::splat(std::hint::black_box(0.5));
            let mut sums = [S::splat(1.0); CHAINS];
            for _ in 0..LINKS * S::PARTS {
                for sum in &mut sums {
                    *sum = S::fma(*sum, factor, factor);
                }
            }
            let mut lanes = [0.0; LANES];
            for sum in &sums {
                S::store(lanes.as_mut_ptr(), S::add(S::load(lanes.as_ptr()), *sum));
            }
            lanes[0]
        }
    }
}
