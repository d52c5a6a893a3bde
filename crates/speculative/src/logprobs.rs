//! How likely the model held a token to be.

use crate::{
    TokenId,
    portable::ln,
    sampling::{Candidate, Row, argmax, in_order, weight},
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
        let row = Row { logits, temperature: 1.0 };
        let max = argmax(row.z()).z;
        let normaliser = ln(row.candidates().map(|candidate| weight(&candidate, max)).sum());
        let logprob = |candidate: &Candidate| {
            // 0 at the maximum, even where that is infinite.
            let below_max = if candidate.z == max { 0.0 } else { candidate.z - max };
            (below_max - normaliser) as f32
        };
        let chosen = row.candidates().nth(chosen as usize).as_ref().map_or(f32::NEG_INFINITY, logprob);
        let mut likeliest = Vec::new();
        if top > 0 {
            likeliest.extend(row.candidates());
            if top < likeliest.len() {
                likeliest.select_nth_unstable_by(top - 1, in_order);
                likeliest.truncate(top);
            }
            likeliest.sort_unstable_by(in_order);
        }
        let top = likeliest.iter().map(|candidate| (candidate.token, logprob(candidate))).collect();
        Self { chosen, top }
    }
}
