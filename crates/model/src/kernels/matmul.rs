//! The matmul of few rows and of many: weights bf16 (outputs, inputs), activations f32 (rows, inputs).
//!
//! The canonical order of one output of one row: inputs go in blocks of 32, lane l takes elements 2l and 2l + 1 of each,
//! in that order, by fused multiply-add into one f32; the lanes meet in [`tree`]; then the bias is added. A row's
//! activations are kept in *lane order* (see [`place`](super::place)): 16 even elements of a block, then 16 odd ones.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::buffer::Shared;
use super::isa::Kernel;
use super::math;
use super::simd::{BLOCK, LANES, Simd};
use super::{Matrix, Weights, place};
use crate::compute::Compute;

/// Weights that a chunk of outputs may have, in bytes: they stay in a core's own cache while the rows stream by.
const CHUNK_BYTES: usize = 128 << 10;

/// Rows that a chunk may have: their activations share that cache.
const CHUNK_ROWS: usize = 64;

/// Chunks for each thread, so that a late one costs little.
const CHUNKS_PER_THREAD: usize = 4;

/// Rows that share the loads of weights.
const ROWS_AT_ONCE: usize = 5;

/// How far ahead weights are asked for, in elements: about what arrives while the weights before it are multiplied.
const AHEAD: usize = 4096;

/// Outputs whose lanes are kept until all inputs have been added: one block of the next matmul's activations.
const PANEL: usize = BLOCK;

/// Inputs that are added to all outputs of a panel before the next: as many activations as stay in the first cache.
const SLICE: usize = 512;

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

/// What a matmul keeps from call to call.
#[derive(Default)]
pub(crate) struct Scratch {}

/// `rows` rows of `activations` (lane order, as wide as the inputs in whole blocks) times each matrix of the stack, plus
/// `bias` (lane order too), into `sink`: the outputs of a matrix begin at the block after those of the one before.
pub(crate) fn matmul(
    compute: &Compute,
    stack: &[&Matrix],
    bias: Option<&[f32]>,
    activations: &[f32],
    rows: usize,
    sink: Sink<'_>,
    _scratch: &mut Scratch,
) {
    let (finish, out, stride) = match sink {
        Sink::Natural { out, stride } => (Finish::Natural, out, stride),
        Sink::Store { out, stride } => (Finish::Store, out, stride),
        Sink::Add { out, stride } => (Finish::Add, out, stride),
        Sink::Gelu { out, stride } => (Finish::Gelu, out, stride),
    };
    assert!(stack.iter().all(|matrix| matrix.inputs() == stack[0].inputs()), "a stack has the same inputs");
    let mut offset = 0;
    for matrix in stack {
        let out = match finish {
            Finish::Natural => Sink::Natural { out: &mut *out, stride },
            Finish::Store => Sink::Store { out: &mut *out, stride },
            Finish::Add => Sink::Add { out: &mut *out, stride },
            Finish::Gelu => Sink::Gelu { out: &mut *out, stride },
        };
        one(compute, &matrix.weights(), bias.map(|bias| &bias[offset..]), activations, rows, out, offset);
        offset += matrix.outputs().next_multiple_of(BLOCK);
    }
}

/// One matrix of a stack, whose outputs begin at `offset`.
fn one(
    compute: &Compute,
    weights: &Weights<'_>,
    bias: Option<&[f32]>,
    activations: &[f32],
    rows: usize,
    sink: Sink<'_>,
    offset: usize,
) {
    let (finish, out, stride) = match sink {
        Sink::Natural { out, stride } => (Finish::Natural, out, stride),
        Sink::Store { out, stride } => (Finish::Store, out, stride),
        Sink::Add { out, stride } => (Finish::Add, out, stride),
        Sink::Gelu { out, stride } => (Finish::Gelu, out, stride),
    };
    let outputs = weights.outputs();
    assert!(activations.len() >= rows * weights.stride(), "activations for {rows} rows");
    assert!(bias.is_none_or(|b| b.len() >= outputs), "a bias for each of {outputs} outputs");
    assert!(
        stride >= offset + if finish == Finish::Natural { outputs } else { outputs.next_multiple_of(BLOCK) },
        "room for {outputs} outputs"
    );
    assert!(out.len() >= rows * stride, "room for {rows} rows");

    let plan = Plan::new(rows, weights, compute.threads());
    let job = Job { weights: *weights, bias, activations, out: Shared::new(out), stride, offset, finish };
    let path = compute.path();
    compute.pool().run(plan.chunks(), plan.pays(), &|chunk, _| {
        let (rows, outputs) = plan.chunk(chunk);
        // SAFETY: the slices are as long as asserted above; the chunks of a plan do not overlap, so no other thread
        // writes these rows' outputs.
        unsafe { path.run(Chunk { job: &job, rows, outputs }) }
    });
}

/// How a matmul is cut: blocks of outputs, by blocks of rows.
struct Plan {
    rows: usize,
    outputs: usize,
    outputs_per_chunk: usize,
    rows_per_chunk: usize,
    work: usize,
}

impl Plan {
    fn new(rows: usize, weights: &Weights<'_>, threads: usize) -> Plan {
        let outputs = weights.outputs();
        let in_cache = CHUNK_BYTES / (2 * weights.stride());
        let shared = outputs.div_ceil(CHUNKS_PER_THREAD * threads);
        let outputs_per_chunk = shared.min(in_cache).max(1).next_multiple_of(BLOCK);
        Plan { rows, outputs, outputs_per_chunk, rows_per_chunk: CHUNK_ROWS, work: rows * outputs * weights.stride() }
    }

    fn chunks(&self) -> usize {
        self.outputs.div_ceil(self.outputs_per_chunk) * self.rows.div_ceil(self.rows_per_chunk)
    }

    fn pays(&self) -> bool {
        self.work >= 1 << 15
    }

    /// The rows and outputs of a chunk; neighbours share weights.
    fn chunk(&self, chunk: usize) -> (Range<usize>, Range<usize>) {
        let row_blocks = self.rows.div_ceil(self.rows_per_chunk);
        let row = chunk % row_blocks * self.rows_per_chunk;
        let output = chunk / row_blocks * self.outputs_per_chunk;
        (row..(row + self.rows_per_chunk).min(self.rows), output..(output + self.outputs_per_chunk).min(self.outputs))
    }
}

struct Job<'a> {
    weights: Weights<'a>,
    bias: Option<&'a [f32]>,
    activations: &'a [f32],
    out: Shared,
    stride: usize,
    offset: usize,
    finish: Finish,
}

/// Asks that rows and outputs lie within the job's slices, that outputs begin at a block, and that no other thread
/// touches their results.
struct Chunk<'a> {
    job: &'a Job<'a>,
    rows: Range<usize>,
    outputs: Range<usize>,
}

/// Sums in progress: (outputs of a panel, rows at once, virtual lanes).
type Lanes = [f32; PANEL * ROWS_AT_ONCE * LANES];

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut lanes = MaybeUninit::<Lanes>::uninit();
        let lanes = lanes.as_mut_ptr().cast::<f32>();
        let groups = self.rows.len().div_ceil(ROWS_AT_ONCE);
        for group in 0..groups {
            let row = |group| self.rows.start + self.rows.len() * group / groups;
            let (first, rows) = (row(group), row(group + 1) - row(group));
            for start in self.outputs.clone().step_by(PANEL) {
                let panel = Panel { job: self.job, first, outputs: start..(start + PANEL).min(self.outputs.end) };
                // Outputs and vectors at once: what fits the path's registers beside the weights.
                // SAFETY: these rows and outputs are parts of this chunk.
                unsafe {
                    match (rows, S::PARTS) {
                        (1, 1) => panel.run::<S, 1, 8, 1>(lanes),
                        (2, 1) => panel.run::<S, 2, 4, 1>(lanes),
                        (3, 1) => panel.run::<S, 3, 4, 1>(lanes),
                        (4, 1) => panel.run::<S, 4, 4, 1>(lanes),
                        (5, 1) => panel.run::<S, 5, 4, 1>(lanes),
                        (1, _) => panel.run::<S, 1, 4, 2>(lanes),
                        (2, _) => panel.run::<S, 2, 4, 1>(lanes),
                        (3, _) => panel.run::<S, 3, 3, 1>(lanes),
                        (4, _) => panel.run::<S, 4, 2, 1>(lanes),
                        (_, _) => panel.run::<S, 5, 2, 1>(lanes),
                    }
                }
            }
        }
    }
}

/// Some rows of a chunk from `first` on, and at most [`PANEL`] of its outputs.
struct Panel<'a> {
    job: &'a Job<'a>,
    first: usize,
    outputs: Range<usize>,
}

impl Panel<'_> {
    /// `R` rows, `O` outputs at a time, `P` vectors of the lanes at a time.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const O: usize, const P: usize>(&self, lanes: *mut f32) {
        let stride = self.job.weights.stride();
        let slice = if R * stride <= SLICE * ROWS_AT_ONCE { stride } else { SLICE };
        // SAFETY: the caller grants R rows and the panel's outputs.
        unsafe {
            for start in (0..stride).step_by(slice) {
                let inputs = start..(start + slice).min(stride);
                let mut output = self.outputs.start;
                while output + O <= self.outputs.end {
                    self.tile::<S, R, O, P>(output, inputs.clone(), lanes);
                    output += O;
                }
                while output < self.outputs.end {
                    self.tile::<S, R, 1, 1>(output, inputs.clone(), lanes);
                    output += 1;
                }
            }
            let missing = (PANEL - self.outputs.len()) * R * LANES;
            lanes.add(self.outputs.len() * R * LANES).write_bytes(0, missing);
            for r in 0..R {
                self.finish::<S>(self.first + r, lanes.add(r * LANES), R * LANES);
            }
        }
    }

    /// Adds a slice of the inputs to the lanes of `O` outputs of `R` rows. The weights of the next `O` outputs are
    /// asked for meanwhile.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize, const O: usize, const P: usize>(
        &self,
        output: usize,
        inputs: Range<usize>,
        lanes: *mut f32,
    ) {
        let stride = self.job.weights.stride();
        let column = output - self.outputs.start;
        // SAFETY: all accesses are within the rows and outputs that the caller grants; prefetches may go anywhere.
        unsafe {
            let weights = self.job.weights.as_ptr().add(output * stride);
            let activations = self.job.activations.as_ptr().add(self.first * stride);
            let mut part = 0;
            while part < S::PARTS {
                let mut sums = [[[S::splat(0.0); P]; R]; O];
                if inputs.start > 0 {
                    for o in 0..O {
                        for r in 0..R {
                            for p in 0..P {
                                sums[o][r][p] =
                                    S::load(lanes.add(((column + o) * R + r) * LANES + (part + p) * S::WIDTH));
                            }
                        }
                    }
                }
                let mut at = inputs.start;
                while at < inputs.end {
                    for o in 0..O {
                        if P == S::PARTS || o % S::PARTS == part {
                            S::prefetch(weights.wrapping_add(AHEAD + at * O + o * BLOCK));
                        }
                    }
                    for p in 0..P {
                        let lane = (part + p) * S::WIDTH;
                        let mut even = [S::splat(0.0); O];
                        let mut odd = [S::splat(0.0); O];
                        for o in 0..O {
                            (even[o], odd[o]) = S::load_bf16(weights.add(o * stride + at + 2 * lane));
                        }
                        for r in 0..R {
                            let from = activations.add(r * stride + at + lane);
                            let x = S::load(from);
                            for o in 0..O {
                                sums[o][r][p] = S::fma(even[o], x, sums[o][r][p]);
                            }
                            let x = S::load(from.add(LANES));
                            for o in 0..O {
                                sums[o][r][p] = S::fma(odd[o], x, sums[o][r][p]);
                            }
                        }
                    }
                    at += BLOCK;
                }
                for o in 0..O {
                    for r in 0..R {
                        for p in 0..P {
                            S::store(lanes.add(((column + o) * R + r) * LANES + (part + p) * S::WIDTH), sums[o][r][p]);
                        }
                    }
                }
                part += P;
            }
        }
    }

    /// Adds up the lanes of one row's outputs, `run` elements apart, and the bias, and puts them where they belong.
    #[inline(always)]
    unsafe fn finish<S: Simd>(&self, row: usize, lanes: *const f32, run: usize) {
        let job = self.job;
        let Range { start, end } = self.outputs;
        let mut sums = [0.0_f32; PANEL];
        let sums = sums.as_mut_ptr();
        // SAFETY: the lanes of a whole panel; the bias is as long as asserted; the results' place is within the row's
        // stride, whole blocks where the order is the lanes', and this chunk's alone.
        unsafe {
            S::sixteen_trees(lanes, run, sums);
            S::sixteen_trees(lanes.add(16 * run), run, sums.add(8));
            // (PANEL), lane order
            if let Some(bias) = job.bias {
                for i in (0..PANEL).step_by(S::WIDTH) {
                    S::store(sums.add(i), S::add(S::load(sums.add(i)), S::load(bias.as_ptr().add(start + i))));
                }
            }
            if job.finish == Finish::Natural {
                for i in 0..end - start {
                    *job.out.at(row * job.stride + job.offset + start + i, 1) = *sums.add(place(i));
                }
                return;
            }
            let to = job.out.at(row * job.stride + job.offset + start, PANEL);
            for i in (0..PANEL).step_by(S::WIDTH) {
                let sum = S::load(sums.add(i));
                let value = match job.finish {
                    Finish::Natural | Finish::Store => sum,
                    Finish::Add => S::add(S::load(to.add(i)), sum),
                    Finish::Gelu => math::gelu::<S>(sum),
                };
                S::store(to.add(i), value);
            }
        }
    }
}
