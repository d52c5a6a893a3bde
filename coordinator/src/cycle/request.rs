//! What is asked for, and whether the pair can give it.

use std::{num::NonZeroU64, str::FromStr, time::Instant};

use speculative::{Coupling, Logprobs, Sampling, TokenId, policy::Gamma};
use telemetry::TraceParent;

use crate::{Error, Pair, Service};

/// What to generate.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt's tokens.
    pub prompt: Vec<TokenId>,
    /// How tokens are chosen, the seed included.
    pub sampling: Sampling,
    /// Tokens wanted beyond the prompt.
    pub max_tokens: usize,
    /// Proposed tokens of a cycle, or how they are chosen.
    pub gamma: Gamma,
    /// The draft ends a proposal before the first token that it holds less likely than this, 0 to 1; 0 is off.
    pub min_confidence: f32,
    /// Branches that the draft may draft ahead, for verdicts that are not there yet (DESIGN §6); 0 is none.
    pub branches: usize,
    /// How the draws of draft and target depend on each other; by rejection, nothing is drafted ahead.
    pub coupling: Coupling,
    /// The text ends before the first of these.
    pub stop: Vec<String>,
    /// With each token, its log-probability and those of this many likeliest; `None` asks for none.
    pub top_logprobs: Option<usize>,
    /// The span that asks for it, where there is one: the request is part of its trace.
    pub parent: Option<TraceParent>,
    /// When its asker stops to wait: the services let go of its sessions then.
    pub deadline: Option<Instant>,
    /// Whether the prompt and the output are recorded in its span.
    pub record_content: bool,
    /// Which cycles have spans.
    pub trace_cycles: TraceCycles,
}

/// Which cycles of a request have spans, their own and the services'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TraceCycles {
    /// Each.
    #[default]
    All,
    /// One of so many, from the first on.
    Sampled(NonZeroU64),
    /// None.
    Off,
}

impl TraceCycles {
    /// Whether the cycle of this number, from 1, is traced.
    pub fn includes(self, number: u64) -> bool {
        match self {
            Self::All => true,
            Self::Sampled(every) => (number - 1).is_multiple_of(every.get()),
            Self::Off => false,
        }
    }
}

impl FromStr for TraceCycles {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sampled = |text: &str| text.strip_prefix("sampled:")?.parse().ok().map(Self::Sampled);
        match text {
            "all" => Ok(Self::All),
            "off" => Ok(Self::Off),
            text => sampled(text).ok_or_else(|| "allowed: all, sampled:N with N from 1, or off".to_owned()),
        }
    }
}

impl Request {
    /// The same of the target alone: AR, which is coupled to nothing.
    pub fn alone(self) -> Self {
        Self { gamma: Gamma::Fixed(0), coupling: Coupling::Gumbel, ..self }
    }

    /// 256 tokens after `prompt`, of the target alone.
    pub fn new(prompt: Vec<TokenId>, sampling: Sampling) -> Self {
        Self {
            prompt,
            sampling,
            max_tokens: 256,
            gamma: Gamma::Fixed(0),
            min_confidence: 0.0,
            branches: 0,
            coupling: Coupling::Gumbel,
            stop: Vec::new(),
            top_logprobs: None,
            parent: None,
            deadline: None,
            record_content: false,
            trace_cycles: TraceCycles::All,
        }
    }

    /// Checks the request against what the pair's services allow.
    pub(super) fn check(&self, pair: &Pair) -> Result<(), Error> {
        self.sampling.validate()?;
        let target = &pair.target;
        let limits = target.description.limits.unwrap_or_default();
        let most = limits.max_prompt_tokens as usize;
        if !(1..=most).contains(&self.prompt.len()) {
            return Err(Error::PromptLength { tokens: self.prompt.len(), most, url: target.url.clone() });
        }
        let within = |field, value, (least, most), service: &Service| match (least..=most).contains(&value) {
            true => Ok(()),
            false => {
                let (side, url) = (service.side, service.url.clone());
                Err(Error::Limit { field, value, least, most, side, url })
            }
        };
        if self.coupling == Coupling::Rejection {
            within("branches (with rejection coupling)", self.branches, (0, 0), target)?;
            pair.draft.iter().chain([target]).try_for_each(Service::couples_by_rejection)?;
        }
        within("max_tokens", self.max_tokens, (1, limits.max_output_tokens as usize), target)?;
        within("top_logprobs", self.top_logprobs.unwrap_or(0), (0, Logprobs::MOST_TOP), target)?;
        let Gamma::Fixed(gamma) = self.gamma else { return Ok(()) };
        within("gamma", gamma, (0, limits.max_gamma as usize), target)?;
        match &pair.draft {
            Some(draft) => {
                let most = draft.description.limits.unwrap_or_default().max_gamma as usize;
                within("gamma", gamma, (0, most), draft)
            }
            None => Ok(()),
        }
    }
}
