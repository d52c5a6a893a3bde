//! What one thread does at a time: the attention of some rows of one sequence, or of one row of each of several that begin alike,
//! to one head of keys.
//!
//! The queries that share those keys are counted row by row, within a row head by head.

use std::ops::Range;

use super::super::isa::Kernel;
use super::super::simd::{LANES, Simd, tree};
use super::super::{math, place};
use super::{Job, PAGE, Projections, ROWS_AT_ONCE, Unit, Window};

/// One unit. Asks that the shapes were checked, that the unit's keys and values are in the cache, and that no other
/// thread writes its part of the output.
pub(super) struct Attend<'a> {
    pub(super) job: &'a Job<'a>,
    pub(super) unit: &'a Unit,
    pub(super) windows: &'a [Window<'a>],
    pub(super) scratch: &'a mut [f32],
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(mut self) {
        let queries = self.unit.rows.len() * self.job.attention.shape.group();
        let tiles = queries.div_ceil(ROWS_AT_ONCE);
        for tile in 0..tiles {
            let query = |tile| queries * tile / tiles;
            let first = query(tile);
            // SAFETY: these queries are the unit's.
            unsafe {
                match query(tile + 1) - first {
                    1 => self.tile::<S, 1>(first),
                    2 => self.tile::<S, 2>(first),
                    3 => self.tile::<S, 3>(first),
                    4 => self.tile::<S, 4>(first),
                    _ => self.tile::<S, 5>(first),
                }
            }
        }
    }
}

impl<'a> Attend<'a> {
    /// The row of a query, and its head.
    #[inline(always)]
    fn place_of(&self, query: usize) -> (usize, usize) {
        let group = self.job.attention.shape.group();
        (self.unit.rows.start + query / group, self.unit.head * group + query % group)
    }

    /// The window of a row.
    #[inline(always)]
    fn window_of(&self, row: usize) -> &'a Window<'a> {
        match self.windows {
            [window] => window,
            windows => &windows[row - self.unit.rows.start],
        }
    }

    /// `R` neighbouring queries from `first`: scores, weights, values.
    #[inline(always)]
    unsafe fn tile<S: Simd, const R: usize>(&mut self, first: usize) {
        let shape = self.job.attention.shape;
        let stride = self.job.attention.longest;
        // Positions that each query sees: those held, and the new ones up to its own row. In one window later ones see no fewer.
        let windows: [&Window<'_>; R] = std::array::from_fn(|r| self.window_of(self.place_of(first + r).0));
        let mut seen = [0; R];
        for r in 0..R {
            seen[r] = windows[r].held + (self.place_of(first + r).0 - windows[r].rows.start) + 1;
        }
        let joint = self.unit.joint.min(seen[R - 1]);
        // SAFETY: the scratch has ROWS_AT_ONCE rows of `longest` weights and of a head's padded dimensions.
        unsafe {
            self.gather_queries::<R>(first); // scratch: (R, head_dim) behind the sums
            // Keys share registers with the queries that they meet.
            match (R, S::PARTS) {
                (1, _) | (_, 1) => self.scores::<S, R, 4>(windows[0], 0, 0..joint),
                (2, _) => self.scores::<S, R, 2>(windows[0], 0, 0..joint),
                _ => self.scores::<S, R, 1>(windows[0], 0, 0..joint),
            }
            for r in 0..R {
                self.scores::<S, 1, 4>(windows[r], r, joint..seen[r]);
            } // scratch: (R, seen)

            for r in 0..R {
                self.scratch[r * stride..][windows[r].gap.clone()].fill(f32::NEG_INFINITY);
            }
            let scale = 1.0 / (shape.head_dim as f32).sqrt();
            let mut sums = [0.0; R];
            for r in 0..R {
                sums[r] = softmax::<S>(&mut self.scratch[r * stride..][..stride], seen[r], scale);
            } // scratch: (R, seen), weights before the division

            self.values::<S, R>(windows, seen); // scratch: (R, head_dim) after the weights
            for r in 0..R {
                self.finish(first + r, r, sums[r]);
            } // out: (R, head_dim)
        }
    }

    /// Copies queries, natural order, into the last part of the scratch.
    #[inline(always)]
    unsafe fn gather_queries<const R: usize>(&mut self, first: usize) {
        let shape = self.job.attention.shape;
        let Projections { rows, stride } = self.job.projections;
        for r in 0..R {
            let (row, head) = self.place_of(first + r);
            let row = &rows[row * stride..][..stride];
            for d in 0..shape.head_dim {
                // SAFETY: the scratch has room for these behind the sums.
                unsafe { *self.query(r).add(d) = row[place(head * shape.head_dim + d)] }
            }
        }
    }

    /// The scores of `R` queries from the `first` of the tile on, `G` groups of 16 positions at a time from the begin of a page,
    /// into the scratch. Positions that a query does not see get scores of no meaning.
    #[inline(always)]
    unsafe fn scores<S: Simd, const R: usize, const G: usize>(
        &mut self,
        window: &Window<'_>,
        first: usize,
        positions: Range<usize>,
    ) {
        let shape = self.job.attention.shape;
        let keys = self.job.keys(self.unit.head);
        let mut position = positions.start;
        // SAFETY: queries lie within the scratch, keys within their page (PAGE is a multiple of G groups), and
        // the scratch holds whole pages.
        unsafe {
            let queries = self.query(first);
            while position < positions.end {
                let at = keys + position % PAGE;
                let page: *const f32 = window.pages[position / PAGE].at(at, (shape.head_dim - 1) * PAGE + G * LANES);
                // Meanwhile the next page's keys are asked for, as many lines as this tile has, or the first values.
                let next = match window.pages.get(position / PAGE + 1) {
                    Some(page) if position + PAGE < positions.end => page.at(keys, 0),
                    _ => window.pages[0].at(self.job.values(self.unit.head), 0),
                };
                let next = next.wrapping_add(position % PAGE * shape.head_dim);
                let mut sums = [[[S::splat(0.0); 2]; G]; R];
                for d in 0..shape.head_dim {
                    for g in 0..G {
                        S::prefetch(next.wrapping_add((d * G + g) * LANES).cast());
                    }
                    let mut key = [[S::splat(0.0); 2]; G];
                    for g in 0..G {
                        for p in 0..S::PARTS {
                            key[g][p] = S::load(page.add(d * PAGE + g * LANES + p * S::WIDTH));
                        }
                    }
                    for r in 0..R {
                        let query = S::splat(*queries.add(r * shape.padded() + d));
                        for g in 0..G {
                            for p in 0..S::PARTS {
                                sums[r][g][p] = S::fma(query, key[g][p], sums[r][g][p]);
                            }
                        }
                    }
                }
                for r in 0..R {
                    let to = self.scratch.as_mut_ptr().add((first + r) * self.job.attention.longest + position);
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

    /// The weighted sums of the values, undivided, into the part of the scratch behind the weights: (R, padded head_dim).
    #[inline(always)]
    unsafe fn values<S: Simd, const R: usize>(&mut self, windows: [&Window<'_>; R], seen: [usize; R]) {
        // Positions whose values all of them see, in the same pages.
        let mut all = seen.into_iter().fold(self.unit.joint, usize::min);
        if let [_, _, ..] = self.windows {
            let gaps = windows.iter().filter(|window| !window.gap.is_empty());
            all = gaps.map(|window| window.gap.start).fold(all, usize::min);
        }
        // SAFETY: positions are those that the queries see.
        unsafe {
            self.add_values::<S, R>(windows[0], 0, 0..all);
            // What one sees beyond: exactly that, so that no row's value meets another's 0.
            for r in 0..R {
                self.add_values::<S, 1>(windows[r], r, all..seen[r]);
            }
        }
    }

    /// Adds the values of these positions, but for the window's gap, to the sums of `R` queries from the `first` of the tile on.
    #[inline(always)]
    unsafe fn add_values<S: Simd, const R: usize>(
        &mut self,
        window: &Window<'_>,
        first: usize,
        Range { mut start, end }: Range<usize>,
    ) {
        let vectors = self.job.attention.shape.padded() / S::WIDTH;
        while start < end {
            let mut positions = start..(start / PAGE * PAGE + PAGE).min(end);
            start = positions.end;
            if positions.contains(&window.gap.start) && !window.gap.is_empty() {
                positions.end = window.gap.start;
            }
            let mut vector = 0;
            while vector < vectors {
                // Values share registers with the queries' sums.
                // SAFETY: the vectors are those of a head's padded row.
                vector += unsafe {
                    match (R, S::PARTS, vectors - vector) {
                        (1, 2, 8..) => self.values_tile::<S, R, 8>(window, first, positions.clone(), vector),
                        (1 | 2, 2, 4..) | (_, 1, 4..) => {
                            self.values_tile::<S, R, 4>(window, first, positions.clone(), vector)
                        }
                        (_, _, 2..) => self.values_tile::<S, R, 2>(window, first, positions.clone(), vector),
                        _ => self.values_tile::<S, R, 1>(window, first, positions.clone(), vector),
                    }
                };
            }
        }
    }

    /// Adds the values of some positions of one page to `C` vectors from `vector` on of `R` queries' sums. Returns `C`.
    #[inline(always)]
    unsafe fn values_tile<S: Simd, const R: usize, const C: usize>(
        &mut self,
        window: &Window<'_>,
        first: usize,
        positions: Range<usize>,
        vector: usize,
    ) -> usize {
        let padded = self.job.attention.shape.padded();
        let values = self.job.values(self.unit.head);
        let page = positions.start / PAGE;
        // SAFETY: values lie within their page, weights and sums within the scratch.
        unsafe {
            let weights = self.scratch.as_ptr().add(positions.start);
            let value = values + positions.start % PAGE * padded + vector * S::WIDTH;
            let value: *const f32 = window.pages[page].at(value, 0);
            // Meanwhile the next page's values are asked for, as many lines as this tile has.
            let lines = (C * S::WIDTH).div_ceil(LANES);
            let next = window.pages.get(page + 1).unwrap_or(&window.pages[page]);
            let next = next.at(values, 0).wrapping_add(vector * S::WIDTH * PAGE);
            let mut sums = [[S::splat(0.0); C]; R];
            if positions.start > 0 {
                for r in 0..R {
                    for c in 0..C {
                        sums[r][c] = S::load(self.sums(first + r).add((vector + c) * S::WIDTH));
                    }
                }
            }
            for i in 0..positions.len() {
                for line in 0..lines {
                    S::prefetch(next.wrapping_add((i * lines + line) * LANES).cast());
                }
                let mut row = [S::splat(0.0); C];
                for c in 0..C {
                    row[c] = S::load(value.add(i * padded + c * S::WIDTH));
                }
                for r in 0..R {
                    let weight = S::splat(*weights.add((first + r) * self.job.attention.longest + i));
                    for c in 0..C {
                        sums[r][c] = S::fma(weight, row[c], sums[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    S::store(self.sums(first + r).add((vector + c) * S::WIDTH), sums[r][c]);
                }
            }
        }
        C
    }

    /// The `r`-th query of the tile.
    #[inline(always)]
    unsafe fn query(&mut self, r: usize) -> *mut f32 {
        // SAFETY: the scratch has room for these behind the sums.
        unsafe { self.sums(ROWS_AT_ONCE + r) }
    }

    /// The sums of the `r`-th query of the tile.
    #[inline(always)]
    unsafe fn sums(&mut self, r: usize) -> *mut f32 {
        let attention = self.job.attention;
        // SAFETY: the scratch has room for these behind the weights.
        unsafe { self.scratch.as_mut_ptr().add(ROWS_AT_ONCE * attention.longest + r * attention.shape.padded()) }
    }

    /// Divides a query's sums and writes them to the output, in lane order, without the padding.
    #[inline(always)]
    unsafe fn finish(&mut self, query: usize, r: usize, weights: f32) {
        let job = self.job;
        let (row, head) = self.place_of(query);
        let shape = job.attention.shape;
        for d in 0..shape.head_dim {
            let to = job.out.at(row * job.stride + place(head * shape.head_dim + d), 1);
            // SAFETY: within the row's stride, and this unit's alone.
            unsafe { *to = *self.sums(r).add(d) / weights }
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
                S::store(at.add(p * S::WIDTH), math::exp::<S>(S::mul(S::sub(score, greatest), scale)));
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
