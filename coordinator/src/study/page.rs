//! The findings as one HTML page that needs nothing else.

use minijinja::{Environment, Value, value::Serde};
use serde::Serialize;
use serde_json::json;

use super::{
    findings::{Cell, Findings, best},
    journal::{DeviceRoofs, PairFacts},
    measured::Forwards,
    plan::Placement,
    plots::{self, Axes, Line, Roof},
};
use crate::report::Breakdown;

const PAGE: &str = include_str!("page.html");

/// One part of a cycle, in seconds.
type PartOf = fn(&Breakdown) -> Option<f64>;

/// A picture with its words.
#[derive(Serialize)]
struct Figure {
    title: String,
    svg: String,
    words: String,
}

/// What was measured of one pair at one temperature.
struct Section<'a> {
    findings: &'a Findings,
    pair: &'a PairFacts,
    temperature: f64,
    cells: Vec<&'a Cell>,
}

/// The page.
///
/// # Errors
/// A picture that cannot be drawn, or a template that does not fit: neither comes from what was measured.
pub fn page(findings: &Findings) -> Result<String, anyhow::Error> {
    let mut figures = Vec::new();
    for pair in &findings.pairs {
        let mut temperatures: Vec<f64> =
            findings.cells.iter().filter(|cell| cell.pair == pair.name).map(|cell| cell.temperature).collect();
        temperatures.sort_by(f64::total_cmp);
        temperatures.dedup();
        for &temperature in &temperatures {
            let of = |cell: &&Cell| cell.pair == pair.name && cell.temperature == temperature;
            let cells = findings.cells.iter().filter(of).collect();
            figures.extend(Section { findings, pair, temperature, cells }.figures()?);
        }
        if temperatures.len() > 1 {
            figures.push(acceptance(findings, pair, &temperatures)?);
        }
    }
    let mut environment = Environment::new();
    environment.add_template("page.html", PAGE)?;
    let data = serde_json::to_string(findings)?.replace('<', "\\u003c");
    let context = Serde(json!({ "findings": findings, "figures": figures, "data": data }));
    Ok(environment.get_template("page.html")?.render(Value::from(context))?)
}

impl Section<'_> {
    fn figures(&self) -> Result<Vec<Figure>, plots::Failed> {
        let mut figures = Vec::new();
        if self.distances().len() > 1 {
            figures.push(self.speedup()?);
            figures.push(self.best_gamma()?);
        }
        if self.sessions().len() > 1 {
            figures.push(self.capacity()?);
        }
        figures.push(self.budget()?);
        figures.extend(self.roofline()?);
        Ok(figures)
    }

    fn title(&self, what: &str) -> String {
        format!("{what}: {}, temperature {}", self.pair.name, self.temperature)
    }

    fn sessions(&self) -> Vec<usize> {
        let mut sessions: Vec<usize> = self.cells.iter().map(|cell| cell.sessions).collect();
        sessions.sort_unstable();
        sessions.dedup();
        sessions
    }

    /// To the draft where it is not co-located, in seconds.
    fn distances(&self) -> Vec<f64> {
        let far = self.cells.iter().filter(|cell| cell.placement == Placement::Distributed);
        let mut distances: Vec<f64> = far.map(|cell| cell.rtt_s).collect();
        distances.sort_by(f64::total_cmp);
        distances.dedup();
        distances
    }

    /// The fewest sessions at once that were measured: what the pictures over distance show.
    fn alone(&self) -> impl Iterator<Item = &Cell> {
        let fewest = self.cells.iter().map(|cell| cell.sessions).min();
        self.cells.iter().copied().filter(move |cell| Some(cell.sessions) == fewest)
    }

    fn far(&self) -> impl Iterator<Item = &Cell> {
        self.alone().filter(|cell| cell.placement == Placement::Distributed)
    }

    /// In the plan's order, without AR.
    fn policies(&self) -> Vec<&str> {
        let mut names = Vec::new();
        for cell in self.cells.iter().filter(|cell| !cell.is_ar()) {
            if !names.contains(&cell.policy.as_str()) {
                names.push(&cell.policy);
            }
        }
        names
    }

    /// The cell of `policy` at a distance whose γ was fastest.
    fn fastest(&self, policy: &str, rtt_s: f64) -> Option<&Cell> {
        let cells = || self.far().filter(|cell| cell.policy == policy && cell.rtt_s == rtt_s);
        let best = best(cells())?;
        cells().find(|cell| cell.gamma == best.gamma)
    }

    fn speedup(&self) -> Result<Figure, plots::Failed> {
        let mut lines: Vec<Line> = Vec::new();
        for policy in self.policies() {
            let point = |rtt_s: f64| {
                let cell = self.fastest(policy, rtt_s)?;
                Some((1e3 * rtt_s, cell.speedup?, cell.speedup_interval))
            };
            let points = self.distances().into_iter().filter_map(point).collect();
            lines.push(Line { name: policy.to_owned(), points, reference: false });
        }
        let ends = [0.0, self.distances().last().copied().unwrap_or_default()];
        let level = |name: &str, speedup: f64| {
            let points = ends.iter().map(|rtt_s| (1e3 * rtt_s, speedup, None)).collect();
            Line { name: name.to_owned(), points, reference: true }
        };
        lines.push(level("AR", 1.0));
        if let Some(best) = best(self.alone().filter(|cell| cell.placement == Placement::CoLocated && !cell.is_ar())) {
            lines.push(level(&format!("co-located, γ {}", best.gamma), best.speedup));
        }
        let theory = self.theory().map(|point| (1e3 * point.rtt_s, point.speedup, None)).collect();
        lines.push(Line { name: "theory, without overlap".to_owned(), points: theory, reference: true });
        Ok(Figure {
            title: self.title("Speed-up over distance"),
            svg: plots::lines(&Axes { x: "RTT between coordinator and draft, ms", y: "tokens/s over AR" }, &lines)?,
            words: "Medians with their 95% intervals; of a policy with several γ, the fastest at each distance. Theory: the best \
                    fixed γ by the cost model, with the times as measured at the shortest distance."
                .to_owned(),
        })
    }

    fn theory(&self) -> impl Iterator<Item = &super::TheoryPoint> {
        let points = self.findings.theory.iter();
        points.filter(|point| point.pair == self.pair.name && point.temperature == self.temperature)
    }

    fn best_gamma(&self) -> Result<Figure, plots::Failed> {
        let mut lines = Vec::new();
        for policy in self.policies() {
            let point = |rtt_s: f64| Some((1e3 * rtt_s, self.fastest(policy, rtt_s)?.median_gamma?, None));
            let points = self.distances().into_iter().filter_map(point).collect();
            lines.push(Line { name: policy.to_owned(), points, reference: false });
        }
        let theory = self.theory().map(|point| (1e3 * point.rtt_s, point.gamma as f64, None)).collect();
        lines.push(Line { name: "theory, without overlap".to_owned(), points: theory, reference: true });
        Ok(Figure {
            title: self.title("γ over distance"),
            svg: plots::lines(&Axes { x: "RTT between coordinator and draft, ms", y: "γ" }, &lines)?,
            words: "Of a policy with several γ, the fastest; of auto, the median of what its cycles proposed."
                .to_owned(),
        })
    }

    fn capacity(&self) -> Result<Figure, plots::Failed> {
        let mut lines = Vec::new();
        let shortest = self.distances().first().copied().unwrap_or_default();
        for placement in [Placement::CoLocated, Placement::Distributed] {
            let mut names = self.policies();
            names.insert(0, super::plan::AR);
            for policy in names {
                let here = |cell: &&&Cell| {
                    cell.placement == placement
                        && cell.policy == policy
                        && (placement == Placement::CoLocated || cell.rtt_s == shortest)
                };
                let point = |sessions: usize| {
                    let cells = || self.cells.iter().filter(here).filter(|cell| cell.sessions == sessions).copied();
                    let best = best(cells())?;
                    let cell = cells().find(|cell| cell.gamma == best.gamma)?;
                    Some((sessions as f64, cell.tokens_per_s?, cell.tokens_per_s_interval))
                };
                let points: Vec<_> = self.sessions().into_iter().filter_map(point).collect();
                if points.is_empty() || (policy == super::plan::AR && placement == Placement::CoLocated) {
                    continue;
                }
                let place = if placement == Placement::CoLocated { ", co-located" } else { "" };
                lines.push(Line { name: format!("{policy}{place}"), points, reference: false });
            }
        }
        Ok(Figure {
            title: self.title("Capacity"),
            svg: plots::lines(&Axes { x: "sessions at once", y: "tokens/s, all sessions" }, &lines)?,
            words: self.capacity_words(),
        })
    }

    /// What the theory promises to a target whose drafting goes elsewhere.
    fn capacity_words(&self) -> String {
        let gain = self.alone().find_map(|cell| {
            let gamma: f64 = cell.gamma.parse().ok().filter(|gamma| *gamma > 0.0)?;
            let (draft_s, verify_s) = (cell.cycle.draft_compute_s?, cell.cycle.target_compute_s?);
            (cell.placement == Placement::CoLocated).then_some((gamma, 1.0 + draft_s / verify_s))
        });
        let gain = gain.map_or_else(String::new, |(gamma, gain)| {
            format!(" Without batching, a target whose drafting goes elsewhere carries 1 + γ·t_d/t_v = {gain:.2} times as many at γ {gamma}.")
        });
        format!("Medians with their 95% intervals.{gain}")
    }

    fn budget(&self) -> Result<Figure, plots::Failed> {
        let parts: [(&str, PartOf); 7] = [
            ("draft compute", |cycle| cycle.draft_compute_s),
            ("draft queue", |cycle| cycle.draft_queue_s),
            ("draft network", |cycle| cycle.draft_network_s),
            ("target compute", |cycle| cycle.target_compute_s),
            ("target queue", |cycle| cycle.target_queue_s),
            ("target network", |cycle| cycle.target_network_s),
            ("coordinator", |cycle| cycle.coordinator_s),
        ];
        let mut bars: Vec<(String, &Cell)> = Vec::new();
        if let Some(ar) = self.far().find(|cell| cell.is_ar()) {
            bars.push(("AR".to_owned(), ar));
        }
        for (number, policy) in self.policies().into_iter().enumerate() {
            for rtt_s in self.distances() {
                let cell = self.fastest(policy, rtt_s);
                bars.extend(cell.map(|cell| (format!("{}: {:.1}", number + 1, 1e3 * rtt_s), cell)));
            }
        }
        let values = |of: PartOf| {
            let per_token = |cell: &Cell| 1e3 * of(&cell.cycle).unwrap_or(0.0) / cell.tokens_per_cycle.unwrap_or(1.0);
            bars.iter().map(|(_, cell)| per_token(cell)).collect::<Vec<f64>>()
        };
        let stacks: Vec<(&str, Vec<f64>)> = parts.iter().map(|(name, of)| (*name, values(*of))).collect();
        let names: Vec<String> = bars.iter().map(|(name, _)| name.clone()).collect();
        let policies =
            self.policies().into_iter().enumerate().map(|(number, policy)| format!("{} is {policy}", number + 1));
        Ok(Figure {
            title: self.title("Where a token's time goes"),
            svg: plots::stacked(&Axes { x: "policy: RTT in ms", y: "ms per token" }, &names, &stacks)?,
            words: format!(
                "A cycle's parts, medians of the rounds' means, by the tokens that it brought. {}.",
                policies.collect::<Vec<_>>().join(", ")
            ),
        })
    }

    fn roofline(&self) -> Result<Option<Figure>, plots::Failed> {
        let nearest = self.distances().first().copied().unwrap_or_default();
        let side = |side: &str, roofs: Option<DeviceRoofs>, of: fn(&Cell) -> Option<Forwards>| {
            let DeviceRoofs { flops_per_s, bytes_per_s } = roofs?;
            let dot = |cell: &Cell| {
                let Forwards { flops, bytes, seconds, .. } = of(cell)?;
                let name = if cell.is_ar() { "AR".to_owned() } else { format!("γ {}", cell.gamma) };
                Some((name, flops / bytes, flops / seconds))
            };
            let mut dots: Vec<(String, f64, f64)> =
                self.far().filter(|cell| cell.rtt_s == nearest && cell.branches == 0).filter_map(dot).collect();
            dots.sort_by(|a, b| a.0.cmp(&b.0));
            dots.dedup_by(|a, b| a.0 == b.0);
            (!dots.is_empty()).then(|| Roof { name: side.to_owned(), flops_per_s, bytes_per_s, dots })
        };
        let roofs: Vec<Roof> = [
            side("target", self.pair.target_roofs, |cell| cell.target),
            side("draft", self.pair.draft_roofs, |cell| cell.draft),
        ]
        .into_iter()
        .flatten()
        .collect();
        if roofs.is_empty() {
            return Ok(None);
        }
        Ok(Some(Figure {
            title: self.title("Roofline"),
            svg: plots::rooflines(&Axes { x: "FLOP per byte", y: "FLOP/s" }, &roofs)?,
            words: "All forwards of a policy together, at the shortest distance. Bandwidth is that at the working set of the weights."
                .to_owned(),
        }))
    }
}

/// How much is accepted over temperature, by policy.
fn acceptance(findings: &Findings, pair: &PairFacts, temperatures: &[f64]) -> Result<Figure, plots::Failed> {
    let mut lines: Vec<Line> = Vec::new();
    for &temperature in temperatures {
        for cell in &findings.cells {
            let here =
                cell.pair == pair.name && cell.temperature == temperature && cell.placement == Placement::Distributed;
            let (true, Some(a)) = (here, cell.conditional_acceptance) else { continue };
            let name = format!("{}, γ {}, {}", cell.policy, cell.gamma, cell.coupling);
            let at = match lines.iter().position(|line| line.name == name) {
                Some(at) => at,
                None => {
                    lines.push(Line { name, points: Vec::new(), reference: false });
                    lines.len() - 1
                }
            };
            // Distance changes nothing of it: the first setting stands for all.
            if lines[at].points.iter().all(|(x, ..)| *x != temperature) {
                lines[at].points.push((temperature, a, None));
            }
        }
    }
    Ok(Figure {
        title: format!("Acceptance over temperature: {}", pair.name),
        svg: plots::lines(&Axes { x: "temperature", y: "conditional acceptance a" }, &lines)?,
        words: "a = accepted / (accepted + rejections), over all cycles, under both couplings where the plan has both."
            .to_owned(),
    })
}
