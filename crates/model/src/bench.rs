//! Matmuls and reads without a model around them, for `cargo bench`.

use std::num::NonZeroUsize;
use std::slice;
use std::sync::Arc;
use std::thread;

use crate::kernels::matmul::{self, Scratch, Sink};
use crate::kernels::{BLOCK, Buffer, Bytes, Matrix, roof};
use crate::synthetic::{Dtype, matrix};
use crate::{Compute, KvCache};

/// What benchmarks compute on, said on standard output: `THREADS` threads, or as many as this process may use.
///
/// # Panics
/// `THREADS` is no number above 0.
pub fn compute() -> Arc<Compute> {
    let threads = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let threads = std::env::var("THREADS").map_or(threads, |text| text.parse().expect("THREADS is a number above 0"));
    let compute = Compute::new(threads);
    println!("{} threads, {}", compute.threads(), compute.isa());
    Arc::new(compute)
}

/// A region of the pool with nothing in it, while a forward is in progress: what a matmul costs before it multiplies.
pub fn fork_join(compute: &Compute) {
    let _awake = compute.pool().forward();
    compute.pool().run(compute.threads(), true, &|chunk, _| {
        std::hint::black_box(chunk);
    });
}

/// A sequence that goes on after all of another and shares its pages.
pub fn branch(cache: &KvCache) -> KvCache {
    cache.branch(cache.len())
}

/// A matmul of random weights.
pub struct Matmul {
    compute: Arc<Compute>,
    /// Used in turn, so that they come from memory where all of them together exceed the caches.
    matrices: Vec<Matrix>,
    next: usize,
    activations: Buffer,
    out: Buffer,
    scratch: Scratch,
}

impl Matmul {
    /// `copies` matrices (outputs, inputs) for at most `rows` rows.
    ///
    /// # Errors
    /// A width that the format cannot have.
    pub fn new(
        compute: Arc<Compute>,
        dtype: Dtype,
        [outputs, inputs]: [usize; 2],
        copies: usize,
        rows: usize,
    ) -> Result<Matmul, String> {
        let matrices = (0..copies).map(|_| matrix(dtype, outputs, inputs)).collect::<Result<Vec<_>, _>>()?;
        let mut activations = Buffer::zeroed(rows * inputs.next_multiple_of(BLOCK));
        activations.fill(0.5);
        let out = Buffer::zeroed(rows * outputs.next_multiple_of(BLOCK));
        Ok(Matmul { compute, matrices, next: 0, activations, out, scratch: Scratch::default() })
    }

    /// Bytes of one matrix.
    pub fn bytes(&self) -> u64 {
        self.matrices[0].bytes()
    }

    /// `rows` rows times the next matrix.
    pub fn run(&mut self, rows: usize) {
        let _awake = self.compute.pool().forward();
        let matrix = &self.matrices[self.next];
        self.next = (self.next + 1) % self.matrices.len();
        let sink = Sink::Store { out: &mut self.out, stride: matrix.outputs().next_multiple_of(BLOCK) };
        matmul::matmul(&self.compute, slice::from_ref(matrix), None, &self.activations, rows, sink, &mut self.scratch);
    }
}

/// Memory that is read from end to end: the roof of every matmul of few rows.
pub struct Reading {
    compute: Arc<Compute>,
    memory: Bytes,
}

impl Reading {
    /// Of `bytes` bytes.
    pub fn new(compute: Arc<Compute>, bytes: usize) -> Reading {
        Reading { compute, memory: roof::memory(bytes) }
    }

    /// Reads it once.
    pub fn run(&self) {
        let _awake = self.compute.pool().forward();
        roof::Reading::new([&*self.memory]).run(&self.compute, true);
    }
}
