//! What the draft and the target service share: from the wire's words to the model's and back.
//!
//! # Layout
//! - [`Config`]: the flags that both have
//! - [`Host`]: the model once it is loaded, and how sessions learn that the service stops
//! - [`session`]: a stream's life, generic over the [`Role`] that answers its messages
//! - [`wire`]: conversions, and errors as gRPC statuses
//! - `metrics`: what is counted
//! - [`serve`], [`exit`]: load, serve, stop, and with which status

mod config;
mod describe;
mod host;
mod metrics;
pub mod session;
pub mod wire;

pub use config::{Config, address, branches, device, source, synthetic_acceptance};
pub use describe::Describe;
pub use host::{Error, Host, exit, load, measured, serve};
pub use session::{Exchange, Role};
