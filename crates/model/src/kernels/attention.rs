//! Causal attention of new rows against their sequences' caches.
//!
//! The canonical order of one row of one head: a score is one chain of fused multiply-adds over the head's dimensions;
//! the greatest score is exact; the sum of the weights has its terms in lane = position mod 16, then the tree; each
//! dimension of the output is one chain of fused multiply-adds over the positions, divided by the sum at the end.
//! Keys stand transposed, 64 positions by dimension, so that positions are the lanes of the scores.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::buffer::Shared;
use super::isa::Kernel;
use super::simd::{LANES, Simd, tree};
use super::{Buffer, math, place};
use crate::compute::Compute;

/// Positions that a page of a cache holds.
pub(crate) const PAGE: usize = 64;

/// Rows of one sequence and head that one thread computes in one go.
const UNIT_ROWS: usize = 64;

/// Rows that share the loads of keys and values.
const ROWS_AT_ONCE: usize = 5;

/// The parts of a cache's geometry that attention sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl Shape {
    /// Dimensions of a head in a row of values, padded to whole vectors.
    fn padded(self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    /// Elements of one layer and head in a page: keys (head_dim, PAGE), then values (PAGE, padded head_dim).
    fn head_len(self) -> usize {
        PAGE * (self.head_dim + self.padded())
    }

    /// Elements of a page: (layers, heads, keys and values).
    pub(crate) fn page_len(self) -> usize {
        self.layers * self.heads * self.head_len()
    }

    fn width(self) -> usize {
        self.heads * self.head_dim
    }
}

/// A sequence's part in a forward: the cache that its new rows extend.
struct Window<'a> {
    pages: Vec<Shared>,
    held: usize,
    rows: Range<usize>,
    owner: PhantomData<&'a mut [Buffer]>,
}

/// What one thread does in one go.
struct Unit {
    window: usize,
    head: usize,
    rows: Range<usize>,
}

/// The attention of one forward: all its windows, cut into units, the same for each layer.
pub(crate) struct Attention<'a> {
    shape: Shape,
    windows: Vec<Window<'a>>,
    units: Vec<Unit>,
    rows: usize,
    /// Positions that the longest row sees, in whole pages.
    longest: usize,
}

/// The queries, keys and values of a layer's new rows: each row (3, heads, head_dim), `stride` elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Projections<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) stride: usize,
}

impl<'a> Attention<'a> {
    pub(crate) fn new(shape: Shape) -> Attention<'a> {
        Attention {
            shape,
            windows: Vec::new(),
            units: Vec::new(),
            rows: 0,
            longest: 0,
        }
    }

    /// Adds a window: `rows` new rows of a sequence whose `pages` hold `held` positions and have room for the new ones.
    pub(crate) fn push(&mut self, pages: &'a mut [Buffer], held: usize, rows: usize) {
        assert!(
            held + rows <= pages.len() * PAGE,
            "room for {held} + {rows} positions in {} pages",
            pages.len()
        );
        assert!(
            pages.iter().all(|page| page.len() >= self.shape.page_len()),
            "pages of this geometry"
        );
        let window = self.windows.len();
        let first = self.rows;
        for head in 0..self.shape.heads {
            for row in (0..rows).step_by(UNIT_ROWS) {
                self.units.push(Unit {
                    window,
                    head,
                    rows: first + row..first + (row + UNIT_ROWS).min(rows),
                });
            }
        }
        let pages = pages.iter_mut().map(|page| Shared::new(page)).collect();
        self.windows.push(Window {
            pages,
            held,
            rows: first..first + rows,
            owner: PhantomData,
        });
        self.rows += rows;
        self.longest = self.longest.max((held + rows).next_multiple_of(PAGE));
    }

    /// Appends the new rows' keys and values to the layer's caches and writes the attention's output to `out`: rows in
    /// lane order, `stride` elements apart, (heads, head_dim). `scratch` has a buffer for each thread.
    pub(crate) fn run(
        &mut self,
        compute: &Compute,
        layer: usize,
        projections: Projections<'_>,
        out: &mut [f32],
        stride: usize,
        scratch: &[Mutex<Buffer>],
    ) {
        let width = self.shape.width();
        assert!(layer < self.shape.layers, "layer {layer} of {}", self.shape.layers);
        assert!(projections.stride >= 3 * width && projections.rows.len() >= self.rows * projections.stride);
        assert!(stride >= width.next_multiple_of(super::BLOCK) && out.len() >= self.rows * stride);
        assert!(scratch.len() >= compute.threads(), "scratch for each thread");

        let path = compute.path();
        let job = Job {
            attention: self,
            layer,
            projections,
            out: Shared::new(out),
            stride,
        };
        let pays = self.pays();
        if self.windows.iter().any(|window| window.rows.len() > UNIT_ROWS) {
            compute
                .pool()
                .run(self.windows.len() * self.shape.heads, pays, &|chunk, _| {
                    let (window, head) = (chunk / self.shape.heads, chunk % self.shape.heads);
                    job.append(&self.windows[window], head);
                });
        }
        compute.pool().run(self.units.len(), pays, &|chunk, thread| {
            let unit = &self.units[chunk];
            let window = &self.windows[unit.window];
            if window.rows.len() <= UNIT_ROWS {
                job.append(window, unit.head);
            }
            let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            scratch.reserve(ROWS_AT_ONCE * (self.longest + self.shape.padded()));
            // SAFETY: shapes were checked here and in `push`; a unit alone writes its rows and head, and the keys and
            // values that it reads were appended above, by itself or in the region before.
            unsafe {
                path.run(Attend {
                    job: &job,
                    unit,
                    window,
                    scratch: &mut scratch,
                })
            }
        });
    }

    /// Whether the work is worth more than one thread.
    fn pays(&self) -> bool {
        let seen: usize = self
            .windows
            .iter()
            .map(|window| (window.held + window.rows.len()) * window.rows.len())
            .sum();
        seen * self.shape.width() >= 1 << 13
    }
}

struct Job<'a> {
    attention: &'a Attention<'a>,
    layer: usize,
    projections: Projections<'a>,
    out: Shared,
    stride: usize,
}

impl Job<'_> {
    /// Where the keys of a head stand in each page.
    fn keys(&self, head: usize) -> usize {
        let shape = self.attention.shape;
        (self.layer * shape.heads + head) * shape.head_len()
    }

    /// Where the values of a head stand in each page.
    fn values(&self, head: usize) -> usize {
        self.keys(head) + PAGE * self.attention.shape.head_dim
    }

    /// Writes the keys and values of a window's new rows for one head.
    fn append(&self, window: &Window<'_>, head: usize) {
        let shape = self.attention.shape;
        let (keys, values) = (self.keys(head), self.values(head));
        for (position, row) in (window.held..).zip(window.rows.clone()) {
            let projected = &self.projections.rows[row * self.projections.stride..][..3 * shape.width()];
            let key = &projected[shape.width() + head * shape.head_dim..][..shape.head_dim];
            let value = &projected[2 * shape.width() + head * shape.head_dim..][..shape.head_dim];
            let page = window.pages[position / PAGE];
            let slot = position % PAGE;
            for d in 0..shape.head_dim {
                let key_at = page.at(keys + d * PAGE + slot, 1);
                let value_at = page.at(values + slot * shape.padded() + d, 1);
                // SAFETY: within a page of this geometry; one thread appends a window's head.
                unsafe {
                    *key_at = key[d];
                    *value_at = value[d];
                }
            }
        }
    }
}

/// One unit. Asks that the shapes were checked, that the unit's keys and values are in the cache, and that no other
/// thread writes its part of the output.
struct Attend<'a> {
    job: &'a Job<'a>,
    unit: &'a Unit,
    window: &'a Window<'a>,
    scratch: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let rows = self.unit.rows.clone();
        let groups = rows.len().div_ceil(ROWS_AT_ONCE);
        for group in 0..groups {
            let row = |group| rows.start + rows.len() * group / groups;
            let first = row(group);
            // SAFETY: these rows are the unit's.
            unsafe {
                match row(group + 1) - first {
                    1 => self.group::<S, 1>(first),
                    2 => self.group::<S, 2>(first),
                    3 => self.group::<S, 3>(first),
                    4 => self.group::<S, 4>(first),
                    _ => self.group::<S, 5>(first),
                }
            }
        }
    }
}

impl Attend<'_> {
    /// `R` neighbouring rows from `first`: scores, weights, values.
    #[inline(always)]
    unsafe fn group<S: Simd, const R: usize>(&mut self, first: usize) {
        let shape = self.job.attention.shape;
        let stride = self.job.attention.longest;
        // The first row of the group sees this many positions; each later one sees one more.
        let seen = self.window.held + (first - self.window.rows.start) + 1;
        // SAFETY: the scratch has ROWS_AT_ONCE rows of `longest` weights and of a head's padded dimensions.
        unsafe {
            // Keys share registers with the rows that they meet.
            match (R, S::PARTS) {
                (1, _) | (_, 1) => self.scores::<S, R, 4>(first, seen + R - 1),
                (2, _) => self.scores::<S, R, 2>(first, seen + R - 1),
                _ => self.scores::<S, R, 1>(first, seen + R - 1),
            } // scratch: (R, seen)

            let scale = 1.0 / (shape.head_dim as f32).sqrt();
            let mut sums = [0.0; R];
            for r in 0..R {
                sums[r] = softmax::<S>(&mut self.scratch[r * stride..][..stride], seen + r, scale);
            } // scratch: (R, seen), weights before the division

            let vectors = shape.padded() / S::WIDTH;
            let mut vector = 0;
            while vector < vectors {
                vector += match (R, S::PARTS, vectors - vector) {
                    (1, 2, 8..) => self.values::<S, R, 8>(first, seen, vector, &sums),
                    (1 | 2, 2, 4..) | (_, 1, 4..) => self.values::<S, R, 4>(first, seen, vector, &sums),
                    (_, _, 2..) => self.values::<S, R, 2>(first, seen, vector, &sums),
                    _ => self.values::<S, R, 1>(first, seen, vector, &sums),
                };
            } // out: (R, head_dim)
        }
    }

    /// The scores of `R` rows, `G` groups of 16 positions at a time, into the scratch. Positions that a row does not
    /// see get scores of no meaning.
    #[inline(always)]
    unsafe fn scores<S: Simd, const R: usize, const G: usize>(&mut self, first: usize, longest: usize) {
        let shape = self.job.attention.shape;
        let Projections { rows, stride } = self.job.projections;
        let keys = self.job.keys(self.unit.head);
        let mut position = 0;
        // SAFETY: queries lie within the projections, keys within their page (PAGE is a multiple of G groups), and
        // the scratch holds whole pages.
        unsafe {
            let queries = rows.as_ptr().add(first * stride + self.unit.head * shape.head_dim);
            while position < longest {
                let at = keys + position % PAGE;
                let page: *const f32 =
                    self.window.pages[position / PAGE].at(at, (shape.head_dim - 1) * PAGE + G * LANES);
                let mut sums = [[[S::splat(0.0); 2]; G]; R];
                for d in 0..shape.head_dim {
                    let mut key = [[S::splat(0.0); 2]; G];
                    for g in 0..G {
                        for p in 0..S::PARTS {
                            key[g][p] = S::load(page.add(d * PAGE + g * LANES + p * S::WIDTH));
                        }
                    }
                    for r in 0..R {
                        let query = S::splat(*queries.add(r * stride + d));
                        for g in 0..G {
                            for p in 0..S::PARTS {
                                sums[r][g][p] = S::fma(query, key[g][p], sums[r][g][p]);
                            }
                        }
                    }
                }
                for r in 0..R {
                    let to = self.scratch.as_mut_ptr().add(r * self.job.attention.longest + position);
                    for g in 0..G {
                        for p in 0..S::PARTS {
                            S::store(to.add(g * LANES + p * S::WIDTH), sums[r][g][p]);
                        }
                    }
                }
                position += G * LANES;
            }
        }
    }

    /// `C` vectors of a head's output from `vector` on, for `R` rows whose weights stand in the scratch. Returns `C`.
    #[inline(always)]
    unsafe fn values<S: Simd, const R: usize, const C: usize>(
        &mut self,
        first: usize,
        seen: usize,
        vector: usize,
        sums: &[f32; R],
    ) -> usize {
        let shape = self.job.attention.shape;
        let padded = shape.padded();
        let weights_stride = self.job.attention.longest;
        let values = self.job.values(self.unit.head) + vector * S::WIDTH;
        let weights = self.scratch.as_ptr();
        // SAFETY: values lie within their page, weights within the scratch; only positions that a row sees are read.
        unsafe {
            let mut out = [[S::splat(0.0); C]; R];
            let mut start = 0;
            while start < seen {
                let count = (seen - start).min(PAGE);
                let page: *const f32 = self.window.pages[start / PAGE].at(values, (count - 1) * padded + C * S::WIDTH);
                for i in 0..count {
                    let mut value = [S::splat(0.0); C];
                    for c in 0..C {
                        value[c] = S::load(page.add(i * padded + c * S::WIDTH));
                    }
                    for r in 0..R {
                        let weight = S::splat(*weights.add(r * weights_stride + start + i));
                        for c in 0..C {
                            out[r][c] = S::fma(weight, value[c], out[r][c]);
                        }
                    }
                }
                start += count;
            }
            // What later rows of the group see beyond the first: exactly that, so that no row's value meets another's 0.
            for r in 1..R {
                for position in seen..seen + r {
                    let page = self.window.pages[position / PAGE];
                    let value: *const f32 = page.at(values + position % PAGE * padded, C * S::WIDTH);
                    let weight = S::splat(*weights.add(r * weights_stride + position));
                    for c in 0..C {
                        out[r][c] = S::fma(weight, S::load(value.add(c * S::WIDTH)), out[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    let mut lanes = [0.0; LANES];
                    S::store(lanes.as_mut_ptr(), S::div(out[r][c], S::splat(sums[r])));
                    self.scatter(first + r, (vector + c) * S::WIDTH, &lanes[..S::WIDTH]);
                }
            }
        }
        C
    }

    /// Writes dimensions of the head from `from` on to the output, in lane order, without the padding.
    #[inline(always)]
    unsafe fn scatter(&self, row: usize, from: usize, lanes: &[f32]) {
        let shape = self.job.attention.shape;
        for (d, value) in (from..shape.head_dim).zip(lanes) {
            let to = self
                .job
                .out
                .at(row * self.job.stride + place(self.unit.head * shape.head_dim + d), 1);
            // SAFETY: within the row's stride, and this unit's alone.
            unsafe { *to = *value }
        }
    }
}

/// Turns the first `seen` scores into e^((score − greatest) · scale) and returns their sum. The rest of the last group of
/// 16, whatever it held, becomes 0.
#[inline(always)]
unsafe fn softmax<S: Simd>(scores: &mut [f32], seen: usize, scale: f32) -> f32 {
    let whole = seen.next_multiple_of(LANES);
    scores[seen..whole].fill(f32::NEG_INFINITY);
    // SAFETY: whole groups of 16 within the slice, which was indexed up to `whole`.
    unsafe {
        let start = scores.as_mut_ptr();
        let mut greatest = S::splat(f32::NEG_INFINITY);
        for i in 0..whole / S::WIDTH {
            greatest = S::max(greatest, S::load(start.add(i * S::WIDTH)));
        }
        let mut lanes = [f32::NEG_INFINITY; LANES];
        S::store(lanes.as_mut_ptr(), greatest);
        let greatest = S::splat(lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max));

        let scale = S::splat(scale);
        let mut sums = [S::splat(0.0); 2];
        for group in 0..whole / LANES {
            let at = start.add(group * LANES);
            for p in 0..S::PARTS {
                let score = S::load(at.add(p * S::WIDTH));
                S::store(
                    at.add(p * S::WIDTH),
                    math::exp::<S>(S::mul(S::sub(score, greatest), scale)),
                );
            }
            if (group + 1) * LANES > seen {
                std::slice::from_raw_parts_mut(start.add(seen), whole - seen).fill(0.0);
            }
            for p in 0..S::PARTS {
                sums[p] = S::add(sums[p], S::load(at.add(p * S::WIDTH)));
            }
        }
        for p in 0..S::PARTS {
            S::store(lanes.as_mut_ptr().add(p * S::WIDTH), sums[p]);
        }
        tree(lanes)
    }
}
