//! What was simulated beside what was measured.

use serde::Serialize;

use crate::{
    report::median,
    study::{Cell, Findings, Placement},
};

/// A cell that was both.
#[derive(Clone, Debug, Serialize)]
pub struct Predicted {
    /// The pair's name.
    pub pair: String,
    /// 0 is greedy.
    pub temperature: f64,
    /// Where the draft was.
    pub placement: Placement,
    /// The distance, as the plan has it.
    pub rtt: String,
    /// Sessions at once.
    pub sessions: usize,
    /// The policy's name, or AR.
    pub policy: String,
    /// Its γ.
    pub gamma: String,
    /// Tokens/s that were measured.
    pub measured: f64,
    /// Tokens/s of the simulation.
    pub simulated: f64,
    /// simulated / measured.
    pub ratio: f64,
}

/// How well a simulation predicts what it was not fitted to.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// All cells of settings that were not fitted to.
    pub cells: Vec<Predicted>,
    /// Median of |ratio − 1|.
    pub median_error: Option<f64>,
    /// The share of the cells that are within 10%.
    pub within_10_percent: Option<f64>,
}

impl Prediction {
    /// Of the cells that `simulated` and `measured` both have. What was fitted to are those that drafted in turn where the draft was
    /// nearest to one session, and AR beside them, those of one session that went ahead there, and those of one that drafted in turn
    /// co-located.
    pub fn of(simulated: &Findings, measured: &Findings) -> Self {
        let fitted_to = |cell: &Cell| {
            let like = |other: &&Cell| {
                (&other.pair, other.temperature, other.placement, other.sessions)
                    == (&cell.pair, cell.temperature, Placement::Distributed, 1)
            };
            let nearest_s = measured.cells.iter().filter(like).map(|cell| cell.rtt_s).fold(f64::INFINITY, f64::min);
            let is_ahead = cell.anticipation.is_some() && cell.sessions == 1;
            match cell.placement {
                Placement::Distributed => {
                    cell.rtt_s == nearest_s && (cell.is_ar() || cell.in_turn().is_some() || is_ahead)
                }
                Placement::CoLocated => cell.sessions == 1 && cell.in_turn().is_some(),
            }
        };
        let both = |cell: &Cell| {
            let twin = measured.cells.iter().find(|other| cell.is_of_the_same(other))?;
            let (simulated, measured) = (cell.tokens_per_s?, twin.tokens_per_s?);
            (!fitted_to(twin)).then(|| Predicted {
                pair: cell.pair.clone(),
                temperature: cell.temperature,
                placement: cell.placement,
                rtt: cell.rtt.clone(),
                sessions: cell.sessions,
                policy: cell.policy.clone(),
                gamma: cell.gamma.clone(),
                measured,
                simulated,
                ratio: simulated / measured,
            })
        };
        let cells: Vec<Predicted> = simulated.cells.iter().filter_map(both).collect();
        let errors: Vec<f64> = cells.iter().map(|cell| (cell.ratio - 1.0).abs()).collect();
        let within = errors.iter().filter(|error| **error <= 0.1).count();
        Self {
            median_error: median(&errors),
            within_10_percent: (!errors.is_empty()).then(|| within as f64 / errors.len() as f64),
            cells,
        }
    }
}
