//! What the cost model says of a pair of runs, beside what was measured.

use serde::Serialize;
use speculative::{
    cost::{CycleTimes, expected_tokens, expected_tokens_constant},
    policy::Gamma,
};

use super::median;
use crate::{Cycle, Run};

/// The cost model of DESIGN §8 with measured times: S = E·(t_AR + r_t + o) / (γ·t_d + t_v + r_d + r_t + o).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Theory {
    /// Speed-up over AR through the same services.
    pub speedup: f64,
    /// Speed-up over AR at the target, without network and coordinator.
    pub speedup_at_target: f64,
    /// E(γ) = 1 + Σ survival(i), tokens of a cycle.
    pub expected_tokens: f64,
    /// (1 - a^(γ+1)) / (1 - a), what a constant conditional acceptance would give.
    pub expected_tokens_constant_a: Option<f64>,
    /// Median target compute of an AR cycle.
    pub t_ar_s: f64,
    /// Median draft compute of a cycle, divided by γ.
    pub t_draft_s: f64,
    /// Median target compute of a cycle with γ proposed tokens.
    pub t_verify_s: f64,
    /// Median network of the draft's leg.
    pub rtt_draft_s: f64,
    /// Median network of the target's leg.
    pub rtt_target_s: f64,
    /// Median time of the coordinator.
    pub overhead_s: f64,
    /// The draft RTT beyond which AR is faster, at this γ; negative where speculation never pays.
    pub break_even_draft_rtt_s: f64,
}

impl Theory {
    /// From AR runs and speculative runs with the same γ; `None` where either has no whole cycle of its kind, or where each cycle
    /// chose its own.
    pub fn of<'a>(
        ar: impl IntoIterator<Item = &'a Run>,
        speculative: impl IntoIterator<Item = &'a Run>,
    ) -> Option<Self> {
        let ar: Vec<&Cycle> = ar.into_iter().flat_map(|run| &run.cycles).collect();
        let speculative: Vec<&Run> = speculative.into_iter().collect();
        let Gamma::Fixed(gamma) = speculative.first()?.policy else { return None };
        let whole: Vec<&Cycle> =
            speculative.iter().flat_map(|run| &run.cycles).filter(|cycle| cycle.gamma == gamma).collect();

        let of = |cycles: &[&Cycle], part: fn(&Cycle) -> f64| {
            median(&cycles.iter().map(|cycle| part(cycle)).collect::<Vec<_>>())
        };
        let times = CycleTimes {
            t_ar_s: of(&ar, |cycle| cycle.target.compute.as_secs_f64())?,
            t_draft_s: of(&whole, |cycle| cycle.draft.map_or(0.0, |leg| leg.compute.as_secs_f64()))? / gamma as f64,
            t_verify_s: of(&whole, |cycle| cycle.target.compute.as_secs_f64())?,
            rtt_draft_s: of(&whole, |cycle| cycle.draft.map_or(0.0, |leg| leg.network.as_secs_f64()))?,
            rtt_target_s: of(&whole, |cycle| cycle.target.network.as_secs_f64())?,
            overhead_s: of(&whole, |cycle| cycle.coordinator().as_secs_f64())?,
        };
        let mut acceptance = speculative::Acceptance::new();
        speculative.iter().for_each(|run| acceptance.merge(&run.acceptance));
        let survival = acceptance.survival();
        let expected = expected_tokens(&survival);
        Some(Self {
            speedup: times.speedup(expected, gamma as u32),
            speedup_at_target: times.speedup_at_target(expected, gamma as u32),
            expected_tokens: expected,
            expected_tokens_constant_a: acceptance
                .conditional_acceptance()
                .map(|a| expected_tokens_constant(a, gamma as u32)),
            t_ar_s: times.t_ar_s,
            t_draft_s: times.t_draft_s,
            t_verify_s: times.t_verify_s,
            rtt_draft_s: times.rtt_draft_s,
            rtt_target_s: times.rtt_target_s,
            overhead_s: times.overhead_s,
            break_even_draft_rtt_s: times.break_even_draft_rtt_s(expected, gamma as u32),
        })
    }
}
