//! Memory for keys and values: pages that are given out, given back, and given out again.

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use super::Bytes;

/// The pages of a model's caches, all of one length.
///
/// Fresh memory costs a fault of the processor for every 4 KiB that is first written to, half a pass of a small model for one
/// page; what was given back costs nothing. What stands on huge pages costs little the first time too. None is given back to
/// the system before the model is gone: there are as many as were ever in use at once.
pub(crate) struct Pages {
    /// Elements of a page.
    len: usize,
    free: Mutex<Vec<Bytes>>,
}

/// A run of f32 that starts at a cache line. It may begin with what another sequence has left there.
pub(crate) struct Page {
    bytes: ManuallyDrop<Bytes>,
    pages: Arc<Pages>,
}

impl Pages {
    /// Pages of `len` elements.
    pub(crate) fn new(len: usize) -> Arc<Pages> {
        Arc::new(Pages { len, free: Mutex::default() })
    }

    /// A page, for whoever writes what it reads.
    pub(crate) fn take(self: &Arc<Self>) -> Page {
        // The one that was given back last is the likeliest to be in a processor's cache.
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let bytes = free.unwrap_or_else(|| Bytes::zeroed(self.len * size_of::<f32>()));
        Page { bytes: ManuallyDrop::new(bytes), pages: self.clone() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: the page is gone after this, so nobody takes or uses them again.
        let bytes = unsafe { ManuallyDrop::take(&mut self.bytes) };
        self.pages.free.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

impl Clone for Page {
    fn clone(&self) -> Page {
        let mut page = self.pages.take();
        page.copy_from_slice(self);
        page
    }
}

impl Deref for Page {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the bytes start at a cache line, were zero, and whatever was written since were f32.
        unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().cast(), self.pages.len) }
    }
}

impl DerefMut for Page {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.as_mut_ptr().cast(), self.pages.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_given_out_again_and_nothing_twice() {
        let pages = Pages::new(48);
        let mut first = pages.take();
        assert_eq!(first.as_ptr().align_offset(64), 0);
        assert_eq!(&first[..], &[0.0; 48]);
        first.fill(1.0);
        let second = first.clone();
        let third = pages.take();
        assert_eq!((&first[..], &second[..], &third[..]), (&[1.0; 48][..], &[1.0; 48][..], &[0.0; 48][..]));
        let at = second.as_ptr();
        drop(second);
        let again = pages.take();
        assert_eq!(again.as_ptr(), at, "the page that was given back");
        let held = [first.as_ptr(), third.as_ptr(), again.as_ptr(), pages.take().as_ptr()];
        assert!((0..4).all(|one| (0..one).all(|other| held[one] != held[other])), "{held:?}");
        drop((first, third, again));
        assert_eq!(pages.free.lock().expect("nobody panicked").len(), 4);
    }
}
