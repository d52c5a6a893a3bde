//! What all rounds say together, beside the theory.

use std::time::Duration;

use serde::Serialize;
use speculative::{Coupling, cost::CycleTimes};

use super::{
    journal::{Begin, PairFacts, Records, Round},
    measured::{Forwards, Measured},
    plan::{AR, Placement, Plan, Setting},
};
use crate::report::{Anticipated, Breakdown, Machine, median, median_interval};

/// A study's outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// The plan's.
    pub title: String,
    /// Outrider's version.
    pub version: String,
    /// Where the coordinator ran.
    pub machine: Machine,
    /// Whether nothing was measured: the clock was a virtual one.
    pub simulated: bool,
    /// Rounds that were measured, and rounds that the plan has.
    pub rounds: [usize; 2],
    /// Who drafted for whom.
    pub pairs: Vec<PairFacts>,
    /// Everything that was measured, medians over the rounds.
    pub cells: Vec<Cell>,
    /// What the theory of a cycle without overlap makes of what was measured nearest.
    pub theory: Vec<TheoryPoint>,
    /// Who is fastest where.
    pub winners: Vec<Winner>,
    /// The plan, as it was written: the study can be repeated.
    pub plan: String,
}

/// A policy at one γ, or AR, in one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Cell {
    /// The pair's name.
    pub pair: String,
    /// Where the draft was.
    pub placement: Placement,
    /// 0 is greedy.
    pub temperature: f64,
    /// The distance, as the plan has it.
    pub rtt: String,
    /// The same in seconds.
    pub rtt_s: f64,
    /// Sessions at once.
    pub sessions: usize,
    /// The policy's name, or AR.
    pub policy: String,
    /// A number, or `auto`.
    pub gamma: String,
    /// Branches that the draft could draft ahead.
    pub branches: usize,
    /// Rounds.
    pub rounds: usize,
    /// What ended proposals early; 0 is off.
    pub min_confidence: f32,
    /// `gumbel` or `rejection`.
    pub coupling: &'static str,
    /// Rounds whose output was AR's; all of them, unless the coupling is by rejection or a target accepts by lot.
    pub identical: usize,
    /// Median tokens/s of all sessions together.
    pub tokens_per_s: Option<f64>,
    /// Its 95% interval.
    pub tokens_per_s_interval: Option<[f64; 2]>,
    /// Median of tokens/s over AR's in the same round.
    pub speedup: Option<f64>,
    /// Its 95% interval.
    pub speedup_interval: Option<[f64; 2]>,
    /// Tokens of a cycle, mean.
    pub tokens_per_cycle: Option<f64>,
    /// Whole cycles of all rounds.
    pub cycles: u64,
    /// survival(i), over all cycles.
    pub survival: Vec<f64>,
    /// Accepted / proposed.
    pub acceptance_rate: Option<f64>,
    /// Accepted / (accepted + rejections).
    pub conditional_acceptance: Option<f64>,
    /// Median over the rounds of the median γ of their cycles.
    pub median_gamma: Option<f64>,
    /// The parts of a cycle: medians over the rounds of their means.
    pub cycle: Breakdown,
    /// What drafting ahead brought.
    pub anticipation: Option<Anticipated>,
    /// All forwards of the draft.
    pub draft: Option<Forwards>,
    /// All forwards of the target.
    pub target: Option<Forwards>,
}

/// The best fixed γ at a distance by the cost model of DESIGN §8, with the times of the nearest setting of the plan.
#[derive(Clone, Debug, Serialize)]
pub struct TheoryPoint {
    /// The pair's name.
    pub pair: String,
    /// 0 is greedy.
    pub temperature: f64,
    /// The distance in seconds.
    pub rtt_s: f64,
    /// The γ that promises most.
    pub gamma: usize,
    /// What it promises over AR.
    pub speedup: f64,
    /// The distance at which the best γ for it is as fast as AR, in seconds; negative where none pays at any distance.
    pub break_even_rtt_s: f64,
}

/// AR, co-located and distributed speculation at one distance.
#[derive(Clone, Debug, Serialize)]
pub struct Winner {
    /// The pair's name.
    pub pair: String,
    /// 0 is greedy.
    pub temperature: f64,
    /// The distance, as the plan has it.
    pub rtt: String,
    /// The same in seconds.
    pub rtt_s: f64,
    /// Sessions at once.
    pub sessions: usize,
    /// The best of the co-located ones, over AR.
    pub colocated: Option<Best>,
    /// The best of the distributed ones, over AR.
    pub distributed: Option<Best>,
    /// The one with the greatest median: `AR`, `co-located` or `distributed`.
    pub wins: &'static str,
    /// Whether its 95% interval is above those of the others; with fewer than six rounds there is none.
    pub is_clear: bool,
}

/// The fastest of several cells.
#[derive(Clone, Debug, Serialize)]
pub struct Best {
    /// The policy's name.
    pub policy: String,
    /// Its γ.
    pub gamma: String,
    /// Over AR.
    pub speedup: f64,
    /// Its 95% interval.
    pub interval: Option<[f64; 2]>,
}

impl Findings {
    /// Of what `records` have of `plan`.
    pub fn of(plan: &Plan, records: &Records) -> Self {
        let Begin { version, plan: text, machine } = records.begin.clone();
        let settings = plan.settings();
        let cells: Vec<Cell> = settings.iter().flat_map(|setting| cells(plan, setting, records)).collect();
        Self {
            title: plan.title.clone(),
            version,
            machine,
            simulated: false,
            rounds: [records.rounds.len(), settings.len() * plan.repetitions],
            pairs: records.pairs.clone(),
            theory: theory(plan, &cells, records),
            winners: winners(&cells),
            cells,
            plan: text,
        }
    }

    /// The same, of rounds that were simulated.
    pub(crate) fn simulated(self) -> Self {
        Self { simulated: true, ..self }
    }

    /// Rounds whose output was not AR's though it must be.
    pub fn different(&self) -> usize {
        let by_lot = |cell: &Cell| self.pairs.iter().any(|pair| pair.name == cell.pair && pair.accepts_by_lot);
        let held = |cell: &&Cell| cell.coupling == Coupling::Gumbel.as_str() && !by_lot(cell);
        self.cells.iter().filter(held).map(|cell| cell.rounds - cell.identical).sum()
    }
}

fn cells(plan: &Plan, setting: &Setting, records: &Records) -> Vec<Cell> {
    let pair = &plan.pairs[setting.pair].name;
    let rounds: Vec<&Round> = records.rounds.iter().filter(|round| round.is_of(setting, pair)).collect();
    let Some(first) = rounds.first() else { return Vec::new() };
    let policy = |name: &str| plan.policies.iter().find(|policy| policy.name == name);
    let cell = |(at, of): (usize, &Measured)| {
        let runs: Vec<&Measured> = rounds.iter().filter_map(|round| round.runs.get(at)).collect();
        let over_ar = rounds.iter().filter_map(|round| {
            let (ar, run) = (round.runs.first()?.tokens_per_s, round.runs.get(at)?.tokens_per_s);
            (ar > 0.0).then(|| run / ar)
        });
        let (rates, over_ar): (Vec<f64>, Vec<f64>) =
            (runs.iter().map(|run| run.tokens_per_s).collect(), over_ar.collect());
        let sum = |of: fn(&Measured) -> u64| runs.iter().map(|run| of(run)).sum::<u64>();
        let (proposed, accepted, rejections) =
            (sum(|run| run.proposed), sum(|run| run.accepted), sum(|run| run.rejections));
        let (tokens, cycles) = (runs.iter().map(|run| run.tokens).sum::<usize>() as u64, sum(|run| run.cycles));
        let forwards =
            |of: fn(&Measured) -> Option<Forwards>| runs.iter().filter_map(|run| of(run)).reduce(Forwards::with);
        Cell {
            pair: pair.clone(),
            placement: setting.placement,
            temperature: setting.temperature,
            rtt: setting.rtt.to_string(),
            rtt_s: first.rtt_s,
            sessions: setting.sessions,
            policy: of.policy.clone(),
            gamma: of.gamma.clone(),
            branches: policy(&of.policy).map_or(0, |policy| policy.anticipate),
            rounds: runs.len(),
            min_confidence: policy(&of.policy).map_or(0.0, |policy| policy.min_confidence),
            coupling: policy(&of.policy).map_or(Coupling::Gumbel, |policy| policy.coupling).as_str(),
            identical: runs.iter().filter(|run| run.identical).count(),
            tokens_per_s: median(&rates),
            tokens_per_s_interval: median_interval(&rates),
            speedup: median(&over_ar),
            speedup_interval: median_interval(&over_ar),
            tokens_per_cycle: ratio(tokens, cycles),
            cycles,
            survival: survival(&runs),
            acceptance_rate: ratio(accepted, proposed),
            conditional_acceptance: ratio(accepted, accepted + rejections),
            median_gamma: median(&runs.iter().map(|run| run.median_gamma as f64).collect::<Vec<_>>()),
            cycle: Breakdown::median_of(&runs.iter().map(|run| run.cycle).collect::<Vec<_>>()),
            anticipation: Anticipated::sum(runs.iter().filter_map(|run| run.anticipation)),
            draft: forwards(|run| run.draft),
            target: forwards(|run| run.target),
        }
    };
    first.runs.iter().enumerate().map(cell).collect()
}

/// The mean of the runs' survival, each by its cycles.
fn survival(runs: &[&Measured]) -> Vec<f64> {
    let longest = runs.iter().map(|run| run.survival.len()).max().unwrap_or(0);
    let place = |place: usize| {
        let reached = runs.iter().filter_map(|run| Some((*run.survival.get(place)?, run.cycles as f64)));
        let (sum, cycles) =
            reached.fold((0.0, 0.0), |sum, (survival, cycles)| (sum.0 + survival * cycles, sum.1 + cycles));
        sum / cycles
    };
    (0..longest).map(place).collect()
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

impl Cell {
    /// Whether it is plain decoding.
    pub fn is_ar(&self) -> bool {
        self.policy == AR
    }

    /// Whether both are of the same policy in the same setting.
    pub fn is_of_the_same(&self, other: &Self) -> bool {
        let setting = |cell: &Self| (cell.placement, cell.temperature, cell.sessions);
        setting(self) == setting(other)
            && (&self.pair, &self.rtt, &self.policy, &self.gamma)
                == (&other.pair, &other.rtt, &other.policy, &other.gamma)
    }

    /// The γ that was asked for in each cycle, where it was one, no proposal ended early, nothing was drafted
    /// ahead and the noise was shared.
    pub fn in_turn(&self) -> Option<usize> {
        let plain = self.branches == 0 && self.min_confidence == 0.0 && self.coupling == Coupling::Gumbel.as_str();
        self.gamma.parse().ok().filter(|gamma| *gamma > 0 && plain)
    }
}

/// The times of each γ where the draft is nearest, and what they make of the other distances.
fn theory(plan: &Plan, cells: &[Cell], records: &Records) -> Vec<TheoryPoint> {
    let mut points = Vec::new();
    for pair in &records.pairs {
        for &temperature in &plan.temperatures {
            let here = |cell: &&Cell| {
                let alone = cell.sessions == 1 && cell.placement == Placement::Distributed;
                cell.pair == pair.name && cell.temperature == temperature && alone
            };
            let nearest_s = cells.iter().filter(here).map(|cell| cell.rtt_s).fold(f64::INFINITY, f64::min);
            let near: Vec<&Cell> = cells.iter().filter(here).filter(|cell| cell.rtt_s == nearest_s).collect();
            let Some(ar) = near.iter().find(|cell| cell.is_ar()) else { continue };
            let models: Vec<(usize, f64, CycleTimes)> = near
                .iter()
                .filter_map(|cell| {
                    let gamma = cell.in_turn()?;
                    Some((gamma, cell.tokens_per_cycle?, times(ar, cell, gamma, nearest_s)?))
                })
                .collect();
            let break_even_rtt_s = models
                .iter()
                // Beyond the way that there is already.
                .map(|(gamma, expected, times)| {
                    times.break_even_draft_rtt_s(*expected, *gamma as u32) - times.rtt_draft_s
                })
                .fold(f64::NEG_INFINITY, f64::max);
            for rtt in &plan.rtts {
                let rtt_s = rtt.duration(Duration::from_secs_f64(pair.step_s)).as_secs_f64();
                let at = |times: CycleTimes| CycleTimes { rtt_draft_s: times.rtt_draft_s + rtt_s, ..times };
                let promised = models
                    .iter()
                    .map(|(gamma, expected, times)| (*gamma, at(*times).speedup(*expected, *gamma as u32)));
                let Some((gamma, speedup)) = promised.max_by(|a, b| a.1.total_cmp(&b.1)) else { continue };
                let pair = pair.name.clone();
                points.push(TheoryPoint { pair, temperature, rtt_s, gamma, speedup, break_even_rtt_s });
            }
        }
    }
    points
}

/// What a cycle of `gamma` costs with no distance but what there is.
fn times(ar: &Cell, cell: &Cell, gamma: usize, emulated_s: f64) -> Option<CycleTimes> {
    let (plain, cycle) = (&ar.cycle, &cell.cycle);
    Some(CycleTimes {
        t_ar_s: plain.target_compute_s?,
        t_draft_s: cycle.draft_compute_s? / gamma as f64,
        t_verify_s: cycle.target_compute_s?,
        rtt_draft_s: cycle.draft_network_s? + cycle.draft_queue_s? - emulated_s,
        rtt_target_s: cycle.target_network_s? + cycle.target_queue_s?,
        overhead_s: cycle.coordinator_s?,
    })
}

/// Rounds below which the range of all of them is no 95% interval of their median.
const LEAST_ROUNDS: usize = 6;

fn winners(cells: &[Cell]) -> Vec<Winner> {
    let settings = cells.iter().filter(|cell| cell.is_ar() && cell.placement == Placement::Distributed);
    let winner = |at: &Cell| {
        let same = |cell: &&Cell| {
            cell.pair == at.pair && cell.temperature == at.temperature && cell.sessions == at.sessions && !cell.is_ar()
        };
        let colocated = best(cells.iter().filter(same).filter(|cell| cell.placement == Placement::CoLocated));
        let distributed = best(
            cells.iter().filter(same).filter(|cell| cell.placement == Placement::Distributed && cell.rtt == at.rtt),
        );
        // Median and interval of each over AR.
        let of = |best: &Option<Best>| {
            best.as_ref().map_or((0.0, [0.0; 2]), |best| (best.speedup, best.interval.unwrap_or_default()))
        };
        let mut all = [(AR, (1.0, [1.0; 2])), ("co-located", of(&colocated)), ("distributed", of(&distributed))];
        all.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        let [(wins, (_, [low, _])), others @ ..] = all;
        let is_clear = at.rounds >= LEAST_ROUNDS && others.iter().all(|(_, (_, [_, high]))| *high < low);
        Winner {
            pair: at.pair.clone(),
            temperature: at.temperature,
            rtt: at.rtt.clone(),
            rtt_s: at.rtt_s,
            sessions: at.sessions,
            colocated,
            distributed,
            wins,
            is_clear,
        }
    };
    settings.map(winner).collect()
}

/// The fastest of `cells`.
pub(super) fn best<'a>(cells: impl Iterator<Item = &'a Cell>) -> Option<Best> {
    let fastest =
        cells.filter(|cell| cell.speedup.is_some()).max_by(|a, b| a.speedup.partial_cmp(&b.speedup).expect("numbers"));
    fastest.and_then(|cell| {
        let (policy, gamma) = (cell.policy.clone(), cell.gamma.clone());
        Some(Best { policy, gamma, speedup: cell.speedup?, interval: cell.speedup_interval })
    })
}
