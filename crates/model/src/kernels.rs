//! Everything that rounds: matmul, attention, norms, rotations, activations, softmax, in one canonical order on every
//! path.
//!
//! `unsafe` lives here (and in the pool): vectors, and slices that several threads fill. Each kernel stands behind a
//! safe function that checks its shapes.
#![expect(unsafe_code, reason = "SIMD intrinsics, and results that several threads write side by side")]
#![expect(clippy::needless_range_loop, reason = "an index is a row, an output or a lane, of several arrays at once")]

pub(crate) mod activation;
pub(crate) mod attention;
mod buffer;
mod isa;
mod math;
pub(crate) mod matmul;
mod matrix;
mod norm;
mod portable;
pub(crate) mod roof;
pub(crate) mod rope;
mod simd;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use buffer::Buffer;
pub use isa::Isa;
pub(crate) use isa::Path;
pub(crate) use matrix::{FloatType, Format, Matrix};
pub(crate) use norm::Norm;
pub(crate) use simd::BLOCK;

/// Where element `i` of a row stands in *lane order*: in each block of 32 the 16 even elements, then the 16 odd ones.
///
/// Two bf16 share a 32-bit word of the weights; this puts the activations that one vector of even (or odd) halves meets
/// side by side. Rows are padded with zeros to whole blocks.
#[inline(always)]
pub(crate) fn place(i: usize) -> usize {
    i / BLOCK * BLOCK + i % 2 * simd::LANES + i % BLOCK / 2
}

/// A row in lane order, padded with zeros.
pub(crate) fn in_lane_order(row: &[f32]) -> Vec<f32> {
    let mut placed = vec![0.0; row.len().next_multiple_of(BLOCK)];
    for (i, value) in row.iter().enumerate() {
        placed[place(i)] = *value;
    }
    placed
}

/// A bf16, exactly.
#[inline(always)]
pub(crate) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Elements before the first row of a matrix, which kernels may read and ignore.
pub(crate) const LEAD: usize = BLOCK;

/// A matrix of bf16, (outputs, inputs), rows padded with zeros to whole blocks.
#[derive(Clone, Copy)]
pub(crate) struct Weights<'a> {
    bits: &'a [u16],
    outputs: usize,
    stride: usize,
}

impl<'a> Weights<'a> {
    /// `bits` holds [`LEAD`] elements of no meaning, then `outputs` rows of `stride` elements.
    pub(crate) fn new(bits: &'a [u16], outputs: usize, stride: usize) -> Weights<'a> {
        assert!(stride.is_multiple_of(BLOCK), "rows of whole blocks, not {stride}");
        assert!(bits.len() == LEAD + outputs * stride, "{outputs} rows of {stride}, not {} elements", bits.len());
        Weights { bits, outputs, stride }
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Elements from one row to the next: the padded number of inputs.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// One row, natural order.
    pub(crate) fn row(&self, output: usize) -> &'a [u16] {
        &self.bits[LEAD + output * self.stride..][..self.stride]
    }

    fn as_ptr(&self) -> *const u16 {
        self.bits[LEAD..].as_ptr()
    }
}
