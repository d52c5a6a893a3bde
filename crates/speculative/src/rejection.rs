//! Rejection coupling: the draft samples with a noise of its own, and the target accepts or rejects what came of it.
//!
//! Leviathan et al. 2023 (arXiv 2211.17192), algorithm 1 and appendix A.1; Chen et al. 2023 (arXiv 2302.01318), algorithm
//! 2. A proposed x is accepted with chance min(1, p(x) / q(x)), else the token is a sample of norm(max(0, p − q)): it is
//! an exact sample of p whatever q is, as long as x is a sample of q. Of the two ways to draw from p together it accepts
//! the most, Σ min(p, q); the price is that q travels with the proposal, and that the output depends on the draft.
//!
//! Three streams of random numbers are behind it, independent of each other and of the Gumbel noise: the draft's samples,
//! the tests, and the final tokens. A draft that proposes for a position again, in a later cycle, draws anew: what it drew
//! before may have decided how the cycles fell.

use std::{fmt, str::FromStr};

use crate::{
    Sampling, TokenId, Verdict,
    philox::{stream, uniform},
};

#[cfg(test)]
mod tests;

/// How the draws of draft and target depend on each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Coupling {
    /// Through shared noise: both choose with the same, and the output does not depend on the draft.
    #[default]
    Gumbel,
    /// By acceptance and rejection: the output is exact in distribution, and depends on the draft.
    Rejection,
}

impl Coupling {
    /// As flags and reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gumbel => "gumbel",
            Self::Rejection => "rejection",
        }
    }
}

impl fmt::Display for Coupling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Coupling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Gumbel, Self::Rejection];
        all.into_iter()
            .find(|coupling| coupling.as_str() == text)
            .ok_or_else(|| "allowed: gumbel, rejection".to_owned())
    }
}

/// What a token is sampled from.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// The tokens that may come, ascending, with weights that add up to `sum`.
    weights: Vec<(TokenId, f64)>,
    sum: f64,
}

impl Distribution {
    /// Of tokens in ascending order with their weights, 0 or more; at least one is above 0.
    pub(crate) fn new(weights: impl Iterator<Item = (TokenId, f64)>) -> Self {
        let weights: Vec<_> = weights.collect();
        let sum = weights.iter().map(|(_, weight)| weight).sum();
        Self { weights, sum }
    }

    /// All of it is `token`.
    pub(crate) fn certain(token: TokenId) -> Self {
        Self { weights: vec![(token, 1.0)], sum: 1.0 }
    }

    /// The probability of `token`, 0 to 1.
    pub fn probability(&self, token: TokenId) -> f64 {
        let found = self.weights.binary_search_by_key(&token, |(token, _)| *token);
        found.map_or(0.0, |at| self.weights[at].1 / self.sum)
    }

    /// The first token at which the running sum of probabilities exceeds `u`, 0 to below 1.
    fn at(&self, u: f64) -> TokenId {
        let (mark, mut running) = (u * self.sum, 0.0);
        let reaches = |(_, weight): &&(TokenId, f64)| {
            running += weight;
            running > mark
        };
        // The last sum is `sum` itself, and u is below 1: it exceeds the mark.
        self.weights.iter().find(reaches).or(self.weights.last()).map_or(0, |(token, _)| *token)
    }

    /// norm(max(0, p − q)), p being this one. Where they differ by rounding alone nothing is left, and it is p.
    fn residual(&self, q: &Self) -> Self {
        let mut others = q.weights.iter().peekable();
        let left = self.weights.iter().map(|&(token, weight)| {
            while others.next_if(|(other, _)| *other < token).is_some() {}
            let other = others.next_if(|(other, _)| *other == token).map_or(0.0, |(_, weight)| weight / q.sum);
            (token, (weight / self.sum - other).max(0.0))
        });
        let residual = Self::new(left);
        if residual.sum > 0.0 { residual } else { self.clone() }
    }
}

/// A draft's distribution as it travels with a proposed token: the likeliest tokens, ascending, and their probabilities.
///
/// The probabilities are rounded, and count relative to their sum: what the draft sampled is what the target reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DraftDistribution {
    /// Up to [`MOST_TOKENS`](Self::MOST_TOKENS), each more than the one before.
    pub tokens: Vec<TokenId>,
    /// Theirs, above 0 to 1.
    pub probabilities: Vec<f32>,
}

impl DraftDistribution {
    /// The most tokens that a draft samples among: rows are small on the wire then, and what is cut off is rarely proposed.
    pub const MOST_TOKENS: usize = 128;

    /// By how much the sum of probabilities may differ from 1.
    const TOLERANCE: f64 = 1e-4;

    /// That of a draft which does not draw: all of it is `token`.
    pub fn certain(token: TokenId) -> Self {
        Self { tokens: vec![token], probabilities: vec![1.0] }
    }

    /// How a draft samples where its target does so by `sampling`: among the likeliest [`MOST_TOKENS`](Self::MOST_TOKENS) at
    /// most. Any q will do, as long as it is the one that is sampled.
    pub fn sampling(sampling: &Sampling) -> Sampling {
        let most = Self::MOST_TOKENS as u32;
        Sampling { top_k: if sampling.top_k == 0 { most } else { sampling.top_k.min(most) }, ..*sampling }
    }

    /// What is proposed at `position`, as the token of this index in its proposal, from 0.
    pub fn propose(&self, seed: u64, position: u64, index: usize) -> TokenId {
        Distribution::from(self).at(uniform(seed, position, index as u32, stream::PROPOSAL))
    }

    /// Whether `proposed` can have been sampled from it, with a tokenizer of so many ids.
    ///
    /// # Errors
    /// The first field that is not allowed, with its value and what is.
    pub fn check(&self, proposed: TokenId, tokenizer_size: usize) -> Result<(), InvalidDistribution> {
        let Self { tokens, probabilities } = self;
        let refused = |field, value: String, allowed: String| Err(InvalidDistribution { field, value, allowed });
        if !(1..=Self::MOST_TOKENS).contains(&tokens.len()) {
            return refused("tokens (number)", tokens.len().to_string(), format!("1 to {}", Self::MOST_TOKENS));
        }
        if probabilities.len() != tokens.len() {
            let allowed = format!("{}, that of tokens", tokens.len());
            return refused("probabilities (number)", probabilities.len().to_string(), allowed);
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= tokenizer_size) {
            return refused("tokens (id)", token.to_string(), format!("0 to {}", tokenizer_size - 1));
        }
        if let Some([before, token]) = tokens.array_windows().find(|[before, token]| before >= token) {
            return refused("tokens (order)", format!("{token} after {before}"), "ascending ids".to_owned());
        }
        if let Some(probability) = probabilities.iter().find(|&&probability| !(probability > 0.0 && probability <= 1.0))
        {
            return refused("probabilities", probability.to_string(), "above 0, up to 1".to_owned());
        }
        let sum: f64 = probabilities.iter().copied().map(f64::from).sum();
        if (sum - 1.0).abs() > Self::TOLERANCE {
            return refused("probabilities (sum)", sum.to_string(), format!("1 ± {}", Self::TOLERANCE));
        }
        match tokens.binary_search(&proposed) {
            Ok(_) => Ok(()),
            Err(_) => refused("tokens", format!("without {proposed}"), "with the proposed token".to_owned()),
        }
    }
}

impl From<&Distribution> for DraftDistribution {
    /// Rounded; what rounds to 0 is left out.
    fn from(Distribution { weights, sum }: &Distribution) -> Self {
        let rounded = weights.iter().map(|(token, weight)| (*token, (weight / sum) as f32));
        let (tokens, probabilities) = rounded.filter(|(_, probability)| *probability > 0.0).unzip();
        Self { tokens, probabilities }
    }
}

impl From<&DraftDistribution> for Distribution {
    fn from(DraftDistribution { tokens, probabilities }: &DraftDistribution) -> Self {
        Self::new(tokens.iter().copied().zip(probabilities.iter().copied().map(f64::from)))
    }
}

/// A draft's distribution that nothing can have been sampled from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, allowed: {allowed}")]
pub struct InvalidDistribution {
    /// The field's name in [`DraftDistribution`].
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What is allowed.
    pub allowed: String,
}

/// The verdict on tokens proposed after `base_len` committed ones, each a sample of its draft distribution.
///
/// `p(row)` gives the target's distribution at `row`, from 0 to `proposed.len()`; row i follows the committed tokens and the
/// first i proposed ones. Rows are asked for in order, and none after the final token. The numbers behind it belong to
/// `seed` and a position alone.
pub fn verdict(
    proposed: &[TokenId],
    drafted: &[DraftDistribution],
    seed: u64,
    base_len: u64,
    mut p: impl FnMut(usize) -> Distribution,
) -> Verdict {
    let mut tokens = Vec::with_capacity(proposed.len() + 1);
    loop {
        let (row, position) = (tokens.len(), base_len + tokens.len() as u64);
        let final_token = |p: &Distribution| p.at(uniform(seed, position, 0, stream::FINAL));
        let p = p(row);
        let Some((&x, q)) = proposed.get(row).zip(drafted.get(row)) else {
            tokens.push(final_token(&p));
            return Verdict { accepted: row, tokens };
        };
        let q = Distribution::from(q);
        // From 0 to below 1: where p(x) is at least q(x) it passes.
        if uniform(seed, position, 0, stream::TEST) * q.probability(x) >= p.probability(x) {
            tokens.push(final_token(&p.residual(&q)));
            return Verdict { accepted: row, tokens };
        }
        tokens.push(x);
    }
}
