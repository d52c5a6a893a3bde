//! Where telemetry is sent from: threads of the lowest priority, so that an export yields to all else. On a machine whose processors
//! all compute, a pass would otherwise wait for the thread that an export has displaced.

use std::{io, sync::LazyLock};

use thread_priority::{ThreadPriority, set_current_thread_priority};
use tokio::runtime::{Builder, Runtime};

use crate::otlp::ExportError;

static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("telemetry")
        .on_thread_start(|| {
            // A system that refuses leaves it as important as the others.
            let _ = set_current_thread_priority(ThreadPriority::Min);
        })
        .enable_all()
        .build()
});

/// The runtime of all exports of this process.
///
/// # Errors
/// Its thread cannot be started.
pub(crate) fn runtime() -> Result<&'static Runtime, ExportError> {
    RUNTIME.as_ref().map_err(|error| ExportError::Thread(error.to_string()))
}
