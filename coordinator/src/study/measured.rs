//! What one run of a study showed.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use speculative::{Acceptance, roofline::Work};

use super::plan::{AR, Variant};
use crate::{
    Cycle, Leg, Run,
    report::{Anticipated, Breakdown, Breakdowns},
};

/// One run, or as many as run at once, added up.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Measured {
    /// The policy's name, or AR.
    pub policy: String,
    /// Its γ: a number, or `auto`.
    pub gamma: String,
    /// Tokens after the first ones.
    pub tokens: usize,
    /// The longest session's cycles.
    pub seconds: f64,
    /// Of all sessions together, while all of them decode: what comes after the first one has ended is of fewer.
    pub tokens_per_s: f64,
    /// Whole cycles.
    pub cycles: u64,
    /// Tokens that were proposed.
    pub proposed: u64,
    /// Tokens that were accepted.
    pub accepted: u64,
    /// Cycles that did not accept all they proposed.
    pub rejections: u64,
    /// survival(i).
    pub survival: Vec<f64>,
    /// Median γ of the cycles.
    pub median_gamma: usize,
    /// The parts' means.
    pub cycle: Breakdown,
    /// What drafting ahead brought.
    pub anticipation: Option<Anticipated>,
    /// All forwards of the draft.
    pub draft: Option<Forwards>,
    /// All forwards of the target.
    pub target: Option<Forwards>,
    /// Whether the output was AR's, token for token.
    pub identical: bool,
}

/// The forwards of one side, added up.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
pub struct Forwards {
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes.
    pub bytes: f64,
    /// Time in them.
    pub seconds: f64,
    /// Rows of other sessions in them.
    pub others_rows: u64,
}

impl Forwards {
    /// All of `self` and `other`.
    pub fn with(self, other: Self) -> Self {
        let Self { flops, bytes, seconds, others_rows } = other;
        Self {
            flops: self.flops + flops,
            bytes: self.bytes + bytes,
            seconds: self.seconds + seconds,
            others_rows: self.others_rows + others_rows,
        }
    }

    fn over<'a>(legs: impl Iterator<Item = &'a Leg>) -> Option<Self> {
        let mut work = Work::default();
        let (mut seconds, mut others_rows) = (0.0, 0);
        for leg in legs.filter(|leg| leg.work.flops > 0) {
            work += leg.work;
            seconds += leg.forward.as_secs_f64();
            others_rows += leg.others_rows;
        }
        (work.flops > 0).then_some(Self { flops: work.flops as f64, bytes: work.bytes as f64, seconds, others_rows })
    }
}

impl Measured {
    /// Nothing yet, of `variant` or of AR.
    pub(crate) fn named(variant: Option<Variant<'_>>) -> Self {
        Self {
            policy: variant.map_or(AR, |variant| &variant.policy.name).to_owned(),
            gamma: variant.map_or_else(|| "0".to_owned(), |variant| variant.gamma.to_string()),
            ..Self::default()
        }
    }

    /// `runs` ran at once, of `variant` or of AR, where AR gave `expected`.
    pub fn of(variant: Option<Variant<'_>>, runs: Vec<Run>, expected: Option<&[Run]>) -> Self {
        let identical = expected.is_none_or(|expected| {
            expected.iter().zip(&runs).all(|(expected, run)| expected.token_ids == run.token_ids)
        });
        let seconds = |run: &Run| run.cycles.iter().map(|cycle| cycle.wall.as_secs_f64()).sum::<f64>();
        let mut acceptance = Acceptance::new();
        runs.iter().for_each(|run| acceptance.merge(&run.acceptance));
        let tokens = runs.iter().map(|run| run.token_ids.len().saturating_sub(1)).sum();
        let tokens_per_s = tokens_per_s(&runs);
        let longest_s = runs.iter().map(seconds).fold(0.0, f64::max);
        let cycles: Vec<Cycle> = runs.into_iter().flat_map(|run| run.cycles).collect();
        let mut gammas: Vec<usize> = cycles.iter().map(|cycle| cycle.gamma).collect();
        gammas.sort_unstable();
        Self {
            tokens,
            seconds: longest_s,
            tokens_per_s,
            cycles: acceptance.cycles(),
            proposed: acceptance.proposed(),
            accepted: acceptance.accepted(),
            rejections: acceptance.rejections(),
            survival: acceptance.survival(),
            median_gamma: gammas.get(gammas.len() / 2).copied().unwrap_or(0),
            cycle: Breakdowns::over(&cycles, variant.is_some()).mean,
            anticipation: Anticipated::over(&cycles),
            draft: Forwards::over(cycles.iter().filter_map(|cycle| cycle.draft.as_ref())),
            target: Forwards::over(cycles.iter().map(|cycle| &cycle.target)),
            identical,
            ..Self::named(variant)
        }
    }
}

/// Tokens that all runs committed each second while all of them were decoding; of cycles that are partly within that, their share.
fn tokens_per_s(runs: &[Run]) -> f64 {
    let begins = runs.iter().filter_map(|run| run.cycles.first()).map(|cycle| cycle.begun);
    let ends = runs.iter().filter_map(|run| run.cycles.last()).map(Cycle::ended);
    let (Some(begin), Some(end)) = (begins.max(), ends.min()) else { return 0.0 };
    let seconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64();
    let within = |run: &Run| {
        // The last verdict may have gone on after the text ended.
        let mut left = run.token_ids.len().saturating_sub(1);
        let mut tokens = 0.0;
        for cycle in run.cycles.iter().filter(|cycle| !cycle.wall.is_zero()) {
            let committed = left.min(1 + cycle.accepted);
            left -= committed;
            let share = seconds(cycle.begun.max(begin), cycle.ended().min(end)) / cycle.wall.as_secs_f64();
            tokens += committed as f64 * share;
        }
        tokens
    };
    let tokens: f64 = runs.iter().map(within).sum();
    if end > begin { tokens / seconds(begin, end) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn forwards_of_all_cycles_add_up_with_the_rows_of_others_in_them() {
        let leg = |others_rows| Leg {
            forward: Duration::from_millis(250),
            work: Work { flops: 3, bytes: 5 },
            others_rows,
            ..Leg::default()
        };
        // One that forwarded nothing has no part in it.
        let legs = [leg(4), Leg { work: Work::default(), ..leg(100) }, leg(2)];
        let seen = Forwards::over(legs.iter()).unwrap();
        assert_eq!((seen.flops, seen.bytes, seen.seconds, seen.others_rows), (6.0, 10.0, 0.5, 6));
        let twice = seen.with(seen);
        assert_eq!((twice.flops, twice.bytes, twice.seconds, twice.others_rows), (12.0, 20.0, 1.0, 12));
        assert!(Forwards::over([Leg::default()].iter()).is_none());
    }
}
