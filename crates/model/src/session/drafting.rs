//! The draft's side of a session.

use speculative::TokenId;

use super::{AnswerError, Limits, Open, OpenError, Plan, Prefix, Reason, Refusal};
use crate::{
    Description,
    worker::{Answer, Goal, Lane, Worker},
};

/// Asks for `gamma` tokens after the committed ones.
#[derive(Clone, Debug)]
pub struct Propose {
    /// Committed tokens, `tokens` included.
    pub base_len: usize,
    /// Tokens committed since the last answered `Propose`.
    pub tokens: Vec<TokenId>,
    /// Tokens to propose.
    pub gamma: usize,
}

/// The rules of a draft's session: what it has forwarded, and what of it a new `Propose` lets stand.
///
/// The cache holds committed tokens and then `ahead`, the proposals that were forwarded on the way to the last one
/// (d₁ … d_(γ-1)). Whatever of them the target accepted is not forwarded again.
#[derive(Clone, Debug)]
pub struct Drafting {
    prefix: Prefix,
    ahead: Vec<TokenId>,
}

impl Drafting {
    /// A session whose `open` was validated and prefilled.
    pub fn new(open: Open, model: &Description, limits: &Limits) -> Self {
        Self { prefix: Prefix::new(open, model, limits), ahead: Vec::new() }
    }

    /// Checks a message and plans its forward pass.
    ///
    /// # Errors
    /// A message that does not continue the committed prefix or breaks a limit.
    pub fn plan(&self, message: &Propose) -> Result<Plan, Refusal> {
        let prefix = &self.prefix;
        let continued = prefix.base_len() + message.tokens.len();
        if message.base_len != continued {
            let detail = format!(
                "base_len is {}, allowed: {continued}, the {} committed tokens and the message's {}",
                message.base_len,
                prefix.base_len(),
                message.tokens.len()
            );
            return Err(prefix.refuse(Reason::BaseLen, detail));
        }
        prefix.check_tokens("tokens", &message.tokens)?;
        prefix.check_gamma(message.gamma, message.base_len)?;
        if continued > prefix.longest {
            let detail = format!("base_len is {continued}, allowed: up to {}, as opened", prefix.longest);
            return Err(prefix.refuse(Reason::Output, detail));
        }

        let foreseen = self.ahead.iter().zip(&message.tokens).take_while(|(ahead, token)| ahead == token).count();
        // The last committed token is always forwarded: its row of logits chooses d₁.
        let keep = (prefix.base_len() + foreseen).min(message.base_len - 1);
        let committed = prefix.committed.iter().chain(&message.tokens);
        Ok(Plan { keep, tokens: committed.skip(keep).copied().collect() })
    }

    /// Takes over what a planned message committed and proposed.
    pub fn advance(&mut self, message: Propose, proposed: &[TokenId]) {
        self.prefix.committed.extend(message.tokens);
        self.ahead = proposed[..proposed.len().saturating_sub(1)].to_vec();
    }

    /// Committed tokens.
    pub fn base_len(&self) -> usize {
        self.prefix.base_len()
    }
}

/// A draft's session with its KV cache.
#[derive(Debug)]
pub struct DraftSession {
    worker: Worker,
    rules: Drafting,
    lane: Lane,
}

impl DraftSession {
    /// Prefills `open.tokens`.
    ///
    /// # Errors
    /// A field that is not allowed, no free session, or a failing model.
    pub async fn open(worker: &Worker, open: Open) -> Result<(Self, Answer), OpenError> {
        let (lane, answer) = worker.prefill(&open, Goal::Propose { gamma: 0 }).await?;
        let rules = Drafting::new(open, worker.description(), worker.limits());
        Ok((Self { worker: worker.clone(), rules, lane }, answer))
    }

    /// Proposes `message.gamma` tokens.
    ///
    /// # Errors
    /// A refusal, after which the session goes on, or a failing model, after which it is over.
    pub async fn propose(&mut self, message: Propose) -> Result<Answer, AnswerError> {
        let plan = self.rules.plan(&message)?;
        let goal = Goal::Propose { gamma: message.gamma };
        self.lane.commit(&message.tokens);
        let answer = self.worker.answer(&mut self.lane, plan, goal).await?;
        self.rules.advance(message, &answer.tokens);
        Ok(answer)
    }

    /// Committed tokens.
    pub fn base_len(&self) -> usize {
        self.rules.base_len()
    }
}
