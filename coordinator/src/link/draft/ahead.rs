//! What the draft has drafted ahead for verdicts to come.

use std::{collections::HashMap, mem, ops::AddAssign};

use proto::v1::{Branch, Cost, Proposal};
use speculative::TokenId;

/// The proposal or branch that is verified now, and the branches for what may come of it.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Its number; 0 where no branch will name it.
    parent: u64,
    tokens: Vec<TokenId>,
    /// By parent, accepted tokens and final token.
    branches: HashMap<(u64, u32, TokenId), Branch>,
    /// Those that may come at most.
    most: usize,
    /// What those that have come cost.
    cost: BranchCost,
}

/// What branches cost the draft.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct BranchCost {
    rows: u64,
    seconds: f64,
}

impl BranchCost {
    /// Of one that shares its draft's time with those that grew with it, by their rows.
    fn of(branch: &Branch) -> Self {
        let Cost { server_ns, rows, batch_rows, .. } = branch.cost.unwrap_or_default();
        let share = f64::from(rows) / f64::from(batch_rows.max(rows).max(1));
        Self { rows: rows.into(), seconds: server_ns as f64 * 1e-9 * share }
    }
}

impl AddAssign for BranchCost {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.seconds += other.seconds;
    }
}

/// What became of what was drafted ahead for the verdict before a cycle.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Anticipation {
    /// Whether there was something.
    pub outcome: AnticipationOutcome,
    /// Rows that the draft forwarded for the branches that have come since the cycle before.
    pub rows: u64,
    /// Those of the one that is the proposal now.
    pub used_rows: u64,
    /// What the draft took for all of these rows, in seconds.
    pub drafting_s: f64,
}

/// How a verdict was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AnticipationOutcome {
    /// It was foreseen in time.
    Hit,
    /// It was foreseen, and the branch was still on its way.
    LateHit,
    /// It was not foreseen.
    Miss,
}

impl AnticipationOutcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Hit, Self::LateHit, Self::Miss];

    /// As spans, metrics and reports spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::LateHit => "late_hit",
            Self::Miss => "miss",
        }
    }
}

impl Anticipation {
    pub(super) fn of(outcome: AnticipationOutcome, branch: Option<&Branch>, cost: BranchCost) -> Self {
        let used_rows = branch.map_or(0, |branch| BranchCost::of(branch).rows);
        Self { outcome, rows: cost.rows, used_rows, drafting_s: cost.seconds }
    }
}

impl Ahead {
    /// Up to `most` branches may come.
    pub(super) fn allow(&mut self, most: usize) {
        self.most = most;
    }

    /// A proposal has come, and is what branches are for from now on.
    pub(super) fn plant(&mut self, proposal: &Proposal) {
        (self.parent, self.tokens) = (proposal.id, proposal.tokens.clone());
        self.branches.clear();
    }

    /// Whether branches may be there for the next verdict.
    pub(super) fn is_expected(&self) -> bool {
        self.parent != 0
    }

    /// What has come since this was asked last cost.
    pub(super) fn take_cost(&mut self) -> BranchCost {
        mem::take(&mut self.cost)
    }

    /// A branch has come. What it builds on may have been dropped meanwhile, and it with it; one too many is the draft's fault.
    pub(super) fn take(&mut self, branch: Branch) {
        self.cost += BranchCost::of(&branch);
        let builds = branch.parent == self.parent || self.branches.values().any(|known| known.id == branch.parent);
        if builds && self.branches.len() < self.most {
            self.branches.insert((branch.parent, branch.accepted, branch.final_token), branch);
        }
    }

    /// The branch for the verdict that committed `tokens`.
    pub(super) fn settle(&self, tokens: &[TokenId]) -> Option<Branch> {
        let (&final_token, accepted) = tokens.split_last().filter(|_| self.is_expected())?;
        let drafted = self.tokens.starts_with(accepted);
        let key = (self.parent, accepted.len() as u32, final_token);
        self.branches.get(&key).filter(|_| drafted).cloned()
    }

    /// The branch is verified now. Only what may come of it is kept.
    pub(super) fn adopt(&mut self, branch: &Branch) {
        (self.parent, self.tokens) = (branch.id, branch.tokens.clone());
        let parents: HashMap<u64, u64> = self.branches.values().map(|branch| (branch.id, branch.parent)).collect();
        let root = branch.id;
        let below = |mut id: u64| {
            // As many steps as there are branches: a draft that lies may name circles.
            (0..=parents.len()).any(|_| {
                let found = id == root;
                id = parents.get(&id).copied().unwrap_or(0);
                found
            })
        };
        self.branches.retain(|(parent, ..), _| below(*parent));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_share_what_their_round_took() {
        let branch = |rows, batch_rows| {
            let cost = Cost { server_ns: 1_000_000, rows, batch_rows, ..Cost::default() };
            Branch { cost: Some(cost), ..Branch::default() }
        };
        let mut sum = BranchCost::default();
        for (rows, batch_rows) in [(3, 12), (3, 12), (6, 12)] {
            sum += BranchCost::of(&branch(rows, batch_rows));
        }
        assert_eq!(sum, BranchCost { rows: 12, seconds: 1e-3 });
        // None has more than all of it, whatever a draft says.
        assert_eq!(BranchCost::of(&branch(4, 0)), BranchCost { rows: 4, seconds: 1e-3 });
        assert_eq!(BranchCost::of(&Branch::default()), BranchCost::default());
    }
}
