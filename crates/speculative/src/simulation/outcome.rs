//! What a run comes to.

use super::{
    Placement, World,
    server::Server,
    session::{Leg, Session},
};
use crate::Acceptance;

/// What a run comes to. Times are of the virtual clock.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Of all sessions.
    pub tokens: u64,
    /// From the begin of the first cycle to the end of the last one.
    pub seconds: f64,
    /// Of all sessions together, from when all have begun until the first one ends: what comes before and after is of fewer.
    pub tokens_per_s: f64,
    /// The median of the sessions, each over the time from the first one's begin to its own end.
    pub session_tokens_per_s: f64,
    /// Cycles of all sessions.
    pub cycles: u64,
    /// What one takes on average.
    pub cycle: CycleMean,
    /// The median of what one takes, in seconds.
    pub cycle_p50_s: f64,
    /// What 99 of 100 do not exceed, in seconds.
    pub cycle_p99_s: f64,
    /// What was proposed and accepted.
    pub acceptance: Acceptance,
    /// Proposed tokens of a cycle, on average.
    pub gamma: f64,
    /// Verdicts that were foreseen in time.
    pub hits: u64,
    /// Those whose branch was still on its way.
    pub late_hits: u64,
    /// Those that were not foreseen.
    pub misses: u64,
    /// Rows of the branches that drafts sent.
    pub branch_rows: u64,
    /// Those of branches that were never verified.
    pub wasted_branch_rows: u64,
    /// The share of the time in which a draft's device computes for it, branches included, 0 to 1; mean of the devices.
    pub drafts_busy: f64,
    /// The share of the time in which a target's device computes for it, 0 to 1; mean of the devices.
    pub targets_busy: f64,
    /// Events of the simulation.
    pub events: u64,
}

/// A cycle's parts (DESIGN §8), means in seconds. They add up to `wall_s`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CycleMean {
    /// The draft's passes that a cycle waited for.
    pub draft_compute_s: f64,
    /// Waiting for the draft's device.
    pub draft_queue_s: f64,
    /// On the way to the draft and back, what is around messages included.
    pub draft_network_s: f64,
    /// The target's pass.
    pub target_compute_s: f64,
    /// Waiting for the target's device.
    pub target_queue_s: f64,
    /// On the way to the target and back, what is around messages included.
    pub target_network_s: f64,
    /// The coordinator's own.
    pub coordinator_s: f64,
    /// All of it.
    pub wall_s: f64,
}

/// How a verdict was met.
#[derive(Clone, Copy, Debug)]
pub(super) enum Met {
    Hit,
    Late,
    Miss,
}

/// What has come to pass.
#[derive(Debug, Default)]
pub(super) struct Tally {
    acceptance: Acceptance,
    legs: [Leg; 2],
    walls_s: Vec<f64>,
    /// When all sessions have begun, when the first one has ended, and tokens between the two.
    all_from_s: f64,
    first_end_s: Option<f64>,
    together: f64,
    met: [u64; 3],
    branch_rows: usize,
    used_rows: usize,
}

impl Tally {
    /// Of sessions that have all begun by then.
    pub(super) fn new(all_from_s: f64) -> Self {
        Self { all_from_s, ..Self::default() }
    }

    /// A cycle that began then and took so long.
    pub(super) fn cycle(&mut self, proposed: usize, accepted: usize, legs: [Leg; 2], (begun_s, wall_s): (f64, f64)) {
        self.acceptance.record(proposed, accepted);
        let ended_s = begun_s + wall_s;
        let until_s = self.first_end_s.map_or(ended_s, |first_s| first_s.min(ended_s));
        let within_s = (until_s - begun_s.max(self.all_from_s)).max(0.0);
        self.together += (1 + accepted) as f64 * within_s / wall_s;
        for (sum, leg) in self.legs.iter_mut().zip(legs) {
            sum.compute_s += leg.compute_s;
            sum.queue_s += leg.queue_s;
            sum.network_s += leg.network_s;
        }
        self.walls_s.push(wall_s);
    }

    /// A session has ended.
    pub(super) fn ended(&mut self, at_s: f64) {
        self.first_end_s.get_or_insert(at_s);
    }

    pub(super) fn met(&mut self, met: Met) {
        self.met[met as usize] += 1;
    }

    /// A branch of so many tokens was sent.
    pub(super) fn sent(&mut self, rows: usize) {
        self.branch_rows += rows;
    }

    /// A branch of so many tokens is the proposal.
    pub(super) fn used(&mut self, rows: usize) {
        self.used_rows += rows;
    }

    pub(super) fn outcome(
        mut self,
        world: &World,
        sessions: &[Session],
        servers: &[Server],
        ended_s: f64,
        events: u64,
    ) -> Outcome {
        let tokens = (world.sessions * world.tokens) as u64;
        let seconds = sessions.iter().map(|session| session.ended_s).fold(0.0, f64::max);
        let mut rates: Vec<f64> = sessions.iter().map(|session| world.tokens as f64 / session.ended_s).collect();
        let cycle = self.mean();
        let targets = &servers[..world.targets];
        let drafts = match world.placement {
            Placement::Apart => &servers[world.targets..],
            Placement::CoLocated => targets,
        };
        let busy = |servers: &[Server], of: fn(&Server) -> f64| {
            servers.iter().map(of).sum::<f64>() / (ended_s * servers.len() as f64)
        };
        let [hits, late_hits, misses] = self.met;
        Outcome {
            tokens,
            seconds,
            tokens_per_s: match self.first_end_s.unwrap_or(seconds) - self.all_from_s {
                together_s if together_s > 0.0 => self.together / together_s,
                _ => tokens as f64 / seconds,
            },
            session_tokens_per_s: quantile(&mut rates, 0.5),
            cycles: self.acceptance.cycles(),
            cycle,
            cycle_p50_s: quantile(&mut self.walls_s, 0.5),
            cycle_p99_s: quantile(&mut self.walls_s, 0.99),
            gamma: self.acceptance.proposed() as f64 / self.acceptance.cycles() as f64,
            acceptance: self.acceptance,
            hits,
            late_hits,
            misses,
            branch_rows: self.branch_rows as u64,
            wasted_branch_rows: (self.branch_rows - self.used_rows) as u64,
            drafts_busy: busy(drafts, |server| server.drafting_s),
            targets_busy: busy(targets, |server| server.verifying_s),
            events,
        }
    }

    fn mean(&self) -> CycleMean {
        let cycles = self.walls_s.len() as f64;
        let [draft, target] = self.legs.map(|leg| Leg {
            compute_s: leg.compute_s / cycles,
            queue_s: leg.queue_s / cycles,
            network_s: leg.network_s / cycles,
        });
        let wall_s = self.walls_s.iter().sum::<f64>() / cycles;
        CycleMean {
            draft_compute_s: draft.compute_s,
            draft_queue_s: draft.queue_s,
            draft_network_s: draft.network_s,
            target_compute_s: target.compute_s,
            target_queue_s: target.queue_s,
            target_network_s: target.network_s,
            coordinator_s: wall_s - draft.round_trip_s() - target.round_trip_s(),
            wall_s,
        }
    }
}

/// The least of `values` that a share of so much does not exceed.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    let at = ((values.len() as f64 * share).ceil() as usize).clamp(1, values.len()) - 1;
    *values.select_nth_unstable_by(at, f64::total_cmp).1
}
