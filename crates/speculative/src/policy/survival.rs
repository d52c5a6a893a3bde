//! What is accepted of proposals.

use super::MOST_GAMMA;

/// What of the past stays with each new cycle.
const MEMORY: f64 = 1.0 - 1.0 / 128.0;

/// The chance of acceptance that is assumed before any is seen, and for how many proposals that counts.
pub(super) const PRIOR_ACCEPTANCE: f64 = 0.7;
const PRIOR_PROPOSALS: f64 = 2.0;

/// For how many proposals the acceptance of all places counts at each place of the window.
const POOLED_PROPOSALS: f64 = 16.0;

/// Of each place of the window, how often what was wanted there was proposed and accepted.
#[derive(Clone, Debug, Default)]
pub(super) struct Survival([Place; MOST_GAMMA]);

/// Proposals at one place that followed accepted ones, and those that were accepted themselves.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    reached: f64,
    accepted: f64,
}

impl Survival {
    /// A proposal of γ tokens; of one that `ended_early` the next place brings nothing as well.
    pub(super) fn learn(&mut self, gamma: usize, accepted: usize, ended_early: bool) {
        let wanted = gamma + usize::from(ended_early);
        for (place, seen) in self.0.iter_mut().enumerate().take(wanted.min(accepted + 1)) {
            seen.reached = MEMORY * seen.reached + 1.0;
            seen.accepted = MEMORY * seen.accepted + f64::from(u8::from(place < accepted));
        }
    }

    /// E(γ) = 1 + Σ survival(i), by γ from 0 on.
    pub(super) fn expected_tokens(&self) -> [f64; MOST_GAMMA + 1] {
        let prior = (PRIOR_PROPOSALS, PRIOR_PROPOSALS * PRIOR_ACCEPTANCE);
        let (reached, accepted) =
            self.0.iter().fold(prior, |sum, place| (sum.0 + place.reached, sum.1 + place.accepted));
        let pooled = accepted / reached;
        let mut survival = 1.0;
        let mut expected = [1.0; MOST_GAMMA + 1];
        for (at, place) in self.0.iter().enumerate() {
            survival *= (place.accepted + POOLED_PROPOSALS * pooled) / (place.reached + POOLED_PROPOSALS);
            expected[at + 1] = expected[at] + survival;
        }
        expected
    }
}
