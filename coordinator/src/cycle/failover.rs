//! How a request gets its target, and another one when that is lost.

use std::time::{Duration, Instant};

use speculative::Verdict;
use telemetry::names::{convention, event, span, spec};
use tokio::time;

use super::{Cycle, Generation, Leg};
use crate::{
    Error,
    link::{Call, Opening, TargetLink},
    replicas::random,
};

/// The first pause when no replica took over; it doubles up to the longest. Each is cut by lot, so that the requests of a
/// lost target do not come back all at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Attempts that are made however long they take.
const LEAST_ATTEMPTS: u32 = 3;

impl Generation<'_> {
    /// Opens the target's session on the first replica that takes it; gives what that brought. Each is tried once: a request
    /// that has no token yet is soon asked for again.
    pub(super) async fn open_target(&mut self, open: Call) -> Result<Opening, Error> {
        let (mut avoided, mut failed) = (Vec::new(), None);
        loop {
            let tried = avoided.len();
            match TargetLink::open(&self.pair.target, open.clone(), self.deadlines.target, &mut avoided).await {
                Ok((target, opening)) => {
                    self.target = Some(target);
                    return Ok(opening);
                }
                Err(error) => {
                    let is_last = !error.is_replicas_own() || avoided.len() == tried;
                    let first = failed.take().unwrap_or(error);
                    if is_last {
                        return Err(first);
                    }
                    failed = Some(first);
                }
            }
        }
    }

    /// Goes on with another replica of the target, or with the same one started anew, after `lost`. It opens with all
    /// committed tokens, so that its first token is the next of the output. Attempts are repeated for as long again as the
    /// target had to answer, and a few times in any case.
    pub(super) async fn fail_over(&mut self, cycle: &mut Cycle, lost: Error) -> Result<Verdict, Error> {
        let begun = Instant::now();
        if !lost.is_replicas_own() {
            return Err(lost);
        }
        tracing::warn!(error = %lost, "another replica of the target is looked for");
        self.failovers += 1;
        cycle.span.event(event::TARGET_LOST, [(convention::ERROR_TYPE, lost.kind().into())]);
        let mut avoided: Vec<String> = self.target.take().map(TargetLink::abandon).into_iter().collect();
        let (mut attempt, mut pause) = (0_u32, FIRST_PAUSE);
        while attempt < LEAST_ATTEMPTS || begun.elapsed() < self.deadlines.target {
            attempt += 1;
            let mut span = self.span.child(span::FAILOVER);
            span.set(spec::ATTEMPT, i64::from(attempt));
            // All requests of a lost target prefill on the others at once: who was too slow for that gets longer.
            let patience = self.deadlines.target * attempt.min(LEAST_ATTEMPTS);
            let (open, tried) = (self.open(&span), avoided.len());
            match TargetLink::open(&self.pair.target, open, patience, &mut avoided).await {
                Ok((target, opening)) => {
                    self.target = Some(target);
                    self.placed(opening.exact);
                    self.logprobs.extend(opening.logprobs);
                    cycle.target = Leg { network: cycle.target.network + begun.elapsed(), ..cycle.target };
                    return Ok(Verdict { accepted: 0, tokens: vec![opening.first] });
                }
                Err(error) => {
                    span.fail(&error);
                    if !error.is_replicas_own() {
                        return Err(error);
                    }
                }
            }
            if avoided.len() == tried {
                // None is left that was not tried: all may be tried again.
                avoided.clear();
                time::sleep(pause.mul_f64(0.5 + 0.5 * random() as f64 / u64::MAX as f64)).await;
                pause = (2 * pause).min(LONGEST_PAUSE);
            }
        }
        Err(lost)
    }
}
