//! Logs go to stderr; stdout belongs to what a command answers.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// Installs the process's log output: `RUST_LOG` decides, else `default` (for example `"info"`).
///
/// Where a subscriber is installed already, it stays.
pub fn init(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // A second call (tests, embedded mode) finds the first one's subscriber in place; that is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // Its own complaint about a standard error that nobody reads any more would panic.
        .log_internal_errors(false)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}
