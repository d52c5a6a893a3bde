//! What cycles take where so many sessions are under way, and what is tried to see it.

use super::{
    MOST_GAMMA, Observed,
    times::{Average, Curve, Fitted, LONGEST_SURPRISE},
};

/// What of the past stays with each new cycle in what a verdict takes by γ, and in how long a cycle waits by γ. How verdicts compare
/// is the model's and its device's, and what changes for all of them is the pace; a wait changes with the distance.
pub(super) const MEMORY_VERDICT: f64 = 1.0 - 1.0 / 512.0;
const MEMORY_WAIT: f64 = 1.0 - 1.0 / 64.0;

/// How much of its way back to 1, in logarithms, a pace goes with each cycle.
const PACE_RETURNS: f64 = 1.0 / 64.0;

/// What the first cycles propose, to see what each part costs; plain decoding most often, because all is held to it and it costs
/// least. A session that cannot propose as many decodes plainly.
const FIRST_GAMMAS: [usize; 9] = [2, 2, 4, 0, 0, 0, 0, 0, 0];

/// A trial begins when the time since the last one of its kind is so many times what it is expected to lose: of [`Trial::Other`],
/// and of those beside it.
const TRIAL_SPACING: [f64; TRIALS.len()] = [100.0, 200.0, 200.0, 200.0, 200.0];

const TRIALS: [Trial; 5] = [Trial::Other, Trial::Longer, Trial::Shorter, Trial::Above, Trial::Below];

/// A proposal is worth the draft's time where it promises so many times what plain decoding does: the best of many guesses is
/// likelier too high than too low. Of a session alone, and of several, which stop meeting in passes when they change.
const LEAST_GAIN: [f64; 2] = [1.03, 1.06];

/// The best is looked for up to so many times the longest proposal that was seen.
const FARTHEST: usize = 2;

/// A cycle that proposes something and takes so many times as long as usual stalls: what is beyond is what changing has cost.
const STALLS: f64 = 2.0;

/// It counts for no more than so many times what is usual: what stands still for a second does not do so for being tried.
const LONGEST_STALL: f64 = 64.0;

/// Cycles of each session between two trials, at least.
const TRIAL_CYCLES: u64 = 16;

/// Cycles of each session after which a trial is over in any case.
const LONGEST_TRIAL: u64 = 64;

/// Cycles of each session, one after the other, that could not propose the best, until the best is looked for among what they can.
const MOST_SHORT: usize = 8;

/// Cycles of each session in a trial. The first one is cold where nothing was proposed before: what is drafted ahead shows
/// from the second on.
const TRIAL_LENGTH: u64 = 4;

/// The same of plain decoding, whose cycles are short. The first one is not learnt from: the target has rested.
const PLAIN_TRIAL_LENGTH: u64 = 6;

/// Cycles of each session before those, where there are several: a processor that has computed much is slow for a while.
const PLAIN_SETTLING: usize = 16;

/// What is known of cycles at one load. Sessions go on side by side, so what is learnt from a cycle counts for that of one of them, one in
/// as many as there are.
#[derive(Clone, Debug)]
pub(super) struct Load {
    /// Cycles that told something, by the above.
    cycles: f64,
    /// A verdict by the rows that its cycle proposes, γ + 1, and what verdicts of any size take now over that: a machine's speed changes for
    /// all of them, those that are not seen as well.
    verdict: Curve,
    pub(super) pace: Average,
    /// How long cycles waited for proposals, by γ.
    waited: Curve,
    /// Cycles since the last trial began, and the time since the last one of each [`Trial`].
    pub(super) since_trial: u64,
    pub(super) since_trial_s: [f64; TRIALS.len()],
    /// The γ that is tried, and for how many more cycles.
    pub(super) trial: (usize, u64),
    /// The trial that is under way, or was until lately, and how long cycles stalled the last time, by kind: a draft that was not asked for
    /// long has to catch up first, and others wait for it where it is on the target's device.
    tries: Option<Trial>,
    stalled_s: [f64; TRIALS.len()],
    /// What was wanted last of a session that could propose as many, and what is left of the change to it.
    wanted: usize,
    change: Change,
    /// The most that any cycle could propose, and the most that any did.
    most: usize,
    longest: usize,
    /// Cycles that could not propose the best since one could.
    short: usize,
}

/// Sessions do not change all at once, and while some go on with what they began, the cycles of all take something between.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    /// Cycles after which it is over in any case: of sessions that end nothing more is seen.
    longest: usize,
    /// Cycles under way of what was wanted before, and those after them that do not tell yet what all will take: some began beside them.
    before: usize,
    beside: usize,
}

/// What is tried, to see again what was not used for long.
#[derive(Clone, Copy, Debug)]
enum Trial {
    /// No proposal, to which all else is held: a machine may have changed its speed since it was seen. Where that is best, a
    /// proposal, without which nothing of the draft is seen.
    Other,
    /// A much longer proposal.
    Longer,
    /// A much shorter one.
    Shorter,
    /// One token more: what passes take by their rows has steps.
    Above,
    /// One token less.
    Below,
}

/// What cycles take.
pub(super) struct Times<'a> {
    verdict: Option<Fitted<'a>>,
    waited: Option<Fitted<'a>>,
    /// By how much a verdict takes longer.
    pace: f64,
}

/// What each γ promises, from 0 on: T(γ), and tokens a second, E(γ) / T(γ).
pub(super) struct Rates {
    cycle_s: [f64; MOST_GAMMA + 1],
    by_gamma: [f64; MOST_GAMMA + 1],
    least_gain: f64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            cycles: 0.0,
            verdict: Curve::new(MEMORY_VERDICT),
            pace: Average::default(),
            waited: Curve::new(MEMORY_WAIT),
            since_trial: 0,
            since_trial_s: [0.0; TRIALS.len()],
            trial: (0, 0),
            tries: None,
            stalled_s: [0.0; TRIALS.len()],
            wanted: 0,
            change: Change::default(),
            most: 0,
            longest: 0,
            short: 0,
        }
    }
}

impl Load {
    pub(super) fn learn(&mut self, cycle: &Observed) {
        let Observed { sessions, wanted, waited_s, is_cold, has_changed, mut verdict_s, .. } = *cycle;
        // A draft that has ended its proposal was waited for as one that is asked for so many is; its verdict is of what it proposed.
        let gamma = if cycle.ended_early { wanted } else { cycle.gamma };
        let weight = 1.0 / sessions as f64;
        self.since_trial += 1;
        self.since_trial_s.iter_mut().for_each(|since_s| *since_s += verdict_s + waited_s);
        if let Some(trial) = self.tries.filter(|_| gamma > 0) {
            let usual_s = self.times().cycle_s(wanted);
            self.stalled_s[trial as usize] +=
                (verdict_s + waited_s - STALLS * usual_s).clamp(0.0, LONGEST_STALL * usual_s);
        }
        // Among others that propose more, or less, a cycle takes what theirs take.
        let is_as_wanted = wanted == self.wanted && (gamma > 0) == (wanted > 0);
        let is_alike = sessions == 1 || (self.change.is_over() && is_as_wanted);
        self.change.goes_on(wanted == self.wanted);
        if self.change.is_over() && self.trial.1 == 0 {
            self.tries = None;
        }
        // What plain decoding takes shows from the second cycle on: the target has rested before.
        let has_rested = has_changed && gamma == 0;
        if gamma == 0 || is_cold || !is_alike {
            self.waited.fade(weight);
        } else {
            self.waited.learn(gamma, waited_s, weight);
        }
        self.cycles += if sessions == 1 || self.change.is_over() { weight } else { 0.0 };
        if has_rested || !is_alike {
            return;
        }
        self.longest = self.longest.max(gamma);
        let rows = 1 + cycle.gamma;
        let usual_s = self.verdict.fitted().map_or(0.0, |verdict| verdict.seconds(rows as f64));
        if usual_s > 0.0 {
            let pace = self.pace.get_or(1.0);
            verdict_s = verdict_s.min(LONGEST_SURPRISE * usual_s * pace);
            // What was not seen lately tells what such a verdict takes, not how fast the machine is.
            self.pace.learn(pace + self.verdict.trust(rows) * (verdict_s / usual_s - pace), weight);
        }
        self.verdict.learn(rows, verdict_s / self.pace.get_or(1.0), weight);
        // Their product alone is seen. What the noise of either moves from one to the other goes back, or they would part for ever.
        let excess = self.pace.get_or(1.0).powf(PACE_RETURNS * weight);
        self.pace.scale(1.0 / excess);
        self.verdict.scale(excess);
    }

    /// γ for the next cycle of one of so many sessions, up to `most`, where γ tokens are `expected` to bring so many.
    pub(super) fn gamma(&mut self, expected: &[f64; MOST_GAMMA + 1], sessions: usize, most: usize) -> usize {
        self.most = self.most.max(most);
        if self.since_trial > LONGEST_TRIAL * sessions as u64 {
            // Nobody is left who could go on with it.
            self.trial.1 = 0;
        }
        if let Some(&first) = FIRST_GAMMAS.get(self.cycles as usize) {
            return if first <= most { self.wants(first, sessions) } else { 0 };
        }
        if let (gamma, left @ 1..) = self.trial
            && gamma <= most
        {
            // It counts from when all take part.
            self.trial = (gamma, left - u64::from(self.change.is_over()));
            return self.wants(gamma, sessions);
        }
        let rates = self.rates(expected, sessions);
        // What is much longer than all that was seen is promised by a guess.
        let longest = self.most.min(FARTHEST * self.longest.max(1));
        let best = rates.best(longest);
        // A session that is about to end proposes less than the others would: it begins nothing for them, and ends nothing.
        if self.trial.1 > 0 || most < best {
            self.short += usize::from(most < best);
            if self.short > MOST_SHORT * sessions {
                // There are no others.
                (self.most, self.short) = (most, 0);
            }
            return rates.best(most.min(longest));
        }
        self.short = 0;
        if self.since_trial < TRIAL_CYCLES * sessions as u64 {
            return self.wants(best, sessions);
        }
        // What a proposal does not promise beyond plain decoding would be lost where it is not there.
        let promised = if best == 0 { rates.least_gain * rates.of(0) } else { rates.of(best) };
        let due = TRIALS.into_iter().filter_map(|trial| {
            let gamma = match trial {
                Trial::Other if best == 0 => rates.best_proposal(longest),
                Trial::Other => 0,
                Trial::Longer => (best + best.div_ceil(2)).min(self.most),
                Trial::Shorter => best / 2,
                Trial::Above if best > 0 => (best + 1).min(self.most),
                Trial::Below if best > 1 => best - 1,
                Trial::Above | Trial::Below => return None,
            };
            let length = sessions as u64 * if gamma == 0 { PLAIN_TRIAL_LENGTH } else { TRIAL_LENGTH };
            let settling = if gamma == 0 && sessions > 1 { sessions * PLAIN_SETTLING } else { 0 };
            let lost_s = (settling as u64 + length) as f64 * rates.cycle_s[gamma] * (1.0 - rates.of(gamma) / promised);
            let (since_s, stalled_s) = (self.since_trial_s[trial as usize], self.stalled_s[trial as usize]);
            (gamma != best && gamma <= most && since_s >= TRIAL_SPACING[trial as usize] * (lost_s + stalled_s))
                .then_some((since_s, trial, gamma, length))
        });
        let Some((_, trial, gamma, length)) = due.max_by(|a, b| a.0.total_cmp(&b.0)) else {
            return self.wants(best, sessions);
        };
        self.since_trial = 0;
        self.since_trial_s[trial as usize] = 0.0;
        self.stalled_s[trial as usize] = 0.0;
        self.tries = Some(trial);
        self.trial = (gamma, length - 1);
        self.wants(gamma, sessions)
    }

    /// All sessions are to propose so many.
    fn wants(&mut self, gamma: usize, sessions: usize) -> usize {
        // One token more or less changes little.
        if sessions > 1 && self.cycles > 0.0 && (gamma.abs_diff(self.wanted) > 1 || (gamma == 0) != (self.wanted == 0))
        {
            let beside = sessions * if gamma == 0 { PLAIN_SETTLING } else { 1 };
            self.change = Change { longest: beside + 4 * sessions, before: sessions - 1, beside };
        }
        self.wanted = gamma;
        gamma
    }

    /// Others were under way until now than so many sessions: what they do is not over yet, and what was tried then is.
    pub(super) fn enters(&mut self, sessions: usize) {
        self.trial.1 = 0;
        if sessions > 1 && self.cycles > 0.0 {
            self.change = Change { longest: 5 * sessions, before: sessions - 1, beside: sessions };
        }
    }

    /// What each γ promises.
    pub(super) fn rates(&self, expected: &[f64; MOST_GAMMA + 1], sessions: usize) -> Rates {
        let times = self.times();
        let cycle_s = std::array::from_fn(|gamma| times.cycle_s(gamma));
        Rates {
            cycle_s,
            by_gamma: std::array::from_fn(|gamma| expected[gamma] / cycle_s[gamma]),
            least_gain: LEAST_GAIN[usize::from(sessions > 1)],
        }
    }

    /// What is known of times now.
    pub(super) fn times(&self) -> Times<'_> {
        Times { verdict: self.verdict.fitted(), waited: self.waited.fitted(), pace: self.pace.get_or(1.0) }
    }
}

impl Change {
    fn is_over(&self) -> bool {
        self.longest == 0
    }

    /// A cycle has ended, of what is wanted now or of what was before.
    fn goes_on(&mut self, is_wanted: bool) {
        self.longest = self.longest.saturating_sub(1);
        if !is_wanted {
            self.before = self.before.saturating_sub(1);
        } else if self.before == 0 {
            self.beside = self.beside.saturating_sub(1);
        }
        if self.before + self.beside == 0 {
            self.longest = 0;
        }
    }
}

impl Times<'_> {
    /// T(γ): what a cycle takes where all sessions propose so many, in seconds.
    pub(super) fn cycle_s(&self, gamma: usize) -> f64 {
        let verdict_s = self.verdict.map_or(0.0, |verdict| verdict.seconds((1 + gamma) as f64));
        let waited_s = self.waited.filter(|_| gamma > 0).map_or(0.0, |waited| waited.seconds(gamma as f64));
        self.pace * verdict_s + waited_s
    }
}

impl Rates {
    fn of(&self, gamma: usize) -> f64 {
        self.by_gamma[gamma]
    }

    /// The γ, up to `most`, that promises the most; 0 where that is little more than without a proposal.
    pub(super) fn best(&self, most: usize) -> usize {
        let best = self.best_proposal(most);
        if self.of(best) > self.least_gain * self.of(0) { best } else { 0 }
    }

    /// The same of those that propose something, where `most` lets them.
    fn best_proposal(&self, most: usize) -> usize {
        (2..=most).fold(1.min(most), |best, gamma| if self.of(gamma) > self.of(best) { gamma } else { best })
    }
}
