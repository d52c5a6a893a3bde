//! AR and speculative runs in alternation on the same prompts, so that a machine whose speed drifts moves both.

use std::{future::Future, pin::Pin, time::Duration};

use serde::{Serialize, Serializer};
use speculative::{
    Coupling, Sampling, TokenId,
    policy::Gamma,
    roofline::{Roofs, Work},
};
use telemetry::Tracer;
use tokenizer::Tokenizer;

use crate::{
    Cycle, Deadlines, Error, Pair, PairRoofs, Request, Run, StopReason, TraceCycles,
    cycle::generate,
    echo::Echo,
    report::{Report, Rooflines, Synthetic, Theory, median, median_interval},
    text,
};

/// Prompts where none are given: what the character models were trained on, and code for all others.
const PLAY: [&str; 3] = ["ROMEO:", "First Citizen:\nBefore we proceed any further, ", "KING RICHARD II:\nO, "];
const CODE: [&str; 3] = [
    "def quicksort(arr):\n    \"\"\"Sort a list of numbers.\"\"\"\n",
    "// Returns the n-th Fibonacci number.\nfn fibonacci(n: u64) -> u64 {\n",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n",
];

/// Prompts for a model with this tokenizer, where none are given.
///
/// # Errors
/// A tokenizer that does not know them.
pub fn usual_prompts(tokenizer: &Tokenizer) -> Result<Vec<Vec<TokenId>>, Error> {
    let prompts = if *tokenizer == Tokenizer::ascii() { PLAY } else { CODE };
    prompts.iter().map(|prompt| text::encode(tokenizer, prompt)).collect()
}

/// What to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Each γ is measured against AR runs of its own; the first one's speed-up is the benchmark's.
    pub gammas: Vec<Gamma>,
    /// Branches that the draft may draft ahead; 0 is none.
    pub branches: usize,
    /// What ends a proposal early; 0 is off.
    pub min_confidence: f32,
    /// How the draws of draft and target depend on each other; AR has but one.
    pub coupling: Coupling,
    /// Counted pairs for each γ, after a warm-up that is dropped.
    pub pairs: usize,
    /// The pairs take them in turn.
    pub prompts: Vec<Vec<TokenId>>,
    /// Pair k uses the seed plus k.
    pub sampling: Sampling,
    /// Tokens of each run.
    pub max_tokens: usize,
    /// Which cycles have spans.
    pub trace_cycles: TraceCycles,
    /// The named workload that this is.
    pub workload: Option<&'static str>,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Every counted run, in order.
    pub runs: Vec<CountedRun>,
    /// The summary for each γ.
    pub by_gamma: Vec<ByGamma>,
    /// The first γ's speed-up.
    pub speedup: Option<f64>,
    /// The baseline, and how honest it is.
    pub ar: Baseline,
    /// The named workload; `null` where the plan is of one's own.
    pub workload: Option<&'static str>,
    /// What was made for study; `null` where nothing was.
    pub synthetic: Option<Synthetic>,
    /// What all runs of a phase add up to.
    #[serde(skip)]
    pub totals: Totals,
    /// The target's roofs, medians of what was measured between the runs.
    #[serde(skip)]
    pub roofs: Option<Roofs>,
}

impl Outcome {
    /// Whether the two outputs of a pair must be the same: not where a target accepts by lot, nor where the coupling is by
    /// rejection.
    pub fn is_held_to_ar(&self) -> bool {
        let by_lot = self.synthetic.is_some_and(|synthetic| synthetic.is_lossy());
        !by_lot && self.runs.iter().all(|run| run.report.coupling == Coupling::Gumbel)
    }
}

/// The AR runs, and the speculative ones of the first γ.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Without a draft.
    pub ar: Total,
    /// With it.
    pub speculative: Total,
}

/// All cycles of several runs.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    /// How many.
    pub cycles: u64,
    /// Their wall, summed.
    pub wall: Duration,
    /// What both models had to do.
    pub work: Work,
    /// Where each side's forwards stand under its roofs.
    pub rooflines: Rooflines,
}

impl Total {
    fn of<'a>(runs: impl Iterator<Item = &'a Run>, roofs: &PairRoofs) -> Self {
        let cycles: Vec<&Cycle> = runs.flat_map(|run| &run.cycles).collect();
        let mut total = Self { rooflines: Rooflines::over(&cycles, roofs), ..Self::default() };
        for cycle in cycles {
            total.cycles += 1;
            total.wall += cycle.wall;
            total.work += cycle.target.work + cycle.draft.map_or(Work::default(), |draft| draft.work);
        }
        total
    }
}

/// One run's report, with its kind.
#[derive(Debug, Serialize)]
pub struct CountedRun {
    /// `ar` or `speculative`.
    pub mode: &'static str,
    /// The report.
    #[serde(flatten)]
    pub report: Report,
}

/// One γ's pairs. Ratios are medians over the pairs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ByGamma {
    /// Proposed tokens of a cycle, or `auto`.
    #[serde(serialize_with = "gamma")]
    pub gamma: Gamma,
    /// Counted pairs.
    pub pairs: usize,
    /// Pairs whose two outputs were the same tokens; all of them, unless a device is inexact, a target accepts by lot, or the
    /// coupling is by rejection.
    pub identical: usize,
    /// Tokens/s over the AR run through the same services.
    pub speedup: Option<f64>,
    /// 95% interval of `speedup`.
    pub speedup_interval: Option<[f64; 2]>,
    /// Tokens/s over AR with network and coordinator taken out.
    pub speedup_at_target: Option<f64>,
    /// What the cost model says with the measured times.
    pub theory: Option<Theory>,
    /// Median tokens/s of the speculative runs.
    pub output_tokens_per_sec: Option<f64>,
    /// Accepted / proposed.
    pub acceptance_rate: Option<f64>,
    /// Accepted / (accepted + rejections).
    pub conditional_acceptance: Option<f64>,
    /// Median forward of γ + 1 rows over the median forward of one row, of the target.
    pub verify_over_decode: Option<f64>,
    /// The cycle's cost beside the models.
    pub overhead: Option<Overhead>,
}

/// What a cycle costs beside the models, against bare tonic echoes of the same messages in the same run.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Overhead {
    /// Median over the cycles of both networks and the coordinator.
    pub cycle_s: f64,
    /// Median echo of a `Propose` and its answer.
    pub echo_propose_s: f64,
    /// Median echo of a `Verify` and its answer.
    pub echo_verify_s: f64,
    /// `cycle_s` over the sum of both echoes.
    pub ratio: f64,
}

/// The AR runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Baseline {
    /// Median tokens/s.
    pub output_tokens_per_sec: Option<f64>,
    /// Median forward of one row.
    pub forward_s: Option<f64>,
    /// Median of bytes / forward time.
    pub read_bytes_per_s: Option<f64>,
    /// Median of the measured roof at the working set of the target's weights.
    pub roof_bytes_per_s: Option<f64>,
    /// `read_bytes_per_s` over the roof.
    pub bandwidth_utilisation: Option<f64>,
}

/// What [`bench()`] needs beside its plan.
pub struct Bench<'a> {
    /// The services.
    pub pair: &'a Pair,
    /// How long they may take.
    pub deadlines: Deadlines,
    /// Where spans go.
    pub tracer: &'a Tracer,
    /// Is told how many of all runs are done.
    pub progress: &'a (dyn Fn(usize, usize) + Sync),
}

/// Runs `plan`. When `cancel` resolves, what was measured by then is the outcome.
///
/// # Errors
/// A request over a service's limits, or a target that fails.
pub async fn bench(bench: Bench<'_>, plan: &Plan, cancel: impl Future<Output = ()>) -> Result<Outcome, Error> {
    let mut cancel = std::pin::pin!(cancel);
    let mut measured = Measured::new(plan, Echo::start().await?);
    let total = 2 * plan.gammas.len() * (plan.pairs + 1);
    let mut done = 0;
    'rounds: for round in 0..=plan.pairs {
        tokio::select! {
            () = measured.measure_around(bench.pair, plan, round) => {}
            () = cancel.as_mut() => break,
        }
        for at in 0..plan.gammas.len() {
            let mut runs = Vec::new();
            for gamma in [Gamma::Fixed(0), plan.gammas[at]] {
                (bench.progress)(done, total);
                runs.push(run(&bench, plan, gamma, round, cancel.as_mut()).await?);
                done += 1;
                if runs.iter().any(|run| run.stop_reason == StopReason::Cancelled) {
                    break 'rounds;
                }
            }
            if let (true, Ok([ar, speculative])) = (round > 0, <[Run; 2]>::try_from(runs)) {
                measured.pairs[at].push((ar, speculative));
            }
        }
    }
    (bench.progress)(total, total);
    Ok(measured.outcome(bench.pair, plan))
}

async fn run(
    bench: &Bench<'_>,
    plan: &Plan,
    gamma: Gamma,
    round: usize,
    cancel: Pin<&mut impl Future<Output = ()>>,
) -> Result<Run, Error> {
    let prompt = plan.prompts[round % plan.prompts.len()].clone();
    let sampling = Sampling { seed: plan.sampling.seed.wrapping_add(round as u64), ..plan.sampling };
    let Plan { max_tokens, trace_cycles, branches, min_confidence, coupling, .. } = *plan;
    let request = Request {
        max_tokens,
        gamma,
        branches,
        min_confidence,
        coupling,
        trace_cycles,
        ..Request::new(prompt, sampling)
    };
    let request = if gamma.is_ar() { request.alone() } else { request };
    generate(bench.pair, request, bench.deadlines, bench.tracer, |_| {}, cancel).await
}

/// Everything that the outcome is computed from.
struct Measured {
    echo: Echo,
    /// For each γ its pairs, AR first.
    pairs: Vec<Vec<(Run, Run)>>,
    /// For each γ the echoes of its messages.
    proposes: Vec<Vec<Duration>>,
    verifies: Vec<Vec<Duration>>,
    roofs: Vec<PairRoofs>,
}

impl Measured {
    fn new(plan: &Plan, echo: Echo) -> Self {
        let empty = || vec![Vec::new(); plan.gammas.len()];
        let pairs = plan.gammas.iter().map(|_| Vec::new()).collect();
        Self { echo, pairs, proposes: empty(), verifies: empty(), roofs: Vec::new() }
    }

    /// Roofs and echoes, between the runs: the machine that they are compared with is the one of this moment.
    async fn measure_around(&mut self, pair: &Pair, plan: &Plan, round: usize) {
        self.roofs.push(PairRoofs::measure(pair).await);
        for (at, &gamma) in plan.gammas.iter().enumerate() {
            let Gamma::Fixed(gamma) = gamma else { continue };
            let (Ok(proposes), Ok(verifies)) = (self.echo.propose(gamma).await, self.echo.verify(gamma).await) else {
                continue;
            };
            if round > 0 {
                self.proposes[at].extend(proposes);
                self.verifies[at].extend(verifies);
            }
        }
    }

    fn outcome(self, pair: &Pair, plan: &Plan) -> Outcome {
        let roofs = self.median_roofs();
        let by_gamma: Vec<ByGamma> = (0..plan.gammas.len()).map(|at| self.by_gamma(at, plan.gammas[at])).collect();
        let ar = self.baseline(roofs.target.map(|roofs| roofs.bytes_per_s));
        let totals = Totals {
            ar: Total::of(self.pairs.iter().flatten().map(|(ar, _)| ar), &roofs),
            speculative: Total::of(self.pairs.iter().take(1).flatten().map(|(_, speculative)| speculative), &roofs),
        };
        let (mut runs, alone) = (Vec::new(), pair.without_draft());
        for (ar, speculative) in self.pairs.into_iter().flatten() {
            runs.push(CountedRun { mode: "ar", report: Report::new(ar, &alone, &roofs) });
            runs.push(CountedRun { mode: "speculative", report: Report::new(speculative, pair, &roofs) });
        }
        Outcome {
            runs,
            speedup: by_gamma.first().and_then(|first| first.speedup),
            by_gamma,
            ar,
            workload: plan.workload,
            synthetic: Synthetic::of(pair),
            totals,
            roofs: roofs.target,
        }
    }

    fn median_roofs(&self) -> PairRoofs {
        let side = |of: fn(&PairRoofs) -> Option<Roofs>| {
            let all: Vec<_> = self.roofs.iter().filter_map(of).collect();
            let value = |of: fn(&Roofs) -> f64| median(&all.iter().map(of).collect::<Vec<_>>());
            Some(Roofs {
                flops_per_s: value(|roofs| roofs.flops_per_s)?,
                bytes_per_s: value(|roofs| roofs.bytes_per_s)?,
                memory_bytes_per_s: value(|roofs| roofs.memory_bytes_per_s)?,
            })
        };
        PairRoofs { draft: side(|roofs| roofs.draft), target: side(|roofs| roofs.target) }
    }

    fn by_gamma(&self, at: usize, gamma: Gamma) -> ByGamma {
        let pairs = &self.pairs[at];
        let ratios = |baseline: fn(&Run) -> Option<f64>| -> Vec<f64> {
            pairs
                .iter()
                .filter_map(|(ar, speculative)| Some(speculative.output_tokens_per_s()? / baseline(ar)?))
                .collect()
        };
        let through = ratios(Run::output_tokens_per_s);
        let mut acceptance = speculative::Acceptance::new();
        pairs.iter().for_each(|(_, speculative)| acceptance.merge(&speculative.acceptance));
        let decode = median(&forwards(pairs.iter().map(|(ar, _)| ar), 0));
        let verify = match gamma {
            Gamma::Fixed(gamma) => median(&forwards(pairs.iter().map(|(_, speculative)| speculative), gamma)),
            Gamma::Auto => None,
        };
        ByGamma {
            gamma,
            pairs: pairs.len(),
            identical: pairs.iter().filter(|(ar, speculative)| ar.token_ids == speculative.token_ids).count(),
            speedup: median(&through),
            speedup_interval: median_interval(&through),
            speedup_at_target: median(&ratios(Run::output_tokens_per_s_at_target)),
            theory: Theory::of(pairs.iter().map(|(ar, _)| ar), pairs.iter().map(|(_, speculative)| speculative)),
            output_tokens_per_sec: median(
                &pairs.iter().filter_map(|(_, run)| run.output_tokens_per_s()).collect::<Vec<_>>(),
            ),
            acceptance_rate: acceptance.acceptance_rate(),
            conditional_acceptance: acceptance.conditional_acceptance(),
            verify_over_decode: verify.zip(decode).map(|(verify, decode)| verify / decode),
            overhead: self.overhead(at),
        }
    }

    fn overhead(&self, at: usize) -> Option<Overhead> {
        let beside_the_models: Vec<f64> = self.pairs[at]
            .iter()
            .flat_map(|(_, speculative)| &speculative.cycles)
            .filter_map(|cycle| Some((cycle.draft?.network + cycle.target.network + cycle.coordinator()).as_secs_f64()))
            .collect();
        let seconds = |echoes: &[Duration]| median(&echoes.iter().map(Duration::as_secs_f64).collect::<Vec<_>>());
        let (propose, verify) = (seconds(&self.proposes[at])?, seconds(&self.verifies[at])?);
        let cycle_s = median(&beside_the_models)?;
        Some(Overhead { cycle_s, echo_propose_s: propose, echo_verify_s: verify, ratio: cycle_s / (propose + verify) })
    }

    fn baseline(&self, roof_bytes_per_s: Option<f64>) -> Baseline {
        let runs = || self.pairs.iter().flatten().map(|(ar, _)| ar);
        let rates: Vec<f64> = runs()
            .flat_map(|run| &run.cycles)
            .map(|cycle| cycle.target.work.bytes as f64 / cycle.target.forward.as_secs_f64())
            .collect();
        let read_bytes_per_s = median(&rates);
        Baseline {
            output_tokens_per_sec: median(&runs().filter_map(Run::output_tokens_per_s).collect::<Vec<_>>()),
            forward_s: median(&forwards(runs(), 0)),
            read_bytes_per_s,
            roof_bytes_per_s,
            bandwidth_utilisation: read_bytes_per_s.zip(roof_bytes_per_s).map(|(read, roof)| read / roof),
        }
    }
}

/// A number, or `auto`.
fn gamma<S: Serializer>(gamma: &Gamma, serializer: S) -> Result<S::Ok, S::Error> {
    match gamma {
        Gamma::Fixed(gamma) => serializer.serialize_u64(*gamma as u64),
        Gamma::Auto => serializer.serialize_str("auto"),
    }
}

/// Forward times of the target in cycles with `gamma` proposed tokens, in seconds.
fn forwards<'a>(runs: impl Iterator<Item = &'a Run>, gamma: usize) -> Vec<f64> {
    let cycles = runs.flat_map(|run| &run.cycles).filter(|cycle| cycle.gamma == gamma);
    cycles.map(|cycle| cycle.target.forward.as_secs_f64()).collect()
}
