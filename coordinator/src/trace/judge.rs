//! Is it the draft, the network, the queue, the verify, or acceptance? What would change it, and by how much?
//!
//! With the means over the cycles that proposed something, a request is E·(t_AR + s + r + o) / wall times as fast as plain
//! decoding through the same services (DESIGN §8): E tokens a cycle, t_AR one step of the target alone, s what other sessions'
//! rows in its passes cost it, r and o what it pays for the target's link and queue and the coordinator. Each lever changes one
//! term of it by half.

use std::fmt;

use serde::Serialize;
use speculative::cost::expected_tokens;
use telemetry::names::event;

use super::{
    Request,
    request::{Cycle, Side},
};
use crate::{
    cycle::Part,
    report::{self, Link, median, terminal},
};

#[cfg(test)]
mod tests;

/// Cycles that are explained one by one.
const SLOWEST: usize = 5;

/// Rows that only a prefill has: more than the longest window.
const WINDOW_ROWS: u64 = 33;

/// Cycles without other sessions' rows that are enough to go by.
const ENOUGH: usize = 3;

/// A part that takes less than this share of a cycle longer than usual does not explain it.
const WORTH_TELLING: f64 = 0.2;

/// What there is to say of a request.
#[derive(Clone, Debug, Serialize)]
pub struct Judgement {
    /// The request's trace.
    pub trace_id: String,
    /// The target's model.
    pub model: String,
    /// Tokens that a cycle was to propose; where each cycle chose its own, the most that one proposed.
    pub gamma: usize,
    /// Whether each cycle chose its own.
    pub gamma_is_auto: bool,
    /// Cycles that were traced, and all that there were.
    pub cycles: [u64; 2],
    /// How many times as fast as plain decoding; `null` for plain decoding.
    pub speedup: Option<f64>,
    /// Whether that is the most that it can be, as it is not known what a step of plain decoding takes.
    pub speedup_is_bound: bool,
    /// One step of plain decoding at the target, without other sessions, in seconds, where that is known.
    pub t_ar_s: Option<f64>,
    /// Tokens of a cycle that proposed something.
    pub tokens_per_cycle: f64,
    /// survival(i) by position.
    pub acceptance_per_position: Vec<f64>,
    /// What limits it most.
    pub limit: Limit,
    /// The judgement in one sentence.
    pub verdict: String,
    /// A mean cycle's parts; they add up to its wall.
    pub budget: Vec<Share>,
    /// Of a mean cycle, what other sessions' rows in the target's passes take, a part of its compute; 0 to 1.
    pub shared: f64,
    /// The way to each side.
    pub links: Links,
    /// What would change it, the best first.
    pub levers: Vec<Lever>,
    /// The slowest cycles, each with its reason.
    pub slowest: Vec<Slow>,
}

/// What a request's speed hangs on most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The draft's steps.
    Draft,
    /// The way to the services.
    Network,
    /// Waiting for a model that others keep busy.
    Queue,
    /// The target's forward passes.
    Verify,
    /// Proposals that the target does not choose.
    Acceptance,
}

/// A part's share of a mean cycle.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Share {
    /// Which.
    pub part: Part,
    /// Its mean, in seconds.
    pub mean_s: f64,
    /// Of the wall, 0 to 1.
    pub share: f64,
}

/// The way to each side, over the cycles that were traced.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Links {
    /// The draft's; `null` where it was never asked.
    pub draft: Option<Link>,
    /// The target's.
    pub target: Option<Link>,
}

impl Links {
    fn over(cycles: &[Cycle]) -> Self {
        let of = |sides: &mut dyn Iterator<Item = &Side>| {
            // A side that did not answer tells nothing of its link.
            let answered = sides.filter(|side| side.work.flops > 0);
            Link::over(answered.map(|side| (side.network_ns / 1e9, side.wire_bytes)))
        };
        Self {
            draft: of(&mut cycles.iter().filter_map(|cycle| cycle.draft.as_ref())),
            target: of(&mut cycles.iter().map(|cycle| &cycle.target)),
        }
    }
}

/// A change, and how fast the request would be with it.
#[derive(Clone, Debug, Serialize)]
pub struct Lever {
    /// The change.
    pub what: String,
    /// Times as fast as plain decoding.
    pub speedup: f64,
    /// What it changes.
    #[serde(skip)]
    limit: Option<Limit>,
}

/// A slow cycle.
#[derive(Clone, Debug, Serialize)]
pub struct Slow {
    /// Its number.
    pub cycle: u64,
    /// How long it took, in seconds.
    pub wall_s: f64,
    /// Why, in a sentence.
    pub why: String,
}

/// The terms of the speed-up, means in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Terms {
    /// Of a cycle.
    expected: f64,
    gamma: f64,
    t_ar: f64,
    draft: f64,
    draft_queue: f64,
    draft_network: f64,
    verify: f64,
    /// What of the verify is due to other sessions' rows in its passes.
    shared: f64,
    target_queue: f64,
    target_network: f64,
    coordinator: f64,
}

impl Terms {
    fn wall(&self) -> f64 {
        self.draft + self.draft_queue + self.draft_network + self.verify + self.beside()
    }

    /// What a step of plain decoding pays too, beside the target's own work.
    fn beside(&self) -> f64 {
        self.target_queue + self.target_network + self.coordinator
    }

    fn speedup(&self) -> f64 {
        self.expected * (self.t_ar + self.shared + self.beside()) / self.wall()
    }
}

impl Judgement {
    /// Of `request`; `others` are requests to the same services, of which plain decoding is known.
    pub fn of(request: &Request, others: &[Request]) -> Self {
        let proposing: Vec<&Cycle> = request.cycles.iter().filter(|cycle| cycle.gamma > 0).collect();
        let acceptance = request.acceptance();
        let survival = acceptance.survival();
        let t_ar = t_ar_ns(request, others);
        let counted = if proposing.is_empty() { request.cycles.iter().collect() } else { proposing };
        let of_part = |part| mean(counted.iter().map(|cycle| cycle.part_ns(part)));
        let verify = of_part(Part::TargetCompute);
        // More rows take no less time than one.
        let alone = alone_ns(&counted).or(t_ar).unwrap_or(verify).max(t_ar.unwrap_or_default()).min(verify);
        let terms = Terms {
            expected: acceptance.mean_acceptance_length().unwrap_or(1.0),
            gamma: mean(counted.iter().map(|cycle| cycle.gamma as f64)),
            // A pass of one row takes no longer than one of more.
            t_ar: t_ar.unwrap_or(alone),
            draft: of_part(Part::DraftCompute),
            draft_queue: of_part(Part::DraftQueue),
            draft_network: of_part(Part::DraftNetwork),
            verify,
            shared: verify - alone,
            target_queue: of_part(Part::TargetQueue),
            target_network: of_part(Part::TargetNetwork),
            coordinator: of_part(Part::Coordinator),
        };
        let wall = Part::ALL.map(of_part).iter().sum::<f64>().max(1.0);
        let budget = Part::ALL.map(|part| Share { part, mean_s: of_part(part) / 1e9, share: of_part(part) / wall });
        let speculates = terms.gamma > 0.0;
        let mut levers = if speculates { levers(&terms, &survival, t_ar.is_some()) } else { Vec::new() };
        levers.sort_by(|a, b| b.speedup.total_cmp(&a.speedup));
        let limit = levers.iter().find_map(|lever| lever.limit).unwrap_or(Limit::Verify);
        let judgement = Self {
            trace_id: request.trace_id.clone(),
            model: request.model.clone(),
            gamma: request.gamma,
            gamma_is_auto: request.is_auto,
            cycles: [request.cycles.len() as u64, request.all_cycles],
            speedup: speculates.then(|| terms.speedup()),
            speedup_is_bound: speculates && t_ar.is_none(),
            t_ar_s: t_ar.map(|t_ar| t_ar / 1e9),
            tokens_per_cycle: terms.expected,
            acceptance_per_position: survival,
            limit,
            verdict: String::new(),
            budget: budget.to_vec(),
            shared: terms.shared / wall,
            links: Links::over(&request.cycles),
            levers,
            slowest: slowest(&request.cycles),
        };
        Self { verdict: judgement.verdict(), ..judgement }
    }

    /// How fast it is, in a few words.
    pub fn headline(&self) -> String {
        match (self.speedup, self.t_ar_s) {
            (Some(speedup), _) if self.speedup_is_bound => format!("at most {speedup:.2} × plain decoding"),
            (Some(speedup), _) => format!("{speedup:.2} × plain decoding"),
            (None, Some(t_ar_s)) => format!("plain decoding, {} a step at the target", time(t_ar_s)),
            (None, None) if self.cycles[0] == 0 => "no cycle was traced".to_owned(),
            (None, None) => "plain decoding, in passes with other sessions".to_owned(),
        }
    }

    fn verdict(&self) -> String {
        let Some(speedup) = self.speedup else {
            return "Nothing was proposed: the target decodes alone.".to_owned();
        };
        let share = |parts: &[Part]| -> f64 {
            let of = self.budget.iter().filter(|share| parts.contains(&share.part));
            100.0 * of.map(|share| share.share).sum::<f64>()
        };
        let pays = match (speedup, self.speedup_is_bound) {
            (..1.0, _) => "Speculation costs more than it brings",
            (_, true) => "Speculation may pay",
            (_, false) => "Speculation pays",
        };
        let why = match self.limit {
            Limit::Draft => {
                format!("most hangs on the draft, whose steps are {:.0}% of a cycle", share(&[Part::DraftCompute]))
            }
            Limit::Network => {
                let network = share(&[Part::DraftNetwork, Part::TargetNetwork]);
                format!("most hangs on the network, which is {network:.0}% of a cycle")
            }
            Limit::Queue => {
                let queue = share(&[Part::DraftQueue, Part::TargetQueue]);
                let shared = 100.0 * self.shared;
                format!(
                    "most hangs on the queue: {queue:.0}% of a cycle is waiting for a model that others keep busy, and \
                     {shared:.0}% their rows in its passes"
                )
            }
            Limit::Verify => {
                let verify = share(&[Part::TargetCompute]) - 100.0 * self.shared;
                format!("most hangs on the verify, which is {verify:.0}% of a cycle")
            }
            Limit::Acceptance => {
                let most = self.acceptance_per_position.len() + 1;
                format!("most hangs on acceptance: a cycle emits {:.2} of at most {most} tokens", self.tokens_per_cycle)
            }
        };
        format!("{pays}; {why}.")
    }
}

/// The mean compute of the target in cycles that proposed nothing, of the request itself or else of the others.
fn t_ar_ns(request: &Request, others: &[Request]) -> Option<f64> {
    let of = |requests: &mut dyn Iterator<Item = &Request>| {
        let steps: Vec<&Cycle> =
            requests.flat_map(|request| &request.cycles).filter(|cycle| cycle.gamma == 0).collect();
        alone_ns(&steps)
    };
    let same = |other: &&Request| other.model == request.model && other.gamma == 0;
    of(&mut others.iter().filter(same)).or_else(|| of(&mut [request].into_iter()))
}

/// What the target's compute in `cycles` would be without other sessions' rows in its passes: the mean of those that had none, or
/// else where the line through the others, compute over rows (least squares), begins. `None` where all had as many.
fn alone_ns(cycles: &[&Cycle]) -> Option<f64> {
    let of = |cycle: &&Cycle| (cycle.target.others_rows as f64, cycle.target.compute_ns);
    let (alone, shared): (Vec<_>, Vec<_>) = cycles.iter().map(of).partition(|(rows, _)| *rows == 0.0);
    if alone.len() >= ENOUGH || shared.is_empty() {
        return report::mean(&alone.iter().map(|(_, compute)| *compute).collect::<Vec<_>>());
    }
    let points = || alone.iter().chain(&shared).copied();
    let (rows, compute) = (mean(points().map(|(rows, _)| rows)), mean(points().map(|(_, compute)| compute)));
    let spread: f64 = points().map(|(x, _)| (x - rows).powi(2)).sum();
    let together: f64 = points().map(|(x, y)| (x - rows) * (y - compute)).sum();
    let least = points().map(|(_, compute)| compute).fold(f64::INFINITY, f64::min);
    (spread > 0.0).then(|| (compute - rows * together / spread).clamp(0.0, least))
}

/// What would change the speed-up: each cost halved, half of the rejected proposals accepted, another γ.
fn levers(terms: &Terms, survival: &[f64], t_ar_is_known: bool) -> Vec<Lever> {
    let half = |what: &str, limit, change: &dyn Fn(&mut Terms)| {
        let mut changed = *terms;
        change(&mut changed);
        Lever { what: what.to_owned(), speedup: changed.speedup(), limit: Some(limit) }
    };
    let mut levers = vec![
        half("if the draft's steps took half as long", Limit::Draft, &|terms| terms.draft /= 2.0),
        half("if the draft were half as far away", Limit::Network, &|terms| terms.draft_network /= 2.0),
        half("if half the proposals that are rejected were accepted", Limit::Acceptance, &|terms| {
            terms.expected += (terms.gamma + 1.0 - terms.expected).max(0.0) / 2.0;
        }),
    ];
    let further = terms.verify - terms.shared - terms.t_ar;
    if further > 0.0 {
        levers.push(half("if the verify's further rows cost half as much", Limit::Verify, &|terms| {
            terms.verify -= further / 2.0;
        }));
    }
    // What plain decoding pays too is measured by the time that it saves, against plain decoding as it is now.
    let saved = |what: &str, limit, time: f64| {
        let speedup = terms.speedup() * terms.wall() / (terms.wall() - time / 2.0);
        Lever { what: what.to_owned(), speedup, limit: Some(limit) }
    };
    levers.push(saved("if the target were half as far away", Limit::Network, terms.target_network));
    let others = terms.draft_queue + terms.target_queue + terms.shared;
    levers.push(saved("if other sessions kept the models half as busy", Limit::Queue, others));
    if !t_ar_is_known {
        let own = terms.verify - terms.shared;
        levers.push(saved("if the target's passes took half as long", Limit::Verify, own));
    } else if let Some((gamma, speedup)) = best_gamma(terms, survival)
        && speedup > terms.speedup() * 1.02
    {
        levers.push(Lever { what: format!("with γ {gamma}, estimated"), speedup, limit: None });
    }
    levers
}

/// The γ up to the longest that was seen with the highest speed-up; the target's pass taken to grow evenly with its rows.
fn best_gamma(terms: &Terms, survival: &[f64]) -> Option<(usize, f64)> {
    let of_gamma = |gamma: usize| {
        let part = gamma as f64 / terms.gamma;
        let changed = Terms {
            expected: expected_tokens(&survival[..gamma]),
            draft: terms.draft * part,
            verify: terms.t_ar + terms.shared + (terms.verify - terms.shared - terms.t_ar) * part,
            ..*terms
        };
        (gamma, changed.speedup())
    };
    (1..=survival.len()).map(of_gamma).max_by(|a, b| a.1.total_cmp(&b.1))
}

fn slowest(cycles: &[Cycle]) -> Vec<Slow> {
    let usual = Part::ALL.map(|part| {
        let times: Vec<f64> = cycles.iter().map(|cycle| cycle.part_ns(part)).collect();
        median(&times).unwrap_or_default()
    });
    let mut slowest: Vec<&Cycle> = cycles.iter().collect();
    slowest.sort_by(|a, b| b.wall_ns.total_cmp(&a.wall_ns));
    let of_cycle = |cycle: &Cycle| Slow { cycle: cycle.number, wall_s: cycle.wall_ns / 1e9, why: why(cycle, &usual) };
    slowest.into_iter().take(SLOWEST).map(of_cycle).collect()
}

/// Why a cycle took as long as it did: the part that took longest beyond what is usual.
fn why(cycle: &Cycle, usual: &[f64; 7]) -> String {
    let beyond = |at: usize| cycle.part_ns(Part::ALL[at]) - usual[at];
    let most = (0..usual.len()).max_by(|&a, &b| beyond(a).total_cmp(&beyond(b)));
    let Some(at) = most.filter(|&at| beyond(at) > WORTH_TELLING * (cycle.wall_ns - beyond(at))) else {
        return "nothing in it took much longer than usual".to_owned();
    };
    let (took, usual) = (time(cycle.part_ns(Part::ALL[at]) / 1e9), time(usual[at] / 1e9));
    let happened = |name: &str| cycle.happened.iter().any(|(_, happened)| happened == name);
    let behind = |rows: u64| match rows {
        0 => String::new(),
        1..=WINDOW_ROWS => format!(" behind other sessions' pass of {rows} rows"),
        rows => format!(" behind another session's prefill, a pass of {rows} rows"),
    };
    let (draft, target) = (cycle.draft.as_ref(), &cycle.target);
    match Part::ALL[at] {
        Part::DraftQueue => {
            format!("propose waited {took} for the model{}", behind(draft.map_or(0, |draft| draft.behind_rows)))
        }
        Part::TargetQueue => format!("verify waited {took} for the model{}", behind(target.behind_rows)),
        Part::DraftNetwork if happened(event::DRAFT_LATE) => {
            format!("the draft was late: {took} were waited for nothing")
        }
        Part::DraftNetwork if happened(event::DRAFT_LOST) => format!("the draft was lost after {took}"),
        Part::TargetNetwork if happened(event::TARGET_LOST) => {
            format!("the target was lost, another went on after {took}")
        }
        Part::DraftNetwork => format!("the way to the draft and back took {took}, usually {usual}"),
        Part::TargetNetwork => format!("the way to the target and back took {took}, usually {usual}"),
        Part::DraftCompute => {
            format!("drafting took {took}, usually {usual}{}", shared(draft.map_or(0, |draft| draft.others_rows)))
        }
        Part::TargetCompute => format!("verifying took {took}, usually {usual}{}", shared(target.others_rows)),
        Part::Coordinator => format!("the coordinator took {took}, usually {usual}"),
    }
}

fn shared(others_rows: u64) -> String {
    match others_rows {
        0 => String::new(),
        rows => format!(", in passes with {rows} rows of other sessions"),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    report::mean(&values.collect::<Vec<_>>()).unwrap_or_default()
}

/// A time for people.
pub(super) fn time(seconds: f64) -> String {
    terminal::time(Some(seconds))
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [traced, all] = self.cycles;
        let auto = if self.gamma_is_auto { "auto, up to " } else { "" };
        writeln!(f, "{}, γ {auto}{}: {}", self.model, self.gamma, self.headline())?;
        writeln!(f, "{}", self.verdict)?;
        writeln!(f, "\na cycle, mean of {traced} traced of {all}:")?;
        for Share { part, mean_s, share } in &self.budget {
            writeln!(f, "  {:<15} {:>9}  {:>3.0}%", part.as_str().replace('_', " "), time(*mean_s), 100.0 * share)?;
        }
        if self.shared > 0.0 {
            writeln!(f, "  of the target's compute other sessions' rows are {:.0}% of the cycle", 100.0 * self.shared)?;
        }
        for (side, link) in [("draft", self.links.draft), ("target", self.links.target)] {
            if let Some(link) = link {
                let name = format!("the {side}'s link");
                writeln!(f, "  {name:<17} {}", terminal::link(&link))?;
            }
        }
        if !self.acceptance_per_position.is_empty() {
            let shares: Vec<_> =
                self.acceptance_per_position.iter().map(|share| format!("{:.0}%", 100.0 * share)).collect();
            writeln!(f, "\naccepted by position: {}; {:.2} tokens a cycle", shares.join(", "), self.tokens_per_cycle)?;
        }
        if !self.levers.is_empty() {
            writeln!(f, "\nwhat would change it, against plain decoding as it is now:")?;
        }
        for Lever { what, speedup, .. } in &self.levers {
            writeln!(f, "  {speedup:>5.2} ×  {what}")?;
        }
        writeln!(f, "\nthe slowest cycles:")?;
        for Slow { cycle, wall_s, why } in &self.slowest {
            writeln!(f, "  cycle {cycle:<5} {:>9}  {why}", time(*wall_s))?;
        }
        Ok(())
    }
}
