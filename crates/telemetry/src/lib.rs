//! Logs, OpenTelemetry spans, W3C propagation, and the plumbing that every gRPC server of Outrider needs.
//!
//! # Layout
//! - [`logs`]: `tracing` events to stderr.
//! - [`Tracer`], [`Span`]: spans of one service, off unless an OTLP endpoint is set. They are OpenTelemetry's own rather
//!   than `tracing` spans: in embedded mode three services share a process, each with its own `service.name`, and the
//!   queue and forward spans get the times that the model's thread measured.
//! - `export`: OTLP over gRPC that counts what it loses.
//! - [`names`]: span names and attribute keys.
//! - [`server`]: health, reflection, graceful stop.
//! - [`connections`]: which connections a server accepts; [`tls`]: encrypted ones.
//! - [`watched`]: files that are read again when they change.

pub mod connections;
mod export;
pub mod logs;
pub mod names;
pub mod server;
pub mod tls;
mod tracer;
pub mod watched;

pub use export::ExportError;
pub use tracer::{Span, TraceParent, Tracer};
