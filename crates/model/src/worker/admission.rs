//! Who may open a session: a place among the sessions, and the memory that its KV cache may come to need.
//!
//! The memory is set aside for the whole session, so that one which was let in never runs out of it. Who finds no room
//! waits in a line, first come first served.

use std::sync::Arc;

use tokio::{
    sync::{Mutex, OwnedSemaphorePermit, Semaphore},
    time,
};

use crate::{KvCache, Limits, OpenError, kernels::attention::PAGE};

/// Of the memory for KV caches, one part in so many is for pages that prompts share.
const SHARED_PART: usize = 4;

/// The sessions' places and pages.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    /// Pages of all sessions.
    most_pages: usize,
    places: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    line: Semaphore,
    /// Held by the first in the line.
    turn: Mutex<()>,
}

/// How many pages there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    /// For the sessions' own caches.
    pub(super) own: usize,
    /// For what prompts share.
    pub(super) shared: usize,
}

impl Budget {
    /// What `kv_bytes` are enough for; `cache` is one of the model's.
    pub(super) fn of(kv_bytes: u64, cache: &KvCache) -> Self {
        let pages = usize::try_from(kv_bytes).unwrap_or(usize::MAX) / cache.page_bytes();
        // More permits than this a semaphore does not take; no machine has the memory.
        let pages = pages.min(u32::MAX as usize);
        // On a device prompts share nothing.
        let shared = if cache.is_paged() { pages / SHARED_PART } else { 0 };
        Self { own: pages - shared, shared }
    }

    /// The longest session that there is memory for, in positions.
    pub(super) fn positions(self) -> usize {
        self.own * PAGE
    }
}

/// A session's place and pages; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    _place: OwnedSemaphorePermit,
    _pages: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(limits: Limits, budget: Budget) -> Self {
        Self {
            limits,
            most_pages: budget.own,
            places: Arc::new(Semaphore::new(limits.max_sessions)),
            pages: Arc::new(Semaphore::new(budget.own)),
            line: Semaphore::new(limits.queue_depth),
            turn: Mutex::new(()),
        }
    }

    /// Sessions that are open now.
    pub(crate) fn open_sessions(&self) -> usize {
        self.limits.max_sessions - self.places.available_permits()
    }

    /// Pages set aside for open sessions, and those that there are.
    pub(crate) fn pages(&self) -> (usize, usize) {
        (self.most_pages - self.pages.available_permits(), self.most_pages)
    }

    /// Sessions that wait to be opened.
    pub(crate) fn waiting(&self) -> usize {
        self.limits.queue_depth - self.line.available_permits()
    }

    /// Lets in a session that may come to hold `positions`, and a page for each of its `branches`, now or as soon as there is
    /// room.
    ///
    /// # Errors
    /// No room within the limit of time, or too many that wait for it already.
    pub(crate) async fn admit(&self, positions: usize, branches: usize) -> Result<Admitted, OpenError> {
        let pages = (positions.div_ceil(PAGE) + branches).min(self.most_pages) as u32;
        if self.waiting() == 0
            && let Some(admitted) = self.admit_now(pages)
        {
            return Ok(admitted);
        }
        let Ok(_in_line) = self.line.try_acquire() else {
            return Err(self.no_room());
        };
        let wait = async {
            let _turn = self.turn.lock().await;
            let pages = self.pages.clone().acquire_many_owned(pages).await.ok()?;
            let place = self.places.clone().acquire_owned().await.ok()?;
            Some(Admitted { _place: place, _pages: pages })
        };
        let admitted = time::timeout(self.limits.admission_timeout, wait).await.ok().flatten();
        admitted.ok_or_else(|| self.no_room())
    }

    fn admit_now(&self, pages: u32) -> Option<Admitted> {
        let place = self.places.clone().try_acquire_owned().ok()?;
        let pages = self.pages.clone().try_acquire_many_owned(pages).ok()?;
        Some(Admitted { _place: place, _pages: pages })
    }

    fn no_room(&self) -> OpenError {
        match self.places.available_permits() {
            0 => OpenError::Sessions { max_sessions: self.limits.max_sessions },
            _ => OpenError::Memory { kv_bytes: self.limits.kv_bytes },
        }
    }
}
