//! What the parts of a cycle take, from a measured study.
//!
//! # Layout
//! - `shared`: what sessions cost each other

mod shared;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use speculative::{
    anticipation::WIDTH,
    simulation::{InvalidWorld, PassCurve, RestCurve, Times},
};

use crate::{
    report::{Anticipated, mean},
    study::{Cell, Findings, PairFacts, Placement, Plan, Records, Rest, UnusableJournal, UnusablePlan},
};

/// The file that a simulation leaves what it was fitted with in, to be changed and given back.
const NAME: &str = "fit.json";

/// The longest step of plain decoding that is believed.
const LONGEST_STEP_S: f64 = 60.0;

/// What is known of pairs.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fit {
    /// Each at each temperature.
    pub pairs: Vec<FittedPair>,
}

/// A pair at one temperature.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FittedPair {
    /// As it was measured.
    pub facts: PairFacts,
    /// 0 is greedy.
    pub temperature: f64,
    /// What was fitted.
    pub times: FittedTimes,
}

/// What the parts of a cycle take, in seconds, and what is accepted.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FittedTimes {
    /// A pass of the target: rows, seconds. Beyond the last point a line with the slope of all.
    pub target_pass: Vec<(f64, f64)>,
    /// What it takes longer for each session in it beyond the first.
    pub target_session_s: f64,
    /// A pass of the draft, likewise.
    pub draft_pass: Vec<(f64, f64)>,
    /// A pass of branches of the draft, with all that it does beside.
    pub branch_pass: Vec<(f64, f64)>,
    /// What the first pass of the target takes longer after a wait: seconds of it, seconds.
    pub target_rest: Vec<(f64, f64)>,
    /// The same of the draft.
    pub draft_rest: Vec<(f64, f64)>,
    /// A pass of the draft on the target's device; as `draft_pass` where nothing co-located was measured.
    pub colocated_draft_pass: Vec<(f64, f64)>,
    /// What a proposal takes beside passes and distance.
    pub draft_around_s: f64,
    /// The same of a verdict.
    pub target_around_s: f64,
    /// The coordinator's own of a cycle.
    pub coordinator_s: f64,
    /// What a message keeps the target's device from its passes; 0 where the coordinator has a device of its own.
    pub handling_s: f64,
    /// The chance that a token is accepted once all before it were, by place.
    pub conditional_acceptance: Vec<f64>,
}

/// A simulation that lacks what it needs to know.
#[derive(Debug, thiserror::Error)]
pub enum UnusableFit {
    /// The study.
    #[error(transparent)]
    Study(#[from] UnusableJournal),
    /// The study's plan.
    #[error("the plan of the study in {}: {error}", path.display())]
    Plan {
        /// The study's directory.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: UnusablePlan,
    },
    /// A file of fitted times.
    #[error("{} cannot be used: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: io::Error,
    },
    /// The study lacks the plan's pair at the plan's temperature.
    #[error("pair {pair:?} at temperature {temperature} was not measured, allowed: {allowed}")]
    Unknown {
        /// As the plan has it.
        pair: String,
        /// As the plan has it.
        temperature: f64,
        /// What was.
        allowed: String,
    },
    /// The study lacks something of a pair.
    #[error(
        "pair {pair:?} at temperature {temperature} cannot be fitted: {lacks}, at the shortest distance and with one session"
    )]
    Lacks {
        /// The pair.
        pair: String,
        /// The temperature.
        temperature: f64,
        /// What is not there.
        lacks: &'static str,
    },
    /// A policy that is not simulated.
    #[error("min_confidence of policy {policy:?} is {min_confidence}, allowed in a simulation: 0")]
    Confidence {
        /// Its name.
        policy: String,
        /// Its threshold.
        min_confidence: f32,
    },
    /// What was fitted, or is to be simulated, cannot be.
    #[error(transparent)]
    World(#[from] InvalidWorld),
}

impl Fit {
    /// From the directory of a study, or from a file of fitted times.
    ///
    /// # Errors
    /// Neither, or a study that lacks AR or a fixed γ at the shortest distance.
    pub fn read(path: &Path) -> Result<(Self, Option<Findings>), UnusableFit> {
        if !path.is_dir() {
            let unusable = |error| UnusableFit::File { path: path.to_owned(), error };
            let text = fs::read(path).map_err(unusable)?;
            let fit: Self = serde_json::from_slice(&text).map_err(|error| unusable(error.into()))?;
            let impossible = fit.pairs.iter().find(|of| !(0.0..=LONGEST_STEP_S).contains(&of.facts.step_s));
            if let Some(FittedPair { facts, .. }) = impossible {
                let problem = format!("step_s is {}, allowed: 0 to {LONGEST_STEP_S}", facts.step_s);
                return Err(unusable(io::Error::other(problem)));
            }
            return Ok((fit, None));
        }
        let records = Records::read(path)?;
        let plan =
            Plan::read(&records.begin.plan).map_err(|error| UnusableFit::Plan { path: path.to_owned(), error })?;
        let findings = Findings::of(&plan, &records);
        Ok((Self::of(&findings, &plan)?, Some(findings)))
    }

    /// From what was measured by `plan` with one session where the draft is nearest.
    ///
    /// # Errors
    /// A pair without AR, or without a fixed γ whose proposals are drafted in turn.
    pub fn of(findings: &Findings, plan: &Plan) -> Result<Self, UnusableFit> {
        let mut pairs: Vec<FittedPair> = Vec::new();
        for facts in &findings.pairs {
            for cell in findings.cells.iter().filter(|cell| cell.pair == facts.name) {
                let temperature = cell.temperature;
                if pairs.iter().all(|of| of.facts.name != facts.name || of.temperature != temperature) {
                    let times = FittedTimes::of(findings, facts, temperature, plan)?;
                    pairs.push(FittedPair { facts: facts.clone(), temperature, times });
                }
            }
        }
        Ok(Self { pairs })
    }

    /// What is known of a pair at a temperature.
    ///
    /// # Errors
    /// Nothing is.
    pub fn of_pair(&self, pair: &str, temperature: f64) -> Result<&FittedPair, UnusableFit> {
        let found = self.pairs.iter().find(|of| of.facts.name == pair && of.temperature == temperature);
        found.ok_or_else(|| {
            let known = |of: &FittedPair| format!("{:?} at {}", of.facts.name, of.temperature);
            let allowed = self.pairs.iter().map(known).collect::<Vec<_>>().join(", ");
            UnusableFit::Unknown { pair: pair.to_owned(), temperature, allowed }
        })
    }

    /// Leaves it in `directory`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), UnusableFit> {
        let path = directory.join(NAME);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        text.and_then(|text| fs::write(&path, text)).map_err(|error| UnusableFit::File { path, error })
    }
}

impl FittedTimes {
    fn of(findings: &Findings, facts: &PairFacts, temperature: f64, plan: &Plan) -> Result<Self, UnusableFit> {
        let pair = &facts.name;
        let lacks = |lacks| UnusableFit::Lacks { pair: pair.clone(), temperature, lacks };
        let cells = findings.cells.iter().filter(|cell| (&cell.pair, cell.temperature) == (pair, temperature));
        let alone = |cell: &&Cell| cell.sessions == 1;
        let here = cells.clone().filter(|cell| cell.placement == Placement::Distributed);
        let nearest_s = here.clone().filter(alone).map(|cell| cell.rtt_s).fold(f64::INFINITY, f64::min);
        let (near, several): (Vec<&Cell>, Vec<&Cell>) = here.filter(|cell| cell.rtt_s == nearest_s).partition(alone);
        let ar = near.iter().find(|cell| cell.is_ar()).ok_or_else(|| lacks("no AR"))?;
        let fixed: Vec<(f64, &Cell)> = near.iter().filter_map(|cell| Some((cell.in_turn()? as f64, *cell))).collect();
        if fixed.is_empty() {
            return Err(lacks("no fixed γ without drafting ahead"));
        }
        let target = [(1.0, ar)].into_iter().chain(fixed.iter().map(|(gamma, cell)| (gamma + 1.0, cell)));
        let alone_pass = rising(target.filter_map(|(rows, cell)| Some((rows, cell.cycle.target_compute_s?))).collect());
        let handling_s = shared::handling_s(&near);
        let drafting = |cell: &Cell| Some((cell.in_turn()? as f64, cell.cycle.draft_compute_s?));
        let (step_s, beside_s) = line(&fixed.iter().filter_map(|(_, cell)| drafting(cell)).collect::<Vec<_>>());
        let near_target = cells.filter(alone).filter(|cell| cell.placement == Placement::CoLocated);
        let near_target: Vec<(f64, f64)> = near_target.filter_map(drafting).collect();
        let colocated_step_s = if near_target.is_empty() { step_s } else { line(&near_target).0 };
        // Where it was not measured: rows of several proposals share a pass of the draft as those of a window share the target's.
        let one_s = alone_pass.first().map_or(1.0, |first| first.1);
        let like_target = || alone_pass.iter().map(|(rows, seconds)| (*rows, step_s * seconds / one_s)).collect();
        let draft_pass: Vec<(f64, f64)> = shared::draft_pass(step_s, beside_s, &several).unwrap_or_else(like_target);
        let colocated = |(rows, seconds): &(f64, f64)| (*rows, seconds * colocated_step_s / step_s);
        let colocated_draft_pass = draft_pass.iter().map(colocated).collect();
        let mean_of = |part: fn(&Cell) -> Option<f64>| {
            mean(&fixed.iter().filter_map(|(_, cell)| part(cell)).collect::<Vec<_>>()).unwrap_or(0.0)
        };
        let around_s = mean_of(|cell| Some(cell.cycle.draft_network_s? + cell.cycle.draft_queue_s?));
        let target_around_s = mean_of(|cell| Some(cell.cycle.target_network_s? + cell.cycle.target_queue_s?));
        // What each waits for from one pass to the next, in what was fitted to.
        let draft_s = mean_of(|cell| Some(cell.cycle.draft_compute_s? + cell.cycle.draft_queue_s?));
        let target_s = mean_of(|cell| Some(cell.cycle.target_compute_s? + cell.cycle.target_queue_s?));
        let between_s = mean_of(|cell| {
            Some(cell.cycle.draft_network_s? + cell.cycle.target_network_s? + cell.cycle.coordinator_s?)
        });
        let (target_waits_s, draft_waits_s) = (draft_s + between_s, target_s + between_s);
        let forward_beside_s = mean_of(|cell| Some(cell.cycle.target_compute_s? - cell.cycle.target_forward_s?));
        let (target_pass, target_session_s) = shared::target_pass(alone_pass, forward_beside_s, &several, handling_s)?;
        Ok(Self {
            branch_pass: branch_pass(step_s, &near).unwrap_or_else(|| draft_pass.clone()),
            target_pass,
            target_session_s,
            draft_pass,
            target_rest: rest(&facts.rests, target_waits_s, |rest| rest.target_s),
            draft_rest: rest(&facts.rests, draft_waits_s, |rest| rest.draft_s),
            colocated_draft_pass,
            draft_around_s: (around_s + beside_s - nearest_s).max(0.0),
            target_around_s: (target_around_s - plan.target_rtt.as_secs_f64()).max(0.0),
            coordinator_s: mean_of(|cell| cell.cycle.coordinator_s),
            handling_s,
            conditional_acceptance: acceptance(&fixed),
        })
    }

    /// As the simulation takes them, with the draft there.
    pub(super) fn curves(&self, placement: Placement) -> Result<Times, InvalidWorld> {
        let draft_pass = match placement {
            Placement::Distributed => &self.draft_pass,
            Placement::CoLocated => &self.colocated_draft_pass,
        };
        Ok(Times {
            target_pass: PassCurve::new(self.target_pass.clone())?,
            draft_pass: PassCurve::new(draft_pass.clone())?,
            branch_pass: PassCurve::new(self.branch_pass.clone())?,
            target_rest: RestCurve::new(self.target_rest.clone())?,
            draft_rest: RestCurve::new(self.draft_rest.clone())?,
            draft_around_s: self.draft_around_s,
            target_around_s: self.target_around_s,
            coordinator_s: self.coordinator_s,
            target_session_s: self.target_session_s,
            handling_s: self.handling_s,
            begin_s: self.target_pass.first().map_or(0.0, |step| step.1),
            spread: 0.0,
        })
    }
}

/// A pass of branches, of which one row takes a step: one of as many as grow together as long as they took. `None` where nothing was
/// drafted ahead.
fn branch_pass(step_s: f64, near: &[&Cell]) -> Option<Vec<(f64, f64)>> {
    let of_rows = |sum: (f64, u64), of: &Anticipated| (sum.0 + of.drafting_s, sum.1 + of.rows);
    let (seconds, rows) = near.iter().filter_map(|cell| cell.anticipation.as_ref()).fold((0.0, 0), of_rows);
    let whole_s = WIDTH as f64 * seconds / rows as f64;
    (rows > 0 && seconds > 0.0).then(|| vec![(1.0, step_s.min(whole_s)), (WIDTH as f64, whole_s)])
}

/// What one side takes longer by how long it waits, where it waits for `waits_s` with no rest.
fn rest(rests: &[Rest], waits_s: f64, own_s: fn(&Rest) -> f64) -> Vec<(f64, f64)> {
    let Some(none) = rests.first() else { return Vec::new() };
    let point = |rest: &Rest| (waits_s + rest.rest_s - none.rest_s, (own_s(rest) - own_s(none)).max(0.0));
    rising(rests.iter().map(point).collect())
}

/// At each place the share of accepted tokens among those that followed accepted ones, over all γ.
fn acceptance(fixed: &[(f64, &Cell)]) -> Vec<f64> {
    let longest = fixed.iter().map(|(_, cell)| cell.survival.len()).max().unwrap_or(0);
    let place = |place: usize| {
        let (mut reached, mut accepted) = (0.0, 0.0);
        for (_, cell) in fixed.iter().filter(|(_, cell)| cell.survival.len() > place) {
            let before = place.checked_sub(1).map_or(1.0, |before| cell.survival[before]);
            reached += cell.cycles as f64 * before;
            accepted += cell.cycles as f64 * cell.survival[place];
        }
        if reached > 0.0 { (accepted / reached).min(1.0) } else { 0.0 }
    };
    (0..longest.max(1)).map(|at| if longest == 0 { 0.0 } else { place(at) }).collect()
}

/// Slope and height at 0 of the least-squares line; of one point the line from 0. Neither is below 0.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let means = |of: fn(&(f64, f64)) -> f64| mean(&points.iter().map(of).collect::<Vec<_>>()).unwrap_or(0.0);
    let (x, y) = (means(|point| point.0), means(|point| point.1));
    let variance: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let covariance: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let through_zero = if x > 0.0 { y / x } else { 0.0 };
    match variance > 0.0 && covariance > 0.0 {
        true if y - covariance / variance * x >= 0.0 => (covariance / variance, y - covariance / variance * x),
        _ => (through_zero, 0.0),
    }
}

/// The points, those of equal size as one, with what falls evened out: neighbours that fall are given their mean (pool adjacent violators, Ayer et al. 1955).
fn rising(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let alike = points.chunk_by(|a, b| a.0 == b.0);
    points = alike.map(|of| (of[0].0, of.iter().map(|point| point.1).sum::<f64>() / of.len() as f64)).collect();
    // Sums of seconds, and how many points they are of.
    let mut pools: Vec<(f64, usize)> = Vec::new();
    for (_, seconds) in &points {
        pools.push((*seconds, 1));
        while let [.., (before_s, before), (last_s, last)] = pools[..]
            && before_s / before as f64 > last_s / last as f64
        {
            pools.truncate(pools.len() - 2);
            pools.push((before_s + last_s, before + last));
        }
    }
    let evened = pools.into_iter().flat_map(|(seconds, count)| vec![seconds / count as f64; count]);
    points.iter().zip(evened).map(|((rows, _), seconds)| (*rows, seconds)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_falls_is_evened_out() {
        let points = vec![(1.0, 2.0), (3.0, 4.0), (5.0, 3.5), (5.0, 2.5), (7.0, 2.0), (9.0, 6.0)];
        assert_eq!(rising(points), vec![(1.0, 2.0), (3.0, 3.0), (5.0, 3.0), (7.0, 3.0), (9.0, 6.0)]);
    }

    #[test]
    fn what_a_rest_costs_is_beyond_what_is_waited_anyway() {
        let rests = [(0.25, 0.5, 2.0), (1.25, 0.8, 2.5), (3.25, 0.7, 2.25)];
        let rests = rests.map(|(rest_s, draft_s, target_s)| Rest { rest_s, draft_s, target_s }).to_vec();
        assert_eq!(rest(&rests, 2.0, |rest| rest.draft_s), [(2.0, 0.0), (3.0, 0.25), (5.0, 0.25)]);
        assert_eq!(rest(&rests, 0.5, |rest| rest.target_s), [(0.5, 0.0), (1.5, 0.375), (3.5, 0.375)]);
        assert_eq!(rest(&[], 1.0, |rest| rest.draft_s), []);
    }

    #[test]
    fn a_line_has_its_slope_and_no_time_below_nothing() {
        let (slope, height) = line(&[(1.0, 3.0), (2.0, 5.0), (4.0, 9.0)]);
        assert!((slope - 2.0).abs() < 1e-12 && (height - 1.0).abs() < 1e-12, "{slope} {height}");
        assert_eq!(line(&[(4.0, 8.0)]), (2.0, 0.0));
        assert_eq!(line(&[(1.0, 1.0), (3.0, 9.0)]), (2.5, 0.0));
    }
}
