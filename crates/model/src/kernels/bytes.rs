//! Memory for weights, and for keys and values. A forward reads it from end to end, so it stands on huge pages where the
//! system has them: matrices follow each other in regions, or those below a huge page's size would miss out.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use memmap2::MmapMut;

/// A huge page, where pages are of 4 KiB.
const HUGE_PAGE: usize = 2 << 20;

/// A region's address space, at least. What is not written to takes no memory.
const REGION: usize = 64 << 20;

/// A cache line.
const LINE: usize = 64;

/// A run of bytes that starts at a cache line and is no other's.
pub(crate) struct Bytes {
    start: *mut u8,
    len: usize,
    /// Unmapped with the last run in it.
    _region: Arc<Region>,
}

// SAFETY: a run is its owner's alone, as a boxed slice is: `zeroed` gives no byte of a region out twice.
unsafe impl Send for Bytes {}
// SAFETY: as above.
unsafe impl Sync for Bytes {}

/// Address space that is given out from front to back and never twice.
struct Region {
    map: MmapMut,
}

/// The region that runs are taken from, and how much of it is given out.
static CURRENT: Mutex<(Weak<Region>, usize)> = Mutex::new((Weak::new(), 0));

impl Bytes {
    /// `len` zeros.
    pub(crate) fn zeroed(len: usize) -> Bytes {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let region = current.0.upgrade().filter(|region| len <= region.map.len() - current.1);
        let (region, at) = region.map_or_else(|| Region::new(len), |region| (region, current.1));
        let given = (at + len).next_multiple_of(LINE).min(region.map.len());
        *current = (Arc::downgrade(&region), given);
        Bytes { start: region.map.as_ptr().wrapping_add(at).cast_mut(), len, _region: region }
    }
}

impl Region {
    /// A region for `len` bytes or more, and where its first run starts.
    fn new(len: usize) -> (Arc<Region>, usize) {
        let size = (len + HUGE_PAGE).max(REGION);
        // Zero, as all fresh memory is.
        let map = MmapMut::map_anon(size).expect("memory for the weights");
        #[cfg(target_os = "linux")]
        {
            // Without them reading is slower and nothing else.
            let _ = map.advise(memmap2::Advice::HugePage);
        }
        let start = map.as_ptr().align_offset(HUGE_PAGE);
        (Arc::new(Region { map }), start)
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the run lies within its region, which lives as long, and nobody else has a reference into it.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl DerefMut for Bytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_zero_start_at_cache_lines_and_never_overlap() {
        let lens = [1, 63, 64, 65, 4096, HUGE_PAGE + 1, REGION - 5, REGION + 7, 100];
        let mut runs: Vec<Bytes> = lens.iter().map(|&len| Bytes::zeroed(len)).collect();
        for (number, run) in runs.iter_mut().enumerate() {
            assert_eq!(run.as_ptr() as usize % LINE, 0);
            assert_eq!(run.len(), lens[number]);
            assert!(run.iter().all(|byte| *byte == 0), "run {number}");
            run.fill(number as u8 + 1);
        }
        for (number, run) in runs.iter().enumerate() {
            assert!(run.iter().all(|byte| *byte == number as u8 + 1), "run {number}");
        }
    }
}
