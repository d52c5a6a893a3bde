//! One sequence's keys and values.

use std::fmt;
use std::sync::Arc;

use crate::kernels::Buffer;
use crate::kernels::attention::{PAGE, Shape};

/// The keys and values of a sequence's positions, f32, in every layer.
///
/// It grows by pages of 64 positions, as forwards need them, up to the model's context. What lies beyond
/// [`len`](Self::len) is never read. Caches of prompts that begin alike may share pages; whoever writes into one gets a
/// copy first.
pub struct KvCache {
    shape: Shape,
    context: usize,
    len: usize,
    pages: Vec<Arc<Buffer>>,
}

impl KvCache {
    pub(crate) fn new(shape: Shape, context: usize) -> KvCache {
        KvCache { shape, context, len: 0, pages: Vec::new() }
    }

    /// Positions held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that it may hold at most.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Bytes in use, those of positions not held yet included.
    pub fn bytes(&self) -> u64 {
        (self.pages.len() * self.page_bytes()) as u64
    }

    /// Bytes of a page.
    pub(crate) fn page_bytes(&self) -> usize {
        self.shape.page_len() * size_of::<f32>()
    }

    /// The whole pages of the first `positions`, all of which are held.
    pub(crate) fn whole_pages(&self, positions: usize) -> &[Arc<Buffer>] {
        &self.pages[..positions.min(self.len) / PAGE]
    }

    /// Takes over whole pages of another cache of the same model, whose tokens are the same up to there.
    pub(crate) fn adopt(&mut self, pages: Vec<Arc<Buffer>>) {
        assert!(self.is_empty(), "a cache that begins");
        self.len = pages.len() * PAGE;
        self.pages = pages;
    }

    /// Forgets the positions from `len` on; does nothing where no more than `len` are held. Their memory stays, for the
    /// positions that will take their place.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// The pages, with room for `rows` more positions in pages that no other cache shares.
    pub(crate) fn grown(&mut self, rows: usize) -> &mut [Arc<Buffer>] {
        let pages = (self.len + rows).div_ceil(PAGE);
        for page in self.pages.iter_mut().skip(self.len / PAGE) {
            Arc::make_mut(page);
        }
        while self.pages.len() < pages {
            self.pages.push(Arc::new(Buffer::zeroed(self.shape.page_len())));
        }
        &mut self.pages
    }

    /// Fills all positions that are not held, in every layer, with NaN.
    #[cfg(test)]
    pub(crate) fn poison(&mut self) {
        let Shape { kv_heads, head_dim, layers, .. } = self.shape;
        let padded = head_dim.next_multiple_of(16);
        for (number, page) in self.pages.iter_mut().enumerate() {
            let first = self.len.saturating_sub(number * PAGE).min(PAGE);
            for head in Arc::make_mut(page).chunks_exact_mut(PAGE * (head_dim + padded)).take(layers * kv_heads) {
                let (keys, values) = head.split_at_mut(PAGE * head_dim);
                keys.chunks_exact_mut(PAGE).for_each(|positions| positions[first..].fill(f32::NAN));
                values[first * padded..].fill(f32::NAN);
            }
        }
    }

    /// Counts `rows` positions, whose keys and values a forward has written, as held.
    pub(crate) fn advance(&mut self, rows: usize) {
        self.len += rows;
    }
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache").field("len", &self.len).field("context", &self.context).finish_non_exhaustive()
    }
}
