//! What the end-to-end tests stand on.
//!
//! # Layout
//! - [`authority`]: certificates for servers and clients of this machine
//! - [`cluster`]: draft and target in this process on port 0, with models that sleep, lie or propose garbage
//! - [`http`]: the coordinator as an HTTP service in this process, and a client
//! - [`processes`]: the three binaries as real processes
//! - [`proxy`]: a TCP proxy that delays, cuts and restores a link
//! - [`otlp`]: an OTLP receiver that keeps the spans it is sent

pub mod authority;
pub mod cluster;
pub mod http;
pub mod otlp;
pub mod processes;
pub mod proxy;
