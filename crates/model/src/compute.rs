//! What computes: a pool of threads and the instructions they use, shared by every model of a process.

use std::fmt;
use std::num::NonZeroUsize;

use crate::error::UnavailableIsa;
use crate::kernels::{Isa, Path};

mod pool;

pub(crate) use pool::Pool;

/// Threads and instructions. Neither shows in a result, only in its speed.
///
/// One is meant to be shared, behind an `Arc`, by all models of a process. The threads end when it is dropped.
pub struct Compute {
    pool: Pool,
    path: Path,
}

impl Compute {
    /// A pool of `threads`, of which the calling thread is always one, on the best instructions of this processor.
    pub fn new(threads: NonZeroUsize) -> Compute {
        Compute::with_isa(threads, Isa::best()).expect("the best is among the available")
    }

    /// The same on instructions of one's choice.
    pub fn with_isa(threads: NonZeroUsize, isa: Isa) -> Result<Compute, UnavailableIsa> {
        let path = Path::new(isa).ok_or(UnavailableIsa { isa })?;
        Ok(Compute { pool: Pool::new(threads), path })
    }

    /// Threads that take part, the caller included.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// The instructions in use.
    pub fn isa(&self) -> Isa {
        self.path.isa()
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(crate) fn path(&self) -> Path {
        self.path
    }
}

impl fmt::Debug for Compute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compute").field("threads", &self.threads()).field("isa", &self.isa()).finish()
    }
}
