//! Activations for integer dot products: once per matmul each row is rounded to signed bytes, block by block.
//!
//! A block of a row keeps its greatest absolute value / 127 as its scale, and the multiples of it nearest to its values
//! (ties to even). Formats with blocks of 256 meet blocks of 256, those with 32 meet 32. Bytes stand in lane order, blocks
//! of all rows side by side: (blocks, rows, block).

use super::super::buffer::Shared;
use super::super::isa::Kernel;
use super::super::matrix::Matrix;
use super::super::packed::Format;
use super::super::simd::{BLOCK, Simd};
use crate::compute::Compute;

/// Rows that one thread rounds in one go.
const CHUNK_ROWS: usize = 8;

/// Blocks whose greatest value is below this are taken for zeros: its reciprocal would not be finite.
const LEAST: f32 = 1e-30;

/// Adding it to a number of at most 22 bits rounds it and leaves it in the low bits: 1.5 · 2²³.
const ROUND: f32 = 12_582_912.0;

/// The rounded activations of one matmul. Kept from one to the next, for its memory.
#[derive(Default)]
pub(crate) struct Scratch {
    pub(super) rows: usize,
    pub(super) by_256: Quantised,
    pub(super) by_32: Quantised,
    /// The bytes of `by_32` as 16-bit integers, for weights that are bytes themselves.
    pub(super) wide: Vec<i16>,
    /// −8 times the sums of `by_32`: what weights of 4 bits count too much, and half of that with 5 bits.
    pub(super) offsets: Vec<i32>,
}

/// Rows in blocks of one length.
#[derive(Default)]
pub(super) struct Quantised {
    /// (blocks, rows, block)
    pub(super) bytes: Vec<i8>,
    /// (blocks, rows)
    pub(super) scales: Vec<f32>,
    /// The sum of each 32: (blocks, rows, block / 32)
    pub(super) sums: Vec<i16>,
    /// The sums of each 32's first and second 16 elements, natural order: (blocks, rows, block / 32, 2)
    pub(super) half_sums: Vec<i16>,
}

impl Scratch {
    /// Rounds `rows` rows of `activations` as far as the matrices ask for it.
    pub(super) fn quantise(&mut self, compute: &Compute, stack: &[Matrix], activations: &[f32], rows: usize) {
        let formats = || {
            stack.iter().filter_map(|matrix| match matrix {
                Matrix::Float(_) => None,
                Matrix::Quantised(packed) => Some(packed.format()),
            })
        };
        let inputs = stack[0].stride();
        self.rows = rows;
        if formats().any(|format| format.block_len() == 256) {
            self.by_256.fill::<256>(compute, activations, rows, inputs);
        }
        if formats().any(|format| format.block_len() == 32) {
            self.by_32.fill::<32>(compute, activations, rows, inputs);
            self.offsets.clear();
            self.offsets.extend(self.by_32.sums[..rows * inputs / 32].iter().map(|sum| -8 * i32::from(*sum)));
        }
        if formats().any(|format| format == Format::Q8_0) {
            self.wide.clear();
            self.wide.extend(self.by_32.bytes[..rows * inputs].iter().map(|byte| i16::from(*byte)));
        }
    }
}

impl Quantised {
    fn fill<const LEN: usize>(&mut self, compute: &Compute, activations: &[f32], rows: usize, inputs: usize) {
        let blocks = inputs / LEN;
        grow(&mut self.bytes, blocks * rows * LEN);
        grow(&mut self.scales, blocks * rows);
        grow(&mut self.sums, blocks * rows * LEN / BLOCK);
        grow(&mut self.half_sums, 2 * blocks * rows * LEN / BLOCK);
        let (bytes, scales) = (Shared::new(&mut self.bytes), Shared::new(&mut self.scales));
        let (sums, half_sums) = (Shared::new(&mut self.sums), Shared::new(&mut self.half_sums));
        let path = compute.path();
        compute.pool().run(rows.div_ceil(CHUNK_ROWS), true, &|chunk, _| {
            for row in chunk * CHUNK_ROWS..((chunk + 1) * CHUNK_ROWS).min(rows) {
                let row_blocks = activations[row * inputs..][..inputs].chunks_exact(LEN);
                for (block, values) in row_blocks.enumerate() {
                    let at = block * rows + row;
                    let runs = LEN / BLOCK;
                    // SAFETY: the vectors were grown to hold every block of every row; a row is one chunk's.
                    unsafe {
                        path.run(Round {
                            values: &*values.as_ptr().cast::<[f32; LEN]>(),
                            bytes: &mut *bytes.at(at * LEN, LEN).cast::<[i8; LEN]>(),
                            scale: &mut *scales.at(at, 1),
                            sums: std::slice::from_raw_parts_mut(sums.at(at * runs, runs), runs),
                            half_sums: std::slice::from_raw_parts_mut(half_sums.at(2 * at * runs, 2 * runs), 2 * runs),
                        });
                    }
                }
            }
        });
    }
}

fn grow<T: Clone + Default>(values: &mut Vec<T>, len: usize) {
    if values.len() < len {
        values.resize(len, T::default());
    }
}

/// Rounds one block of one row. Asks for nothing.
struct Round<'a, const LEN: usize> {
    values: &'a [f32; LEN],
    bytes: &'a mut [i8; LEN],
    scale: &'a mut f32,
    sums: &'a mut [i16],
    half_sums: &'a mut [i16],
}

impl<const LEN: usize> Kernel for Round<'_, LEN> {
    type Output = ();

    /// Plain loops: each element by itself or exact in any order, so the compiler may use what vectors the path has.
    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // The bits of non-negative floats are in the floats' order; NaN is above all of them.
        let greatest = self.values.iter().fold(0, |greatest: u32, value| greatest.max(value.to_bits() & 0x7fff_ffff));
        let greatest = f32::from_bits(greatest);
        let (scale, inverse) = if greatest < LEAST { (0.0, 0.0) } else { (greatest / 127.0, 127.0 / greatest) };
        *self.scale = scale;
        for i in 0..LEN {
            self.bytes[i] = (self.values[i] * inverse + ROUND).to_bits() as i8;
        }
        for (run, bytes) in self.bytes.chunks_exact(BLOCK).enumerate() {
            // Natural order's first 16 are the first 8 of the even and the first 8 of the odd ones.
            let sum = |from: usize| bytes[from..from + 8].iter().map(|byte| i16::from(*byte)).sum::<i16>();
            let halves = [sum(0) + sum(16), sum(8) + sum(24)];
            self.sums[run] = halves[0] + halves[1];
            self.half_sums[2 * run..][..2].copy_from_slice(&halves);
        }
    }
}
