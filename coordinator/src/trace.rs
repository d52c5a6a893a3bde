//! One request seen and judged, from its spans.
//!
//! # Layout
//! - [`read`]: spans from a run's file or a store's answer, in OTLP's JSON or Jaeger's
//! - [`request`]: the request that they are of, cycle by cycle
//! - [`judge`]: where its time goes, what limits it, what would change it and by how much
//! - [`page`]: all of it as one HTML page

pub mod judge;
pub mod page;
pub mod read;
pub mod request;

pub use judge::Judgement;
pub use read::{Span, Unreadable};
pub use request::{NotThere, Request};
