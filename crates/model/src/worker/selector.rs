//! Chooses tokens from the logits of a pass.

use std::mem;

use speculative::{
    Chooser, Coupling, DraftDistribution, History, Logprobs, Ranked, Sampling, SyntheticAcceptance, TokenId, Verdict,
    rejection,
};

use super::{Goal, batch::Active};
use crate::Forward;

/// How tokens are chosen, whoever asks.
pub(super) struct Selector {
    chooser: Chooser,
    tokenizer_size: usize,
    synthetic_acceptance: Option<SyntheticAcceptance>,
}

impl Selector {
    pub(super) fn new(tokenizer_size: usize, synthetic_acceptance: Option<SyntheticAcceptance>) -> Self {
        Self { chooser: Chooser::new(), tokenizer_size, synthetic_acceptance }
    }

    pub(super) fn tokenizer_size(&self) -> usize {
        self.tokenizer_size
    }

    /// The greatest of a row, as a choice there sees them.
    pub(super) fn rank(
        &mut self,
        history: &History,
        row: &[f32],
        sampling: &Sampling,
        position: u64,
        most: usize,
    ) -> Vec<Ranked> {
        self.chooser.rank_after(history, row, self.tokenizer_size, sampling, position, most)
    }

    /// Continues or completes a request: afterwards its `input` is what to forward next.
    pub(super) fn select(&mut self, request: &mut Active, forward: &Forward, sequence: usize) {
        let input = mem::take(&mut request.input);
        match request.goal {
            Goal::Propose { gamma: 0, .. } => {}
            Goal::Propose { gamma, ranked, min_confidence } => {
                let logits = forward.row(sequence, 0);
                let token = self.propose(request, logits, ranked);
                let logits = &logits[..self.tokenizer_size];
                let confidence = probability(logits, token);
                let surest = match request.coupling {
                    Coupling::Gumbel => confidence,
                    // A stop that hung on the drawn token would have the others be no sample of q any more.
                    Coupling::Rejection if min_confidence > 0.0 => probability(logits, likeliest(logits)),
                    Coupling::Rejection => 1.0,
                };
                if surest >= min_confidence {
                    request.history.extend(&[token]);
                    request.answer.confidences.push(confidence);
                    request.answer.tokens.push(token);
                    if request.answer.tokens.len() < gamma {
                        request.input.push(token);
                        return;
                    }
                }
                request.answer.drafted.truncate(request.answer.tokens.len());
                request.history.retract(&request.answer.tokens);
            }
            Goal::Verify { gamma, .. } => {
                let verdict = self.verify(request, &input[input.len() - gamma..], forward, sequence);
                request.history.extend(&verdict.tokens[verdict.accepted..]);
                if let Some(top) = request.top_logprobs {
                    let of_row =
                        |(row, &token)| Logprobs::of(forward.row(sequence, row), self.tokenizer_size, token, top);
                    request.answer.logprobs = verdict.tokens.iter().enumerate().map(of_row).collect();
                }
                request.answer.tokens = verdict.tokens;
            }
        }
    }

    /// The token to propose next, and into the answer what it was chosen from, as far as that is wanted.
    fn propose(&mut self, request: &mut Active, logits: &[f32], ranked: usize) -> TokenId {
        let Active { history, sampling, answer, .. } = request;
        let (size, position) = (self.tokenizer_size, request.cache.len() as u64);
        match (request.coupling, ranked) {
            (Coupling::Rejection, _) => {
                let sampled = DraftDistribution::sampling(sampling);
                let q = self.chooser.distribution_after(history, logits, size, &sampled);
                let drafted = DraftDistribution::from(&q);
                let token = drafted.propose(sampling.seed, position, answer.tokens.len());
                answer.drafted.push(drafted);
                token
            }
            (Coupling::Gumbel, 0) => self.chooser.choose_after(history, logits, size, sampling, position),
            (Coupling::Gumbel, most) => {
                let row = self.chooser.rank_after(history, logits, size, sampling, position, most);
                let first = row[0].token;
                answer.ranked.push(row);
                first
            }
        }
    }

    /// The verdict on `proposed`. Row i stands at the position of the i-th proposed token's predecessor and chooses the one
    /// after it.
    fn verify(&mut self, request: &mut Active, proposed: &[TokenId], forward: &Forward, sequence: usize) -> Verdict {
        let base_len = (request.cache.len() - proposed.len()) as u64;
        let (sampling, size, chooser) = (request.sampling, self.tokenizer_size, &mut self.chooser);
        let mut standing = Standing { history: &mut request.history, proposed, row: 0 };
        let choose = |row: usize| {
            let (history, logits) = (standing.at(row), forward.row(sequence, row));
            chooser.choose_after(history, logits, size, &sampling, base_len + row as u64)
        };
        match (&request.goal, request.coupling, self.synthetic_acceptance) {
            (_, _, Some(synthetic)) => synthetic.verdict(proposed, sampling.seed, base_len, choose),
            (Goal::Verify { drafted, .. }, Coupling::Rejection, None) => {
                let p = |row: usize| {
                    let (history, logits) = (standing.at(row), forward.row(sequence, row));
                    chooser.distribution_after(history, logits, size, &sampling)
                };
                rejection::verdict(proposed, drafted, sampling.seed, base_len, p)
            }
            _ => Verdict::of(proposed, choose),
        }
    }
}

/// A row stands after the proposed tokens before it.
struct Standing<'a> {
    history: &'a mut History,
    proposed: &'a [TokenId],
    row: usize,
}

impl Standing<'_> {
    /// What the sequence holds at `row`; rows come in order.
    fn at(&mut self, row: usize) -> &History {
        self.history.extend(&self.proposed[self.row..row]);
        self.row = row;
        self.history
    }
}

/// Softmax of `logits` at temperature 1, at `token`. It informs, and no output depends on its rounding.
pub(super) fn probability(logits: &[f32], token: TokenId) -> f32 {
    let chosen = logits[token as usize];
    1.0 / logits.iter().map(|&z| (z - chosen).exp()).sum::<f32>()
}

fn likeliest(logits: &[f32]) -> TokenId {
    let greatest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|&z| z == greatest).unwrap_or(0) as TokenId
}
