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
mod bytes;
mod isa;
mod math;
pub(crate) mod matmul;
mod matrix;
mod norm;
mod packed;
mod pages;
mod portable;
pub(crate) mod roof;
pub(crate) mod rope;
mod simd;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use buffer::Buffer;
pub(crate) use bytes::Bytes;
pub use isa::Isa;
pub(crate) use isa::Path;
pub(crate) use matrix::{FloatType, Matrix};
pub(crate) use norm::Norm;
pub(crate) use packed::Format;
pub(crate) use pages::{Page, Pages};
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

/// Bytes before the first row of a matrix, which kernels may read and ignore.
pub(crate) const LEAD: usize = 64;
