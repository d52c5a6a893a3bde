//! What draft and target choose.

use crate::{
    Ranked, TokenId,
    anticipation::MOST_RANKED,
    philox::{philox4x32_10, stream},
    portable::{exp, ln},
};

#[cfg(test)]
mod tests;

/// The token that the draft holds likeliest at a position, and proposes there: tokens are numbered by its ranking.
pub(super) const FIRST: TokenId = 0;

/// Tokens between which the target chooses: those that the draft ranks, and one for all others.
const TOKENS: usize = MOST_RANKED + 1;

/// Rows of a text that a chance is set by.
const SAMPLE: usize = 8192;

/// Halvings of the range in which σ is searched; more change nothing that the sample can tell.
const HALVINGS: u32 = 25;

/// The rows of all sessions.
///
/// The draft's values z + g at a row are the greatest of a Gumbel process, −ln Γ_k with Γ_k the k-th arrival of a Poisson
/// process; the target adds Gumbel noise of its own, σ times as large, so that it chooses by the odds exp(value / σ). σ is such
/// that it chooses the draft's first with the wanted chance. A row belongs to its session and position alone: what a policy
/// proposes changes nothing of it.
#[derive(Clone, Debug)]
pub(super) struct Text {
    seed: u64,
    /// 1 / σ by the place in the window; the last one also beyond.
    sharpness: Vec<f64>,
}

impl Text {
    /// The texts of `seed`, of which so much is accepted by the place in the window, given all before; the last of them also at
    /// places beyond. Not only on average: in the first [`SAMPLE`] rows of these very texts, of `tokens` each after the first one,
    /// so that no luck of a short run is taken for a better draft.
    pub(super) fn new(seed: u64, conditional_acceptance: &[f64], [sessions, tokens]: [usize; 2]) -> Self {
        let rows =
            (0..sessions as u32).flat_map(|session| (1..=tokens as u64).map(move |position| (session, position)));
        let sample: Vec<Row> =
            rows.take(SAMPLE).map(|(session, position)| Row::draw(seed, session, position)).collect();
        Self { seed, sharpness: conditional_acceptance.iter().map(|&a| sharpness(&sample, a)).collect() }
    }

    /// The draft's ranking at a position.
    pub(super) fn ranked(&self, session: usize, position: usize) -> Vec<Ranked> {
        let row = Row::draw(self.seed, session as u32, position as u64);
        let ranked = (FIRST..).zip(&row.values[..MOST_RANKED]);
        ranked.map(|(token, &value)| Ranked { token, value }).collect()
    }

    /// The target's choice at a position, which stands at `place` of its window, from 0.
    pub(super) fn choice(&self, session: usize, position: usize, place: usize) -> TokenId {
        let sharpness = self.sharpness[place.min(self.sharpness.len() - 1)];
        Row::draw(self.seed, session as u32, position as u64).choice(sharpness)
    }
}

/// One row.
struct Row {
    /// Descending.
    values: [f64; TOKENS],
    /// What decides the target's choice, 0 to below 1.
    lot: f64,
}

impl Row {
    fn draw(seed: u64, session: u32, position: u64) -> Self {
        let key = [seed as u32, (seed >> 32) as u32];
        let words = |block: u32| philox4x32_10([session, position as u32, block, stream::TEXT], key);
        let blocks = [words(0), words(1), words(2)];
        let mut arrival = 0.0;
        let values = std::array::from_fn(|k| {
            arrival -= ln((f64::from(blocks[k / 4][k % 4]) + 0.5) * 2f64.powi(-32));
            -ln(arrival)
        });
        let [_, _, low, high] = blocks[2];
        let lot = ((u64::from(low) | u64::from(high) << 32) >> 11) as f64 * 2f64.powi(-53);
        Self { values, lot }
    }

    fn odds(&self, sharpness: f64) -> [f64; TOKENS] {
        self.values.map(|value| exp(sharpness * (value - self.values[0])))
    }

    /// Whether the first is chosen.
    fn is_first(&self, sharpness: f64) -> bool {
        self.lot * self.odds(sharpness).iter().sum::<f64>() < 1.0
    }

    fn choice(&self, sharpness: f64) -> TokenId {
        let odds = self.odds(sharpness);
        let mut left = self.lot * odds.iter().sum::<f64>();
        let chosen = odds.iter().position(|odds| {
            left -= odds;
            left < 0.0
        });
        chosen.unwrap_or(TOKENS - 1) as TokenId
    }
}

/// 1 / σ at which the first is chosen in a share `a` of the rows: in the more of them the greater it is. Below 0 the draft's
/// first is the least likely.
fn sharpness(sample: &[Row], a: f64) -> f64 {
    let wanted = (a * sample.len() as f64).round() as usize;
    let (mut low, mut high) = (-16.0, 4096.0);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        let chosen = sample.iter().filter(|row| row.is_first(middle)).count();
        *(if chosen < wanted { &mut low } else { &mut high }) = middle;
    }
    high
}
