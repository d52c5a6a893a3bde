//! Weights in blocks of small integers, met by activations that were rounded to bytes: integer dot products are exact in
//! any order.
//!
//! The canonical order of one output of one row: one chain of fused multiply-adds over the blocks, in their order. A block
//! of 32 adds (d · dx) · Σ(q − offset)·x; one of Q4_K or Q5_K adds (d · dx) · Σ s·q·x and then (−e · dx) · Σ m·x; one of Q6_K
//! adds (d · dx) · Σ s·(q − 32)·x. d and e are the block's scales, dx the activations', the sums whole numbers.
//!
//! The 32 inputs of a run are decoded once, for 16 outputs (a vector has 16 of them or 8), and applied to all rows.

use std::mem::MaybeUninit;
use std::ops::Range;

use super::super::isa::Kernel;
use super::super::packed::{Format, Layout, Packed};
use super::super::simd::{LANES, Simd};
use super::{CHUNK_ROWS, Job, PANEL};

/// How far ahead weights are asked for, in bytes.
const AHEAD: usize = 4096;

/// Asks that rows and outputs lie within the job's slices, that outputs begin at a block, and that no other thread
/// touches their results.
pub(super) struct Chunk<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) weights: &'a Packed,
    /// Where the outputs of these weights begin among those of the stack.
    pub(super) base: usize,
    pub(super) rows: Range<usize>,
    pub(super) outputs: Range<usize>,
}

/// Results in progress: (rows, outputs of a panel in lane order).
type Sums = [f32; CHUNK_ROWS * PANEL];

/// Whole numbers in progress, of one vector of outputs: (rows, WIDTH).
type Integers = [i32; CHUNK_ROWS * LANES];

impl Kernel for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let mut sums = MaybeUninit::<Sums>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        for start in self.outputs.clone().step_by(PANEL) {
            // SAFETY: the panel's two groups are in the matrix, which has whole panels; there is room for the chunk's rows.
            unsafe {
                for half in 0..2 {
                    let group = self.weights.group(start / LANES + half);
                    let to = sums.add(half * LANES);
                    match self.weights.format() {
                        Format::Q4_0 => self.blocks_of_32::<S, Q4_0>(group, to),
                        Format::Q5_0 => self.blocks_of_32::<S, Q5_0>(group, to),
                        Format::Q8_0 => self.blocks_of_32::<S, Q8_0>(group, to),
                        Format::Q4K => self.blocks_of_256::<S, Q4K>(group, to),
                        Format::Q5K => self.blocks_of_256::<S, Q5K>(group, to),
                        Format::Q6K => self.blocks_of_256::<S, Q6K>(group, to),
                    }
                }
                let outputs = PANEL.min(self.outputs.end - start);
                for row in 0..self.rows.len() {
                    self.job.put::<S>(self.rows.start + row, self.base + start, outputs, sums.add(row * PANEL));
                }
            }
        }
    }
}

/// A format as a type, so that each has kernels of its own.
trait Coding {
    const FORMAT: Format;
}

struct Q4_0;
struct Q5_0;
struct Q8_0;
struct Q4K;
struct Q5K;
struct Q6K;

impl Coding for Q4_0 {
    const FORMAT: Format = Format::Q4_0;
}
impl Coding for Q5_0 {
    const FORMAT: Format = Format::Q5_0;
}
impl Coding for Q8_0 {
    const FORMAT: Format = Format::Q8_0;
}
impl Coding for Q4K {
    const FORMAT: Format = Format::Q4K;
}
impl Coding for Q5K {
    const FORMAT: Format = Format::Q5K;
}
impl Coding for Q6K {
    const FORMAT: Format = Format::Q6K;
}

/// The levels of 32 inputs, four to a lane, from a run's bytes of the first of these lanes on.
#[inline(always)]
unsafe fn levels<S: Simd, C: Coding>(run: *const u8) -> [S::I; 8] {
    // SAFETY: within the run, by its layout.
    unsafe {
        let mut levels = [S::zero(); 8];
        for step in 0..4 {
            let two = S::load_bytes(run.add(64 * step));
            levels[step] = S::mask(two, 0x0f);
            levels[step + 4] = S::mask(S::down::<4>(two), 0x0f);
        }
        match C::FORMAT {
            Format::Q5_0 | Format::Q5K => {
                let bits = S::load_bytes(run.add(256));
                let fifth = [
                    S::up::<4>(bits),
                    S::up::<3>(bits),
                    S::up::<2>(bits),
                    S::up::<1>(bits),
                    bits,
                    S::down::<1>(bits),
                    S::down::<2>(bits),
                    S::down::<3>(bits),
                ];
                for step in 0..8 {
                    levels[step] = S::or(levels[step], S::mask(fifth[step], 0x10));
                }
            }
            Format::Q6K => {
                for line in 0..2 {
                    let bits = S::load_bytes(run.add(256 + 64 * line));
                    let two = [S::up::<4>(bits), S::up::<2>(bits), bits, S::down::<2>(bits)];
                    for step in 0..4 {
                        let level = &mut levels[4 * line + step];
                        *level = S::or(*level, S::mask(two[step], 0x30));
                    }
                }
            }
            Format::Q4_0 | Format::Q8_0 | Format::Q4K => {}
        }
        levels
    }
}

/// The dot products of a run's levels with 32 bytes of activations, scaled.
#[inline(always)]
unsafe fn dot<S: Simd, C: Coding>(levels: &[S::I; 8], x: *const i8, (first, second): (S::Scale, S::Scale)) -> S::I {
    // SAFETY: 32 bytes; levels of 4, 5 and 6 bits keep the sums of 16, 8 and 4 products with a byte below 2¹⁵.
    unsafe {
        match C::FORMAT {
            Format::Q4_0 | Format::Q8_0 | Format::Q4K => S::dot::<8>(levels, x.cast(), first, second),
            Format::Q5_0 | Format::Q5K => S::dot::<4>(levels, x.cast(), first, second),
            Format::Q6K => S::dot::<2>(levels, x.cast(), first, second),
        }
    }
}

impl Chunk<'_> {
    /// The sums of a group's 16 outputs over blocks of 256, for each row [`PANEL`] elements apart.
    #[inline(always)]
    unsafe fn blocks_of_256<S: Simd, C: Coding>(&self, group: &[u8], sums: *mut f32) {
        let layout = C::FORMAT.layout();
        let x = &self.job.quantised.by_256;
        let (rows, all) = (self.rows.len(), self.job.quantised.rows);
        let mut integers = MaybeUninit::<Integers>::uninit();
        let integers = integers.as_mut_ptr().cast::<i32>();
        for (at, block) in group.chunks_exact(layout.bytes()).enumerate() {
            let block = block.as_ptr();
            let first = at * all + self.rows.start;
            for part in 0..S::PARTS {
                let lane = part * S::WIDTH;
                // SAFETY: the block has its layout's bytes, the activations the blocks of all rows, the sums whole panels.
                unsafe {
                    for run in 0..8 {
                        let ahead = block.wrapping_add(AHEAD + (part * 8 + run) * layout.bytes() / (8 * S::PARTS));
                        prefetch::<S>(ahead, layout.bytes() / (8 * S::PARTS));
                        let levels = levels::<S, C>(block.add(layout.levels + run * layout.run + 4 * lane));
                        let scales = match C::FORMAT {
                            Format::Q6K => S::scale_pairs(block.add(Layout::HALF_SCALES + (run * LANES + lane) * 2)),
                            _ => {
                                let scale = S::scale(block.add(Layout::SCALES + run * LANES + lane));
                                (scale, scale)
                            }
                        };
                        for row in 0..rows {
                            let bytes = x.bytes.as_ptr().add((first + row) * 256 + run * 32);
                            let mut sum = dot::<S, C>(&levels, bytes, scales);
                            if run > 0 {
                                sum = S::add_i32(S::load_i32(integers.add(row * LANES)), sum);
                            }
                            S::store_i32(integers.add(row * LANES), sum);
                        }
                    }
                    self.finish_256::<S, C>(block, lane, first, integers, sums.add(lane), at == 0);
                }
            }
        }
    }

    /// Adds a block's whole numbers, one vector of outputs for each row, to the sums.
    #[inline(always)]
    unsafe fn finish_256<S: Simd, C: Coding>(
        &self,
        block: *const u8,
        lane: usize,
        first: usize,
        integers: *const i32,
        sums: *mut f32,
        fresh: bool,
    ) {
        let x = &self.job.quantised.by_256;
        // SAFETY: as in `blocks_of_256`.
        unsafe {
            let d = S::load_f16(block.cast::<u16>().add(lane));
            for row in 0..self.rows.len() {
                let sum = sums.add(row * PANEL);
                let dx = S::splat(*x.scales.as_ptr().add(first + row));
                let integer = S::load_i32(integers.add(row * LANES));
                let before = if fresh { S::splat(0.0) } else { S::load(sum) };
                let total = match C::FORMAT {
                    Format::Q6K => {
                        let mut offset = S::zero();
                        for run in 0..8 {
                            let scales = S::load_i8_pairs(block.add(Layout::HALF_SCALES + (run * LANES + lane) * 2));
                            let halves = x.half_sums.as_ptr().add((first + row) * 16 + 2 * run);
                            offset = S::add_i32(offset, S::dot_i16(scales, S::broadcast(halves.cast())));
                        }
                        S::fma(S::mul(d, dx), S::to_float(S::sub_32_times(integer, offset)), before)
                    }
                    _ => {
                        let e = S::sub(S::splat(0.0), S::load_f16(block.cast::<u16>().add(LANES + lane)));
                        let mut minima = S::zero();
                        for two in 0..4 {
                            let of_two = S::load_u8_pairs(block.add(Layout::MINIMA + (two * LANES + lane) * 2));
                            let runs = x.sums.as_ptr().add((first + row) * 8 + 2 * two);
                            minima = S::add_i32(minima, S::dot_i16(of_two, S::broadcast(runs.cast())));
                        }
                        let scaled = S::fma(S::mul(d, dx), S::to_float(integer), before);
                        S::fma(S::mul(e, dx), S::to_float(minima), scaled)
                    }
                };
                S::store(sum, total);
            }
        }
    }

    /// The sums of a group's 16 outputs over blocks of 32, for each row [`PANEL`] elements apart.
    #[inline(always)]
    unsafe fn blocks_of_32<S: Simd, C: Coding>(&self, group: &[u8], sums: *mut f32) {
        let layout = C::FORMAT.layout();
        let x = &self.job.quantised.by_32;
        let (rows, all) = (self.rows.len(), self.job.quantised.rows);
        let mut integers = MaybeUninit::<Integers>::uninit();
        let integers = integers.as_mut_ptr().cast::<i32>();
        for (at, block) in group.chunks_exact(layout.bytes()).enumerate() {
            let block = block.as_ptr();
            let first = at * all + self.rows.start;
            for part in 0..S::PARTS {
                let lane = part * S::WIDTH;
                // SAFETY: the block has its layout's bytes, the activations the blocks of all rows, the sums whole panels.
                unsafe {
                    let ahead = block.wrapping_add(AHEAD + part * layout.bytes() / S::PARTS);
                    prefetch::<S>(ahead, layout.bytes() / S::PARTS);
                    let d = S::load_f16(block.cast::<u16>().add(lane));
                    let add = |row: usize, integer: S::I| {
                        let sum = sums.add(row * PANEL + lane);
                        let dx = S::splat(*x.scales.as_ptr().add(first + row));
                        let before = if at == 0 { S::splat(0.0) } else { S::load(sum) };
                        S::store(sum, S::fma(S::mul(d, dx), S::to_float(integer), before));
                    };
                    if C::FORMAT == Format::Q8_0 {
                        self.wide_dots::<S>(block.add(layout.levels + 2 * lane), first, integers);
                        (0..rows).for_each(|row| add(row, S::load_i32(integers.add(row * LANES))));
                        continue;
                    }
                    let levels = levels::<S, C>(block.add(layout.levels + 4 * lane));
                    for row in 0..rows {
                        let bytes = x.bytes.as_ptr().add((first + row) * 32);
                        let offset = S::broadcast(self.job.quantised.offsets.as_ptr().add(first + row).cast());
                        let mut integer = dot::<S, C>(&levels, bytes, (S::unit_scale(), S::unit_scale()));
                        integer = S::add_i32(integer, offset);
                        if C::FORMAT == Format::Q5_0 {
                            integer = S::add_i32(integer, offset);
                        }
                        add(row, integer);
                    }
                }
            }
        }
    }

    /// The dot products of 32 bytes of weights of each output with each row: 16-bit integers, two at a time.
    #[inline(always)]
    unsafe fn wide_dots<S: Simd>(&self, weights: *const u8, first: usize, integers: *mut i32) {
        // SAFETY: as in `blocks_of_32`.
        unsafe {
            for half in 0..2 {
                let mut pairs = [S::zero(); 8];
                for step in 0..8 {
                    pairs[step] = S::load_i8_pairs(weights.add((8 * half + step) * 2 * LANES));
                }
                for row in 0..self.rows.len() {
                    let x = self.job.quantised.wide.as_ptr().add((first + row) * 32 + 16 * half);
                    let to = integers.add(row * LANES);
                    let mut sum = if half == 0 { S::zero() } else { S::load_i32(to) };
                    for step in 0..8 {
                        sum = S::add_i32(sum, S::dot_i16(pairs[step], S::broadcast(x.add(2 * step).cast())));
                    }
                    S::store_i32(to, sum);
                }
            }
        }
    }
}

/// Asks for the lines of the next `bytes` bytes.
#[inline(always)]
unsafe fn prefetch<S: Simd>(from: *const u8, bytes: usize) {
    for line in 0..bytes.div_ceil(64) {
        // SAFETY: prefetches may go anywhere.
        unsafe { S::prefetch(from.wrapping_add(64 * line).cast()) }
    }
}
