//! What a draft prepares while its proposal is verified (DESIGN §6).

use std::{
    collections::{HashMap, VecDeque},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use speculative::{
    TokenId,
    anticipation::{Foreseen, TAILS, Tree, WIDTH},
};
use tokio::sync::oneshot;

use crate::{
    Error, KvCache,
    kernels::attention::PAGE,
    worker::{Answer, Cost, Grown, Lane, Stem, Worker},
};

/// A proposal for a verdict that is not there yet.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Its number in the session.
    pub id: u64,
    /// The proposal or branch that the verdict is on.
    pub parent: u64,
    /// Tokens of that which are accepted.
    pub accepted: usize,
    /// The token after them.
    pub final_token: TokenId,
    /// What is proposed after that.
    pub tokens: Vec<TokenId>,
    /// The draft's probability of each.
    pub confidences: Vec<f32>,
    /// What it cost, with those that were drafted beside it.
    pub cost: BranchCost,
}

/// What branches that were drafted together cost.
#[derive(Clone, Copy, Debug)]
pub struct BranchCost {
    /// When the first pass began: the same for all of them.
    pub begun: Instant,
    /// In forward passes.
    pub forward: Duration,
    /// From the begin to the end of the last one.
    pub server: Duration,
    /// Rows of this branch.
    pub rows: usize,
    /// Rows of all of them.
    pub batch_rows: usize,
}

/// A session's branches.
#[derive(Debug, Default)]
pub(super) struct Anticipation {
    tree: Tree,
    kept: HashMap<u64, Kept>,
    /// Branches that may wait for their verdict at once.
    credit: usize,
    /// Tokens of each.
    gamma: usize,
    round: Option<Round>,
    unsent: VecDeque<Branch>,
}

/// A branch's place.
#[derive(Debug)]
struct Kept {
    /// Away while its last token is forwarded.
    cache: Option<KvCache>,
    /// The committed tokens and those of `path`, but the last one.
    at: usize,
    /// From the committed tokens to its final token.
    path: Vec<TokenId>,
}

/// What the thread is at.
#[derive(Debug)]
struct Round {
    kinds: Vec<Kind>,
    recalled: Arc<AtomicBool>,
    growing: oneshot::Receiver<Result<Grown, Error>>,
    begun: Instant,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// The last token of the proposal under verification.
    RootTail,
    /// That of a branch.
    Tail(u64),
    Branch(Foreseen),
}

/// Where the session's sequence ends: what bounds a branch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) base_len: usize,
    pub(super) longest: usize,
    pub(super) context: usize,
}

impl Anticipation {
    /// What the next proposal may be followed by.
    pub(super) fn allow(&mut self, credit: usize, gamma: usize) {
        (self.credit, self.gamma) = (credit, gamma);
    }

    /// A proposal is under verification; gives its number.
    pub(super) fn plant(&mut self, answer: &Answer) -> u64 {
        match answer.ranked.is_empty() {
            true => 0,
            false => self.tree.plant(answer.tokens.clone(), answer.ranked.clone()),
        }
    }

    /// The branch that was drafted for the verdict that committed `tokens`.
    pub(super) fn settle(&mut self, tokens: &[TokenId]) -> Option<u64> {
        self.tree.settle(tokens)
    }

    pub(super) fn tokens(&self, id: u64) -> &[TokenId] {
        self.tree.tokens(id)
    }

    /// Nothing is under verification any more.
    pub(super) fn forget(&mut self) {
        self.tree.clear();
        self.kept.clear();
        self.unsent.clear();
    }

    /// The branch is under verification, after `committed` more tokens: `cache` goes on with it. Gives the tokens of it that the
    /// cache holds then, and the branch itself where it was not sent.
    pub(super) fn adopt(&mut self, id: u64, committed: usize, cache: &mut KvCache) -> (Vec<TokenId>, Option<Branch>) {
        let unsent = self.unsent.iter().position(|branch| branch.id == id).and_then(|at| self.unsent.remove(at));
        for gone in self.tree.adopt(id) {
            self.unsent.retain(|branch| branch.id != gone);
            self.kept.remove(&gone);
        }
        self.kept.values_mut().for_each(|kept| drop(kept.path.drain(..committed.min(kept.path.len()))));
        let Some(Kept { cache: Some(branch), at, .. }) = self.kept.remove(&id) else {
            return (Vec::new(), unsent);
        };
        cache.absorb(&branch);
        let held = branch.len() - at - 1;
        // All that is foreseen after it begins as the session does now: it keeps only what is its own from here.
        let mut below = mem::take(&mut self.kept);
        for kept in below.values_mut() {
            if let Some(old) = kept.cache.take() {
                kept.cache = Some(cache.rebased(&old, at + 1));
            }
        }
        self.kept = below;
        (self.tree.tokens(id)[..held].to_vec(), unsent)
    }

    /// Has the thread stop, and takes what there is. Gives the tokens of the root that its cache holds beyond those that it
    /// held.
    pub(super) async fn interrupt(&mut self, lane: &mut Lane) -> Result<Vec<TokenId>, Error> {
        let Some(round) = &self.round else { return Ok(Vec::new()) };
        round.recalled.store(true, Relaxed);
        self.harvest(lane).await
    }

    /// The next branch to send. Never resolves where there is nothing to prepare for; loses nothing where it is dropped.
    pub(super) async fn next(&mut self, worker: &Worker, lane: &mut Lane, bounds: Bounds) -> Result<Next, Error> {
        if let Some(branch) = self.unsent.pop_front() {
            return Ok(Next::Branch(branch));
        }
        if self.round.is_none() && !self.begin(worker, lane, bounds) {
            return std::future::pending().await;
        }
        self.harvest(lane).await.map(Next::Held)
    }

    /// Whether [`Self::next`] has a branch at once.
    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Begins the next round, if there is one.
    fn begin(&mut self, worker: &Worker, lane: &mut Lane, bounds: Bounds) -> bool {
        let left = self.credit.saturating_sub(self.tree.branches());
        if left == 0 || self.gamma == 0 || self.tree.root() == 0 || lane.cache.is_none() {
            return false;
        }
        let mut round = self.tails(lane);
        if round.is_empty() {
            round = self.shoots(lane, left.min(WIDTH), bounds);
        }
        if round.is_empty() {
            return false;
        }
        let (kinds, stems) = round.into_iter().unzip();
        let recalled = Arc::<AtomicBool>::default();
        let growing = worker.grow(lane, stems, recalled.clone());
        self.round = Some(Round { kinds, recalled, growing, begun: Instant::now() });
        true
    }

    fn tails(&mut self, lane: &mut Lane) -> Vec<(Kind, Stem)> {
        let mut tails = Vec::new();
        for id in self.tree.tails(TAILS) {
            let tokens = self.tree.tokens(id).to_vec();
            if id == self.tree.root() {
                tails.extend(lane.cache.take().map(|cache| (Kind::RootTail, Stem::new(cache, tokens, 0))));
            } else if let Some(kept) = self.kept.get_mut(&id) {
                let path = [&kept.path[..], &tokens].concat();
                tails.extend(kept.cache.take().map(|cache| (Kind::Tail(id), Stem::new(cache, path, 0))));
            }
        }
        tails
    }

    fn shoots(&mut self, lane: &Lane, most: usize, bounds: Bounds) -> Vec<(Kind, Stem)> {
        let mut shoots = Vec::new();
        for foreseen in self.tree.foreseen(2 * most) {
            let Foreseen { parent, accepted, final_token, .. } = foreseen;
            let tokens = &self.tree.tokens(parent)[..accepted];
            let (cache, at, mut path) = if parent == self.tree.root() {
                (lane.cache.as_ref(), bounds.base_len + accepted, tokens.to_vec())
            } else {
                let Some(kept) = self.kept.get(&parent) else { continue };
                (kept.cache.as_ref(), kept.at + 1 + accepted, [&kept.path[..], tokens].concat())
            };
            // What the target would still take after the final token.
            let wanted = bounds.longest.saturating_sub(at + 2).min(bounds.context.saturating_sub(at + 1));
            // What is its own has room in the one page that it was let in with.
            let room = (bounds.base_len + PAGE).saturating_sub(at);
            let gamma = self.gamma.min(wanted).min(room.saturating_sub(1));
            let Some(cache) = cache.filter(|cache| gamma > 0 && cache.len() >= at) else { continue };
            path.push(final_token);
            let stem = Stem::new(cache.branch(at), path, gamma);
            shoots.push((Kind::Branch(foreseen), stem));
            if shoots.len() == most {
                break;
            }
        }
        shoots
    }

    /// Waits for the round and takes what it brought. Gives the tokens that the root's cache holds since.
    async fn harvest(&mut self, lane: &mut Lane) -> Result<Vec<TokenId>, Error> {
        let Some(round) = &mut self.round else { return Ok(Vec::new()) };
        let grown = (&mut round.growing).await.map_err(|_| Error::Stopped);
        let Some(Round { kinds, begun, .. }) = self.round.take() else { return Ok(Vec::new()) };
        let Grown { stems, forward, rows } = grown??;
        let server = begun.elapsed();
        let mut held = Vec::new();
        for (kind, stem) in kinds.into_iter().zip(stems) {
            let is_grown = stem.is_grown();
            let Stem { cache, path, gamma, tokens, confidences, rows: mut ranked } = stem;
            match kind {
                Kind::RootTail => {
                    lane.cache = Some(cache);
                    if let (true, Some(row)) = (is_grown, ranked.pop()) {
                        held.extend(path.last());
                        self.tree.tail(self.tree.root(), row);
                    }
                }
                Kind::Tail(id) => {
                    if let (true, Some(row)) = (is_grown, ranked.pop()) {
                        self.tree.tail(id, row);
                    }
                    if let Some(kept) = self.kept.get_mut(&id) {
                        kept.cache = Some(cache);
                    }
                }
                Kind::Branch(_) if !is_grown => {}
                Kind::Branch(foreseen) => {
                    let id = self.tree.grow(&foreseen, tokens.clone(), ranked);
                    let at = cache.len() - gamma;
                    let Foreseen { parent, accepted, final_token, .. } = foreseen;
                    let cost = BranchCost { begun, forward, server, rows: gamma, batch_rows: rows };
                    let branch = Branch { id, parent, accepted, final_token, tokens, confidences, cost };
                    self.unsent.push_back(branch);
                    self.kept.insert(id, Kept { cache: Some(cache), at, path });
                }
            }
        }
        Ok(held)
    }
}

/// What preparing brought.
pub(super) enum Next {
    /// A branch to send.
    Branch(Branch),
    /// Tokens of the proposal that the session's cache holds since.
    Held(Vec<TokenId>),
}

impl Branch {
    /// The branch as the answer that it turned out to be, of no more than γ tokens.
    pub(super) fn answer(self, gamma: usize) -> Answer {
        let Self { mut tokens, mut confidences, cost: BranchCost { forward, .. }, .. } = self;
        tokens.truncate(gamma);
        confidences.truncate(gamma);
        Answer { tokens, confidences, cost: Cost { forward, ..Cost::default() }, ..Answer::default() }
    }
}
