//! Which verdicts to prepare for while they are made (DESIGN §6).
//!
//! A verdict on a proposal is a pair: how many of its tokens are accepted, and the final token after them. Draft and target
//! share their noise, so the draft's own ranking of z + g at a row is what it knows of the target's choice there: the
//! likeliest final tokens are the next ones of that ranking. A branch is a proposal that was drafted for one verdict; verdicts
//! on branches are foreseen in the same way, and so on: a tree, grown where it is likeliest to be needed.
//!
//! After speculative speculative decoding (Kumar, Dao, May 2026, arXiv 2603.03251), whose fan-out is a geometric series over
//! the positions; here each row says for itself how sure it is, and the session's own verdicts how sure that is.

use std::collections::HashMap;

use crate::{Ranked, TokenId};

#[cfg(test)]
mod tests;

/// Ranked tokens that are kept of each row.
pub const MOST_RANKED: usize = 8;

/// Branches that a draft grows at once: their rows share passes, and the likeliest go out before less likely ones begin. Of 3,
/// 4, 6 and 8, 4 foresaw most in time with the embedded pair one step of the target away.
pub const WIDTH: usize = 4;

/// Last tokens that a draft forwards at once, before branches: what follows a whole proposal is likeliest of all.
pub const TAILS: usize = 2;

/// How far one verdict moves [`Foresight`], at first and at last.
const FIRST_STEP: f64 = 0.3;
const LAST_STEP: f64 = 0.03;

/// A tail is worth a row of a pass where its node is verified and accepted as a whole with at least this chance.
const LEAST_TAIL: f64 = 0.02;

/// How far to trust the ranking of a row: the temperature at which its values are the odds of being chosen.
///
/// At 1 a token whose z + g is one below the first's is chosen instead of it once in e times. A draft that is more like its
/// target has a lower one. It follows the session's verdicts, so that the first of a row is expected to be chosen as often
/// as it is.
#[derive(Clone, Copy, Debug)]
pub struct Foresight {
    temperature: f64,
    verdicts: u32,
}

impl Default for Foresight {
    fn default() -> Self {
        Self { temperature: 1.0, verdicts: 0 }
    }
}

impl Foresight {
    /// The chance of each ranked token to be the target's choice. They add up to less than 1: it may be none of them.
    pub fn chances(&self, row: &[Ranked]) -> Vec<f64> {
        let Some(first) = row.first() else { return Vec::new() };
        let weights: Vec<f64> =
            row.iter().map(|ranked| ((ranked.value - first.value) / self.temperature).exp()).collect();
        // All others together count as one more like the last.
        let sum: f64 = weights.iter().sum::<f64>() + weights.last().copied().unwrap_or_default();
        weights.into_iter().map(|weight| weight / sum).collect()
    }

    /// Learns from a row at which the target chose `token`.
    fn learn(&mut self, row: &[Ranked], token: TokenId) {
        let (Some(&expected), Some(first)) = (self.chances(row).first(), row.first()) else { return };
        let seen = f64::from(u8::from(first.token == token));
        self.verdicts += 1;
        let step = LAST_STEP.max(FIRST_STEP / f64::from(self.verdicts));
        self.temperature = (self.temperature * (step * (expected - seen)).exp()).clamp(1e-3, 1e3);
    }
}

/// A verdict to prepare for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Foreseen {
    /// The proposal or branch that is verified then.
    pub parent: u64,
    /// How many of its tokens are accepted.
    pub accepted: usize,
    /// The token after those.
    pub final_token: TokenId,
    /// The chance that it comes to that, as seen from the root.
    pub chance: f64,
}

/// A proposal under verification, and the branches for what may come of it.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    nodes: HashMap<u64, Node>,
    root: u64,
    /// The last number that was given.
    last: u64,
    foresight: Foresight,
}

#[derive(Clone, Debug)]
struct Node {
    /// Which verdict on which node it is for; of the root what it was for once.
    parent: u64,
    verdict: (usize, TokenId),
    tokens: Vec<TokenId>,
    /// The ranking behind each token; with the tail, also that behind what would follow the last one.
    rows: Vec<Vec<Ranked>>,
    /// That it is verified, as seen from the root.
    chance: f64,
}

impl Node {
    fn has_tail(&self) -> bool {
        self.rows.len() > self.tokens.len()
    }
}

impl Tree {
    /// Nothing is under verification.
    pub fn new() -> Self {
        Self::default()
    }

    /// A new proposal is: its tokens and the ranking behind each. What was foreseen before is forgotten.
    pub fn plant(&mut self, tokens: Vec<TokenId>, rows: Vec<Vec<Ranked>>) -> u64 {
        self.nodes.clear();
        self.last += 1;
        self.root = self.last;
        let verdict = (0, 0);
        self.nodes.insert(self.root, Node { parent: 0, verdict, tokens, rows, chance: 1.0 });
        self.root
    }

    /// Nothing is under verification any more.
    pub fn clear(&mut self) {
        self.nodes.clear();
        self.root = 0;
    }

    /// What is under verification; 0 where nothing is.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// Branches that there are.
    pub fn branches(&self) -> usize {
        self.nodes.len().saturating_sub(1)
    }

    /// The tokens of a proposal or branch.
    pub fn tokens(&self, node: u64) -> &[TokenId] {
        self.nodes.get(&node).map_or(&[], |node| &node.tokens)
    }

    /// Learns from the verdict on the root, that is the tokens that are committed after it was proposed, and gives the branch
    /// that was drafted for it.
    pub fn settle(&mut self, committed: &[TokenId]) -> Option<u64> {
        let root = self.nodes.get(&self.root)?;
        let (&final_token, accepted) = committed.split_last()?;
        // A row after the first token that was not proposed was ranked for another text.
        let as_proposed = root.tokens.iter().zip(committed).take_while(|(one, other)| one == other).count();
        let rows = root.rows.iter().zip(committed).take(as_proposed + 1);
        rows.for_each(|(row, &token)| self.foresight.learn(row, token));
        let is_prefix = root.tokens.starts_with(accepted);
        is_prefix.then(|| self.child(self.root, (accepted.len(), final_token))).flatten()
    }

    fn child(&self, parent: u64, verdict: (usize, TokenId)) -> Option<u64> {
        let mut nodes = self.nodes.iter();
        nodes.find(|(_, node)| node.parent == parent && node.verdict == verdict).map(|(&id, _)| id)
    }

    /// A branch is under verification now: it is the root, and only what is foreseen after it stays. Gives what is forgotten.
    pub fn adopt(&mut self, branch: u64) -> Vec<u64> {
        self.root = branch;
        let stays: Vec<u64> = self.nodes.keys().copied().filter(|&id| self.is_below(id, branch)).collect();
        let gone = self.nodes.keys().copied().filter(|id| !stays.contains(id)).collect::<Vec<_>>();
        self.nodes.retain(|id, _| stays.contains(id));
        let chance = self.nodes.get(&branch).map_or(1.0, |node| node.chance);
        if chance > 0.0 {
            self.nodes.values_mut().for_each(|node| node.chance /= chance);
        }
        if let Some(root) = self.nodes.get_mut(&branch) {
            root.chance = 1.0;
        }
        gone
    }

    fn is_below(&self, mut id: u64, ancestor: u64) -> bool {
        loop {
            match self.nodes.get(&id) {
                _ if id == ancestor => return true,
                Some(node) => id = node.parent,
                None => return false,
            }
        }
    }

    /// The likeliest proposals and branches, up to `most`, whose last token is to be forwarded: only then is it known what
    /// would follow it.
    pub fn tails(&self, most: usize) -> Vec<u64> {
        let untailed = self.nodes.iter().filter(|(_, node)| !node.has_tail());
        let mut tails: Vec<(u64, f64)> = untailed.map(|(&id, node)| (id, node.chance * self.whole(node))).collect();
        tails.retain(|(_, chance)| *chance >= LEAST_TAIL);
        tails.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        tails.into_iter().take(most).map(|(id, _)| id).collect()
    }

    /// The chance that all tokens of a node are accepted, given that it is verified.
    fn whole(&self, node: &Node) -> f64 {
        let first = |row: &Vec<Ranked>| self.foresight.chances(row).first().copied().unwrap_or(0.0);
        node.rows[..node.tokens.len()].iter().map(first).product()
    }

    /// The ranking behind what would follow the last token of a node.
    pub fn tail(&mut self, node: u64, row: Vec<Ranked>) {
        if let Some(node) = self.nodes.get_mut(&node).filter(|node| !node.has_tail()) {
            node.rows.push(row);
        }
    }

    /// The likeliest verdicts, up to `most`, for which there is no branch yet.
    pub fn foreseen(&self, most: usize) -> Vec<Foreseen> {
        let mut all = Vec::new();
        for (&parent, node) in &self.nodes {
            let mut chance = node.chance;
            for (accepted, row) in node.rows.iter().enumerate() {
                let chances = self.foresight.chances(row);
                // A token that was proposed is not final where it stands.
                let ranked =
                    row.iter().zip(&chances).filter(|(ranked, _)| node.tokens.get(accepted) != Some(&ranked.token));
                all.extend(ranked.map(|(ranked, share)| {
                    let final_token = ranked.token;
                    Foreseen { parent, accepted, final_token, chance: chance * share }
                }));
                chance *= chances.first().copied().unwrap_or(0.0);
            }
        }
        let taken: Vec<_> = self.nodes.values().map(|node| (node.parent, node.verdict)).collect();
        all.retain(|foreseen| !taken.contains(&(foreseen.parent, (foreseen.accepted, foreseen.final_token))));
        all.sort_by(|a, b| {
            b.chance.total_cmp(&a.chance).then(a.parent.cmp(&b.parent)).then(a.accepted.cmp(&b.accepted))
        });
        all.truncate(most);
        all
    }

    /// There is a branch for a verdict that was foreseen: its tokens and the ranking behind each.
    pub fn grow(&mut self, foreseen: &Foreseen, tokens: Vec<TokenId>, rows: Vec<Vec<Ranked>>) -> u64 {
        self.last += 1;
        let Foreseen { parent, accepted, final_token, chance } = *foreseen;
        self.nodes.insert(self.last, Node { parent, verdict: (accepted, final_token), tokens, rows, chance });
        self.last
    }
}
