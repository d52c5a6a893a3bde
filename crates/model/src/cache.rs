//! One sequence's keys and values.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::Error;
use crate::device::Kept;
use crate::kernels::attention::{PAGE, Shape};
use crate::kernels::{Page, Pages};

/// The keys and values of a sequence's positions in every layer. What lies beyond [`len`](Self::len) counts for nothing.
///
/// On the CPU, f32, it grows by pages of 64 positions, as forwards need them, up to the model's context. Caches of prompts
/// that begin alike may share pages; whoever writes into one gets a copy first. On a device it takes the memory for all
/// positions that it is told of ([`reserve`](Self::reserve)) at once.
pub struct KvCache {
    shape: Shape,
    context: usize,
    len: usize,
    memory: Memory,
    /// Of a branch: how many of its first positions are another cache's. Their last page is left as it is, and what follows
    /// begins in a page of its own.
    branched_at: Option<usize>,
}

/// Where keys and values are.
enum Memory {
    Pages(Vec<Arc<Page>>, Arc<Pages>),
    Device(Kept),
}

impl KvCache {
    /// Takes what it needs from `pages`.
    pub(crate) fn new(shape: Shape, context: usize, pages: Arc<Pages>) -> KvCache {
        KvCache { shape, context, len: 0, memory: Memory::Pages(Vec::new(), pages), branched_at: None }
    }

    pub(crate) fn on_device(shape: Shape, context: usize, kept: Kept) -> KvCache {
        KvCache { shape, context, len: 0, memory: Memory::Device(kept), branched_at: None }
    }

    /// Says how many positions it will come to hold, before the first of them; on a device their memory is taken now.
    ///
    /// # Errors
    /// The device has not got so much.
    pub fn reserve(&mut self, positions: usize) -> Result<(), Error> {
        match &mut self.memory {
            Memory::Pages(..) => Ok(()),
            Memory::Device(kept) => {
                kept.reserve(positions.min(self.context)).map_err(|error| Error::Device(error.to_string()))
            }
        }
    }

    /// Whether it is in the memory of the CPU, for our kernels.
    pub(crate) fn is_paged(&self) -> bool {
        matches!(self.memory, Memory::Pages(..))
    }

    /// What is on the device, if it is on one.
    pub(crate) fn kept(&mut self) -> Option<&mut Kept> {
        match &mut self.memory {
            Memory::Pages(..) => None,
            Memory::Device(kept) => Some(kept),
        }
    }

    fn pages(&self) -> &[Arc<Page>] {
        match &self.memory {
            Memory::Pages(pages, _) => pages,
            Memory::Device(_) => &[],
        }
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
        let pages = match &self.memory {
            Memory::Pages(pages, _) => pages.len(),
            Memory::Device(kept) => kept.positions() / PAGE,
        };
        (pages * self.page_bytes()) as u64
    }

    /// Bytes of 64 positions.
    pub(crate) fn page_bytes(&self) -> usize {
        match &self.memory {
            Memory::Pages(..) => self.shape.page_len() * size_of::<f32>(),
            Memory::Device(kept) => 2 * self.shape.layers * self.shape.kv_width() * PAGE * kept.value_bytes(),
        }
    }

    /// The whole pages of the first `positions`, all of which are held; none where there are no pages to share.
    pub(crate) fn whole_pages(&self, positions: usize) -> &[Arc<Page>] {
        let pages = self.pages();
        &pages[..(positions.min(self.len) / PAGE).min(pages.len())]
    }

    /// Takes over whole pages of another cache of the same model, whose tokens are the same up to there.
    pub(crate) fn adopt(&mut self, adopted: Vec<Arc<Page>>) {
        assert!(self.is_empty(), "a cache that begins");
        match &mut self.memory {
            Memory::Pages(pages, _) => {
                self.len = adopted.len() * PAGE;
                *pages = adopted;
            }
            Memory::Device(_) => assert!(adopted.is_empty(), "a device's cache shares no pages"),
        }
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
    ///
    /// # Panics
    /// It is not [paged](Self::is_paged).
    pub(crate) fn grown(&mut self, rows: usize) -> &mut [Arc<Page>] {
        let Memory::Pages(pages, more) = &mut self.memory else { panic!("a cache of the CPU") };
        let slots = self.len + self.branched_at.map_or(0, |at| gap(at).len());
        for page in pages.iter_mut().skip(slots / PAGE) {
            Arc::make_mut(page);
        }
        while pages.len() < (slots + rows).div_ceil(PAGE) {
            pages.push(Arc::new(more.take()));
        }
        pages
    }

    /// The slots of its pages that hold nothing, between what it shares and what is its own.
    pub(crate) fn gap(&self) -> Range<usize> {
        self.branched_at.map_or(0..0, gap)
    }

    /// Where a position is in its pages.
    fn slot(&self, position: usize) -> usize {
        match self.gap() {
            gap if position < gap.start => position,
            gap => position + gap.len(),
        }
    }

    /// Whether other caches can branch off.
    pub(crate) fn branches(&self) -> bool {
        self.is_paged()
    }

    /// A cache that goes on after the first `len` positions of this one and shares them: none is copied, unless this one is a
    /// branch itself, whose own few are.
    ///
    /// # Panics
    /// It does not [branch](Self::branches), or holds fewer positions.
    pub(crate) fn branch(&self, len: usize) -> KvCache {
        let Memory::Pages(pages, more) = &self.memory else { panic!("a cache of the CPU") };
        assert!(len <= self.len, "{len} of {} positions", self.len);
        let at = self.branched_at.map_or(len, |at| at.min(len));
        let memory = Memory::Pages(pages[..gap(at).end / PAGE].to_vec(), more.clone());
        let mut branch = KvCache { shape: self.shape, context: self.context, len: at, memory, branched_at: Some(at) };
        branch.copy(self, at..len);
        branch
    }

    /// The sequence of `old` as a branch of this cache, with which it shares its first `len` positions.
    pub(crate) fn rebased(&self, old: &KvCache, len: usize) -> KvCache {
        let mut branch = self.branch(len);
        branch.copy(old, len..old.len);
        branch
    }

    /// Goes on as `branch` does, which branched off this cache or off one of its branches.
    pub(crate) fn absorb(&mut self, branch: &KvCache) {
        let at = branch.branched_at.expect("a branch");
        assert!(at <= self.len, "{at} of {} positions", self.len);
        self.truncate(at);
        self.copy(branch, at..branch.len);
    }

    /// Appends some positions of another cache.
    fn copy(&mut self, from: &KvCache, positions: Range<usize>) {
        let (shape, to) = (self.shape, self.slot(self.len));
        let slots: Vec<(usize, usize)> = positions.map(|position| from.slot(position)).zip(to..).collect();
        let rows = slots.len();
        let pages = self.grown(rows);
        for (from_slot, to_slot) in slots {
            let from = &from.pages()[from_slot / PAGE];
            let to = Arc::get_mut(&mut pages[to_slot / PAGE]).expect("a page of its own");
            shape.copy_position((from, from_slot % PAGE), (to, to_slot % PAGE));
        }
        self.advance(rows);
    }

    /// Fills all positions that are not held, in every layer, with NaN.
    #[cfg(test)]
    pub(crate) fn poison(&mut self) {
        let Shape { kv_heads, head_dim, layers, .. } = self.shape;
        let padded = head_dim.next_multiple_of(16);
        let Memory::Pages(pages, _) = &mut self.memory else { panic!("a cache of the CPU") };
        for (number, page) in pages.iter_mut().enumerate() {
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

/// What is left of the page in which a branch's shared positions end.
fn gap(at: usize) -> Range<usize> {
    at..at.next_multiple_of(PAGE)
}

impl fmt::Debug for KvCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KvCache").field("len", &self.len).field("context", &self.context).finish_non_exhaustive()
    }
}
