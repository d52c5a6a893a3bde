//! What stands between the two linear layers of an MLP, for rows in lane order that are padded to whole blocks.

use super::buffer::Shared;
use super::isa::Kernel;
use super::math;
use super::simd::{BLOCK, Simd};
use crate::compute::Compute;

#[cfg(test)]
mod tests;

/// Elements that one thread computes in one go, at least.
const CHUNK: usize = 1 << 12;

/// SiLU(gate) · up (Shazeer 2020, arXiv 2002.05202). Rows of `wide` are (gate | up), `width` elements each, and follow
/// each other; those of `out` have `width`.
pub(crate) fn swiglu(compute: &Compute, wide: &[f32], out: &mut [f32], width: usize, rows: usize) {
    assert!(wide.len() >= rows * 2 * width && out.len() >= rows * width, "{rows} rows of {width}");
    let to = Shared::new(out);
    each_row(compute, width, rows, &|row| {
        let (gate, up) = wide[row * 2 * width..][..2 * width].split_at(width);
        // SAFETY: `gate`, `up` and `to` are `width` long, whole blocks; a row is one thread's.
        unsafe { compute.path().run(SwiGlu { gate, up, to: to.at(row * width, width) }) }
    });
}

/// GELU by its tanh approximation, in place; rows of `width` elements follow each other.
pub(crate) fn gelu_tanh(compute: &Compute, values: &mut [f32], width: usize, rows: usize) {
    assert!(values.len() >= rows * width, "{rows} rows of {width}");
    let values = Shared::new(values);
    each_row(compute, width, rows, &|row| {
        // SAFETY: `width` elements, whole blocks; a row is one thread's.
        unsafe { compute.path().run(GeluTanh { values: values.at(row * width, width), width }) }
    });
}

fn each_row(compute: &Compute, width: usize, rows: usize, apply: &(dyn Fn(usize) + Sync)) {
    assert!(width.is_multiple_of(BLOCK), "whole blocks, not {width}");
    let together = (CHUNK / width).max(1);
    compute.pool().run(rows.div_ceil(together), rows * width >= 2 * CHUNK, &|chunk, _| {
        (chunk * together..((chunk + 1) * together).min(rows)).for_each(apply);
    });
}

/// Asks that `gate`, `up` and `to` are of one length, whole blocks, and that `to` is nobody else's.
struct SwiGlu<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    to: *mut f32,
}

impl Kernel for SwiGlu<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for at in (0..self.gate.len()).step_by(S::WIDTH) {
            // SAFETY: every access is at a multiple of WIDTH below the common length.
            unsafe {
                let gate = math::silu::<S>(S::load(self.gate.as_ptr().add(at)));
                S::store(self.to.add(at), S::mul(gate, S::load(self.up.as_ptr().add(at))));
            }
        }
    }
}

/// Asks for `width` elements, whole blocks, that are nobody else's.
struct GeluTanh {
    values: *mut f32,
    width: usize,
}

impl Kernel for GeluTanh {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        for at in (0..self.width).step_by(S::WIDTH) {
            // SAFETY: every access is at a multiple of WIDTH below the width.
            unsafe { S::store(self.values.add(at), math::gelu_tanh::<S>(S::load(self.values.add(at)))) }
        }
    }
}
