//! The choice at one position.

use std::{cmp::Ordering, mem};

use super::noise::{CEILING, Draw};
use super::{History, Sampling};
use crate::portable::{exp, ln};
use crate::{Distribution, TokenId};

/// How many of the likeliest tokens are put in order first when looking for the end of the nucleus, and by what that
/// number grows as long as the end lies beyond.
const NUCLEUS_HEAD: usize = 256;
const NUCLEUS_GROWTH: usize = 8;

/// Chooses tokens; it keeps its scratch memory, so that choosing allocates nothing once warm.
#[derive(Debug, Default)]
pub struct Chooser {
    kept: Vec<Candidate>,
    penalised: Vec<f32>,
}

/// A token and its logit divided by the temperature.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) z: f64,
    pub(crate) token: TokenId,
}

impl Chooser {
    /// A chooser without scratch memory yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The choice at `position`, the zero-based index of the chosen token in the sequence: the argmax over the kept
    /// tokens of z + g, z = logit / temperature, g the token's [`gumbel`](crate::gumbel) variate; on ties the lowest
    /// token. At temperature 0, the argmax of the logits. The choice is an exact sample of the softmax over the kept
    /// tokens (Maddison et al. 2014, arXiv 1411.0030).
    ///
    /// `logits` is one row; tokens from `tokenizer_size` on are masked. NaN counts as −∞; where nothing is above −∞ the
    /// lowest token is chosen. `sampling` is expected to be valid.
    ///
    /// Kept, in order (z descending, token ascending): the first `top_k`; of these the shortest prefix whose running
    /// sum of e^(z − max) reaches `top_p` × their sum; of these the tokens with z ≥ max + ln `min_p`.
    pub fn choose(&mut self, logits: &[f32], tokenizer_size: usize, sampling: &Sampling, position: u64) -> TokenId {
        let logits = &logits[..tokenizer_size.min(logits.len())];
        if sampling.temperature == 0.0 {
            return argmax(logits.iter().copied().map(f64::from)).token;
        }
        let row = Row { logits, temperature: sampling.temperature };
        // Of z, not of the logits: a temperature near 0 makes different logits the same infinite z.
        let favourite = argmax(row.z());
        let floor = floor(sampling, favourite);
        let mut race = Race::new(sampling.seed, position, favourite);
        if self.truncate(&row, sampling, favourite.z) {
            race.run(self.kept.iter().copied(), floor);
        } else {
            race.run(row.candidates(), floor);
        }
        race.leader.token
    }

    /// The same after what `history` holds, under its penalties.
    pub fn choose_after(
        &mut self,
        history: &History,
        logits: &[f32],
        tokenizer_size: usize,
        sampling: &Sampling,
        position: u64,
    ) -> TokenId {
        self.after(history, logits, |chooser, logits| chooser.choose(logits, tokenizer_size, sampling, position))
    }

    /// What `of` says of `logits` under the penalties of `history`.
    fn after<T>(&mut self, history: &History, logits: &[f32], of: impl FnOnce(&mut Self, &[f32]) -> T) -> T {
        let mut row = mem::take(&mut self.penalised);
        let logits = if history.penalise(logits, &mut row) { &row } else { logits };
        let answer = of(self, logits);
        self.penalised = row;
        answer
    }

    /// The choice and what it was chosen before: the `most` greatest of z + g over the kept tokens, in descending order; at
    /// temperature 0, of the logits. The first is what [`choose_after`](Self::choose_after) gives. Fewer where fewer are kept.
    pub fn rank_after(
        &mut self,
        history: &History,
        logits: &[f32],
        tokenizer_size: usize,
        sampling: &Sampling,
        position: u64,
        most: usize,
    ) -> Vec<Ranked> {
        self.after(history, logits, |chooser, logits| {
            chooser.rank(&logits[..tokenizer_size.min(logits.len())], sampling, position, most)
        })
    }

    fn rank(&mut self, logits: &[f32], sampling: &Sampling, position: u64, most: usize) -> Vec<Ranked> {
        let greedy = sampling.temperature == 0.0;
        let row = Row { logits, temperature: if greedy { 1.0 } else { sampling.temperature } };
        let mut podium = Podium { most, ranked: Vec::with_capacity(most + 1) };
        if greedy {
            row.candidates().for_each(|Candidate { z, token }| podium.enter(Ranked { value: z, token }));
            return podium.ranked;
        }
        let favourite = argmax(row.z());
        let floor = floor(sampling, favourite);
        let perturb = |podium: &mut Podium, candidate: Candidate| {
            let Candidate { z, token } = candidate;
            if z < floor || z + CEILING < podium.least() {
                return;
            }
            let draw = Draw::new(sampling.seed, position, token);
            if z + draw.ceiling() >= podium.least() {
                podium.enter(Ranked { value: z + draw.gumbel(), token });
            }
        };
        match self.truncate(&row, sampling, favourite.z) {
            true => self.kept.iter().for_each(|&candidate| perturb(&mut podium, candidate)),
            false => row.candidates().for_each(|candidate| perturb(&mut podium, candidate)),
        }
        podium.ranked
    }

    /// What a choice after what `history` holds is a sample of: the softmax of z over the kept tokens. Where a greatest z
    /// is infinite, and at temperature 0, all of it is the first token that has it.
    pub fn distribution_after(
        &mut self,
        history: &History,
        logits: &[f32],
        tokenizer_size: usize,
        sampling: &Sampling,
    ) -> Distribution {
        self.after(history, logits, |chooser, logits| {
            chooser.distribution(&logits[..tokenizer_size.min(logits.len())], sampling)
        })
    }

    fn distribution(&mut self, logits: &[f32], sampling: &Sampling) -> Distribution {
        let greedy = sampling.temperature == 0.0;
        let row = Row { logits, temperature: if greedy { 1.0 } else { sampling.temperature } };
        let favourite = argmax(row.z());
        if greedy || favourite.z.is_infinite() {
            return Distribution::certain(favourite.token);
        }
        let floor = floor(sampling, favourite);
        let weighed =
            |candidate: Candidate| (candidate.z >= floor).then(|| (candidate.token, weight(&candidate, favourite.z)));
        match self.truncate(&row, sampling, favourite.z) {
            true => {
                // In the tokens' order, so that sums over them are the same bits everywhere.
                self.kept.sort_unstable_by_key(|candidate| candidate.token);
                Distribution::new(self.kept.iter().copied().filter_map(weighed))
            }
            false => Distribution::new(row.candidates().filter_map(weighed)),
        }
    }

    /// Fills `kept` with what top-k and top-p keep, in no particular order; false where they keep all.
    fn truncate(&mut self, row: &Row<'_>, sampling: &Sampling, max: f64) -> bool {
        let top_k = sampling.top_k as usize;
        let cuts_count = top_k > 0 && top_k < row.logits.len();
        let cuts_mass = sampling.top_p < 1.0;
        if !cuts_count && !cuts_mass {
            return false;
        }
        self.kept.clear();
        self.kept.extend(row.candidates());
        if cuts_count {
            self.kept.select_nth_unstable_by(top_k - 1, in_order);
            self.kept.truncate(top_k);
        }
        if cuts_mass {
            let size = nucleus(&mut self.kept, sampling.top_p, max);
            self.kept.truncate(size);
        }
        true
    }
}

/// A token with what it was chosen by: z + g, or its logit at temperature 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    /// The token.
    pub token: TokenId,
    /// z + g.
    pub value: f64,
}

/// The greatest that have come so far, in order: descending, of equals the lowest token first.
struct Podium {
    most: usize,
    ranked: Vec<Ranked>,
}

impl Podium {
    /// What no less than may still enter.
    fn least(&self) -> f64 {
        self.ranked.get(self.most.wrapping_sub(1)).map_or(f64::NEG_INFINITY, |last| last.value)
    }

    fn enter(&mut self, entering: Ranked) {
        let before = |ranked: &Ranked| {
            ranked.value > entering.value || (ranked.value == entering.value && ranked.token < entering.token)
        };
        let place = self.ranked.partition_point(before);
        self.ranked.insert(place, entering);
        self.ranked.truncate(self.most);
    }
}

/// A row of logits under a temperature.
pub(crate) struct Row<'a> {
    pub(crate) logits: &'a [f32],
    pub(crate) temperature: f64,
}

impl Row<'_> {
    pub(crate) fn z(&self) -> impl Iterator<Item = f64> {
        self.logits.iter().map(|&logit| {
            let z = f64::from(logit) / self.temperature;
            if z.is_nan() { f64::NEG_INFINITY } else { z }
        })
    }

    pub(crate) fn candidates(&self) -> impl Iterator<Item = Candidate> {
        (0..).zip(self.z()).map(|(token, z)| Candidate { z, token })
    }
}

/// The greatest of a row, the lowest token of several.
pub(crate) fn argmax(row: impl Iterator<Item = f64>) -> Candidate {
    let mut best = Candidate { z: f64::NEG_INFINITY, token: 0 };
    for (token, z) in (0..).zip(row) {
        if z > best.z {
            best = Candidate { z, token };
        }
    }
    best
}

/// The least z that min-p keeps.
fn floor(sampling: &Sampling, favourite: Candidate) -> f64 {
    if sampling.min_p > 0.0 { favourite.z + ln(sampling.min_p) } else { f64::NEG_INFINITY }
}

/// z descending, token ascending. No z is NaN, and −0 equals 0.
pub(crate) fn in_order(a: &Candidate, b: &Candidate) -> Ordering {
    b.z.partial_cmp(&a.z).unwrap_or(Ordering::Equal).then(a.token.cmp(&b.token))
}

/// e^(z − max); 1 at the maximum, even where that is infinite.
pub(crate) fn weight(candidate: &Candidate, max: f64) -> f64 {
    if candidate.z == max { 1.0 } else { exp(candidate.z - max) }
}

/// Puts the nucleus of `kept` first, and returns its size.
///
/// Its definition sorts everything, because the sum to reach is taken in order. Sorting a large vocabulary is slow and
/// nuclei are small, so a growing head is sorted instead: a sum in any order comes with a bound on what the order can
/// change, and where both ends of that interval cut at the same token, the true sum does too.
fn nucleus(kept: &mut [Candidate], top_p: f64, max: f64) -> usize {
    let any_order: f64 = kept.iter().map(|candidate| weight(candidate, max)).sum();
    // n − 1 additions of positive numbers, twice: at most (n − 1) ε apart (Higham 2002, section 4.2); doubled.
    let slack = 2.0 * kept.len() as f64 * f64::EPSILON;
    let mut head = NUCLEUS_HEAD;
    while head < kept.len() {
        kept.select_nth_unstable_by(head, in_order);
        kept[..head].sort_unstable_by(in_order);
        let least = prefix_reaching(&kept[..head], top_p * (any_order * (1.0 - slack)), max);
        let most = prefix_reaching(&kept[..head], top_p * (any_order * (1.0 + slack)), max);
        if let (Some(size), true) = (least, least == most) {
            return size;
        }
        head *= NUCLEUS_GROWTH;
    }
    kept.sort_unstable_by(in_order);
    let sum: f64 = kept.iter().map(|candidate| weight(candidate, max)).sum();
    prefix_reaching(kept, top_p * sum, max).unwrap_or(kept.len())
}

/// The size of the shortest prefix whose running sum of weights reaches `mass`.
fn prefix_reaching(ordered: &[Candidate], mass: f64, max: f64) -> Option<usize> {
    let mut sum = 0.0;
    for (before, candidate) in ordered.iter().enumerate() {
        sum += weight(candidate, max);
        if sum >= mass {
            return Some(before + 1);
        }
    }
    None
}

/// The search for the greatest z + g.
struct Race {
    seed: u64,
    position: u64,
    leader: Candidate,
    best: f64,
}

impl Race {
    /// Starts with the token of the greatest z: the higher the first mark, the fewer others need their noise computed.
    fn new(seed: u64, position: u64, favourite: Candidate) -> Self {
        let best = favourite.z + Draw::new(seed, position, favourite.token).gumbel();
        Race { seed, position, leader: favourite, best }
    }

    /// Enters all that reach `floor`. Adding rounds monotonically, so what a bound rules out could not have won.
    fn run(&mut self, candidates: impl Iterator<Item = Candidate>, floor: f64) {
        for candidate in candidates {
            if candidate.z >= floor && candidate.z + CEILING >= self.best {
                self.enter(candidate);
            }
        }
    }

    #[inline]
    fn enter(&mut self, candidate: Candidate) {
        let draw = Draw::new(self.seed, self.position, candidate.token);
        if candidate.z + draw.ceiling() < self.best {
            return;
        }
        let value = candidate.z + draw.gumbel();
        if value > self.best || (value == self.best && candidate.token < self.leader.token) {
            self.best = value;
            self.leader = candidate;
        }
    }
}
