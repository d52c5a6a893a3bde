//! The coordinator: it owns the request, the text and the policy, so that models stay interchangeable workers.
//!
//! # Layout
//! - [`cycle`]: the loop: propose → verify → commit
//! - [`pairing`]: who draft and target are, and whether they fit together
//! - `link`: one session's stream to each of them; deadlines, late answers, reopening
//! - [`text`]: chats to prompts, tokens to text, stop strings
//! - [`report`]: what a run was, as JSON and on a terminal
//! - [`bench`](mod@bench): AR and speculative runs in alternation, theory beside measurement
//! - [`mod@certify`]: whether a target's rows depend on what they are computed with
//! - [`mod@simulate`]: the same plans on a virtual clock
//! - [`mod@study`]: sweeps over distance, γ, policies and temperatures
//! - [`sidecar`]: a benchmark as roofline files
//! - [`trace`]: one request seen and judged, from its spans
//! - [`serve`]: the coordinator as a service, over HTTP
//! - `embedded`: draft and target in this process
//! - [`cli`]: the `outrider` command line

pub mod bench;
pub mod certify;
pub mod cli;
pub mod cycle;
mod echo;
#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
mod link;
pub mod pairing;
mod replicas;
pub mod report;
pub mod serve;
pub mod sidecar;
pub mod simulate;
pub mod study;
pub mod text;
pub mod trace;

pub use cycle::{Cycle, Leg, Part, Request, Run, StopReason, TraceCycles, generate, generate_paced};
pub use error::Error;
pub use link::{Anticipation, AnticipationOutcome};
pub use pairing::{Access, Deadlines, Pair, PairRoofs, Service};
