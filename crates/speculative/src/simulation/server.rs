//! A server's device: `crates/model/src/worker/batch.rs` without a model.

use std::mem;

use super::lot;
use crate::philox::stream;

/// One device, which makes one pass after the other: each takes in all that waits when the one before has ended.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// Since the last pass began.
    arrived: Vec<Task>,
    verifying: Vec<Verify>,
    drafting: Vec<Drafting>,
    /// Sessions whose branches grow while nothing else is to be done.
    pub(super) growing: Vec<usize>,
    pub(super) pass: Option<Pass>,
    /// Whether it is about to look for what waits.
    pub(super) wakes: bool,
    /// Messages keep it from the next pass until then, in seconds.
    pub(super) handles_until_s: f64,
    /// Where one device has both models, they take turns.
    drafted_last: bool,
    /// The target's and the draft's so far, and when the last of each ended, in seconds.
    passes: [u32; 2],
    ended_s: [f64; 2],
    /// In the target's passes and in the draft's, in seconds.
    pub(super) verifying_s: f64,
    pub(super) drafting_s: f64,
}

/// What a session wants of a server.
#[derive(Debug)]
pub(super) enum Task {
    Verify(Verify),
    Draft(Drafting),
    /// Branches of the session.
    Grow(usize),
}

/// A window to verify in one pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verify {
    pub(super) session: usize,
    pub(super) rows: usize,
    pub(super) arrived_s: f64,
}

/// A proposal, a pass for each of its tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drafting {
    pub(super) session: usize,
    /// Rows of the next pass.
    pub(super) rows: usize,
    pub(super) gamma: usize,
    pub(super) drafted: usize,
    /// When it was asked for, and when it began to wait for the model.
    pub(super) received_s: f64,
    pub(super) enqueued_s: f64,
    /// In passes so far.
    pub(super) passes_s: f64,
}

/// A pass under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pass {
    pub(super) kind: Kind,
    pub(super) took_s: f64,
    /// By how much messages that came meanwhile make it longer than was foreseen, in seconds.
    longer_s: f64,
}

/// Whose pass it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Verify,
    Draft,
    Grow,
}

impl Kind {
    /// The target, or the draft.
    fn model(self) -> usize {
        usize::from(self != Self::Verify)
    }
}

impl Server {
    pub(super) fn enqueue(&mut self, task: Task) {
        self.arrived.push(task);
    }

    pub(super) fn admit(&mut self) {
        for task in mem::take(&mut self.arrived) {
            match task {
                Task::Verify(verify) => self.verifying.push(verify),
                Task::Draft(drafting) => self.drafting.push(drafting),
                Task::Grow(session) => self.growing.push(session),
            }
        }
    }

    /// What the next pass is for; `None` where nothing waits.
    pub(super) fn next(&mut self) -> Option<Kind> {
        let kind = match (self.verifying.is_empty(), self.drafting.is_empty()) {
            (false, true) => Kind::Verify,
            (true, false) => Kind::Draft,
            (false, false) if self.drafted_last => Kind::Verify,
            (false, false) => Kind::Draft,
            (true, true) if self.growing.is_empty() => return None,
            (true, true) => Kind::Grow,
        };
        self.drafted_last = kind == Kind::Draft;
        Some(kind)
    }

    /// Of how many sessions the next pass of the target is, and its rows.
    pub(super) fn windows(&self) -> (usize, usize) {
        (self.verifying.len(), self.verifying.iter().map(|verify| verify.rows).sum())
    }

    pub(super) fn draft_rows(&self) -> usize {
        self.drafting.iter().map(|drafting| drafting.rows).sum()
    }

    /// What decides how long the next pass takes. Those of one model are alike on whatever device: its server is the `of`th.
    pub(super) fn lot(&mut self, seed: u64, of: usize, kind: Kind) -> f64 {
        let model = kind.model();
        self.passes[model] += 1;
        lot(seed, [of as u32, self.passes[model], model as u32], stream::PASSES)
    }

    /// How long the model of the next pass has made none, in seconds.
    pub(super) fn waited_s(&self, kind: Kind, now_s: f64) -> f64 {
        now_s - self.ended_s[kind.model()]
    }

    pub(super) fn begin(&mut self, kind: Kind, took_s: f64) {
        debug_assert!(self.pass.is_none(), "one pass after the other");
        self.pass = Some(Pass { kind, took_s, longer_s: 0.0 });
    }

    /// A message takes so long of a pass under way, or keeps it from the next one until then.
    pub(super) fn handle(&mut self, seconds: f64, until_s: f64) {
        match &mut self.pass {
            Some(pass) => pass.longer_s += seconds,
            None => self.handles_until_s = until_s.max(self.handles_until_s + seconds),
        }
    }

    /// By how much the pass that was to end now goes on.
    pub(super) fn goes_on_s(&mut self) -> f64 {
        let Some(pass) = &mut self.pass else { return 0.0 };
        let longer_s = mem::take(&mut pass.longer_s);
        pass.took_s += longer_s;
        longer_s
    }

    /// The pass has ended.
    pub(super) fn end(&mut self, now_s: f64) -> Option<Pass> {
        let pass = self.pass.take()?;
        match pass.kind {
            Kind::Verify => self.verifying_s += pass.took_s,
            Kind::Draft | Kind::Grow => self.drafting_s += pass.took_s,
        }
        self.ended_s[pass.kind.model()] = now_s;
        Some(pass)
    }

    /// Windows that the pass has verified.
    pub(super) fn verified(&mut self) -> Vec<Verify> {
        mem::take(&mut self.verifying)
    }

    /// Proposals that the pass has completed; all others go on.
    pub(super) fn drafted(&mut self, took_s: f64) -> Vec<Drafting> {
        for drafting in &mut self.drafting {
            drafting.drafted += 1;
            drafting.rows = 1;
            drafting.passes_s += took_s;
        }
        self.drafting.extract_if(.., |drafting| drafting.drafted == drafting.gamma).collect()
    }
}
