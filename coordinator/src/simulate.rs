//! The same plans on a virtual clock: what a study would show where there is no time, or no machine, to measure it.
//!
//! # Layout
//! - `fit`: what the parts of a cycle take, from the nearest setting of a measured study
//! - `prediction`: what was simulated beside what was measured
//!
//! The simulation itself, with its assumptions, is [`speculative::simulation`].

mod fit;
mod prediction;

use std::{
    collections::BTreeMap,
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use serde::Serialize;
use speculative::{
    policy::{Gamma, Outlook},
    simulation::{self, BreakEven, Comparison, Distance, InvalidWorld, Outcome, Setup, World},
};

pub use fit::{Fit, FittedPair, FittedTimes, UnusableFit};
pub use prediction::{Predicted, Prediction};

use crate::{
    report::{Anticipated, Breakdown},
    study::{Begin, Findings, Measured, Placement, Plan, Records, Round, Setting, Variant},
};

/// How many devices there are.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Draft servers.
    pub drafts: NonZeroUsize,
    /// Target servers.
    pub targets: NonZeroUsize,
}

/// Would co-located win, and up to which distance not?
#[derive(Clone, Debug, Serialize)]
pub struct Break {
    /// The pair's name.
    pub pair: String,
    /// 0 is greedy.
    pub temperature: f64,
    /// Sessions at once.
    pub sessions: usize,
    /// The distance, as the plan has it: its farthest.
    pub rtt: String,
    /// The same in seconds.
    pub rtt_s: f64,
    /// The policy, that with a fixed γ which is fastest there.
    pub policy: String,
    /// Its γ.
    pub gamma: String,
    /// Tokens/s of all sessions: the targets alone, co-located, distributed.
    pub tokens_per_s: [f64; 3],
    /// Which of the three is fastest there: `AR`, `co-located` or `distributed`.
    pub wins: &'static str,
    /// Up to which distance the policy beats AR.
    pub beats_ar: Reach,
    /// The γ that is fastest co-located.
    pub colocated_gamma: String,
    /// Up to which distance it beats that.
    pub beats_colocated: Reach,
}

/// How far something reaches.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Nowhere.
    Never,
    /// Up to an RTT of so many seconds.
    UpToRttS(f64),
    /// Anywhere.
    Always,
}

impl From<BreakEven> for Reach {
    fn from(break_even: BreakEven) -> Self {
        match break_even {
            BreakEven::Never => Self::Never,
            BreakEven::At(rtt_s) => Self::UpToRttS(rtt_s),
            BreakEven::Always => Self::Always,
        }
    }
}

/// How far a simulation is: steps done, and steps in all.
pub type Progress<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// What a simulation comes to.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// As a study's.
    pub findings: Findings,
    /// The runs.
    pub records: Records,
    /// Would co-located win?
    pub breaks: Vec<Break>,
}

/// One run to be simulated.
struct Job<'a> {
    setting: usize,
    /// `None` is AR.
    variant: Option<Variant<'a>>,
    repetition: usize,
    world: World,
    times: simulation::Times,
}

impl Job<'_> {
    /// Where γ is chosen, with what was learnt in as many runs as a study has made by then, the one that it drops included. Each
    /// repetition has runs of its own before it, so that no luck of the first ones is in all. Some are left out where `cancelled` is
    /// set.
    fn run(&self, cancelled: &AtomicBool) -> Result<Outcome, InvalidWorld> {
        let mut known = Outlook::new();
        let mut run = |before: usize| {
            let seed = self.world.seed.wrapping_add((before as u64) << 32);
            World { seed, ..self.world.clone() }.run_after(&mut known, &self.times)
        };
        if self.world.gamma == Gamma::Auto {
            for before in (1..=self.repetition).take_while(|_| !cancelled.load(Relaxed)) {
                run(before)?;
            }
        }
        run(0)
    }
}

/// Simulates `plan` with the pairs of `fit`, as many runs at once as there are processors; `None` where `cancelled` was set
/// first.
///
/// # Errors
/// A pair or a temperature that `fit` knows nothing of, or a world that cannot be.
pub fn simulate(
    (plan, text): (&Plan, &str),
    fit: &Fit,
    scale: Scale,
    progress: &Progress<'_>,
    cancelled: &AtomicBool,
) -> Result<Option<Simulated>, UnusableFit> {
    if let Some(policy) = plan.policies.iter().find(|policy| policy.min_confidence > 0.0) {
        let (policy, min_confidence) = (policy.name.clone(), policy.min_confidence);
        return Err(UnusableFit::Confidence { policy, min_confidence });
    }
    let settings = plan.settings();
    let mut jobs = Vec::new();
    for (at, setting) in settings.iter().enumerate() {
        let variants = plan.variants(setting);
        let all = [None].into_iter().chain(variants.into_iter().map(Some));
        for variant in all {
            for repetition in 1..=plan.repetitions {
                let (world, times) = world(plan, setting, variant.as_ref(), repetition, fit, scale)?;
                jobs.push(Job { setting: at, variant, repetition, world, times });
            }
        }
    }
    let steps = jobs.len() + fit.pairs.len();
    let Some(outcomes) = run_all(&jobs, |done| progress(done, steps), cancelled) else { return Ok(None) };
    let mut rounds: BTreeMap<(usize, usize), Round> = BTreeMap::new();
    for (job, outcome) in jobs.iter().zip(outcomes) {
        let setting = &settings[job.setting];
        let pair = &plan.pairs[setting.pair].name;
        let round = rounds.entry((job.repetition, job.setting)).or_insert_with(|| Round {
            pair: pair.clone(),
            placement: setting.placement,
            temperature: setting.temperature,
            rtt: setting.rtt.to_string(),
            rtt_s: job.world.draft_rtt.rtt_s,
            sessions: setting.sessions,
            repetition: job.repetition,
            runs: Vec::new(),
        });
        round.runs.push(measured(job.variant, &outcome?));
    }
    // A pair is fitted at each temperature, and is one pair all the same.
    let facts = |name: &str| fit.pairs.iter().find(|of| of.facts.name == name).map(|of| of.facts.clone());
    let records = Records {
        begin: Begin::now(text),
        pairs: plan.pairs.iter().filter_map(|pair| facts(&pair.name)).collect(),
        rounds: rounds.into_values().collect(),
    };
    let findings = Findings::of(plan, &records).simulated();
    let Some(breaks) = breaks(plan, &findings, fit, scale, cancelled)? else { return Ok(None) };
    progress(steps, steps);
    Ok(Some(Simulated { findings, records, breaks }))
}

/// The outcomes of `jobs`, in order.
fn run_all(
    jobs: &[Job<'_>],
    done: impl Fn(usize) + Sync,
    cancelled: &AtomicBool,
) -> Option<Vec<Result<Outcome, InvalidWorld>>> {
    let (next, finished) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        while let Some(at) = Some(next.fetch_add(1, Relaxed)).filter(|at| *at < jobs.len() && !cancelled.load(Relaxed))
        {
            let outcome = jobs[at].run(cancelled);
            outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((at, outcome));
            done(1 + finished.fetch_add(1, Relaxed));
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        (0..threads).for_each(|_| drop(scope.spawn(work)));
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcomes.sort_by_key(|(at, _)| *at);
    (!cancelled.load(Relaxed)).then(|| outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

fn world(
    plan: &Plan,
    setting: &Setting,
    variant: Option<&Variant<'_>>,
    repetition: usize,
    fit: &Fit,
    scale: Scale,
) -> Result<(World, simulation::Times), UnusableFit> {
    let fitted = fit.of_pair(&plan.pairs[setting.pair].name, setting.temperature)?;
    let rtt = setting.rtt.duration(Duration::from_secs_f64(fitted.facts.step_s));
    let world = World {
        sessions: setting.sessions,
        tokens: plan.max_tokens - 1,
        drafts: scale.drafts.get(),
        targets: scale.targets.get(),
        gamma: variant.map_or(Gamma::Fixed(0), |variant| variant.gamma),
        branches: variant.map_or(0, |variant| variant.policy.anticipate),
        placement: match setting.placement {
            Placement::CoLocated => simulation::Placement::CoLocated,
            Placement::Distributed => simulation::Placement::Apart,
        },
        draft_rtt: Distance { rtt_s: rtt.as_secs_f64(), jitter_s: plan.jitter.min(rtt).as_secs_f64() },
        target_rtt: Distance { rtt_s: plan.target_rtt.as_secs_f64(), jitter_s: 0.0 },
        conditional_acceptance: fitted.times.conditional_acceptance.clone(),
        seed: plan.seed.wrapping_add(repetition as u64),
    };
    Ok((world, fitted.times.curves(setting.placement)?))
}

/// A run as a study has it.
fn measured(variant: Option<Variant<'_>>, outcome: &Outcome) -> Measured {
    let acceptance = &outcome.acceptance;
    let drafted = |seconds: f64| variant.map(|_| seconds);
    let cycle = outcome.cycle;
    let anticipated = Anticipated {
        hits: outcome.hits,
        late_hits: outcome.late_hits,
        misses: outcome.misses,
        rows: outcome.branch_rows,
        wasted_rows: outcome.wasted_branch_rows,
        ..Anticipated::default()
    };
    Measured {
        tokens: outcome.tokens as usize,
        seconds: outcome.seconds,
        tokens_per_s: outcome.tokens_per_s,
        cycles: acceptance.cycles(),
        proposed: acceptance.proposed(),
        accepted: acceptance.accepted(),
        rejections: acceptance.rejections(),
        survival: acceptance.survival(),
        median_gamma: outcome.gamma.round() as usize,
        cycle: Breakdown {
            draft_compute_s: drafted(cycle.draft_compute_s),
            draft_queue_s: drafted(cycle.draft_queue_s),
            draft_network_s: drafted(cycle.draft_network_s),
            target_compute_s: Some(cycle.target_compute_s),
            target_queue_s: Some(cycle.target_queue_s),
            target_network_s: Some(cycle.target_network_s),
            coordinator_s: Some(cycle.coordinator_s),
            wall_s: Some(cycle.wall_s),
            ..Breakdown::default()
        },
        anticipation: Anticipated::sum([anticipated].into_iter()),
        draft: None,
        target: None,
        identical: true,
        ..Measured::named(variant)
    }
}

/// For each pair, temperature and number of sessions: the fastest policy of a fixed γ at the farthest distance, and how far it
/// reaches.
fn breaks(
    plan: &Plan,
    findings: &Findings,
    fit: &Fit,
    scale: Scale,
    cancelled: &AtomicBool,
) -> Result<Option<Vec<Break>>, UnusableFit> {
    let mut breaks = Vec::new();
    let settings = plan.settings();
    let mut seen: Vec<(usize, f64, usize)> = Vec::new();
    for setting in &settings {
        let key = (setting.pair, setting.temperature, setting.sessions);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        if cancelled.load(Relaxed) {
            return Ok(None);
        }
        let pair = &plan.pairs[setting.pair].name;
        let cells = findings.cells.iter().filter(|cell| {
            let same =
                cell.pair == *pair && (cell.temperature, cell.sessions) == (setting.temperature, setting.sessions);
            same && cell.placement == Placement::Distributed && !cell.is_ar() && cell.gamma != "auto"
        });
        let farthest_s = cells.clone().map(|cell| cell.rtt_s).fold(0.0, f64::max);
        let fastest = cells
            .filter(|cell| cell.rtt_s == farthest_s)
            .max_by(|a, b| a.tokens_per_s.unwrap_or(0.0).total_cmp(&b.tokens_per_s.unwrap_or(0.0)));
        let Some(cell) = fastest else { continue };
        let there = |of: &&Setting| {
            (of.pair, of.temperature, of.sessions) == key
                && of.placement == Placement::Distributed
                && of.rtt.to_string() == cell.rtt
        };
        let Some(there) = settings.iter().find(there) else { continue };
        let variants = plan.variants(there);
        let variant = variants.iter().find(|of| of.policy.name == cell.policy && of.gamma.to_string() == cell.gamma);
        let (apart, times) = world(plan, there, variant, 1, fit, scale)?;
        let near = findings.cells.iter().filter(|of| {
            let same = of.pair == *pair && (of.temperature, of.sessions) == (setting.temperature, setting.sessions);
            same && of.placement == Placement::CoLocated && of.in_turn().is_some()
        });
        let near = near.max_by(|a, b| a.tokens_per_s.unwrap_or(0.0).total_cmp(&b.tokens_per_s.unwrap_or(0.0)));
        let gamma = near.map_or(apart.gamma, |cell| cell.in_turn().map_or(apart.gamma, Gamma::Fixed));
        let near_times = fit.of_pair(pair, setting.temperature)?.times.curves(Placement::CoLocated)?;
        let comparison = Comparison::of((&apart, &times), (&World { gamma, ..apart.clone() }, &near_times))?;
        breaks.push(Break {
            pair: pair.clone(),
            temperature: setting.temperature,
            sessions: setting.sessions,
            rtt: cell.rtt.clone(),
            rtt_s: cell.rtt_s,
            policy: cell.policy.clone(),
            gamma: cell.gamma.clone(),
            tokens_per_s: [&comparison.ar, &comparison.co_located, &comparison.distributed].map(|of| of.tokens_per_s),
            wins: match comparison.best() {
                Setup::Ar => "AR",
                Setup::CoLocated => "co-located",
                Setup::Distributed => "distributed",
            },
            beats_ar: comparison.break_even_ar.into(),
            colocated_gamma: gamma.to_string(),
            beats_colocated: comparison.break_even_co_located.into(),
        });
    }
    Ok(Some(breaks))
}
