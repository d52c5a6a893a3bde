//! Logs go to stderr; stdout belongs to what a command answers.

use std::{
    io::{self, IsTerminal},
    str::FromStr,
};

use tracing::field;
use tracing_subscriber::EnvFilter;

/// What a line of the log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("allowed: text or json".to_owned()),
        }
    }
}

/// Installs the process's log output: `RUST_LOG` decides, else `default` (for example `"info"`).
///
/// Where a subscriber is installed already, it stays.
pub fn init(default: &str, format: Format) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // Whatever lines are wanted, they name their trace.
    let filter = filter.add_directive("telemetry::logs=error".parse().expect("a directive"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        // Its own complaint about a standard error that nobody reads any more would panic.
        .log_internal_errors(false);
    // A second call (tests, embedded mode) finds the first one's subscriber in place; that is as good.
    let _ = match format {
        Format::Text => builder.with_ansi(io::stderr().is_terminal()).try_init(),
        Format::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
}

/// Within it each line of the log carries the id of this trace.
pub fn of_trace(trace_id: &str) -> tracing::Span {
    tracing::error_span!("request", trace_id)
}

/// Within it each line of the log carries the id of a trace as soon as [`now_of_trace`] has said it.
pub fn of_trace_to_come() -> tracing::Span {
    tracing::error_span!("request", trace_id = field::Empty)
}

/// Says which trace the current scope is of.
pub fn now_of_trace(trace_id: &str) {
    tracing::Span::current().record("trace_id", trace_id);
}
