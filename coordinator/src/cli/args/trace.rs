//! What a request is seen and judged from.

use std::path::PathBuf;

use clap::Args;

#[derive(Args, Debug)]
pub(in crate::cli) struct SourceArgs {
    /// A file of `outrider generate --trace-file`, or with --store the id of a trace
    #[arg(value_name = "FILE|TRACE-ID")]
    pub(in crate::cli) source: String,

    /// Ask the store at this address, http://HOST:PORT or https://HOST:PORT, for the trace: GET /api/traces/TRACE-ID, as
    /// Jaeger, Tempo and Otelite answer it
    #[arg(long, value_name = "URL", env = "OUTRIDER_STORE")]
    pub(in crate::cli) store: Option<String>,

    /// Of the traces in the file this one, instead of the first that speculates
    #[arg(long, value_name = "TRACE-ID", conflicts_with = "store")]
    pub(in crate::cli) trace_id: Option<String>,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct TraceArgs {
    #[command(flatten)]
    pub(in crate::cli) source: SourceArgs,

    /// Write the page here; - writes it to standard output
    #[arg(long, value_name = "FILE", default_value = "trace.html")]
    pub(in crate::cli) output: PathBuf,
}

#[derive(Args, Debug)]
pub(in crate::cli) struct ExplainArgs {
    #[command(flatten)]
    pub(in crate::cli) source: SourceArgs,

    /// Print one JSON object on standard output and nothing else
    #[arg(long)]
    pub(in crate::cli) json: bool,
}
