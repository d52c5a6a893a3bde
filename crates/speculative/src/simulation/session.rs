//! The coordinator's side of a session: `coordinator/src/{cycle.rs,link/draft.rs,link/draft/ahead.rs}` without a network.

use super::{
    Distance,
    draft::{Branch, Draft},
    lot,
    text::FIRST,
};
use crate::{
    TokenId,
    philox::stream,
    policy::{Drafted, Observed},
};

/// One session.
#[derive(Debug)]
pub(super) struct Session {
    /// Tokens so far, of which the draft does not know the last ones yet.
    pub(super) committed: usize,
    pub(super) unseen: Vec<TokenId>,
    pub(super) cycle: Cycle,
    /// The unanswered `Propose`.
    pub(super) asked: Option<Asked>,
    pub(super) ahead: Ahead,
    pub(super) draft: Draft,
    /// To the draft and to the target.
    pub(super) links: [Link; 2],
    /// When its last cycle ended.
    pub(super) ended_s: f64,
}

/// The services of a session.
#[derive(Clone, Copy, Debug)]
pub(super) enum Side {
    Draft,
    Target,
}

/// The cycle under way.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cycle {
    pub(super) begun_s: f64,
    /// Sessions that are under way.
    pub(super) sessions: usize,
    /// Tokens that were wanted.
    pub(super) wanted: usize,
    /// Tokens that are verified.
    pub(super) proposed: usize,
    /// Whether nothing was in the one before, where something could have been drafted ahead.
    pub(super) is_cold: bool,
    /// Whether others were wanted in the one before.
    pub(super) has_changed: bool,
    /// Where the draft was waited for.
    pub(super) draft: Option<Leg>,
    /// When the window left.
    pub(super) sent_s: f64,
}

impl Cycle {
    /// What it shows of the times to come, as `coordinator/src/cycle/record.rs` has it.
    pub(super) fn observed(&self, accepted: usize, target: Leg, coordinator_s: f64) -> Observed {
        let drafted = |leg: Leg| Drafted { compute_s: leg.compute_s, around_s: leg.network_s + leg.queue_s };
        Observed {
            sessions: self.sessions,
            wanted: self.wanted,
            gamma: self.proposed,
            ended_early: false,
            accepted,
            // A late hit tells nothing of what the draft takes.
            draft: self.draft.filter(|leg| leg.compute_s > 0.0).map(drafted),
            waited_s: self.draft.map_or(0.0, Leg::round_trip_s),
            is_cold: self.is_cold,
            has_changed: self.has_changed,
            verdict_s: target.round_trip_s() + coordinator_s,
        }
    }
}

/// One side's part of a cycle, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Leg {
    pub(super) compute_s: f64,
    pub(super) queue_s: f64,
    pub(super) network_s: f64,
}

/// What an answer says of the time that it took: from message in to message out, and of that waiting for the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) server_s: f64,
    pub(super) queue_s: f64,
}

impl Leg {
    pub(super) fn of(round_trip_s: f64, cost: Cost) -> Self {
        let Cost { server_s, queue_s } = cost;
        let compute_s = (server_s - queue_s).max(0.0);
        Self { compute_s, queue_s, network_s: round_trip_s - server_s }
    }

    pub(super) fn round_trip_s(self) -> f64 {
        self.compute_s + self.queue_s + self.network_s
    }
}

#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// The tokens that it told were committed.
    pub(super) tokens: Vec<TokenId>,
    /// Tokens that a branch may have.
    pub(super) most: usize,
    pub(super) sent_s: f64,
    /// Whether a branch could have been there.
    pub(super) anticipated: bool,
}

impl Session {
    /// Prefilled, which has brought the first of `longest` tokens.
    pub(super) fn new(id: usize, longest: usize, branches: usize) -> Self {
        Self {
            committed: 1,
            unseen: vec![FIRST],
            cycle: Cycle::default(),
            asked: None,
            ahead: Ahead::default(),
            draft: Draft::new(longest, branches),
            links: [Side::Draft, Side::Target].map(|side| Link::new(id, side)),
            ended_s: 0.0,
        }
    }
}

/// The proposal or branch that is verified now, and the branches that have come for what may come of it.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Its number; 0 where no branch will name it.
    parent: u64,
    gamma: usize,
    branches: Vec<Branch>,
}

impl Ahead {
    pub(super) fn plant(&mut self, id: u64, gamma: usize) {
        (self.parent, self.gamma) = (id, gamma);
        self.branches.clear();
    }

    pub(super) fn is_expected(&self) -> bool {
        self.parent != 0
    }

    /// A branch has come. What it builds on may have been dropped meanwhile.
    pub(super) fn take(&mut self, branch: Branch) {
        if branch.parent == self.parent || self.branches.iter().any(|known| known.id == branch.parent) {
            self.branches.push(branch);
        }
    }

    /// The branch for the verdict that committed `tokens`.
    pub(super) fn settle(&self, tokens: &[TokenId]) -> Option<Branch> {
        let (&final_token, accepted) = tokens.split_last().filter(|_| self.is_expected())?;
        let as_proposed = accepted.len() <= self.gamma && accepted.iter().all(|&token| token == FIRST);
        let is_for = |branch: &&Branch| {
            let Branch { parent, accepted: of_parent, final_token: last, .. } = **branch;
            (parent, of_parent, last) == (self.parent, accepted.len(), final_token)
        };
        self.branches.iter().find(is_for).filter(|_| as_proposed).copied()
    }

    /// The branch is verified now. Only what may come of it is kept.
    pub(super) fn adopt(&mut self, branch: Branch) {
        (self.parent, self.gamma) = (branch.id, branch.gamma);
        let mut below = vec![branch.id];
        // What builds on a branch comes after it.
        self.branches.retain(|known| {
            let is_below = below.contains(&known.parent);
            below.extend(is_below.then_some(known.id));
            is_below
        });
    }
}

/// One stream: messages arrive in the order in which they were sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    /// Its session and the service it leads to, which tell its lots from those of others.
    of: [u32; 2],
    sent: u32,
    /// There and back.
    last_s: [f64; 2],
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    There,
    Back,
}

impl Link {
    pub(super) fn new(session: usize, side: Side) -> Self {
        Self { of: [session as u32, side as u32], sent: 0, last_s: [0.0; 2] }
    }

    /// When a message arrives that is sent now: half a round trip and half of what is around it later.
    pub(super) fn arrival_s(&mut self, now_s: f64, way: Way, distance: Distance, around_s: f64, seed: u64) -> f64 {
        let Distance { rtt_s, jitter_s } = distance;
        self.sent += 1;
        let [session, side] = self.of;
        let varied_s = jitter_s * (2.0 * lot(seed, [session, side, self.sent], stream::MESSAGES) - 1.0);
        let last_s = &mut self.last_s[way as usize];
        *last_s = last_s.max(now_s + ((rtt_s + varied_s).max(0.0) + around_s) / 2.0);
        *last_s
    }
}
