//! Causal attention of new rows against their sequences' caches.
//!
//! Several heads of queries may share a head of keys and values (Ainslie et al. 2023, arXiv 2305.13245).
//!
//! The canonical order of one row of one head: a score is one chain of fused multiply-adds over the head's dimensions;
//! the greatest score is exact; the sum of the weights has its terms in lane = position mod 16, then the tree; each
//! dimension of the output is one chain of fused multiply-adds over the positions, divided by the sum at the end.
//! Keys stand transposed, 64 positions by dimension, so that positions are the lanes of the scores.
//!
//! New rows of sequences that begin with the same pages, branches of one draft say, read those once for all of them
//! (Juravsky et al. 2024, Hydragen, arXiv 2402.05099), each in its own canonical order.

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::unit::Attend;
use super::buffer::Shared;
use super::simd::LANES;
use super::{BLOCK, Buffer, Page, place};
use crate::compute::Compute;

mod unit;

/// Positions that a page of a cache holds.
pub(crate) const PAGE: usize = 64;

/// Queries of one sequence and head of keys that one thread computes in one go, or all of a row if those are more.
const UNIT_QUERIES: usize = 64;

/// Queries that share the loads of keys and values.
const ROWS_AT_ONCE: usize = 5;

/// The parts of a cache's geometry that attention sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) layers: usize,
    /// Heads of queries.
    pub(crate) heads: usize,
    /// Heads of keys and values, a divisor of `heads`.
    pub(crate) kv_heads: usize,
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

    /// Elements of a page: (layers, heads of keys, keys and values).
    pub(crate) fn page_len(self) -> usize {
        self.layers * self.kv_heads * self.head_len()
    }

    /// Elements of a row's queries.
    pub(crate) fn width(self) -> usize {
        self.heads * self.head_dim
    }

    /// Elements of a row's keys, or of its values.
    pub(crate) fn kv_width(self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Copies the keys and values of one slot of a page into one of another.
    pub(crate) fn copy_position(self, (from, from_slot): (&Page, usize), (to, to_slot): (&mut Page, usize)) {
        for head in 0..self.layers * self.kv_heads {
            let keys = head * self.head_len();
            let values = keys + PAGE * self.head_dim;
            for d in 0..self.head_dim {
                to[keys + d * PAGE + to_slot] = from[keys + d * PAGE + from_slot];
            }
            let row = |slot: usize| values + slot * self.padded()..values + (slot + 1) * self.padded();
            to[row(to_slot)].copy_from_slice(&from[row(from_slot)]);
        }
    }

    /// Heads of queries that share one of keys.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// Where queries, keys and values begin in a row of projections: each part is padded to whole blocks.
    pub(crate) fn parts(self) -> [usize; 3] {
        let keys = self.width().next_multiple_of(BLOCK);
        [0, keys, keys + self.kv_width().next_multiple_of(BLOCK)]
    }

    /// Elements of a row of projections.
    pub(crate) fn projections(self) -> usize {
        self.parts()[2] + self.kv_width().next_multiple_of(BLOCK)
    }
}

/// A sequence's part in a forward: the cache that its new rows extend.
struct Window<'a> {
    pages: Vec<Shared<f32>>,
    held: usize,
    /// Slots that nobody sees, up to the end of a page.
    gap: Range<usize>,
    rows: Range<usize>,
    owner: PhantomData<&'a mut [Arc<Page>]>,
}

impl Window<'_> {
    /// Pages at the begin that are those of `other` too.
    fn pages_with(&self, other: &Window<'_>) -> usize {
        self.pages.iter().zip(&other.pages).take_while(|(own, other)| own.at(0, 0) == other.at(0, 0)).count()
    }
}

/// What one thread does in one go: some rows' queries to one head of keys. The rows are of one window, or one each of several.
struct Unit {
    windows: Range<usize>,
    /// Among the heads of keys.
    head: usize,
    rows: Range<usize>,
    /// Positions up to which all of several windows have the same pages; no bound in one window.
    joint: usize,
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

/// The queries, keys and values of a layer's new rows, each part in lane order where [`Shape::parts`] says, rows `stride`
/// elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Projections<'a> {
    pub(crate) rows: &'a [f32],
    pub(crate) stride: usize,
}

impl<'a> Attention<'a> {
    pub(crate) fn new(shape: Shape) -> Attention<'a> {
        Attention { shape, windows: Vec::new(), units: Vec::new(), rows: 0, longest: 0 }
    }

    /// Adds a window: `rows` new rows of a sequence whose `pages` hold `held` positions and have room for the new ones.
    /// `gap` is the rest of a page that holds none of them, though positions follow it. Pages in front of the new rows may be
    /// shared with other sequences; those that get rows may not.
    pub(crate) fn push(&mut self, pages: &'a mut [Arc<Page>], held: usize, gap: Range<usize>, rows: usize) {
        assert!(gap.end.is_multiple_of(PAGE) && gap.len() < PAGE && gap.end <= held + gap.len(), "the rest of a page");
        let held = held + gap.len();
        assert!(held + rows <= pages.len() * PAGE, "room for {held} + {rows} positions in {} pages", pages.len());
        assert!(pages.iter().all(|page| page.len() >= self.shape.page_len()), "pages of this geometry");
        let (read, written) = pages.split_at_mut(held / PAGE);
        let read = read.iter().map(|page| Shared::reading(page));
        let written = written.iter_mut().map(|page| Shared::new(Arc::get_mut(page).expect("a page of its own")));
        let pages = read.chain(written).collect();
        let rows = self.rows..self.rows + rows;
        self.rows = rows.end;
        self.longest = self.longest.max((held + rows.len()).next_multiple_of(PAGE));
        self.cut(Window { pages, held, gap, rows, owner: PhantomData });
    }

    /// Adds a window and its units: those of the window before, where both are one row and most of what they hold is the same.
    fn cut(&mut self, window: Window<'a>) {
        let at = self.windows.len();
        let joint = self.units.last().and_then(|last| {
            let first = &self.windows[last.windows.start];
            let are_neighbours = last.windows.end == at && first.rows.len() == 1 && window.rows.len() == 1;
            let are_few = (last.rows.len() + 1) * self.shape.group() <= ROWS_AT_ONCE;
            let joint = last.joint.min(PAGE * window.pages_with(first));
            (are_neighbours && are_few && 2 * joint >= first.held.max(window.held)).then_some(joint)
        });
        if let Some(joint) = joint.filter(|joint| *joint > 0) {
            // Of one row there is one unit for each head.
            for unit in self.units.iter_mut().rev().take(self.shape.kv_heads) {
                (unit.windows.end, unit.rows.end, unit.joint) = (at + 1, window.rows.end, joint);
            }
        } else {
            let rows = window.rows.clone();
            for head in 0..self.shape.kv_heads {
                for row in rows.clone().step_by(self.unit_rows()) {
                    let rows = row..(row + self.unit_rows()).min(rows.end);
                    self.units.push(Unit { windows: at..at + 1, head, rows, joint: usize::MAX });
                }
            }
        }
        self.windows.push(window);
    }

    /// Positions that are read for one row and serve another one too.
    pub(crate) fn spared(&self) -> usize {
        let of_a_head = self.units.iter().filter(|unit| unit.head == 0 && unit.windows.len() > 1);
        let spared = of_a_head.map(|unit| {
            let windows = &self.windows[unit.windows.clone()];
            let gaps = windows.iter().filter(|window| !window.gap.is_empty()).map(|window| window.gap.start);
            (windows.len() - 1) * gaps.fold(unit.joint, usize::min)
        });
        spared.sum()
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
        assert!(
            projections.stride >= self.shape.projections() && projections.rows.len() >= self.rows * projections.stride
        );
        assert!(stride >= width.next_multiple_of(BLOCK) && out.len() >= self.rows * stride);
        assert!(scratch.len() >= compute.threads(), "scratch for each thread");

        let path = compute.path();
        let job = Job { attention: self, layer, projections, out: Shared::new(out), stride };
        let pays = self.pays();
        if self.windows.iter().any(|window| window.rows.len() > self.unit_rows()) {
            compute.pool().run(self.windows.len() * self.shape.kv_heads, pays, &|chunk, _| {
                let (window, head) = (chunk / self.shape.kv_heads, chunk % self.shape.kv_heads);
                job.append(&self.windows[window], head);
            });
        }
        compute.pool().run(self.units.len(), pays, &|chunk, thread| {
            let unit = &self.units[chunk];
            let windows = &self.windows[unit.windows.clone()];
            for window in windows.iter().filter(|window| window.rows.len() <= self.unit_rows()) {
                job.append(window, unit.head);
            }
            let mut scratch = scratch[thread].lock().unwrap_or_else(PoisonError::into_inner);
            scratch.reserve(ROWS_AT_ONCE * (self.longest + 2 * self.shape.padded()));
            // SAFETY: shapes were checked here and in `push`; a unit alone writes its rows and heads, and the keys and
            // values that it reads were appended above, by itself or in the region before.
            unsafe { path.run(Attend { job: &job, unit, windows, scratch: &mut scratch }) }
        });
    }

    /// Rows of a unit.
    fn unit_rows(&self) -> usize {
        (UNIT_QUERIES / self.shape.group()).max(1)
    }

    /// Whether the work is worth more than one thread.
    fn pays(&self) -> bool {
        let seen: usize = self.windows.iter().map(|window| (window.held + window.rows.len()) * window.rows.len()).sum();
        seen * self.shape.width() >= 1 << 13
    }
}

struct Job<'a> {
    attention: &'a Attention<'a>,
    layer: usize,
    projections: Projections<'a>,
    out: Shared<f32>,
    stride: usize,
}

impl Job<'_> {
    /// Where the keys of a head stand in each page.
    fn keys(&self, head: usize) -> usize {
        let shape = self.attention.shape;
        (self.layer * shape.kv_heads + head) * shape.head_len()
    }

    /// Where the values of a head stand in each page.
    fn values(&self, head: usize) -> usize {
        self.keys(head) + PAGE * self.attention.shape.head_dim
    }

    /// Writes the keys and values of a window's new rows for one head of them.
    fn append(&self, window: &Window<'_>, head: usize) {
        let shape = self.attention.shape;
        let (keys, values) = (self.keys(head), self.values(head));
        let [_, key_part, value_part] = shape.parts();
        for (position, row) in (window.held..).zip(window.rows.clone()) {
            let projected = &self.projections.rows[row * self.projections.stride..][..self.projections.stride];
            let page = window.pages[position / PAGE];
            let slot = position % PAGE;
            for d in 0..shape.head_dim {
                let key_at = page.at(keys + d * PAGE + slot, 1);
                let value_at = page.at(values + slot * shape.padded() + d, 1);
                // SAFETY: within a page of this geometry, and not one that is only read; one thread appends a window's
                // head.
                unsafe {
                    *key_at = projected[key_part + place(head * shape.head_dim + d)];
                    *value_at = projected[value_part + place(head * shape.head_dim + d)];
                }
            }
        }
    }
}
