//! What drafting ahead brought.

use serde::{Deserialize, Serialize};

use super::median;
use crate::{AnticipationOutcome, Cycle};

/// What became of the verdicts that the draft could prepare for (DESIGN §6).
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Anticipated {
    /// Foreseen in time: the next cycle began at once.
    pub hits: u64,
    /// Foreseen, and the branch was still on its way.
    pub late_hits: u64,
    /// Not foreseen.
    pub misses: u64,
    /// Hits over all of them.
    pub hit_rate: Option<f64>,
    /// Rows that the draft forwarded for branches.
    pub rows: u64,
    /// Those of branches that were never verified.
    pub wasted_rows: u64,
    /// What the draft took for all of these rows, in seconds; 0 of what was simulated.
    pub drafting_s: f64,
    /// Median wall of the cycles whose proposal was a hit: no draft is in them.
    pub median_hit_cycle_s: Option<f64>,
    /// What all hits together saved of waiting for proposals, as those that were waited for took.
    pub saved_s: f64,
}

impl Anticipated {
    /// Over `cycles`; `None` where nothing could be drafted ahead.
    pub(crate) fn over(cycles: &[Cycle]) -> Option<Self> {
        let mut sum = Self::default();
        let mut hits_s = Vec::new();
        for cycle in cycles {
            let Some(anticipation) = cycle.anticipation else { continue };
            match anticipation.outcome {
                AnticipationOutcome::Hit => {
                    sum.hits += 1;
                    hits_s.push(cycle.wall.as_secs_f64());
                }
                AnticipationOutcome::LateHit => sum.late_hits += 1,
                AnticipationOutcome::Miss => sum.misses += 1,
            }
            sum.rows += anticipation.rows;
            sum.wasted_rows += anticipation.rows;
            sum.wasted_rows = sum.wasted_rows.saturating_sub(anticipation.used_rows);
            sum.drafting_s += anticipation.drafting_s;
            sum.saved_s += cycle.saved.as_secs_f64();
        }
        sum.median_hit_cycle_s = median(&hits_s);
        sum.rated()
    }

    /// Of several runs together; the median is that of their medians.
    pub(crate) fn sum(runs: impl Iterator<Item = Self>) -> Option<Self> {
        let runs: Vec<Self> = runs.collect();
        let median_hit_cycle_s = median(&runs.iter().filter_map(|run| run.median_hit_cycle_s).collect::<Vec<_>>());
        let add = |sum: Self, run: Self| Self {
            hits: sum.hits + run.hits,
            late_hits: sum.late_hits + run.late_hits,
            misses: sum.misses + run.misses,
            rows: sum.rows + run.rows,
            wasted_rows: sum.wasted_rows + run.wasted_rows,
            drafting_s: sum.drafting_s + run.drafting_s,
            saved_s: sum.saved_s + run.saved_s,
            ..Self::default()
        };
        Self { median_hit_cycle_s, ..runs.into_iter().reduce(add)? }.rated()
    }

    fn rated(self) -> Option<Self> {
        let all = self.hits + self.late_hits + self.misses;
        (all > 0).then(|| Self { hit_rate: Some(self.hits as f64 / all as f64), ..self })
    }
}
