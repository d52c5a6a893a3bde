//! How likely the model held a token to be.

use std::cmp::Ordering;

use crate::{
    TokenId,
    portable::{exp, ln},
};

#[cfg(test)]
mod tests;

/// Log-probabilities (natural) at one row: those of the model itself, before temperature, truncation and penalties.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Logprobs {
    /// That of the chosen token.
    pub chosen: f32,
    /// The likeliest tokens with theirs, in descending order, of equals the lowest token first.
    pub top: Vec<(TokenId, f32)>,
}

impl Logprobs {
    /// The most likeliest tokens that are told of one row.
    pub const MOST_TOP: usize = 20;

    /// Of `chosen` and of the `top` likeliest tokens in a row of logits. Tokens from `tokenizer_size` on are masked; NaN
    /// counts as −∞.
    ///
    /// ln softmax(z)_v = (z_v − max) − ln Σ e^(z − max), summed in f64 in the tokens' order: as the logits' bits do not
    /// depend on how a row is computed, neither do these.
    pub fn of(logits: &[f32], tokenizer_size: usize, chosen: TokenId, top: usize) -> Self {
        let logits = &logits[..tokenizer_size.min(logits.len())];
        let z = |token: usize| {
            let z = f64::from(logits[token]);
            if z.is_nan() { f64::NEG_INFINITY } else { z }
        };
        let max = (0..logits.len()).map(z).fold(f64::NEG_INFINITY, f64::max);
        // 0 at the maximum, even where that is infinite.
        let below_max = |token: usize| if z(token) == max { 0.0 } else { z(token) - max };
        let normaliser = ln((0..logits.len()).map(|token| exp(below_max(token))).sum());
        let logprob = |token: usize| (below_max(token) - normaliser) as f32;

        let in_order = |a: &usize, b: &usize| z(*b).partial_cmp(&z(*a)).unwrap_or(Ordering::Equal).then(a.cmp(b));
        let mut likeliest: Vec<usize> = Vec::new();
        if top > 0 {
            likeliest.extend(0..logits.len());
            if top < likeliest.len() {
                likeliest.select_nth_unstable_by(top - 1, in_order);
                likeliest.truncate(top);
            }
            likeliest.sort_unstable_by(in_order);
        }
        let top = likeliest.into_iter().map(|token| (token as TokenId, logprob(token))).collect();
        Self { chosen: logprob(chosen as usize), top }
    }
}
