//! The target's side of a session.

use speculative::{Coupling, DraftDistribution, TokenId};

use super::{AnswerError, Limits, Open, OpenError, Plan, Prefix, Reason, Refusal};
use crate::{
    Description,
    worker::{Answer, Goal, Lane, Worker},
};

/// Asks for the target's own choices along the proposed tokens.
#[derive(Clone, Debug)]
pub struct Verify {
    /// Committed tokens.
    pub base_len: usize,
    /// The tokens proposed after them.
    pub proposed: Vec<TokenId>,
    /// Under rejection coupling, what each of them was sampled from.
    pub drafted: Vec<DraftDistribution>,
}

/// The rules of a target's session.
#[derive(Clone, Debug)]
pub struct Verifying {
    prefix: Prefix,
}

impl Verifying {
    /// A session whose `open` was validated and prefilled, with the first token.
    pub fn new(open: Open, first_token: TokenId, model: &Description, limits: &Limits) -> Self {
        let mut prefix = Prefix::new(open, model, limits);
        prefix.committed.push(first_token);
        Self { prefix }
    }

    /// Checks a message and plans its forward pass: the window, that is the last committed token and then the proposed
    /// ones, after `base_len - 1` positions.
    ///
    /// # Errors
    /// A message that does not continue the committed prefix or breaks a limit.
    pub fn plan(&self, message: &Verify) -> Result<Plan, Refusal> {
        let prefix = &self.prefix;
        if message.base_len != prefix.base_len() {
            let detail = format!("base_len is {}, allowed: {}", message.base_len, prefix.base_len());
            return Err(prefix.refuse(Reason::BaseLen, detail));
        }
        prefix.check_tokens("proposed", &message.proposed)?;
        let gamma = message.proposed.len();
        prefix.check_gamma(gamma, message.base_len)?;
        let wanted = prefix.longest.saturating_sub(prefix.base_len());
        if gamma + 1 > wanted {
            let detail = match wanted {
                0 => format!("the session has all {} tokens that it was opened for", prefix.longest),
                _ => format!("gamma is {gamma}, allowed: 0 to {}, as {wanted} tokens are wanted", wanted - 1),
            };
            return Err(prefix.refuse(Reason::Output, detail));
        }
        if prefix.coupling == Coupling::Rejection {
            prefix.check_drafted(&message.proposed, &message.drafted)?;
        }
        let last = prefix.committed[message.base_len - 1];
        let tokens = [last].into_iter().chain(message.proposed.iter().copied()).collect();
        Ok(Plan { keep: message.base_len - 1, tokens })
    }

    /// Commits a verdict's tokens.
    pub fn commit(&mut self, tokens: &[TokenId]) {
        self.prefix.committed.extend(tokens);
    }

    /// Committed tokens.
    pub fn base_len(&self) -> usize {
        self.prefix.base_len()
    }
}

/// A target's session with its KV cache.
#[derive(Debug)]
pub struct TargetSession {
    worker: Worker,
    rules: Verifying,
    lane: Lane,
}

impl TargetSession {
    /// Prefills `open.tokens`; the answer's one token is the first.
    ///
    /// # Errors
    /// A field that is not allowed, no free session, or a failing model.
    pub async fn open(worker: &Worker, open: Open) -> Result<(Self, Answer), OpenError> {
        let (lane, answer) = worker.prefill(&open, Goal::Verify { gamma: 0, drafted: Vec::new() }).await?;
        let rules = Verifying::new(open, answer.tokens[0], worker.description(), worker.limits());
        Ok((Self { worker: worker.clone(), rules, lane }, answer))
    }

    /// Verifies the proposed tokens and commits the verdict.
    ///
    /// # Errors
    /// A refusal, after which the session goes on, or a failing model, after which it is over.
    pub async fn verify(&mut self, message: Verify) -> Result<Answer, AnswerError> {
        let plan = self.rules.plan(&message)?;
        let goal = Goal::Verify { gamma: message.proposed.len(), drafted: message.drafted };
        let answer = self.worker.answer(&mut self.lane, plan, goal).await?;
        self.rules.commit(&answer.tokens);
        Ok(answer)
    }

    /// Committed tokens.
    pub fn base_len(&self) -> usize {
        self.rules.base_len()
    }
}
