//! What a cycle ought to yield, what it costs, and at which distance it stops paying.

#[cfg(test)]
mod tests;

/// E(g) = 1 + Σ survival(i): the tokens that a cycle emits on average, for a proposal of `survival.len()` tokens.
///
/// `survival[i - 1]` is the share of the cycles whose i-th proposal was accepted, 0 to 1.
pub fn expected_tokens(survival: &[f64]) -> f64 {
    1.0 + survival.iter().sum::<f64>()
}

/// E(g) where each token is accepted with the same chance `a` once all before it were: (1 − a^(g+1)) / (1 − a).
///
/// Leviathan et al. 2023 (arXiv 2211.17192), equation 1. Summed as 1 + a (1 + a (…)), which loses nothing near a = 1.
pub fn expected_tokens_constant(a: f64, gamma: u32) -> f64 {
    (0..gamma).fold(1.0, |expected, _| 1.0 + a * expected)
}

/// The times that make up a cycle, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CycleTimes {
    /// One step of autoregressive decoding on the target's device.
    pub t_ar_s: f64,
    /// One step of the draft.
    pub t_draft_s: f64,
    /// The target's forward over the window's γ + 1 rows.
    pub t_verify_s: f64,
    /// The round trip between coordinator and draft.
    pub rtt_draft_s: f64,
    /// The round trip between coordinator and target.
    pub rtt_target_s: f64,
    /// What the coordinator adds to a cycle.
    pub overhead_s: f64,
}

impl CycleTimes {
    /// The speedup over AR through the same link and coordinator, E (t_ar + r_t + o) / (γ t_d + t_v + r_d + r_t + o).
    ///
    /// Leviathan et al. 2023 (arXiv 2211.17192), theorem 3.8, with the network's and the coordinator's share.
    pub fn speedup(&self, expected_tokens: f64, gamma: u32) -> f64 {
        expected_tokens * (self.t_ar_s + self.rtt_target_s + self.overhead_s) / self.cycle_s(gamma)
    }

    /// The speedup over AR at the target, which pays no link and no coordinator: E t_ar / (γ t_d + t_v + r_d + r_t + o).
    pub fn speedup_at_target(&self, expected_tokens: f64, gamma: u32) -> f64 {
        expected_tokens * self.t_ar_s / self.cycle_s(gamma)
    }

    /// The draft's RTT, in seconds, at which this γ and AR over the same link are equally fast: (t_ar + r_t + o) E −
    /// γ t_d − t_v − r_t − o. Negative where speculation does not pay at any distance.
    pub fn break_even_draft_rtt_s(&self, expected_tokens: f64, gamma: u32) -> f64 {
        expected_tokens * (self.t_ar_s + self.rtt_target_s + self.overhead_s) - (self.cycle_s(gamma) - self.rtt_draft_s)
    }

    fn cycle_s(&self, gamma: u32) -> f64 {
        f64::from(gamma) * self.t_draft_s + self.t_verify_s + self.rtt_draft_s + self.rtt_target_s + self.overhead_s
    }
}
