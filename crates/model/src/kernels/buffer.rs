//! Memory for activations and caches, aligned to cache lines.

use std::ops::{Deref, DerefMut};

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A run of f32 that starts at a cache line. Its length is a multiple of 16.
#[derive(Clone, Default)]
pub(crate) struct Buffer {
    lines: Vec<Line>,
}

impl Buffer {
    /// `len` zeros, rounded up to whole lines.
    pub(crate) fn zeroed(len: usize) -> Buffer {
        Buffer { lines: vec![Line([0.0; 16]); len.div_ceil(16)] }
    }

    /// Makes room for `len` elements; what is there stays, what is new is zero.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.len() < len {
            self.lines.resize(len.div_ceil(16), Line([0.0; 16]));
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: a `Line` is 16 f32 without padding, so the lines are that many f32 in a row, all initialised.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.lines.len() * 16) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.lines.len() * 16) }
    }
}

/// A slice that several threads use at once: each writes its own elements, or all only read.
pub(super) struct Shared<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: a pointer and a length; writing through it is `unsafe` and leaves the disjointness to the writer.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<T> {}

impl<T> Shared<T> {
    /// The slice must outlive every use, which holds where the uses are a region of the pool that borrows it.
    pub(super) fn new(slice: &mut [T]) -> Shared<T> {
        Shared { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The same of a slice that nobody may write.
    pub(super) fn reading(slice: &[T]) -> Shared<T> {
        Shared { start: slice.as_ptr().cast_mut(), len: slice.len() }
    }

    /// The address of element `at`, of which `len` elements are to be used.
    #[inline(always)]
    pub(super) fn at(self, at: usize, len: usize) -> *mut T {
        debug_assert!(at + len <= self.len, "{at} + {len} of {}", self.len);
        self.start.wrapping_add(at)
    }
}
