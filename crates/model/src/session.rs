//! One session on one service: which messages continue it, and what they ask of the model.
//!
//! The rules are those of the protocol (`docs/protocol.md`, "Refusals"): a message either continues the committed prefix
//! within the limits, or is refused and leaves the session as it was. [`Drafting`] and [`Verifying`] hold the rules
//! alone; [`DraftSession`] and [`TargetSession`] add the model's thread and own the KV cache, so that dropping one frees
//! it.

mod anticipating;
mod drafting;
#[cfg(test)]
mod tests;
mod verifying;

use std::time::Duration;

use speculative::{Coupling, DraftDistribution, InvalidSampling, Logprobs, Sampling, TokenId};

pub use anticipating::{Branch, BranchCost};
pub use drafting::{DraftSession, Drafting, Propose, Proposed};
pub use verifying::{TargetSession, Verify, Verifying};

use crate::{Description, Error};

/// What a service refuses to exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sessions open at once.
    pub max_sessions: usize,
    /// Streams open at once from one peer; held to by whoever knows peers.
    pub max_sessions_per_peer: usize,
    /// How long a session may be silent; held to by whoever has its stream.
    pub idle_timeout: Duration,
    /// Tokens that a session may start from; the context bounds it too.
    pub max_prompt_tokens: usize,
    /// Tokens that a session may ask for.
    pub max_output_tokens: usize,
    /// Proposed tokens of one cycle.
    pub max_gamma: usize,
    /// Branches that a session of a draft may have drafted ahead.
    pub max_branches: usize,
    /// Sessions that wait to be opened.
    pub queue_depth: usize,
    /// How long one waits.
    pub admission_timeout: Duration,
    /// Bytes for the KV caches of all sessions, and for what their prompts share.
    pub kv_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let unbounded = 1 << 20; // beyond any context
        Self {
            max_sessions: 32,
            max_sessions_per_peer: 1 << 16,
            idle_timeout: Duration::from_secs(600),
            max_prompt_tokens: unbounded,
            max_output_tokens: unbounded,
            max_gamma: 32,
            max_branches: 64,
            queue_depth: 64,
            admission_timeout: Duration::from_secs(10),
            kv_bytes: 4 << 30,
        }
    }
}

/// What a session starts from.
#[derive(Clone, Debug)]
pub struct Open {
    /// All committed tokens.
    pub tokens: Vec<TokenId>,
    /// How many of them are the prompt.
    pub prompt_len: usize,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Tokens wanted beyond `tokens`.
    pub max_tokens: usize,
    /// With each of the target's tokens, its log-probability and those of this many likeliest; `None` asks for none.
    pub top_logprobs: Option<usize>,
    /// Branches that a draft may have drafted ahead; more than its limit count as that.
    pub branches: usize,
    /// How its draws depend on the other side's.
    pub coupling: Coupling,
}

impl Open {
    /// Checks every field against the model and the limits.
    ///
    /// # Errors
    /// The first field that is not allowed, with its value and what is.
    pub fn validate(&self, model: &Description, limits: &Limits) -> Result<(), OpenError> {
        let longest = limits.max_prompt_tokens.min(model.context - 1);
        within("tokens (length of the prompt)", self.tokens.len(), 1, longest)?;
        within("prompt_len", self.prompt_len, 1, self.tokens.len())?;
        within("max_tokens", self.max_tokens, 1, limits.max_output_tokens)?;
        within("top_logprobs", self.top_logprobs.unwrap_or(0), 0, Logprobs::MOST_TOP)?;
        if self.coupling == Coupling::Rejection {
            within("branches (with rejection coupling)", self.branches, 0, 0)?;
        }
        self.sampling.validate()?;
        match self.tokens.iter().find(|&&token| token as usize >= model.tokenizer.size()) {
            Some(&token) => within("tokens (id)", token as usize, 0, model.tokenizer.size() - 1),
            None => Ok(()),
        }
    }
}

fn within(field: &'static str, value: usize, least: usize, most: usize) -> Result<(), OpenError> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(OpenError::Field { field, value, least, most }),
    }
}

/// Why a session did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A field outside its range.
    #[error("{field} is {value}, allowed: {least} to {most}")]
    Field {
        /// The field.
        field: &'static str,
        /// Its value.
        value: usize,
        /// The least value allowed.
        least: usize,
        /// The greatest value allowed.
        most: usize,
    },
    /// A sampling parameter outside its range.
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
    /// All sessions are taken.
    #[error("max_sessions reached, allowed: {max_sessions} sessions at once")]
    Sessions {
        /// The limit.
        max_sessions: usize,
    },
    /// The memory for KV caches is taken.
    #[error("kv_bytes reached, allowed: {kv_bytes} bytes for the caches of all sessions")]
    Memory {
        /// The limit.
        kv_bytes: u64,
    },
    /// The model failed or its thread has ended.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// Why a message was refused. The session is as it was before it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Refusal {
    /// What kind of fault it is.
    pub reason: Reason,
    /// Committed tokens.
    pub base_len: usize,
    /// The field, its value and what is allowed.
    pub detail: String,
}

/// What a refused message broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It does not continue the committed prefix.
    BaseLen,
    /// γ is too large.
    Gamma,
    /// A token id is outside the vocabulary.
    Token,
    /// The context is full.
    Context,
    /// The session has produced all it asked for.
    Output,
    /// Under rejection coupling, a proposed token cannot have been sampled from what it is told to be.
    Distribution,
}

/// Why a message got no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Refused; the session goes on.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The session is over.
    #[error(transparent)]
    Failed(#[from] Error),
}

/// What the model has to do for a message: keep the cache's first positions, forward `tokens` after them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Cache positions that stay.
    pub keep: usize,
    /// Tokens to forward after them; at least one.
    pub tokens: Vec<TokenId>,
}

/// The committed tokens of a session and the bounds within which they grow.
#[derive(Clone, Debug)]
struct Prefix {
    committed: Vec<TokenId>,
    /// `committed` may grow to this length: what `Open` asked for, or the context where that is shorter.
    longest: usize,
    context: usize,
    tokenizer_size: usize,
    max_gamma: usize,
    coupling: Coupling,
}

impl Prefix {
    fn new(open: Open, model: &Description, limits: &Limits) -> Self {
        Self {
            longest: (open.tokens.len() + open.max_tokens).min(model.context),
            coupling: open.coupling,
            committed: open.tokens,
            context: model.context,
            tokenizer_size: model.tokenizer.size(),
            max_gamma: limits.max_gamma,
        }
    }

    fn base_len(&self) -> usize {
        self.committed.len()
    }

    fn refuse(&self, reason: Reason, detail: String) -> Refusal {
        Refusal { reason, base_len: self.base_len(), detail }
    }

    fn check_tokens(&self, field: &str, tokens: &[TokenId]) -> Result<(), Refusal> {
        match tokens.iter().find(|&&token| token as usize >= self.tokenizer_size) {
            Some(token) => {
                let most = self.tokenizer_size - 1;
                Err(self.refuse(Reason::Token, format!("{field} holds id {token}, allowed: 0 to {most}")))
            }
            None => Ok(()),
        }
    }

    /// What each proposed token was sampled from.
    fn check_drafted(&self, proposed: &[TokenId], drafted: &[DraftDistribution]) -> Result<(), Refusal> {
        let refuse = |detail| Err(self.refuse(Reason::Distribution, detail));
        if drafted.len() != proposed.len() {
            let detail = format!("distributions is {}, allowed: {}, one per token", drafted.len(), proposed.len());
            return refuse(detail);
        }
        for (at, (distribution, &token)) in drafted.iter().zip(proposed).enumerate() {
            if let Err(error) = distribution.check(token, self.tokenizer_size) {
                return refuse(format!("distributions[{at}].{error}"));
            }
        }
        Ok(())
    }

    /// γ after `base_len` committed tokens: within the service's limit and what the context still holds.
    fn check_gamma(&self, gamma: usize, base_len: usize) -> Result<(), Refusal> {
        if gamma > self.max_gamma {
            let detail = format!("gamma is {gamma}, allowed: 0 to {}", self.max_gamma);
            return Err(self.refuse(Reason::Gamma, detail));
        }
        if base_len > self.context || gamma > self.context - base_len {
            let left = self.context.saturating_sub(base_len);
            let detail = format!("gamma is {gamma}, allowed: 0 to {left}, what the context of {} holds", self.context);
            return Err(self.refuse(Reason::Context, detail));
        }
        Ok(())
    }
}
