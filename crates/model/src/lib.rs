//! One decoder-only transformer, and the thread that owns it.
//!
//! On the CPU a row's logits are bit-identical whether it is computed alone, in a window, in a prefill or beside other sessions'
//! rows, with any number of threads and on every SIMD path: speculation is lossless because verifying *is* decoding.
//! Every operation that rounds is in `kernels`. On a GPU candle computes, and the same is a measured property.
//!
//! # Layout
//! - [`Source`], [`LoadError`]: where weights come from, and what is refused
//! - [`Transformer`], [`Decoder`], [`Rows`], [`Forward`]: the ragged forward
//! - [`Device`]: the same on other devices
//! - [`KvCache`]: one sequence's keys and values
//! - [`Compute`], [`Isa`]: threads and instructions, shared by the models of a process
//! - [`Worker`]: the thread that owns a model and batches sessions
//! - [`DraftSession`], [`TargetSession`]: what continues a session, and its cache's life
//! - [`Description`], [`Geometry`]: what a model says about itself
//! - `kernels`: matmul, attention, norms, rotations, activations in one canonical order
//! - `load`, `weights`: files, and the weights that are taken over from them
//! - `hub`: models from the Hugging Face hub
//! - [`SyntheticModel`], `grown`: models that are made, not trained
//! - [`mod@bench`]: matmuls and reads without a model around them
//! - `roofs`: what the machine could do at best

pub mod bench;
mod cache;
mod compute;
mod cost;
mod decoder;
mod description;
mod device;
mod error;
mod geometry;
mod grown;
mod hub;
mod kernels;
mod load;
mod roofs;
mod session;
mod source;
mod synthetic;
mod transformer;
mod weights;
mod worker;

pub use cache::KvCache;
pub use compute::Compute;
pub use decoder::{Decoder, Forward, Rows};
pub use description::Description;
pub use device::{Device, InvalidDevice};
pub use error::{Error, LoadError, UnavailableIsa};
pub use geometry::{Biases, Geometry, Mlp, Normalisation, Positions, Rotary, Scaling};
pub use hub::HubError;
pub use kernels::Isa;
pub use session::{
    AnswerError, Branch, BranchCost, DraftSession, Drafting, Limits, Open, OpenError, Plan, Propose, Proposed, Reason,
    Refusal, TargetSession, Verify, Verifying,
};
pub use source::{EmbeddedModel, InvalidSource, Source};
pub use synthetic::{Dtype, Preset, SyntheticModel};
pub use transformer::Transformer;
pub use worker::{Answer, Cost, Pass, Usage, Worker};
