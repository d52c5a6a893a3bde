//! The matmul of few rows and of many: weights (outputs, inputs) of any format, activations f32 (rows, inputs).
//!
//! Each format has one canonical order of reduction, said where its kernel is; then the bias is added. Activations and
//! results are kept in *lane order* (see [`place`]): 16 even elements of a block of 32, then 16 odd ones.

use std::ops::Range;

use super::buffer::Shared;
use super::matrix::Matrix;
use super::simd::{BLOCK, Simd};
use super::{math, place};
use crate::compute::Compute;

mod activations;
mod float;
mod quantised;

pub(crate) use activations::Scratch;

/// Weights that a chunk of outputs may have, in bytes: they stay in a core's own cache while the rows stream by.
const CHUNK_BYTES: usize = 128 << 10;

/// Rows that a chunk may have: their activations share that cache.
const CHUNK_ROWS: usize = 64;

/// Chunks for each thread, so that a late one costs little.
const CHUNKS_PER_THREAD: usize = 4;

/// Outputs that are finished together: one block of the next matmul's activations.
const PANEL: usize = BLOCK;

/// Where results go. Strides are in elements; rows follow each other.
pub(crate) enum Sink<'a> {
    /// Natural order.
    Natural { out: &'a mut [f32], stride: usize },
    /// Lane order.
    Store { out: &'a mut [f32], stride: usize },
    /// Lane order, added to what is there.
    Add { out: &'a mut [f32], stride: usize },
    /// Lane order, through GELU.
    Gelu { out: &'a mut [f32], stride: usize },
}

#[derive(Clone, Copy, PartialEq)]
enum Finish {
    Natural,
    Store,
    Add,
    Gelu,
}

/// `rows` rows of `activations` (lane order, as wide as the matrices' stride) times each matrix of the `stack`, plus `bias`
/// (lane order), into `sink`.
///
/// The outputs of a matrix begin at the sum of those of the matrices before it, each rounded up to whole blocks. All have
/// the same inputs.
pub(crate) fn matmul(
    compute: &Compute,
    stack: &[Matrix],
    bias: Option<&[f32]>,
    activations: &[f32],
    rows: usize,
    sink: Sink<'_>,
    scratch: &mut Scratch,
) {
    let (finish, out, stride) = match sink {
        Sink::Natural { out, stride } => (Finish::Natural, out, stride),
        Sink::Store { out, stride } => (Finish::Store, out, stride),
        Sink::Add { out, stride } => (Finish::Add, out, stride),
        Sink::Gelu { out, stride } => (Finish::Gelu, out, stride),
    };
    let plan = Plan::new(rows, stack, compute.threads());
    let inputs = stack[0].stride();
    assert!(stack.iter().all(|matrix| matrix.stride() == inputs), "one width of inputs");
    assert!(activations.len() >= rows * inputs, "activations for {rows} rows");
    assert!(finish != Finish::Natural || stack.len() == 1, "natural order of one matrix");
    assert!(
        stride >= if finish == Finish::Natural { stack[0].outputs() } else { plan.outputs },
        "room for all outputs"
    );
    assert!(bias.is_none_or(|b| b.len() >= plan.outputs), "a bias for each of {} outputs", plan.outputs);
    assert!(out.len() >= rows * stride, "room for {rows} rows");

    scratch.quantise(compute, stack, activations, rows);
    let job = Job { bias, activations, quantised: scratch, out: Shared::new(out), stride, finish };
    let path = compute.path();
    compute.pool().run(plan.chunks(), plan.pays(), &|chunk, _| {
        let (part, rows, outputs) = plan.chunk(chunk);
        let base = part.base;
        // SAFETY: the slices are as long as asserted above; the chunks of a plan do not overlap, so no other thread
        // writes these rows' outputs.
        unsafe {
            match part.matrix {
                Matrix::Float(weights) => path.run(float::Chunk { job: &job, weights, base, rows, outputs }),
                Matrix::Quantised(weights) => path.run(quantised::Chunk { job: &job, weights, base, rows, outputs }),
            }
        }
    });
}

/// How a matmul is cut: blocks of outputs of each matrix, by blocks of rows.
struct Plan<'a> {
    parts: Vec<Part<'a>>,
    rows: usize,
    /// Of all matrices, each in whole blocks.
    outputs: usize,
    work: usize,
}

/// A matrix of the stack.
struct Part<'a> {
    matrix: &'a Matrix,
    /// Where its outputs begin.
    base: usize,
    outputs_per_chunk: usize,
}

impl<'a> Plan<'a> {
    fn new(rows: usize, stack: &'a [Matrix], threads: usize) -> Plan<'a> {
        let all: usize = stack.iter().map(Matrix::outputs).sum();
        let shared = all.div_ceil(CHUNKS_PER_THREAD * threads);
        let (mut parts, mut outputs) = (Vec::with_capacity(stack.len()), 0);
        for matrix in stack {
            let in_cache = CHUNK_BYTES / (matrix.bytes() as usize / matrix.outputs().max(1)).max(1);
            let outputs_per_chunk = shared.min(in_cache).max(1).next_multiple_of(BLOCK);
            parts.push(Part { matrix, base: outputs, outputs_per_chunk });
            outputs += matrix.outputs().next_multiple_of(BLOCK);
        }
        Plan { parts, rows, outputs, work: rows * all * stack[0].stride() }
    }

    fn row_blocks(&self) -> usize {
        self.rows.div_ceil(CHUNK_ROWS)
    }

    fn chunks(&self) -> usize {
        self.row_blocks() * self.parts.iter().map(Part::chunks).sum::<usize>()
    }

    fn pays(&self) -> bool {
        self.work >= 1 << 15
    }

    /// The matrix, rows and outputs of a chunk; neighbours share weights.
    fn chunk(&self, chunk: usize) -> (&Part<'a>, Range<usize>, Range<usize>) {
        let row = chunk % self.row_blocks() * CHUNK_ROWS;
        let mut at = chunk / self.row_blocks();
        let mut parts = self.parts.iter();
        let part = loop {
            let part = parts.next().expect("a chunk of the plan");
            match at.checked_sub(part.chunks()) {
                Some(rest) => at = rest,
                None => break part,
            }
        };
        let output = at * part.outputs_per_chunk;
        let end = (output + part.outputs_per_chunk).min(part.matrix.outputs());
        (part, row..(row + CHUNK_ROWS).min(self.rows), output..end)
    }
}

impl Part<'_> {
    fn chunks(&self) -> usize {
        self.matrix.outputs().div_ceil(self.outputs_per_chunk)
    }
}

struct Job<'a> {
    bias: Option<&'a [f32]>,
    activations: &'a [f32],
    quantised: &'a Scratch,
    out: Shared<f32>,
    stride: usize,
    finish: Finish,
}

impl Job<'_> {
    /// Adds the bias to `outputs` results of one row, from output `start` (a whole block) on, and puts them where they
    /// belong. `sums` has a whole panel in lane order.
    ///
    /// # Safety
    /// The row's results are the caller's chunk's, and `start` and `outputs` are within them.
    #[inline(always)]
    unsafe fn put<S: Simd>(&self, row: usize, start: usize, outputs: usize, sums: *const f32) {
        let mut panel = [0.0_f32; PANEL];
        let panel = panel.as_mut_ptr();
        // SAFETY: the bias is as long as asserted; the results' place is within the row's stride, whole blocks where the
        // order is the lanes', and this chunk's alone.
        unsafe {
            for i in (0..PANEL).step_by(S::WIDTH) {
                let sum = S::load(sums.add(i));
                let sum = match self.bias {
                    Some(bias) => S::add(sum, S::load(bias.as_ptr().add(start + i))),
                    None => sum,
                };
                S::store(panel.add(i), sum);
            }
            if self.finish == Finish::Natural {
                for i in 0..outputs {
                    *self.out.at(row * self.stride + start + i, 1) = *panel.add(place(i));
                }
                return;
            }
            let to = self.out.at(row * self.stride + start, PANEL);
            for i in (0..PANEL).step_by(S::WIDTH) {
                let sum = S::load(panel.add(i));
                let value = match self.finish {
                    Finish::Natural | Finish::Store => sum,
                    Finish::Add => S::add(S::load(to.add(i)), sum),
                    Finish::Gelu => math::gelu::<S>(sum),
                };
                S::store(to.add(i), value);
            }
        }
    }
}
