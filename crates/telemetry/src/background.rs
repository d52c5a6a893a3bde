//! Where telemetry is sent from: a thread of the lowest priority, so that an export takes the time that nothing else wants. On a
//! machine whose processors all compute, a pass would otherwise wait for the thread that an export has displaced.

use std::sync::OnceLock;

use thread_priority::{ThreadPriority, set_current_thread_priority};
use tokio::runtime::{Builder, Runtime};

use crate::otlp::ExportError;

static RUNTIME: OnceLock<Runtime> = OnceLock::new();

/// The runtime of all exports of this process.
///
/// # Errors
/// Its thread cannot be started.
pub(crate) fn runtime() -> Result<&'static Runtime, ExportError> {
    if let Some(runtime) = RUNTIME.get() {
        return Ok(runtime);
    }
    let started = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("telemetry")
        .on_thread_start(|| {
            // A system that refuses leaves it as important as the others.
            let _ = set_current_thread_priority(ThreadPriority::Min);
        })
        .enable_all()
        .build()
        .map_err(ExportError::Thread)?;
    Ok(RUNTIME.get_or_init(|| started))
}
