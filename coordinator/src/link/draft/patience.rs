//! How long a proposal is waited for: no longer than it is worth.

use std::time::Duration;

use crate::Deadlines;

/// Cycles of full acceptance that count beside those that were seen, so that a draft is not judged by its first words.
const TRUST_CYCLES: f64 = 4.0;

/// The share of the newest verdict in what one takes.
const NEWEST: f64 = 1.0 / 8.0;

/// The most cycles that go without a proposal after a deadline was missed; they double from one.
const LONGEST_REST: u32 = 64;

/// The draft's deadline.
///
/// A proposal saves as many AR steps as it has accepted tokens. What it saved on average so far, in steps of the target's
/// round trips, is what the next one is worth: waiting longer loses time, as decoding could have gone on meanwhile. Where γ
/// tokens are asked for it is never more than γ steps.
#[derive(Debug)]
pub(super) struct Patience {
    longest: Duration,
    adapts: bool,
    /// An AR step of the target as the coordinator sees it, in seconds; `None` before the first verdict.
    step_s: Option<f64>,
    /// Cycles with a proposal, and what of those was accepted.
    drafts: f64,
    accepted: f64,
    /// Deadlines missed in a row.
    missed: u32,
    /// Cycles that still go without a proposal.
    rest: u32,
}

impl Patience {
    pub(super) fn new(deadlines: Deadlines) -> Self {
        let Deadlines { draft: longest, draft_adapts: adapts, .. } = deadlines;
        Self { longest, adapts, step_s: None, drafts: 0.0, accepted: 0.0, missed: 0, rest: 0 }
    }

    /// What a cycle brought, and how long its verdict took.
    pub(super) fn learn(&mut self, proposed: usize, accepted: usize, verdict: Duration) {
        let newest = verdict.as_secs_f64();
        self.step_s = Some(self.step_s.map_or(newest, |step| step + NEWEST * (newest - step)));
        if proposed > 0 {
            self.drafts += 1.0;
            self.accepted += accepted as f64;
        }
    }

    /// How long the proposal of γ tokens is waited for.
    pub(super) fn deadline(&self, gamma: usize) -> Duration {
        let Some(step_s) = self.step_s.filter(|_| self.adapts) else { return self.longest };
        let gamma = gamma as f64;
        let saved_steps = (self.accepted + TRUST_CYCLES * gamma) / (self.drafts + TRUST_CYCLES);
        self.longest.min(Duration::from_secs_f64(saved_steps.min(gamma) * step_s))
    }

    /// Whether this cycle goes without a proposal, because waiting for one was in vain lately.
    pub(super) fn rests(&mut self) -> bool {
        let rests = self.rest > 0;
        self.rest = self.rest.saturating_sub(1);
        rests
    }

    /// A deadline was kept.
    pub(super) fn kept(&mut self) {
        self.missed = 0;
    }

    /// A deadline was missed: the next wait comes after ever more cycles.
    pub(super) fn missed(&mut self) {
        if self.adapts {
            self.rest = 1 << self.missed.min(LONGEST_REST.ilog2());
            self.missed += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    fn patience(draft_adapts: bool) -> Patience {
        let (draft, target) = (Duration::from_secs(1), Duration::from_secs(30));
        Patience::new(Deadlines { draft, draft_adapts, target })
    }

    #[test]
    fn it_is_never_longer_than_the_steps_that_could_be_saved() {
        let mut patience = patience(true);
        assert_eq!(patience.deadline(4), Duration::from_secs(1), "nothing is known yet");
        patience.learn(4, 4, STEP);
        assert_eq!(patience.deadline(4), 4 * STEP);
        for _ in 0..10 {
            patience.learn(8, 8, STEP);
            assert!(patience.deadline(2) <= 2 * STEP, "{:?}", patience.deadline(2));
        }
    }

    #[test]
    fn it_falls_with_what_is_accepted_and_follows_the_target() {
        let mut patience = patience(true);
        for _ in 0..100 {
            patience.learn(4, 1, STEP);
        }
        let worth = patience.deadline(4).as_secs_f64() / STEP.as_secs_f64();
        assert!((1.0..1.2).contains(&worth), "{worth} steps, where 1 is accepted");
        for _ in 0..100 {
            patience.learn(4, 1, 10 * STEP);
        }
        assert!(patience.deadline(4) > 9 * STEP, "{:?}", patience.deadline(4));
    }

    #[test]
    fn what_does_not_adapt_stays() {
        let mut patience = patience(false);
        patience.learn(4, 0, STEP);
        patience.missed();
        assert!(!patience.rests());
        assert_eq!(patience.deadline(4), Duration::from_secs(1));
    }

    #[test]
    fn after_missed_deadlines_it_rests_ever_longer() {
        let mut patience = patience(true);
        for expected in [1, 2, 4, 8, 16, 32, 64, 64] {
            patience.missed();
            let mut cycles = 0;
            while patience.rests() {
                cycles += 1;
            }
            assert_eq!(cycles, expected);
        }
        patience.kept();
        patience.missed();
        assert!(patience.rests() && !patience.rests());
    }
}
