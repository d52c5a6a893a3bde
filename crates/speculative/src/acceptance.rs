//! Acceptance statistics over the cycles of a run.

#[cfg(test)]
mod tests;

/// What became of the proposals of many cycles. All counts are exact.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Acceptance {
    cycles: u64,
    rejections: u64,
    positions: Vec<Position>,
}

/// The cycles that proposed a token at one place of the window, and those whose token there was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Position {
    proposed: u64,
    accepted: u64,
}

impl Acceptance {
    /// No cycle yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a cycle that proposed `proposed` tokens, the first `accepted` of which were accepted.
    pub fn record(&mut self, proposed: usize, accepted: usize) {
        debug_assert!(accepted <= proposed, "{accepted} accepted of {proposed} proposed");
        self.cycles += 1;
        self.rejections += u64::from(accepted < proposed);
        self.reach(proposed);
        for position in &mut self.positions[..proposed] {
            position.proposed += 1;
        }
        for position in &mut self.positions[..accepted] {
            position.accepted += 1;
        }
    }

    /// Adds the cycles of `other`.
    pub fn merge(&mut self, other: &Acceptance) {
        self.cycles += other.cycles;
        self.rejections += other.rejections;
        self.reach(other.positions.len());
        for (mine, theirs) in self.positions.iter_mut().zip(&other.positions) {
            mine.proposed += theirs.proposed;
            mine.accepted += theirs.accepted;
        }
    }

    fn reach(&mut self, positions: usize) {
        if self.positions.len() < positions {
            self.positions.resize(positions, Position::default());
        }
    }

    /// All cycles.
    pub fn cycles(&self) -> u64 {
        self.cycles
    }

    /// The cycles that proposed at least one token.
    pub fn drafts(&self) -> u64 {
        self.positions.first().map_or(0, |first| first.proposed)
    }

    /// Tokens proposed.
    pub fn proposed(&self) -> u64 {
        self.positions.iter().map(|position| position.proposed).sum()
    }

    /// Tokens accepted.
    pub fn accepted(&self) -> u64 {
        self.positions.iter().map(|position| position.accepted).sum()
    }

    /// The cycles that did not accept all they proposed: one token was rejected in each, what came after it unread.
    pub fn rejections(&self) -> u64 {
        self.rejections
    }

    /// accepted / proposed, the acceptance rate in vLLM's sense. None where nothing was proposed.
    pub fn acceptance_rate(&self) -> Option<f64> {
        ratio(self.accepted(), self.proposed())
    }

    /// accepted / (accepted + rejections): the chance that a token is accepted once all before it were. Leviathan's α
    /// (arXiv 2211.17192, section 3.1). None where nothing was proposed.
    pub fn conditional_acceptance(&self) -> Option<f64> {
        ratio(self.accepted(), self.accepted() + self.rejections)
    }

    /// 1 + accepted / drafts, in tokens: what a cycle emits that proposed something. None where none did.
    pub fn mean_acceptance_length(&self) -> Option<f64> {
        ratio(self.accepted(), self.drafts()).map(|accepted| 1.0 + accepted)
    }

    /// accepted / cycles, in tokens; the cycles that proposed nothing count too. None where there was no cycle.
    pub fn avg_accepted_per_cycle(&self) -> Option<f64> {
        ratio(self.accepted(), self.cycles)
    }

    /// survival(i) for i from 1: of the cycles that proposed at least i tokens, the share whose i-th was accepted.
    pub fn survival(&self) -> Vec<f64> {
        self.positions.iter().filter_map(|position| ratio(position.accepted, position.proposed)).collect()
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
