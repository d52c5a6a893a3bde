//! LayerNorm.

use super::Buffer;
use super::buffer::Shared;
use super::isa::Kernel;
use super::simd::{BLOCK, LANES, Simd, tree};
use crate::compute::Compute;

const EPSILON: f32 = 1e-5;

/// Rows that one thread normalises in one go.
const CHUNK_ROWS: usize = 16;

/// LayerNorm over `width` elements (Ba, Kiros, Hinton 2016, arXiv 1607.06450), for rows in lane order that are padded
/// with zeros to whole blocks.
pub(crate) struct Norm {
    width: usize,
    /// Scale, bias, and 1 where a row has an element and 0 in its padding: three runs of the padded width.
    vectors: Buffer,
}

impl Norm {
    /// `scale` and `bias`: (width), natural order.
    pub(crate) fn new(scale: &[f32], bias: &[f32]) -> Norm {
        assert_eq!(scale.len(), bias.len(), "a bias for each scale");
        let width = scale.len();
        let padded = width.next_multiple_of(BLOCK);
        let mut vectors = Buffer::zeroed(3 * padded);
        for i in 0..width {
            let at = super::place(i);
            vectors[at] = scale[i];
            vectors[padded + at] = bias[i];
            vectors[2 * padded + at] = 1.0;
        }
        Norm { width, vectors }
    }

    /// Normalises `rows` rows; row r of `out` comes from row `source(r)` of `x`. Both hold rows of the padded width, one
    /// after the other; the padding of `out` becomes zero.
    pub(crate) fn apply_rows(
        &self,
        compute: &Compute,
        x: &[f32],
        out: &mut [f32],
        rows: usize,
        source: impl Fn(usize) -> usize + Sync,
    ) {
        let padded = self.width.next_multiple_of(BLOCK);
        assert!(out.len() >= rows * padded, "room for {rows} rows of {padded}");
        let (scale, rest) = self.vectors.split_at(padded);
        let (bias, present) = rest.split_at(padded);
        let present = &present[..padded];
        let out = Shared::new(out);
        let path = compute.path();
        compute.pool().run(rows.div_ceil(CHUNK_ROWS), true, &|chunk, _| {
            for row in chunk * CHUNK_ROWS..((chunk + 1) * CHUNK_ROWS).min(rows) {
                let from = &x[source(row) * padded..][..padded];
                let to = out.at(row * padded, padded);
                // SAFETY: the slices are of one length, whole blocks long; a chunk alone writes its rows.
                unsafe { path.run(Apply { width: self.width as f32, row: from, out: to, scale, bias, present }) }
            }
        });
    }
}

/// Asks that all slices have the same length, a multiple of [`BLOCK`], and that `out` is as long and nobody else's.
struct Apply<'a> {
    width: f32,
    row: &'a [f32],
    out: *mut f32,
    scale: &'a [f32],
    bias: &'a [f32],
    present: &'a [f32],
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: every access is at a multiple of WIDTH below the common length.
        unsafe {
            let steps = self.row.len() / S::WIDTH;
            let mut sums = Sums::<S>::new();
            for i in 0..steps {
                sums.add(i, S::load(self.row.as_ptr().add(i * S::WIDTH)));
            }
            let mean = S::splat(sums.total() / self.width);

            let mut squares = Sums::<S>::new();
            for i in 0..steps {
                let at = i * S::WIDTH;
                let present = S::load(self.present.as_ptr().add(at));
                let centred = S::sub(S::load(self.row.as_ptr().add(at)), S::mul(mean, present));
                squares.fma(i, centred);
                S::store(self.out.add(at), centred);
            }
            let inverse = S::splat(1.0 / (squares.total() / self.width + EPSILON).sqrt());

            for i in 0..steps {
                let at = i * S::WIDTH;
                let unit = S::mul(S::load(self.out.add(at)), inverse);
                let scaled = S::fma(unit, S::load(self.scale.as_ptr().add(at)), S::load(self.bias.as_ptr().add(at)));
                S::store(self.out.add(at), scaled);
            }
        }
    }
}

/// A sum in the canonical order: element i of a row goes to lane i mod 16.
struct Sums<S: Simd>([S::V; 2]);

impl<S: Simd> Sums<S> {
    #[inline(always)]
    unsafe fn new() -> Self {
        // SAFETY: the caller enabled the path's features.
        unsafe { Sums([S::splat(0.0); 2]) }
    }

    /// Adds the `i`-th vector of the row.
    #[inline(always)]
    unsafe fn add(&mut self, i: usize, v: S::V) {
        // SAFETY: as in `new`.
        unsafe { self.0[i % S::PARTS] = S::add(self.0[i % S::PARTS], v) }
    }

    /// Adds the square of the `i`-th vector of the row.
    #[inline(always)]
    unsafe fn fma(&mut self, i: usize, v: S::V) {
        // SAFETY: as in `new`.
        unsafe { self.0[i % S::PARTS] = S::fma(v, v, self.0[i % S::PARTS]) }
    }

    #[inline(always)]
    unsafe fn total(self) -> f32 {
        let mut lanes = [0.0; LANES];
        for part in 0..S::PARTS {
            // SAFETY: as in `new`; PARTS vectors of WIDTH are the lanes.
            unsafe { S::store(lanes.as_mut_ptr().add(part * S::WIDTH), self.0[part]) }
        }
        tree(lanes)
    }
}
