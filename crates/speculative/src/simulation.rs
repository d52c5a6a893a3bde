//! The cycle of many sessions, simulated: a discrete-event simulation of coordinator, drafts and targets on a virtual clock.
//!
//! What DESIGN §8's formulas leave out is here: servers that batch what waits, queues, several sessions, verdicts that were
//! foreseen, round trips and passes that vary. γ is chosen by [`Outlook`](crate::policy::Outlook) and verdicts are foreseen by
//! [`Tree`](crate::anticipation::Tree), the very code of coordinator and draft. One seed gives the same outcome each time, and
//! two worlds of one seed, with as many sessions and tokens, differ in what is said of them alone: the models choose the same
//! tokens, and the same message of a session is as late.
//!
//! # What is assumed
//! - Sessions begin at once or soon after one another, prefilled, and run until each has its tokens; prompts cost nothing.
//! - A pass takes its rows' time, the target's that of its sessions too, however long the contexts are, and a lognormal variation.
//!   A device makes one at a time, with all that waits: a window of γ + 1 rows, a row of each proposal under way (those that it
//!   has not seen yet in the first), or, where nobody waits, a row of each branch that grows. A model that has made no pass for
//!   long takes longer once.
//! - Where the coordinator shares the target's device, messages go before passes: each lengthens the pass that is under way, or
//!   keeps the next one from beginning until it is sent and taken in. Branches that grew together come at once.
//! - A proposal of γ tokens is γ passes of the draft. A draft that was interrupted goes on at the end of a pass, at once.
//! - Co-located drafts use the devices of their targets, in turn with them, and no network lies between the two.
//! - Whether a token is accepted is decided by its session and position, and by its place in the window where acceptance differs
//!   by place: at each position the draft ranks eight tokens by z + g, the greatest of a Gumbel process; the target chooses among
//!   them, or another, by the odds exp((z + g) / σ), σ such that in these texts it chooses the first as often as is wanted. The draft ranks a
//!   position in the same way whatever it follows. Rows differ in how sure they are, and that is what anticipation goes by.
//! - Sessions choose γ together, as a coordinator's requests do, and begin with what those before them have learnt, where there
//!   were any ([`World::run_after`]).
//!
//! Left out: bandwidth, the coordinator's and the network's own queues, deadlines, faults, confidence thresholds, contexts that
//! are full, and the memory that bounds how deep branches go.
//!
//! # Sources
//! DESIGN §3 to §6 and §8; Leviathan et al. 2023 (arXiv 2211.17192) for the cycle; Kumar, Dao, May 2026 (arXiv 2603.03251) for
//! anticipation; "Speculation at a Distance" (arXiv 2606.25091) for the three that are held to each other, [`Comparison`].

use crate::{
    philox::philox4x32_10,
    policy::{Gamma, MOST_GAMMA},
};

mod clock;
mod comparison;
mod draft;
mod outcome;
mod run;
mod server;
mod session;
#[cfg(test)]
mod tests;
mod text;

pub use comparison::{BreakEven, Comparison, Setup};
pub use outcome::{CycleMean, Outcome};

/// Who runs where, and what is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    /// Sessions that run at once, from 1.
    pub sessions: usize,
    /// Tokens that each wants after the first one, which its prefill brings; from 1.
    pub tokens: usize,
    /// Draft servers, from 1; sessions are spread over them evenly. Co-located drafts are as many as targets.
    pub drafts: usize,
    /// Target servers, from 1; sessions are spread over them evenly.
    pub targets: usize,
    /// Proposed tokens of a cycle, or how they are chosen.
    pub gamma: Gamma,
    /// Branches that a session's draft may draft ahead (DESIGN §6); 0 is none.
    pub branches: usize,
    /// Where the drafts run.
    pub placement: Placement,
    /// From the coordinator to a draft and back. Nobody is that far from a co-located one.
    pub draft_rtt: Distance,
    /// From the coordinator to a target and back.
    pub target_rtt: Distance,
    /// The share of the tokens that are accepted once all before them were, 0 to 1, by its place in the window; the last holds beyond
    /// it too, so that one number is Leviathan's constant α.
    pub conditional_acceptance: Vec<f64>,
    /// What all lots are drawn by.
    pub seed: u64,
}

/// Where drafts run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// On servers of their own.
    Apart,
    /// On the targets' devices.
    CoLocated,
}

/// A link's round trip, as the emulation of distance has it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Distance {
    /// There and back, in seconds.
    pub rtt_s: f64,
    /// A round trip varies by up to so much, in seconds, half each way.
    pub jitter_s: f64,
}

/// What the parts of a cycle take.
#[derive(Clone, Debug, PartialEq)]
pub struct Times {
    /// A pass of the target by its rows, of one session; of one row it is a step of autoregressive decoding.
    pub target_pass: PassCurve,
    /// What a pass of the target takes longer for each session in it beyond the first, whose keys and values are read too, in seconds.
    pub target_session_s: f64,
    /// A pass of the draft by its rows.
    pub draft_pass: PassCurve,
    /// A pass of branches and of the tokens before them by its rows, with its share of what beginning and sending them costs.
    pub branch_pass: PassCurve,
    /// What a pass of the target takes longer by how long the device made none of that model.
    pub target_rest: RestCurve,
    /// The same of the draft.
    pub draft_rest: RestCurve,
    /// What a message to the draft and its answer cost beside network and passes, in seconds.
    pub draft_around_s: f64,
    /// The same of the target.
    pub target_around_s: f64,
    /// The coordinator's own part of a cycle, in seconds.
    pub coordinator_s: f64,
    /// What a message that coordinator, target or a co-located draft send or take in keeps the target's device from its passes, in
    /// seconds; 0 where the coordinator has a device of its own.
    pub handling_s: f64,
    /// Sessions of a target begin evenly within so many seconds, less than what all take; 0 is at once.
    pub begin_s: f64,
    /// σ of the lognormal factor by which a pass varies; its mean is 1. 0 is off.
    pub spread: f64,
}

/// What a pass takes by its rows: points, straight lines between them, and beyond them a line with the slope of all (least squares):
/// that of the last two alone would be their noise.
#[derive(Clone, Debug, PartialEq)]
pub struct PassCurve(Vec<(f64, f64)>);

impl PassCurve {
    /// From points (rows, seconds), one at least, the rows ascending. A smaller pass than the first takes as long as that; of one
    /// point all do.
    ///
    /// # Errors
    /// No points, rows that do not ascend, or a pass that takes no time or less than a smaller one.
    pub fn new(points: Vec<(f64, f64)>) -> Result<Self, InvalidWorld> {
        let ascend = points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        let valid =
            points.first().is_some_and(|first| first.1 > 0.0) && points.iter().all(|(r, s)| (r + s).is_finite());
        check("points", &points, ascend && valid, "rows that ascend, with seconds above 0 that do not fall")?;
        Ok(Self(points))
    }

    /// The same time at any size.
    ///
    /// # Errors
    /// No time.
    pub fn constant(seconds: f64) -> Result<Self, InvalidWorld> {
        Self::new(vec![(1.0, seconds)])
    }

    /// A pass of so many rows, in seconds.
    pub fn seconds(&self, rows: usize) -> f64 {
        let rows = rows as f64;
        let after = self.0.partition_point(|point| point.0 < rows);
        match (after.checked_sub(1).map(|before| self.0[before]), self.0.get(after)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (rows - a.0) / (b.0 - a.0),
            (None, Some(first)) => first.1,
            (Some(last), None) => last.1 + self.slope() * (rows - last.0),
            (None, None) => 0.0,
        }
    }

    /// Of the least-squares line through all points; seconds of a row.
    fn slope(&self) -> f64 {
        let count = self.0.len() as f64;
        let (rows, seconds) =
            self.0.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0 / count, sum.1 + point.1 / count));
        let (mut variance, mut covariance) = (0.0, 0.0);
        for point in &self.0 {
            variance += (point.0 - rows).powi(2);
            covariance += (point.0 - rows) * (point.1 - seconds);
        }
        if variance > 0.0 { covariance / variance } else { 0.0 }
    }
}

/// What a pass takes longer by how long its model has made none: points (waited, longer), both in seconds, straight lines between
/// them, nothing before the first, and beyond the last as much as there. The default is nothing at all.
///
/// What the model needs leaves the device's caches meanwhile, for those of others who share them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RestCurve(Vec<(f64, f64)>);

impl RestCurve {
    /// From points, if any.
    ///
    /// # Errors
    /// Waits that do not ascend, or what is below 0 or falls.
    pub fn new(points: Vec<(f64, f64)>) -> Result<Self, InvalidWorld> {
        let ascend = points.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1);
        let valid =
            points.iter().all(|(waited, longer)| *waited >= 0.0 && *longer >= 0.0 && (waited + longer).is_finite());
        check("rests", &points, ascend && valid, "waits from 0 that ascend, with seconds from 0 that do not fall")?;
        Ok(Self(points))
    }

    /// In seconds, after so many.
    fn seconds(&self, waited_s: f64) -> f64 {
        let after = self.0.partition_point(|point| point.0 <= waited_s);
        match (after.checked_sub(1).map(|before| self.0[before]), self.0.get(after)) {
            (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (waited_s - a.0) / (b.0 - a.0),
            (Some(last), None) => last.1,
            (None, _) => 0.0,
        }
    }
}

impl World {
    /// Tokens of a whole text.
    fn longest(&self) -> usize {
        1 + self.tokens
    }

    fn validate(&self) -> Result<(), InvalidWorld> {
        let counts =
            [("sessions", self.sessions), ("tokens", self.tokens), ("drafts", self.drafts), ("targets", self.targets)];
        for (field, count) in counts {
            check(field, count, (1..=u32::MAX as usize).contains(&count), "from 1")?;
        }
        check("gamma", self.gamma, self.gamma.most() <= MOST_GAMMA, "0 to 32, or auto")?;
        for (field, Distance { rtt_s, jitter_s }) in [("draft_rtt", self.draft_rtt), ("target_rtt", self.target_rtt)] {
            check_time(field, rtt_s)?;
            check_time(field, jitter_s)?;
        }
        let chances = &self.conditional_acceptance;
        let valid = !chances.is_empty() && chances.iter().all(|a| (0.0..=1.0).contains(a));
        check("conditional_acceptance", chances, valid, "0 to 1, one at least")
    }
}

impl Times {
    fn validate(&self) -> Result<(), InvalidWorld> {
        check_time("draft_around_s", self.draft_around_s)?;
        check_time("target_around_s", self.target_around_s)?;
        check_time("coordinator_s", self.coordinator_s)?;
        check_time("target_session_s", self.target_session_s)?;
        check_time("handling_s", self.handling_s)?;
        check_time("begin_s", self.begin_s)?;
        check("spread", self.spread, (0.0..=2.0).contains(&self.spread), "0 to 2")
    }
}

fn check_time(field: &'static str, seconds: f64) -> Result<(), InvalidWorld> {
    check(field, seconds, seconds >= 0.0 && seconds.is_finite(), "seconds from 0")
}

fn check(
    field: &'static str,
    value: impl std::fmt::Debug,
    valid: bool,
    allowed: &'static str,
) -> Result<(), InvalidWorld> {
    if valid { Ok(()) } else { Err(InvalidWorld { field, value: format!("{value:?}"), allowed }) }
}

/// A world, or its times, that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, allowed: {allowed}")]
pub struct InvalidWorld {
    /// The field's name in [`World`] or [`Times`]; `points` of a [`PassCurve`], `rests` of a [`RestCurve`].
    pub field: &'static str,
    /// The value that it had.
    pub value: String,
    /// The values that it may have.
    pub allowed: &'static str,
}

/// Evenly distributed between 0 and 1, both excluded.
fn lot(seed: u64, [a, b, c]: [u32; 3], stream: u32) -> f64 {
    let words = philox4x32_10([a, b, c, stream], [seed as u32, (seed >> 32) as u32]);
    (f64::from(words[0]) + 0.5) * 2f64.powi(-32)
}
