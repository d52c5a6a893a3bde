//! Whether a target's arithmetic keeps the law: a recorded run decoded again by the target alone, and rows that are computed
//! in windows, prefills and beside other sessions held against the same rows computed one by one.
//!
//! On the CPU that is a promise, which this checks from outside. On a GPU it is a property of a device and a dtype, which
//! this measures. The protocol tells of each token its log-probability and those of the likeliest 20; rows count as
//! identical where these have the same bits.

mod summary;

use proto::v1;
use serde::{Deserialize, Serialize};
use speculative::{Coupling, Logprobs, Sampling, TokenId, gumbel, policy::Gamma};
use telemetry::Span;
use tokio::task::JoinSet;

use crate::{
    Error, Pair, Request, Service, cycle,
    link::{self, Call, Opening, Proposed, TargetLink, Verified},
    pairing::Deadlines,
    report::{self, Model, Models},
};
pub use summary::summary;

/// A run as `outrider generate --json` writes it, as far as it is needed to decode it again.
#[derive(Clone, Debug, Deserialize)]
pub struct Recorded {
    /// The prompt's tokens.
    pub prompt_token_ids: Vec<TokenId>,
    /// What came out.
    pub token_ids: Vec<TokenId>,
    /// How tokens were chosen, but for the seed.
    pub sampling: report::Sampling,
    /// The seed.
    pub seed: u64,
    /// `gumbel` or `rejection`; runs that do not say it were by `gumbel`.
    #[serde(default)]
    pub coupling: Option<String>,
    /// What each cycle proposed and how much of it was accepted.
    pub windows: Vec<[usize; 2]>,
    /// What computed it.
    pub models: Models,
}

/// What is held against each other.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is decoded one by one.
    pub request: Request,
    /// Rows of the windows that are compared with that.
    pub windows: Vec<usize>,
    /// Sessions that decode the same text at the same time, so that passes are shared.
    pub sessions: usize,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
pub struct Certificate {
    /// What was asked.
    pub target: Model,
    /// The recorded run decoded again; `null` where there was none.
    pub replay: Option<Replay>,
    /// Rows computed otherwise than one by one.
    pub invariance: Vec<Invariance>,
}

/// A recorded run beside what the target alone decodes.
#[derive(Clone, Debug, Serialize)]
pub struct Replay {
    /// Tokens that were compared.
    pub tokens: usize,
    /// Whether weights and arithmetic are those of the recorded run, so that the tokens ought to be.
    pub same_model: bool,
    /// See [`same_model`](Self::same_model).
    pub same_arithmetic: bool,
    /// `null` where all are equal.
    pub first_difference: Option<Difference>,
}

/// The first token that differs.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// Among the emitted tokens, from 0.
    pub index: usize,
    /// In the sequence, prompt included.
    pub position: usize,
    /// The token of the run that is examined.
    pub token: TokenId,
    /// The token that the target alone decodes.
    pub token_alone: TokenId,
    /// Between the log-probabilities of its two likeliest tokens there.
    pub top2_gap: Option<f64>,
    /// Between its two best choices there, noise included, in the same units: less than what rows differ by makes another
    /// token. `null` where it cannot be told from the likeliest 20.
    pub choice_gap: Option<f64>,
    /// Rows of the window that the examined token was computed in, and which of them from 0; `null` where it is not known.
    pub rows: Option<[usize; 2]>,
}

/// Rows of one kind beside the same rows computed one by one.
#[derive(Clone, Debug, Serialize)]
pub struct Invariance {
    /// `windows`, `prefills`, or `sessions` for windows of several sessions that share passes.
    pub kind: &'static str,
    /// Rows of a window; of a prefill all of the sequence before.
    pub window: Option<usize>,
    /// Sessions at once.
    pub sessions: usize,
    /// Rows that were compared.
    pub rows: usize,
    /// Of these, those whose told log-probabilities have the same bits.
    pub identical_rows: usize,
    /// The greatest difference between log-probabilities of one token.
    pub max_difference: f64,
    /// The first token that was chosen otherwise; `null` where none was.
    pub first_difference: Option<Difference>,
}

impl Certificate {
    /// Whether every token was the one that the target alone decodes.
    pub fn holds(&self) -> bool {
        let replay = self.replay.iter().all(|replay| replay.first_difference.is_none());
        replay && self.invariance.iter().all(|found| found.first_difference.is_none())
    }

    /// Whether every row had the same bits, too.
    pub fn is_invariant(&self) -> bool {
        self.holds() && self.invariance.iter().all(|found| found.identical_rows == found.rows)
    }
}

/// Decodes `plan.request` with the target alone and holds it against the recorded run, if there is one, and against rows
/// that are computed otherwise; tells `progress` what is under way.
///
/// # Errors
/// A target that does not answer.
pub async fn certify(
    pair: &Pair,
    plan: Plan,
    recorded: Option<&Recorded>,
    deadlines: Deadlines,
    mut progress: impl FnMut(&str),
) -> Result<Certificate, Error> {
    let Plan { request, windows, sessions } = plan;
    let request =
        Request { gamma: Gamma::Fixed(0), top_logprobs: Some(Logprobs::MOST_TOP), stop: Vec::new(), ..request };
    progress("decoding one by one");
    let alone = Alone::decode(pair, &request, deadlines).await?;
    let replay = recorded.map(|recorded| alone.replay(recorded, &pair.target));
    let mut invariance = Vec::new();
    for &window in &windows {
        progress(&format!("in windows of {window}"));
        invariance.push(alone.windows(&pair.target, window, 1, deadlines).await?);
    }
    if sessions > 1
        && let Some(&window) = windows.last()
    {
        progress(&format!("in windows of {window} in {sessions} sessions"));
        invariance.push(alone.windows(&pair.target, window, sessions, deadlines).await?);
    }
    progress("in prefills");
    invariance.push(alone.prefills(&pair.target, deadlines).await?);
    Ok(Certificate { target: Model::of(&pair.target), replay, invariance })
}

/// What the target alone decodes, a row at a time.
#[derive(Clone, Debug)]
struct Alone {
    prompt: Vec<TokenId>,
    sampling: Sampling,
    tokens: Vec<TokenId>,
    logprobs: Vec<Logprobs>,
}

/// Tokens of one session beside [`Alone`]'s.
#[derive(Clone, Debug, Default)]
struct Comparison {
    rows: usize,
    identical_rows: usize,
    max_difference: f64,
    first_difference: Option<Difference>,
}

impl Alone {
    async fn decode(pair: &Pair, request: &Request, deadlines: Deadlines) -> Result<Self, Error> {
        let pair = pair.without_draft();
        let tracer = telemetry::Tracer::off();
        let run = cycle::generate(&pair, request.clone(), deadlines, &tracer, |_| {}, std::future::pending()).await?;
        Ok(Self { prompt: run.prompt, sampling: run.sampling, tokens: run.token_ids, logprobs: run.logprobs })
    }

    fn replay(&self, recorded: &Recorded, target: &Service) -> Replay {
        let (before, now) = (&recorded.models.target, Model::of(target));
        // A shorter context leaves a tail without its like.
        let tokens = recorded.token_ids.len().min(self.tokens.len());
        let differs = (0..tokens).find(|&index| recorded.token_ids[index] != self.tokens[index]);
        let first_difference =
            differs.map(|index| self.difference(index, recorded.token_ids[index], rows_of(&recorded.windows, index)));
        Replay {
            tokens,
            same_model: before.fingerprint == now.fingerprint,
            same_arithmetic: before.arithmetic_fingerprint == now.arithmetic_fingerprint,
            first_difference,
        }
    }

    fn difference(&self, index: usize, token: TokenId, rows: Option<[usize; 2]>) -> Difference {
        let position = self.prompt.len() + index;
        let top = &self.logprobs[index].top;
        let gap = |mut scores: Vec<f64>| {
            scores.sort_by(|a, b| b.total_cmp(a));
            Some(scores.first()? - scores.get(1)?)
        };
        let Sampling { temperature, seed, penalties, .. } = self.sampling;
        // In units of log-probabilities, as the other gap: T · (z/T + g).
        let choice = |&(token, logprob): &(TokenId, f32)| match temperature {
            0.0 => f64::from(logprob),
            _ => f64::from(logprob) + temperature * gumbel(seed, position as u64, token),
        };
        let best = top.iter().max_by(|a, b| choice(a).total_cmp(&choice(b))).map(|(token, _)| *token);
        // Where the choice is not among those that are told, or was made after truncation or penalties, it is not known.
        let is_known = best == Some(self.tokens[index]) && penalties.are_off();
        Difference {
            index,
            position,
            token,
            token_alone: self.tokens[index],
            top2_gap: gap(top.iter().map(|(_, logprob)| f64::from(*logprob)).collect()),
            choice_gap: gap(top.iter().map(choice).collect()).filter(|_| is_known),
            rows,
        }
    }

    /// A session that begins with the first `held` of the tokens.
    fn call(&self, held: usize) -> Call {
        let tokens = self.prompt.iter().chain(&self.tokens[..held]).copied().collect();
        let open = v1::Open {
            tokens,
            prompt_len: self.prompt.len() as u32,
            sampling: Some(link::sampling(self.sampling)),
            max_tokens: (self.tokens.len() - held) as u32,
            trace: None,
            top_logprobs: Some(Logprobs::MOST_TOP as u32),
            branches: 0,
            coupling: link::coupling(Coupling::Gumbel),
        };
        Call { open, deadline: None }
    }

    /// The tokens again, verified in windows of `window` rows that propose what was decoded one by one.
    async fn windows(
        &self,
        target: &Service,
        window: usize,
        sessions: usize,
        deadlines: Deadlines,
    ) -> Result<Invariance, Error> {
        let mut running = JoinSet::new();
        for _ in 0..sessions {
            let (alone, target) = (self.clone(), target.clone());
            running.spawn(async move { alone.in_windows(&target, window, deadlines).await });
        }
        let mut all = Comparison::default();
        while let Some(ended) = running.join_next().await {
            all.add(ended.expect("comparing does not panic")?);
        }
        let kind = if sessions > 1 { "sessions" } else { "windows" };
        Ok(all.of(kind, Some(window), sessions))
    }

    async fn in_windows(&self, target: &Service, window: usize, deadlines: Deadlines) -> Result<Comparison, Error> {
        let (mut session, Opening { first, logprobs, .. }) =
            TargetLink::open(target, self.call(0), deadlines.target, &mut Vec::new()).await?;
        let (mut compared, mut done, mut cycle) = (Comparison::default(), 1, 0);
        // The first token comes from the prompt.
        if logprobs.first().is_some_and(|logprobs| !compared.row(self, 0, first, logprobs, None)) {
            return Ok(compared);
        }
        while done < self.tokens.len() {
            cycle += 1;
            let rows = window.min(self.tokens.len() - done);
            let proposed = Proposed { tokens: self.tokens[done..done + rows - 1].to_vec(), ..Proposed::default() };
            let base_len = self.prompt.len() + done;
            let Verified { verdict, logprobs, .. } =
                session.verify(cycle, base_len, &proposed, deadlines.target, &Span::off()).await?;
            for (row, (token, logprobs)) in verdict.tokens.into_iter().zip(&logprobs).enumerate() {
                if !compared.row(self, done + row, token, logprobs, Some([rows, row])) {
                    return Ok(compared);
                }
            }
            done += rows;
        }
        Ok(compared)
    }

    /// Some of the tokens again, each after a prefill of all that came before it.
    async fn prefills(&self, target: &Service, deadlines: Deadlines) -> Result<Invariance, Error> {
        const PREFILLS: usize = 8;
        let mut compared = Comparison::default();
        let step = self.tokens.len().div_ceil(PREFILLS + 1).max(1);
        for held in (step..self.tokens.len()).step_by(step) {
            let (_, Opening { first, logprobs, .. }) =
                TargetLink::open(target, self.call(held), deadlines.target, &mut Vec::new()).await?;
            let rows = [self.prompt.len() + held, self.prompt.len() + held - 1];
            if let Some(logprobs) = logprobs.first() {
                compared.row(self, held, first, logprobs, Some(rows));
            }
        }
        Ok(compared.of("prefills", None, 1))
    }
}

impl Comparison {
    /// Compares a row; false where it chose another token, after which nothing can be compared.
    fn row(
        &mut self,
        alone: &Alone,
        index: usize,
        token: TokenId,
        logprobs: &Logprobs,
        rows: Option<[usize; 2]>,
    ) -> bool {
        let expected = &alone.logprobs[index];
        self.rows += 1;
        self.identical_rows += usize::from(token == alone.tokens[index] && identical(expected, logprobs));
        self.max_difference = self.max_difference.max(difference(expected, logprobs));
        if token == alone.tokens[index] {
            return true;
        }
        if self.first_difference.is_none() {
            self.first_difference = Some(alone.difference(index, token, rows));
        }
        false
    }

    fn add(&mut self, other: Self) {
        self.rows += other.rows;
        self.identical_rows += other.identical_rows;
        self.max_difference = self.max_difference.max(other.max_difference);
        let earlier = [self.first_difference.take(), other.first_difference].into_iter().flatten();
        self.first_difference = earlier.min_by_key(|difference| difference.index);
    }

    fn of(self, kind: &'static str, window: Option<usize>, sessions: usize) -> Invariance {
        let Self { rows, identical_rows, max_difference, first_difference } = self;
        Invariance { kind, window, sessions, rows, identical_rows, max_difference, first_difference }
    }
}

fn identical(one: &Logprobs, other: &Logprobs) -> bool {
    let bits = |(token, logprob): &(TokenId, f32)| (*token, logprob.to_bits());
    one.chosen.to_bits() == other.chosen.to_bits()
        && one.top.len() == other.top.len()
        && one.top.iter().map(bits).eq(other.top.iter().map(bits))
}

/// The greatest difference between the log-probabilities of one token, of those that both tell.
fn difference(one: &Logprobs, other: &Logprobs) -> f64 {
    let told = |token| other.top.iter().find(|(other, _)| *other == token).map(|(_, logprob)| f64::from(*logprob));
    let of = |&(token, logprob): &(TokenId, f32)| Some((f64::from(logprob) - told(token)?).abs());
    one.top.iter().filter_map(of).fold(0.0, f64::max)
}

/// The rows of the window that made token `index` of a run, and which of them it was. The first token is the prefill's.
fn rows_of(windows: &[[usize; 2]], index: usize) -> Option<[usize; 2]> {
    let mut first = 1_usize;
    for [gamma, accepted] in windows {
        if (first..=first.saturating_add(*accepted)).contains(&index) {
            return Some([gamma.saturating_add(1), index - first]);
        }
        first = first.saturating_add(*accepted).saturating_add(1);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 5, 3 and 1 rows that make 3, 3 and 1 tokens after the first.
    #[test]
    fn a_token_is_found_in_its_window() {
        let windows = [[4, 2], [2, 2], [0, 0]];
        let rows: Vec<_> = (0..9).map(|index| rows_of(&windows, index)).collect();
        let of = |rows, row| Some([rows, row]);
        assert_eq!(rows, [None, of(5, 0), of(5, 1), of(5, 2), of(3, 0), of(3, 1), of(3, 2), of(1, 0), None]);
    }

    fn alone(temperature: f64) -> Alone {
        let logprobs = |top: [(TokenId, f32); 3]| Logprobs { chosen: top[0].1, top: top.to_vec() };
        Alone {
            prompt: vec![1, 2],
            sampling: Sampling { temperature, seed: 9, ..Sampling::greedy() },
            tokens: vec![5, 6],
            logprobs: vec![logprobs([(5, -0.5), (6, -0.75), (7, -3.0)]), logprobs([(6, -0.1), (5, -2.5), (7, -4.0)])],
        }
    }

    #[test]
    fn a_row_with_other_bits_is_counted_and_measured() {
        let alone = alone(0.0);
        let mut compared = Comparison::default();
        assert!(compared.row(&alone, 0, 5, &alone.logprobs[0].clone(), None));
        let mut other = alone.logprobs[1].clone();
        other.top[2].1 = -4.25;
        assert!(compared.row(&alone, 1, 6, &other, None));
        assert_eq!((compared.rows, compared.identical_rows, compared.max_difference), (2, 1, 0.25));
        assert!(compared.first_difference.is_none());
        assert!(!compared.row(&alone, 1, 7, &other, Some([5, 3])));
        let first = compared.first_difference.expect("another token");
        assert_eq!((first.index, first.position, first.token, first.token_alone), (1, 3, 7, 6));
        assert_eq!(first.rows, Some([5, 3]));
    }

    #[test]
    fn gaps_are_of_the_likeliest_and_of_the_choices() {
        let greedy = alone(0.0).difference(0, 6, None);
        assert_eq!((greedy.top2_gap, greedy.choice_gap), (Some(0.25), Some(0.25)));
        let sampled = alone(0.5).difference(0, 6, None);
        let mut scores: Vec<f64> =
            [(5, -0.5), (6, -0.75), (7, -3.0)].map(|(token, z)| z / 0.5 + gumbel(9, 2, token)).to_vec();
        scores.sort_by(|a, b| b.total_cmp(a));
        let best = scores[0] == -0.5 / 0.5 + gumbel(9, 2, 5);
        assert_eq!(sampled.top2_gap, Some(0.25));
        match sampled.choice_gap {
            Some(gap) => assert!(best && (gap - 0.5 * (scores[0] - scores[1])).abs() < 1e-12, "{gap} of {scores:?}"),
            None => assert!(!best, "{scores:?}"),
        }
    }
}
