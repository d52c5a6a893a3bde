//! Sweeps over distance, γ, policies and temperatures: does a draft that is far away pay, and how?
//!
//! # Layout
//! - `plan`: what is measured, from TOML
//! - `journal`: what has been, a line for each round, so that a study can be broken off
//! - `stage`: the services of a pair, near and far
//! - `measured`: what a run showed
//! - `findings`: what all rounds say together, beside the theory
//! - `plots`, `page`, `files`: the findings as pictures, as one HTML page, as CSV and JSON

mod files;
mod findings;
mod journal;
mod measured;
mod page;
mod plan;
mod plots;
mod stage;

use std::{
    future::{self, Future},
    pin::pin,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use speculative::{Coupling, Sampling, TokenId};
use telemetry::Tracer;
use tokenizer::Tokenizer;
use tokio::task::{self, JoinSet};

pub use files::write;
pub use findings::{Best, Cell, Findings, TheoryPoint, Winner};
pub use journal::{Begin, DeviceRoofs, Journal, PairFacts, Records, Rest, Round, UnusableJournal};
pub use measured::{Forwards, Measured};
pub use page::page;
pub use plan::{PairPlan, Placement, Plan, Policy, Rtt, Setting, UnusablePlan, Variant};

use crate::{
    Access, Deadlines, Pair, PairRoofs, Request, Run, StopReason, TraceCycles, bench,
    cycle::{generate, generate_paced},
    report::{Model, Models, median},
    text::{self, Piece},
};
use stage::Stage;

/// Services are given as long as `outrider bench` gives them.
const DEADLINES: Deadlines =
    Deadlines { draft: Duration::from_secs(1), draft_adapts: false, target: Duration::from_secs(30) };

/// The runs, their tokens and their γ that say what rests do to devices.
const REST_RUNS: usize = 16;
const REST_TOKENS: usize = 48;
const REST_GAMMA: usize = 4;

/// Devices that have rested for so long have forgotten all they can.
const LONGEST_REST: Duration = Duration::from_millis(100);

/// Why a study cannot go on. What was measured is in its journal.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// The plan.
    #[error(transparent)]
    Plan(#[from] UnusablePlan),
    /// Its directory.
    #[error(transparent)]
    Journal(#[from] UnusableJournal),
    /// A pair, or a run of it.
    #[error(transparent)]
    Run(#[from] crate::Error),
    /// Figures of two models do not go together.
    #[error(
        "pair {pair:?} was begun with other models, or with others' arithmetic, allowed: those, or another directory"
    )]
    OtherModels {
        /// The pair's name.
        pair: String,
    },
    /// Models in a build without any.
    #[error("pair {pair:?} names models, allowed: addresses, as this build has no models of its own")]
    NoModels {
        /// The pair's name.
        pair: String,
    },
}

/// How far a study is: runs done, runs in all, and what is measured now.
pub type Progress<'a> = dyn Fn(usize, usize, &str) + Sync + 'a;

/// Measures what `plan` asks for and `journal` does not have yet. Whether all of it is there then; it is not where `cancel`
/// resolved first.
///
/// # Errors
/// A pair that cannot be had, a run that fails, or a journal that cannot be written.
pub async fn run(
    plan: &Plan,
    journal: &mut Journal,
    access: &Access,
    progress: &Progress<'_>,
    cancel: impl Future<Output = ()>,
) -> Result<bool, StudyError> {
    #[cfg(feature = "embedded")]
    for pair in plan.pairs.iter().filter(|pair| !pair.is_remote()) {
        stage::models(pair)?;
    }
    let mut cancel = pin!(cancel);
    let mut done = 0;
    for (at, pair) in plan.pairs.iter().enumerate() {
        let mut settings: Vec<(usize, Setting)> = plan.settings().into_iter().enumerate().collect();
        settings.retain(|(_, setting)| setting.pair == at);
        let mut stage = Stage::open(plan, pair, access).await?;
        let measured = tokio::select! {
            measured = measure(plan, journal, &mut stage, (pair, &settings), &mut done, progress) => Some(measured),
            () = cancel.as_mut() => None,
        };
        stage.close().await;
        match measured {
            Some(measured) => measured?,
            None => return Ok(false),
        }
    }
    Ok(true)
}

/// All rounds of one pair, each setting in turn, so that a machine whose speed drifts moves all of them.
async fn measure(
    plan: &Plan,
    journal: &mut Journal,
    stage: &mut Stage<'_>,
    (pair, settings): (&PairPlan, &[(usize, Setting)]),
    done: &mut usize,
    progress: &Progress<'_>,
) -> Result<(), StudyError> {
    let near = stage.near().await?;
    let prompts = prompts(plan, &near.tokenizer)?;
    let models = (Models::of(&near, true), stage.colocated_draft().await?);
    let known = journal.records().pairs.iter().find(|facts| facts.name == pair.name).cloned();
    let facts = match known {
        Some(facts) if (&facts.models, &facts.colocated_draft) != (&models.0, &models.1) => {
            return Err(StudyError::OtherModels { pair: pair.name.clone() });
        }
        Some(facts) => facts,
        None => {
            progress(*done, plan.runs(), &format!("{}: roofs, a step of the target, and rests", pair.name));
            let facts = facts(plan, pair, &near, models, &prompts).await?;
            journal.keep_pair(facts.clone())?;
            facts
        }
    };
    let step = Duration::from_secs_f64(facts.step_s);
    // The first round of a setting in this process warms it up, and is dropped.
    for repetition in 0..=plan.repetitions {
        for (at, setting) in settings {
            let variants = plan.variants(setting);
            let runs = (1 + variants.len()) * setting.sessions;
            let last = journal
                .records()
                .rounds
                .iter()
                .filter(|round| round.is_of(setting, &pair.name))
                .map(|round| round.repetition)
                .max();
            let last = last.unwrap_or(0);
            if last >= repetition && (repetition > 0 || last == plan.repetitions) {
                *done += runs;
                continue;
            }
            progress(*done, plan.runs(), &label(pair, setting));
            let round = Round {
                pair: pair.name.clone(),
                placement: setting.placement,
                temperature: setting.temperature,
                rtt: setting.rtt.to_string(),
                rtt_s: setting.rtt.duration(step).as_secs_f64(),
                sessions: setting.sessions,
                repetition,
                runs: round(plan, stage, (*at, setting), &variants, repetition, &prompts, step).await?,
            };
            if repetition > 0 {
                journal.keep_round(round)?;
            }
            *done += runs;
        }
    }
    Ok(())
}

fn label(pair: &PairPlan, setting: &Setting) -> String {
    let Setting { placement, temperature, rtt, sessions, .. } = setting;
    let place = match placement {
        Placement::CoLocated => "co-located".to_owned(),
        Placement::Distributed => format!("RTT {rtt}"),
    };
    format!("{}: {place}, temperature {temperature}, sessions {sessions}", pair.name)
}

/// AR and each variant once, the order turned by one each time.
async fn round(
    plan: &Plan,
    stage: &mut Stage<'_>,
    (at, setting): (usize, &Setting),
    variants: &[Variant<'_>],
    repetition: usize,
    prompts: &[Vec<TokenId>],
    step: Duration,
) -> Result<Vec<Measured>, StudyError> {
    let sampling = Sampling { temperature: setting.temperature, ..Sampling::greedy() };
    let requests = |variant: Option<&Variant<'_>>| -> Vec<Request> {
        let number = |session: usize| repetition * setting.sessions + session;
        let request = |session| {
            let seed = plan.seed.wrapping_add(number(session) as u64);
            let prompt = prompts[number(session) % prompts.len()].clone();
            let request =
                Request { max_tokens: plan.max_tokens, ..Request::new(prompt, Sampling { seed, ..sampling }) };
            Request {
                gamma: variant.map_or(0.into(), |variant| variant.gamma),
                branches: variant.map_or(0, |variant| variant.policy.anticipate),
                min_confidence: variant.map_or(0.0, |variant| variant.policy.min_confidence),
                coupling: variant.map_or(Coupling::Gumbel, |variant| variant.policy.coupling),
                trace_cycles: TraceCycles::Off,
                ..request
            }
        };
        (0..setting.sessions).map(request).collect()
    };
    let all: Vec<Option<&Variant<'_>>> = [None].into_iter().chain(variants.iter().map(Some)).collect();
    let mut runs: Vec<Vec<Run>> = all.iter().map(|_| Vec::new()).collect();
    for turn in 0..all.len() {
        let number = (turn + repetition) % all.len();
        let pair = stage.pair((at, setting), all[number], step).await?;
        runs[number] = at_once(&pair, requests(all[number])).await?;
    }
    let mut runs = runs.into_iter();
    let expected = runs.next().unwrap_or_default();
    let measured: Vec<Measured> =
        variants.iter().zip(runs).map(|(variant, runs)| Measured::of(Some(*variant), runs, Some(&expected))).collect();
    Ok([Measured::of(None, expected, None)].into_iter().chain(measured).collect())
}

/// Runs all of them at once; in order.
async fn at_once(pair: &Pair, requests: Vec<Request>) -> Result<Vec<Run>, StudyError> {
    let mut running = JoinSet::new();
    for (at, request) in requests.into_iter().enumerate() {
        let pair = pair.clone();
        running.spawn(async move {
            let run = generate(&pair, request, DEADLINES, &Tracer::off(), |_| {}, future::pending()).await;
            (at, run)
        });
    }
    let mut runs = Vec::new();
    for (at, run) in running.join_all().await {
        runs.push((at, run?));
    }
    runs.sort_by_key(|(at, _)| *at);
    debug_assert!(runs.iter().all(|(_, run)| run.stop_reason != StopReason::Cancelled));
    Ok(runs.into_iter().map(|(_, run)| run).collect())
}

/// What the pair is, and what a step takes it.
async fn facts(
    plan: &Plan,
    pair: &PairPlan,
    near: &Pair,
    (models, colocated_draft): (Models, Option<Model>),
    prompts: &[Vec<TokenId>],
) -> Result<PairFacts, StudyError> {
    let roofs = PairRoofs::measure(near).await;
    let request = Request {
        max_tokens: plan.max_tokens,
        trace_cycles: TraceCycles::Off,
        ..Request::new(prompts[0].clone(), Sampling::greedy())
    };
    // The first one warms up.
    at_once(near, vec![request.clone()]).await?;
    let runs = at_once(near, vec![request]).await?;
    let walls: Vec<f64> = runs.iter().flat_map(|run| &run.cycles).map(|cycle| cycle.wall.as_secs_f64()).collect();
    let step_s = median(&walls).unwrap_or_default();
    Ok(PairFacts {
        name: pair.name.clone(),
        models,
        colocated_draft,
        step_s,
        rests: rests(plan, near, Duration::from_secs_f64(step_s), prompts).await?,
        accepts_by_lot: near.target.description.synthetic_acceptance.is_some(),
        draft_roofs: roofs.draft.map(Into::into),
        target_roofs: roofs.target.map(Into::into),
    })
}

/// What cycles take after rests as long as the plan's distances.
async fn rests(plan: &Plan, near: &Pair, step: Duration, prompts: &[Vec<TokenId>]) -> Result<Vec<Rest>, StudyError> {
    let mut lengths: Vec<Duration> = plan.rtts.iter().map(|rtt| rtt.duration(step).min(LONGEST_REST)).collect();
    lengths.push(Duration::ZERO);
    lengths.sort_unstable();
    lengths.dedup();
    if lengths.len() == 1 {
        return Ok(Vec::new());
    }
    let mut rounds = Vec::new();
    for (number, prompt) in prompts.iter().cycle().take(REST_RUNS).enumerate() {
        let mut round = vec![None; lengths.len()];
        for turn in 0..lengths.len() {
            let at = (turn + number) % lengths.len();
            round[at] = rested(near, prompt, lengths[at]).await?;
        }
        rounds.extend(round.into_iter().collect::<Option<Vec<Rest>>>());
    }
    Ok(Rest::over(&rounds))
}

/// The medians of a run whose cycles come after rests of this length; `None` of a draft that has proposed nothing.
async fn rested(near: &Pair, prompt: &[TokenId], length: Duration) -> Result<Option<Rest>, StudyError> {
    let request = Request {
        max_tokens: REST_TOKENS,
        gamma: REST_GAMMA.into(),
        trace_cycles: TraceCycles::Off,
        ..Request::new(prompt.to_vec(), Sampling::greedy())
    };
    let [mut rests_s, mut draft_s, mut target_s] = [const { Vec::new() }; 3];
    let rested = Mutex::new(&mut rests_s);
    let rest = async |piece: Piece| {
        // A cycle ends with the target's own token.
        if !piece.accepted {
            let begun = Instant::now();
            // The runtime's own timer ticks in milliseconds.
            let _ = task::spawn_blocking(move || thread::sleep(length)).await;
            rested.lock().unwrap_or_else(PoisonError::into_inner).push(begun.elapsed().as_secs_f64());
        }
    };
    let run = generate_paced(near, request, DEADLINES, &Tracer::off(), rest, future::pending()).await?;
    for cycle in run.cycles.iter().skip(1) {
        let Some(drafted) = &cycle.draft else { continue };
        draft_s.push(drafted.round_trip().as_secs_f64());
        target_s.push(cycle.target.round_trip().as_secs_f64());
    }
    Ok(match [&rests_s, &draft_s, &target_s].map(|seconds| median(seconds)) {
        [Some(rest_s), Some(draft_s), Some(target_s)] => Some(Rest { rest_s, draft_s, target_s }),
        _ => None,
    })
}

fn prompts(plan: &Plan, tokenizer: &Tokenizer) -> Result<Vec<Vec<TokenId>>, crate::Error> {
    match plan.prompts.as_slice() {
        [] => bench::usual_prompts(tokenizer),
        prompts => prompts.iter().map(|prompt| text::encode(tokenizer, prompt)).collect(),
    }
}
