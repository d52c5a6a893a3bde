//! Proposals accepted by lot.

use crate::{
    TokenId, Verdict,
    philox::{stream, uniform},
};

#[cfg(test)]
mod tests;

/// A target that accepts each proposed token with the same chance, given all before it, whatever its logits say.
///
/// What a cycle costs can then be studied at any acceptance, without models that agree. The output depends on the draft:
/// nothing about it is lossless, and nothing about the text means anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SyntheticAcceptance {
    rate: f64,
}

impl SyntheticAcceptance {
    /// Accepts with chance `rate`, 0 to 1; `None` for any other.
    pub fn new(rate: f64) -> Option<Self> {
        (0.0..=1.0).contains(&rate).then_some(Self { rate })
    }

    /// The chance that a token is accepted once all before it were.
    pub fn rate(self) -> f64 {
        self.rate
    }

    /// The verdict on tokens proposed after `base_len` committed ones. The lot of a token depends on `seed` and its
    /// position alone, so that a run can be repeated; `choose(row)` gives the final token, the target's own choice.
    pub fn verdict(
        self,
        proposed: &[TokenId],
        seed: u64,
        base_len: u64,
        choose: impl FnOnce(usize) -> TokenId,
    ) -> Verdict {
        let accepted = (base_len..).zip(proposed).take_while(|(position, _)| self.accepts(seed, *position)).count();
        let tokens = proposed[..accepted].iter().copied().chain([choose(accepted)]).collect();
        Verdict { accepted, tokens }
    }

    fn accepts(self, seed: u64, position: u64) -> bool {
        // From 0 to below 1: a rate of 0 accepts nothing and one of 1 everything.
        uniform(seed, position, 0, stream::ACCEPTANCE) < self.rate
    }
}
