//! At which distance of the draft plain decoding would be faster, from the cycles that were measured.

use speculative::{
    Acceptance,
    cost::{CycleTimes, expected_tokens},
};

use crate::Run;

/// Sums over all cycles since the start.
#[derive(Debug, Default)]
pub(super) struct Distance {
    acceptance: Acceptance,
    /// The target's compute by the number of proposed tokens.
    verify: Vec<Mean>,
    /// The draft's compute for each proposed token.
    draft: Mean,
    rtt_target: Mean,
    overhead: Mean,
}

/// A mean in seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: f64,
}

impl Mean {
    fn add(&mut self, sum: f64, count: usize) {
        self.sum += sum;
        self.count += count as f64;
    }

    fn get(self) -> Option<f64> {
        (self.count > 0.0).then(|| self.sum / self.count)
    }
}

impl Distance {
    /// Adds the cycles of a run.
    pub(super) fn learn(&mut self, run: &Run) {
        self.acceptance.merge(&run.acceptance);
        for cycle in &run.cycles {
            if self.verify.len() <= cycle.gamma {
                self.verify.resize(cycle.gamma + 1, Mean::default());
            }
            self.verify[cycle.gamma].add(cycle.target.compute.as_secs_f64(), 1);
            self.rtt_target.add(cycle.target.network.as_secs_f64(), 1);
            self.overhead.add(cycle.coordinator().as_secs_f64(), 1);
            if let Some(draft) = cycle.draft.filter(|_| cycle.gamma > 0) {
                self.draft.add(draft.compute.as_secs_f64(), cycle.gamma);
            }
        }
    }

    /// The largest of the break-even RTTs of each γ that was seen (DESIGN §8), in seconds; `None` until a cycle with a
    /// proposal and one without were.
    pub(super) fn break_even_rtt_s(&self) -> Option<f64> {
        let t_ar_s = self.verify.first()?.get()?;
        let (t_draft_s, rtt_target_s) = (self.draft.get()?, self.rtt_target.get()?);
        let overhead_s = self.overhead.get()?;
        let survival = self.acceptance.survival();
        let of_gamma = |(gamma, verify): (usize, &Mean)| {
            let t_verify_s = verify.get()?;
            let times = CycleTimes { t_ar_s, t_draft_s, t_verify_s, rtt_draft_s: 0.0, rtt_target_s, overhead_s };
            let expected = expected_tokens(survival.get(..gamma)?);
            Some(times.break_even_draft_rtt_s(expected, gamma as u32))
        };
        self.verify.iter().enumerate().skip(1).filter_map(of_gamma).reduce(f64::max)
    }
}
