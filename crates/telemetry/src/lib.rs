//! Logs, OpenTelemetry spans, W3C propagation, and the plumbing that every gRPC server of Outrider needs.
//!
//! # Layout
//! - [`logs`]: `tracing` events to stderr.
//! - [`Tracer`], [`Span`]: spans of one service, off unless an OTLP endpoint is set. They are OpenTelemetry's own rather
//!   than `tracing` spans: in embedded mode three services share a process, each with its own `service.name`, and the
//!   queue and forward spans get the times that the model's thread measured.
//! - `otlp`: where OTLP goes; `export`: spans on their way there, and the count of what is lost.
//! - [`TraceFile`]: spans in a file.
//! - [`metrics`]: counters, gauges and histograms, to be scraped and over OTLP.
//! - [`names`]: names of spans, attributes, events and metrics.
//! - [`server`]: health, reflection, graceful stop.
//! - [`channel`]: gRPC to a server, from as far away as a [`Distance`] says; [`connections`]: which ones a server accepts; [`tls`]: encrypted ones; [`http`]: HTTP over them.
//! - [`watched`]: files that are read again when they change.

mod background;
pub mod channel;
pub mod connections;
mod distance;
mod export;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod names;
mod otlp;
pub mod server;
pub mod tls;
mod trace_file;
mod tracer;
pub mod watched;

pub use distance::Distance;
pub use otlp::ExportError;
pub use trace_file::TraceFile;
pub use tracer::{Reference, Span, TraceParent, Tracer};
