//! The draft's side of a session.

use speculative::{TokenId, anticipation::MOST_RANKED};

use super::{
    AnswerError, Limits, Open, OpenError, Plan, Prefix, Reason, Refusal,
    anticipating::{Anticipation, Bounds, Branch, Next},
};
use crate::{
    Description, Error,
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
    /// What is verified already, drafted ahead for this verdict: nothing is to be proposed now.
    pub verifying: Option<Vec<TokenId>>,
    /// Branches that may be drafted ahead and wait for their verdict at once.
    pub branches: usize,
    /// The first token that the model holds less likely than this ends the proposal before it; 0 to 1.
    pub min_confidence: f32,
}

/// What became of a [`Propose`].
#[derive(Debug)]
pub enum Proposed {
    /// The tokens, and the number that branches name them by; 0 where none will come.
    Answer(Box<Answer>, u64),
    /// Nothing is to be answered: the branch of this number, which was sent before, is the proposal. One that another session
    /// was sent has none.
    Adopted(Option<u64>),
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
        let verifying = message.verifying.as_deref().unwrap_or_default();
        prefix.check_tokens("verifying", verifying)?;
        prefix.check_gamma(message.gamma.max(verifying.len()), message.base_len)?;
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
        self.adopt(message.tokens, proposed[..proposed.len().saturating_sub(1)].to_vec());
    }

    /// Takes over what was committed, and what was forwarded after it.
    fn adopt(&mut self, committed: Vec<TokenId>, ahead: Vec<TokenId>) {
        self.prefix.committed.extend(committed);
        self.ahead = ahead;
    }

    fn bounds(&self) -> Bounds {
        let Prefix { longest, context, .. } = self.prefix;
        Bounds { base_len: self.prefix.base_len(), longest, context }
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
    anticipation: Anticipation,
    /// Branches that there is memory for.
    most_branches: usize,
}

impl DraftSession {
    /// Prefills `open.tokens`.
    ///
    /// # Errors
    /// A field that is not allowed, no free session, or a failing model.
    pub async fn open(worker: &Worker, open: Open) -> Result<(Self, Answer), OpenError> {
        let (lane, answer) = worker.prefill(&open, Goal::Propose { gamma: 0, ranked: 0, min_confidence: 0.0 }).await?;
        let most_branches = open.branches.min(worker.limits().max_branches);
        let rules = Drafting::new(open, worker.description(), worker.limits());
        let (worker, anticipation) = (worker.clone(), Anticipation::default());
        Ok((Self { worker, rules, lane, anticipation, most_branches }, answer))
    }

    /// Proposes `message.gamma` tokens, from a branch where one was drafted for this verdict.
    ///
    /// # Errors
    /// A refusal, after which the session goes on, or a failing model, after which it is over.
    pub async fn propose(&mut self, message: Propose) -> Result<Proposed, AnswerError> {
        let held = self.anticipation.interrupt(&mut self.lane).await?;
        self.rules.ahead.extend(held);
        let mut plan = self.rules.plan(&message)?;
        self.lane.commit(&message.tokens);
        let credit = message.branches.min(self.most_branches);
        self.anticipation.allow(credit, message.gamma);

        let drafted = self.anticipation.settle(&message.tokens);
        let fits = |id: &u64| {
            let tokens = self.anticipation.tokens(*id);
            message.verifying.as_ref().is_none_or(|verifying| tokens.starts_with(verifying))
        };
        if let (Some(id), Some(cache)) = (drafted.filter(fits), &mut self.lane.cache) {
            let (held, unsent) = self.anticipation.adopt(id, message.tokens.len(), cache);
            self.rules.adopt(message.tokens, held);
            return Ok(match (message.verifying, unsent) {
                (None, Some(branch)) => Proposed::Answer(Box::new(branch.answer(message.gamma)), id),
                _ => Proposed::Adopted(Some(id)),
            });
        }

        self.anticipation.forget();
        if let Some(verifying) = message.verifying.clone() {
            // It was drafted by whoever had this session before: it is forwarded, so that the cache holds it.
            plan.tokens.extend(&verifying);
            self.worker
                .answer(&mut self.lane, plan, Goal::Propose { gamma: 0, ranked: 0, min_confidence: 0.0 })
                .await?;
            self.rules.adopt(message.tokens, verifying);
            return Ok(Proposed::Adopted(None));
        }
        let ranked = if credit > 0 { MOST_RANKED } else { 0 };
        let goal = Goal::Propose { gamma: message.gamma, ranked, min_confidence: message.min_confidence };
        let answer = self.worker.answer(&mut self.lane, plan, goal).await?;
        let whole = answer.tokens.len() == message.gamma;
        let held = answer.tokens.len().saturating_sub(usize::from(whole));
        self.rules.adopt(message.tokens, answer.tokens[..held].to_vec());
        let id = self.anticipation.plant(&answer);
        Ok(Proposed::Answer(Box::new(answer), id))
    }

    /// Goes on by itself: the next branch that was drafted for a verdict that is not there yet. Never resolves where none may
    /// be drafted. It can be dropped at any time and loses nothing.
    ///
    /// # Errors
    /// A failing model, after which the session is over.
    pub async fn ahead(&mut self) -> Result<Branch, Error> {
        loop {
            let bounds = self.rules.bounds();
            match self.anticipation.next(&self.worker, &mut self.lane, bounds).await? {
                Next::Branch(branch) => return Ok(branch),
                Next::Held(held) => self.rules.ahead.extend(held),
            }
        }
    }

    /// Whether [`Self::ahead`] has a branch at once: of those that grew together.
    pub fn has_branches(&self) -> bool {
        self.anticipation.has_unsent()
    }

    /// Committed tokens.
    pub fn base_len(&self) -> usize {
        self.rules.base_len()
    }
}
