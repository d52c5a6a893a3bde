//! Weights that stand alone: bf16, f16, f32.
//!
//! The canonical order of one output of one row: inputs go in blocks of 32, lane l takes elements 2l and 2l + 1 of each,
//! in that order, by fused multiply-add into one f32; the lanes meet in [`tree`](super::super::simd::tree).

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::isa::Kernel;
use super::super::matrix::{Float, FloatType};
use super::super::simd::{BLOCK, LANES, Simd};
use super::{Job, PANEL};

/// Rows that share the loads of weights.
const ROWS_AT_ONCE: usize = 6;

/// How far ahead weights are asked for, in bytes, at least: far enough for memory's latency, and little of the first cache.
const AHEAD: usize = 8192;

/// Activations, of all rows at once, that meet a group of outputs before the next ones do: they stay in the first cache,
/// beside the lanes of the group.
const SLICE: usize = 3840;

/// Outputs whose lanes are in progress.
const GROUP: usize = LANES;

/// Asks that rows and outputs lie within the job's slices, that outputs begin at a block, and that no other thread
/// touches their results.
pub(super) struct Chunk<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) weights: &'a Float,
    /// Where the outputs of these weights begin among those of the stack.
    pub(super) base: usize,
    pub(super) rows: Range<usize>,
    pub(super) outputs: Range<usize>,
}

/// How the weights of one type become vectors.
trait Element {
    const BYTES: usize;

    /// The even and the odd elements, `WIDTH` each from virtual lane `lane` on, of the block at `block`.
    unsafe fn load<S: Simd>(block: *const u8, lane: usize) -> (S::V, S::V);
}

struct Bf16;
struct F16;
struct F32;

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(block: *const u8, lane: usize) -> (S::V, S::V) {
        // SAFETY: within the block, and LEAD bytes come before the first.
        unsafe { S::load_bf16(block.cast::<u16>().add(2 * lane)) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Simd>(block: *const u8, lane: usize) -> (S::V, S::V) {
        let from = block.cast::<u16>();
        // SAFETY: within the block.
        unsafe { (S::load_f16(from.add(lane)), S::load_f16(from.add(LANES + lane))) }
    }
}

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Simd>(block: *const u8, lane: usize) -> (S::V, S::V) {
        let from = block.cast::<f32>();
        // SAFETY: within the block.
        unsafe { (S::load(from.add(lane)), S::load(from.add(LANES + lane))) }
    }
}

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: by the chunk's own conditions.
        unsafe {
            match self.weights.kind() {
                FloatType::BF16 => self.all::<S, Bf16>(),
                FloatType::F16 => self.all::<S, F16>(),
                FloatType::F32 => self.all::<S, F32>(),
            }
        }
    }
}

/// Sums in progress: (outputs of a group, rows at once, virtual lanes).
type Lanes = [f32; GROUP * ROWS_AT_ONCE * LANES];

impl Chunk<'_> {
    #[inline(always)]
    unsafe fn all<S: Simd, E: Element>(&self) {
        let mut lanes = MaybeUninit::<Lanes>::uninit();
        let lanes = lanes.as_mut_ptr().cast::<f32>();
        let groups = self.rows.len().div_ceil(ROWS_AT_ONCE);
        for group in 0..groups {
            let row = |group| self.rows.start + self.rows.len() * group / groups;
            let (first, rows) = (row(group), row(group + 1) - row(group));
            for start in self.outputs.clone().step_by(PANEL) {
                let panel = Panel { chunk: self, first, outputs: start..(start + PANEL).min(self.outputs.end) };
                // Outputs and vectors at once: what fits the path's registers beside the weights.
                // SAFETY: these rows and outputs are parts of this chunk.
                unsafe {
                    match (rows, S::PARTS) {
                        (1, 1) => panel.run::<S, E, 1, 8, 1>(lanes),
                        (2, 1) => panel.run::<S, E, 2, 4, 1>(lanes),
                        (3, 1) => panel.run::<S, E, 3, 4, 1>(lanes),
                        (4, 1) => panel.run::<S, E, 4, 4, 1>(lanes),
                        (5, 1) => panel.run::<S, E, 5, 4, 1>(lanes),
                        (6, 1) => panel.run::<S, E, 6, 4, 1>(lanes),
                        (1, _) => panel.run::<S, E, 1, 4, 2>(lanes),
                        (2, _) => panel.run::<S, E, 2, 4, 1>(lanes),
                        (3, _) => panel.run::<S, E, 3, 3, 1>(lanes),
                        (4, _) => panel.run::<S, E, 4, 2, 1>(lanes),
                        (5, _) => panel.run::<S, E, 5, 2, 1>(lanes),
                        (_, _) => panel.run::<S, E, 6, 2, 1>(lanes),
                    }
                }
            }
        }
    }
}

/// Some rows of a chunk from `first` on, and at most [`PANEL`] of its outputs.
struct Panel<'a> {
    chunk: &'a Chunk<'a>,
    first: usize,
    outputs: Range<usize>,
}

impl Panel<'_> {
    /// `R` rows, `O` outputs at a time, `P` vectors of the lanes at a time.
    #[inline(always)]
    unsafe fn run<S: Simd, E: Element, const R: usize, const O: usize, const P: usize>(&self, lanes: *mut f32) {
        let mut sums = [[0.0_f32; PANEL]; R];
        // SAFETY: the caller grants R rows and the panel's outputs; a group has GROUP · R · LANES lanes.
        unsafe {
            for (half, start) in self.outputs.clone().step_by(GROUP).enumerate() {
                let group = start..(start + GROUP).min(self.outputs.end);
                self.group::<S, E, R, O, P>(group.clone(), lanes);
                let missing = (GROUP - group.len()) * R * LANES;
                lanes.add(group.len() * R * LANES).write_bytes(0, missing);
                for (r, sums) in sums.iter_mut().enumerate() {
                    S::sixteen_trees(lanes.add(r * LANES), R * LANES, sums.as_mut_ptr().add(half * GROUP / 2));
                }
            }
            for (r, sums) in sums.iter().enumerate() {
                let start = self.chunk.base + self.outputs.start;
                self.chunk.job.put::<S>(self.first + r, start, self.outputs.len(), sums.as_ptr());
            }
        }
    }

    /// The lanes of a group of outputs, slice by slice of the inputs. The weights that come [`AHEAD`] bytes later in this
    /// order are asked for meanwhile.
    #[inline(always)]
    unsafe fn group<S: Simd, E: Element, const R: usize, const O: usize, const P: usize>(
        &self,
        group: Range<usize>,
        lanes: *mut f32,
    ) {
        let stride = self.chunk.weights.stride();
        let slices = (R * stride).div_ceil(SLICE);
        let slice = stride.div_ceil(slices).next_multiple_of(BLOCK);
        let ahead = AHEAD.div_ceil(O * slice * E::BYTES) * O;
        for start in (0..stride).step_by(slice) {
            let inputs = start..(start + slice).min(stride);
            let mut output = group.start;
            while output < group.end {
                let (mut later, mut from) = (output + ahead, start);
                if later >= group.end {
                    from += slice;
                    if from < stride {
                        later -= group.len();
                    } else {
                        from = 0;
                    }
                }
                // SAFETY: the caller's rows and outputs.
                unsafe {
                    let later = self.weight(later, from, E::BYTES);
                    let lanes = lanes.add((output - group.start) * R * LANES);
                    if output + O <= group.end {
                        self.tile::<S, E, R, O, P>(output, inputs.clone(), later, lanes);
                        output += O;
                    } else {
                        self.tile::<S, E, R, 1, 1>(output, inputs.clone(), later, lanes);
                        output += 1;
                    }
                }
            }
        }
    }

    /// The address of a weight of `size` bytes, which may lie behind the last.
    #[inline(always)]
    fn weight(&self, output: usize, input: usize, size: usize) -> *const u8 {
        self.chunk.weights.start().wrapping_add((output * self.chunk.weights.stride() + input) * size)
    }

    /// Adds a slice of the inputs to the `lanes` of `O` outputs of `R` rows. The same slice of as many outputs at `later`
    /// is asked for meanwhile.
    #[inline(always)]
    unsafe fn tile<S: Simd, E: Element, const R: usize, const O: usize, const P: usize>(
        &self,
        output: usize,
        inputs: Range<usize>,
        later: *const u8,
        lanes: *mut f32,
    ) {
        let stride = self.chunk.weights.stride();
        // SAFETY: all accesses are within the rows and outputs that the caller grants; prefetches may go anywhere.
        unsafe {
            let weights = self.weight(output, 0, E::BYTES);
            let activations = self.chunk.job.activations.as_ptr().add(self.first * stride);
            // Whole rows follow each other, and are asked for in the order of their addresses.
            let (input_step, output_step) = match inputs.len() == stride {
                true => (O * E::BYTES, BLOCK * E::BYTES),
                false => (E::BYTES, stride * E::BYTES),
            };
            let mut part = 0;
            while part < S::PARTS {
                let mut sums = [[[S::splat(0.0); P]; R]; O];
                if inputs.start > 0 {
                    for o in 0..O {
                        for r in 0..R {
                            for p in 0..P {
                                sums[o][r][p] = S::load(lanes.add((o * R + r) * LANES + (part + p) * S::WIDTH));
                            }
                        }
                    }
                }
                let mut at = inputs.start;
                while at < inputs.end {
                    for o in 0..O {
                        if P == S::PARTS || o % S::PARTS == part {
                            S::prefetch(later.wrapping_add((at - inputs.start) * input_step + o * output_step).cast());
                        }
                    }
                    for p in 0..P {
                        let lane = (part + p) * S::WIDTH;
                        // One half of the weights after the other: with both at once six rows don't fit AVX2's registers.
                        let mut weight = [S::splat(0.0); O];
                        for o in 0..O {
                            (weight[o], _) = E::load::<S>(weights.add((o * stride + at) * E::BYTES), lane);
                        }
                        for r in 0..R {
                            let x = S::load(activations.add(r * stride + at + lane));
                            for o in 0..O {
                                sums[o][r][p] = S::fma(weight[o], x, sums[o][r][p]);
                            }
                        }
                        for o in 0..O {
                            (_, weight[o]) = E::load::<S>(weights.add((o * stride + at) * E::BYTES), lane);
                        }
                        for r in 0..R {
                            let x = S::load(activations.add(r * stride + at + LANES + lane));
                            for o in 0..O {
                                sums[o][r][p] = S::fma(weight[o], x, sums[o][r][p]);
                            }
                        }
                    }
                    at += BLOCK;
                }
                for o in 0..O {
                    for r in 0..R {
                        for p in 0..P {
                            S::store(lanes.add((o * R + r) * LANES + (part + p) * S::WIDTH), sums[o][r][p]);
                        }
                    }
                }
                part += P;
            }
        }
    }
}
