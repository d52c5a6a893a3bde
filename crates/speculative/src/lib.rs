//! The mathematics of speculative decoding, free of networks, clocks and tensors.
//!
//! A target's choices are the output; a draft's proposals only decide how many of them one pass yields. Everything
//! here that takes part in a choice is made of integer operations and of `+ - * /` on f64, in a fixed order: the same
//! bits on every machine.
//!
//! # Layout
//! - [`Sampling`], [`Chooser`], [`gumbel`]: the choice at one position, coupled through shared noise
//! - [`Logprobs`]: how likely the model held a choice to be
//! - [`Verdict`]: how much of a proposal stands
//! - [`Coupling`], [`rejection`]: the same by acceptance and rejection, with a noise of each side's own
//! - [`anticipation`]: which verdicts to prepare for while they are made
//! - [`Acceptance`]: what the cycles of a run add up to
//! - [`SyntheticAcceptance`]: proposals accepted by lot, so that costs can be studied without models that agree
//! - [`cost`]: what a cycle ought to yield, and at which distance it stops paying
//! - [`policy`]: how many tokens to propose
//! - [`simulation`]: the cycle of many sessions, draft and target servers on a clock of its own
//! - [`roofline`]: where a forward pass stands on its device
//! - [`philox`], [`portable`]: the counter-based generator, and `ln`, `exp` and the normal distribution's quantiles

mod acceptance;
pub mod anticipation;
pub mod cost;
mod logprobs;
pub mod philox;
pub mod policy;
pub mod portable;
pub mod rejection;
pub mod roofline;
mod sampling;
pub mod simulation;
mod synthetic;
mod verdict;

pub use acceptance::Acceptance;
pub use logprobs::Logprobs;
pub use rejection::{Coupling, Distribution, DraftDistribution};
pub use sampling::{Chooser, History, InvalidSampling, Penalties, Ranked, Sampling, gumbel};
pub use synthetic::SyntheticAcceptance;
pub use verdict::Verdict;

/// A token's number in the vocabulary.
pub type TokenId = u32;
