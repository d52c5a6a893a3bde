//! The draft's side of a session: `crates/model/src/session/{drafting,anticipating}.rs` without a model.

use std::{
    collections::{HashMap, VecDeque},
    mem,
};

use super::text::{FIRST, Text};
use crate::{
    TokenId,
    anticipation::{Foreseen, TAILS, Tree, WIDTH},
};

/// Asks for γ tokens after the committed ones.
#[derive(Clone, Debug)]
pub(super) struct Propose {
    /// Committed since the last one.
    pub(super) tokens: Vec<TokenId>,
    pub(super) gamma: usize,
    /// Whether a branch is verified already: nothing is to be proposed.
    pub(super) verifying: bool,
}

/// A proposal for a verdict that is not there yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Branch {
    pub(super) id: u64,
    /// The proposal or branch that the verdict is on.
    pub(super) parent: u64,
    pub(super) accepted: usize,
    pub(super) final_token: TokenId,
    /// Tokens that are proposed after that.
    pub(super) gamma: usize,
}

/// What is to be done for a [`Propose`].
#[derive(Debug)]
pub(super) enum Taken {
    /// Nothing: a branch that was sent is the proposal.
    Adopted,
    /// A branch that was not sent is the proposal.
    Answer(Branch),
    /// The draft forwards so many rows, chooses a token, and goes on from it.
    Forward { rows: usize },
}

#[derive(Debug, Default)]
pub(super) struct Draft {
    tree: Tree,
    places: HashMap<u64, Place>,
    /// Tokens of the whole text; committed ones as far as it was told; tokens in its cache after those.
    longest: usize,
    base_len: usize,
    held: usize,
    /// Branches that may wait for their verdict at once, and tokens of each.
    credit: usize,
    gamma: usize,
    /// What grows.
    round: Vec<Stem>,
    unsent: Vec<Branch>,
    /// With the times when they came, in seconds.
    pub(super) inbox: VecDeque<(f64, Propose)>,
    /// Whether it drafts what it was asked for.
    pub(super) drafts: bool,
    /// Whether its session is over.
    pub(super) is_over: bool,
}

/// Where a branch stands.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The position of its first token.
    start: usize,
    /// Tokens of it that the cache holds.
    held: usize,
}

#[derive(Debug)]
struct Stem {
    kind: Kind,
    /// Rows that are forwarded for it, and that were.
    wanted: usize,
    grown: usize,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The last token of a proposal or branch.
    Tail(u64),
    Branch(Foreseen),
}

impl Draft {
    /// Of a text of so many tokens, with so many branches at once.
    pub(super) fn new(longest: usize, credit: usize) -> Self {
        Self { longest, credit, ..Self::default() }
    }

    /// Whether a message can be taken now.
    pub(super) fn is_free(&self) -> bool {
        self.round.is_empty() && !self.drafts
    }

    /// Whether what grows is wanted back.
    pub(super) fn is_recalled(&self) -> bool {
        self.is_over || !self.inbox.is_empty()
    }

    pub(super) fn take(&mut self, propose: &Propose) -> Taken {
        let Propose { tokens, gamma, verifying } = propose;
        let is_held = tokens.iter().take_while(|&&token| token == FIRST).count().min(self.held);
        let base_len = self.base_len + tokens.len();
        // The last committed token is always forwarded: its row chooses the first of the proposal.
        let keep = (self.base_len + is_held).min(base_len - 1);
        self.base_len = base_len;
        self.gamma = *gamma;
        let Some(id) = self.tree.settle(tokens) else {
            debug_assert!(!verifying, "a branch that was sent is there");
            self.forget();
            return Taken::Forward { rows: base_len - keep };
        };
        let unsent = self.unsent.iter().position(|branch| branch.id == id).map(|at| self.unsent.remove(at));
        for gone in self.tree.adopt(id) {
            self.places.remove(&gone);
            self.unsent.retain(|branch| branch.id != gone);
        }
        self.held = self.places.remove(&id).map_or(0, |place| place.held);
        match unsent {
            Some(branch) if !verifying => Taken::Answer(Branch { gamma: branch.gamma.min(*gamma), ..branch }),
            _ => Taken::Adopted,
        }
    }

    fn forget(&mut self) {
        self.tree.clear();
        self.places.clear();
        self.unsent.clear();
        self.held = 0;
    }

    /// γ tokens were proposed; gives the number that branches name them by, 0 where none will come.
    pub(super) fn proposed(&mut self, gamma: usize, text: &Text, session: usize) -> u64 {
        // The last of them is not forwarded.
        self.held = gamma - 1;
        if self.credit == 0 {
            return 0;
        }
        let rows = (0..gamma).map(|row| text.ranked(session, self.base_len + row)).collect();
        self.tree.plant(vec![FIRST; gamma], rows)
    }

    /// Begins to grow what is likeliest to be needed, if there is room for it.
    pub(super) fn begin(&mut self) -> bool {
        let left = self.credit.saturating_sub(self.tree.branches());
        if self.is_over || left == 0 || self.tree.root() == 0 {
            return false;
        }
        let tails = self.tree.tails(TAILS).into_iter();
        self.round = tails.map(|id| Stem::new(Kind::Tail(id), 1)).collect();
        if self.round.is_empty() {
            self.round = self.shoots(left.min(WIDTH));
        }
        !self.round.is_empty()
    }

    fn shoots(&self, most: usize) -> Vec<Stem> {
        let shoot = |foreseen: Foreseen| {
            // What the target would still take after the final token.
            let wanted = self.longest.saturating_sub(self.start(&foreseen) + 1);
            let gamma = self.gamma.min(wanted);
            (gamma > 0).then(|| Stem::new(Kind::Branch(foreseen), gamma))
        };
        self.tree.foreseen(2 * most).into_iter().filter_map(shoot).take(most).collect()
    }

    /// The position of the first token of a branch.
    fn start(&self, foreseen: &Foreseen) -> usize {
        self.node_start(foreseen.parent) + foreseen.accepted + 1
    }

    fn node_start(&self, id: u64) -> usize {
        self.places.get(&id).map_or(self.base_len, |place| place.start)
    }

    /// Rows of a pass of what grows.
    pub(super) fn rows(&self) -> usize {
        self.round.iter().filter(|stem| !stem.is_grown()).count()
    }

    /// The pass is done; says whether all has grown.
    pub(super) fn grow(&mut self) -> bool {
        self.round.iter_mut().filter(|stem| !stem.is_grown()).for_each(|stem| stem.grown += 1);
        self.rows() == 0
    }

    /// Takes what has grown.
    pub(super) fn harvest(&mut self, text: &Text, session: usize) {
        for stem in mem::take(&mut self.round).into_iter().filter(Stem::is_grown) {
            match stem.kind {
                Kind::Tail(id) => {
                    let place = self.node_start(id) + self.tree.tokens(id).len();
                    self.tree.tail(id, text.ranked(session, place));
                    *self.places.get_mut(&id).map_or(&mut self.held, |place| &mut place.held) += 1;
                }
                Kind::Branch(foreseen) => {
                    let (start, gamma) = (self.start(&foreseen), stem.wanted);
                    let rows = (start..start + gamma).map(|position| text.ranked(session, position)).collect();
                    let id = self.tree.grow(&foreseen, vec![FIRST; gamma], rows);
                    self.places.insert(id, Place { start, held: gamma - 1 });
                    let Foreseen { parent, accepted, final_token, .. } = foreseen;
                    self.unsent.push(Branch { id, parent, accepted, final_token, gamma });
                }
            }
        }
    }

    /// What is to be sent.
    pub(super) fn send(&mut self) -> Vec<Branch> {
        mem::take(&mut self.unsent)
    }
}

impl Stem {
    fn new(kind: Kind, wanted: usize) -> Self {
        Self { kind, wanted, grown: 0 }
    }

    fn is_grown(&self) -> bool {
        self.grown == self.wanted
    }
}
