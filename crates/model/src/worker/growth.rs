//! Sequences that grow beside a session's own, as long as nobody else needs the model.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use speculative::{History, Ranked, Sampling, TokenId, anticipation::MOST_RANKED};
use tokio::sync::oneshot;

use super::selector::{Selector, probability};
use crate::{Error, Forward, KvCache, Rows};

/// A sequence that grows.
#[derive(Debug)]
pub(crate) struct Stem {
    pub(crate) cache: KvCache,
    /// What it holds beyond the committed tokens, and the token to forward first.
    pub(crate) path: Vec<TokenId>,
    /// Tokens to choose; with 0 the last of the path is forwarded, and only the ranking after it is wanted.
    pub(crate) gamma: usize,
    /// What was chosen.
    pub(crate) tokens: Vec<TokenId>,
    /// The model's probability of each.
    pub(crate) confidences: Vec<f32>,
    /// The ranking behind each, or after the path.
    pub(crate) rows: Vec<Vec<Ranked>>,
}

impl Stem {
    pub(crate) fn new(cache: KvCache, path: Vec<TokenId>, gamma: usize) -> Self {
        Self { cache, path, gamma, tokens: Vec::new(), confidences: Vec::new(), rows: Vec::new() }
    }

    /// Whether it has all that was wanted of it.
    pub(crate) fn is_grown(&self) -> bool {
        self.rows.len() == self.gamma.max(1)
    }

    /// The cache, and what is forwarded next.
    fn rows(&mut self) -> Rows<'_> {
        let last = if self.tokens.is_empty() { &self.path } else { &self.tokens };
        Rows { cache: &mut self.cache, tokens: &last[last.len() - 1..], logits_from: 0 }
    }

    fn select(&mut self, row: &[f32], selector: &mut Selector, history: &mut History, sampling: &Sampling) {
        let position = self.cache.len() as u64;
        history.extend(&self.path);
        history.extend(&self.tokens);
        let ranked = selector.rank(history, row, sampling, position, MOST_RANKED);
        history.retract(&self.path);
        history.retract(&self.tokens);
        if let (true, Some(first)) = (self.gamma > 0, ranked.first()) {
            self.tokens.push(first.token);
            self.confidences.push(probability(&row[..selector.tokenizer_size()], first.token));
        }
        self.rows.push(ranked);
    }
}

/// Several of one session, which grow together.
pub(super) struct Growth {
    pub(super) stems: Vec<Stem>,
    pub(super) history: History,
    pub(super) sampling: Sampling,
    /// Set when they are wanted back as they are.
    pub(super) recalled: Arc<AtomicBool>,
    pub(super) grown: Grown,
    pub(super) reply: oneshot::Sender<Result<Grown, Error>>,
}

/// How far they came.
#[derive(Debug, Default)]
pub(crate) struct Grown {
    pub(crate) stems: Vec<Stem>,
    /// In forward passes, and rows of them.
    pub(crate) forward: Duration,
    pub(crate) rows: usize,
}

impl Growth {
    /// Whether nothing is left to do for it.
    pub(super) fn is_over(&self) -> bool {
        self.recalled.load(Relaxed) || self.reply.is_closed() || self.stems.iter().all(Stem::is_grown)
    }

    /// Gives it back.
    pub(super) fn end(self) {
        let Self { stems, mut grown, reply, .. } = self;
        grown.stems = stems;
        // A session that has gone meanwhile drops its caches here.
        let _ = reply.send(Ok(grown));
    }

    /// A row for each sequence that still grows.
    pub(super) fn rows(&mut self) -> impl Iterator<Item = Rows<'_>> {
        self.stems.iter_mut().filter(|stem| !stem.is_grown()).map(Stem::rows)
    }

    /// Takes their rows, from `sequence` on; gives the number of the next one's.
    pub(super) fn select(
        &mut self,
        forward: &Forward,
        sequence: usize,
        took: Duration,
        selector: &mut Selector,
    ) -> usize {
        let Self { stems, history, sampling, grown, .. } = self;
        let mut next = sequence;
        for stem in stems.iter_mut().filter(|stem| !stem.is_grown()) {
            stem.select(forward.row(next, 0), selector, history, sampling);
            next += 1;
        }
        grown.forward += took;
        grown.rows += next - sequence;
        next
    }
}
