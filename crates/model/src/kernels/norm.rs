//! LayerNorm and RMSNorm.

use super::Buffer;
use super::buffer::Shared;
use super::isa::{Kernel, Path};
use super::simd::{BLOCK, LANES, Simd, tree};
use crate::compute::Compute;

/// Rows that one thread normalises in one go.
const CHUNK_ROWS: usize = 16;

/// LayerNorm (Ba, Kiros, Hinton 2016, arXiv 1607.06450) or RMSNorm (Zhang, Sennrich 2019, arXiv 1910.07467) over `width`
/// elements, for rows in lane order that are padded with zeros to whole blocks.
pub(crate) struct Norm {
    width: usize,
    epsilon: f32,
    /// Whether the mean is taken away first.
    centred: bool,
    /// Scale, bias, and 1 where a row has an element and 0 in its padding: three runs of the padded width.
    vectors: Buffer,
}

impl Norm {
    /// LayerNorm; `scale` and `bias`: (width), natural order.
    pub(crate) fn layer(scale: &[f32], bias: &[f32], epsilon: f32) -> Norm {
        assert_eq!(scale.len(), bias.len(), "a bias for each scale");
        let mut norm = Norm::rms(scale, epsilon);
        let padded = norm.padded();
        norm.centred = true;
        for (i, bias) in bias.iter().enumerate() {
            norm.vectors[padded + super::place(i)] = *bias;
        }
        norm
    }

    /// RMSNorm, which has neither mean nor bias; `scale`: (width), natural order.
    pub(crate) fn rms(scale: &[f32], epsilon: f32) -> Norm {
        let width = scale.len();
        let padded = width.next_multiple_of(BLOCK);
        let mut vectors = Buffer::zeroed(3 * padded);
        for (i, scale) in scale.iter().enumerate() {
            let at = super::place(i);
            vectors[at] = *scale;
            vectors[2 * padded + at] = 1.0;
        }
        Norm { width, epsilon, centred: false, vectors }
    }

    /// Elements of a row, padding included.
    pub(crate) fn padded(&self) -> usize {
        self.width.next_multiple_of(BLOCK)
    }

    /// Numbers that it was made of.
    pub(crate) fn parameters(&self) -> usize {
        self.width * (1 + usize::from(self.centred))
    }

    /// Normalises one row into another, both of the padded width.
    #[inline]
    pub(super) fn apply(&self, path: Path, row: &[f32], out: &mut [f32]) {
        assert!(row.len() == self.padded() && out.len() == self.padded(), "rows of {}", self.padded());
        // SAFETY: the slices are of one length, whole blocks long; `out` is borrowed for this alone.
        unsafe { path.run(Apply { norm: self, row, out: out.as_mut_ptr() }) }
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
        let padded = self.padded();
        assert!(out.len() >= rows * padded, "room for {rows} rows of {padded}");
        let out = Shared::new(out);
        let path = compute.path();
        compute.pool().run(rows.div_ceil(CHUNK_ROWS), true, &|chunk, _| {
            for row in chunk * CHUNK_ROWS..((chunk + 1) * CHUNK_ROWS).min(rows) {
                let from = &x[source(row) * padded..][..padded];
                let to = out.at(row * padded, padded);
                // SAFETY: the slices are of one length, whole blocks long; a chunk alone writes its rows.
                unsafe { path.run(Apply { norm: self, row: from, out: to }) }
            }
        });
    }
}

/// Asks that `row` has the norm's padded width, and that `out` is as long and nobody else's.
struct Apply<'a> {
    norm: &'a Norm,
    row: &'a [f32],
    out: *mut f32,
}

impl Kernel for Apply<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: every access is at a multiple of WIDTH below the padded width.
        unsafe {
            let Norm { width, epsilon, centred, vectors } = self.norm;
            let (width, padded) = (*width as f32, self.row.len());
            let scale = vectors.as_ptr();
            let (bias, present) = (scale.add(padded), scale.add(2 * padded));
            let steps = padded / S::WIDTH;
            let mut mean = S::splat(0.0);
            if *centred {
                let mut sums = Sums::<S>::new();
                for i in 0..steps {
                    sums.add(i, S::load(self.row.as_ptr().add(i * S::WIDTH)));
                }
                mean = S::splat(sums.total() / width);
            }

            let mut squares = Sums::<S>::new();
            for i in 0..steps {
                let at = i * S::WIDTH;
                let from_mean = S::sub(S::load(self.row.as_ptr().add(at)), S::mul(mean, S::load(present.add(at))));
                squares.fma(i, from_mean);
                S::store(self.out.add(at), from_mean);
            }
            let inverse = S::splat(1.0 / (squares.total() / width + epsilon).sqrt());

            for i in 0..steps {
                let at = i * S::WIDTH;
                let unit = S::mul(S::load(self.out.add(at)), inverse);
                S::store(self.out.add(at), S::fma(unit, S::load(scale.add(at)), S::load(bias.add(at))));
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
