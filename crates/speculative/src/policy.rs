//! How many tokens a cycle proposes.

use std::{fmt, str::FromStr};

use self::times::{Average, Curve, Fitted, LONGEST_SURPRISE};

#[cfg(test)]
mod tests;
mod times;

/// Proposed tokens that any protocol allows.
pub const MOST_GAMMA: usize = 32;

/// How γ is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gamma {
    /// The same in each cycle; 0 is AR.
    Fixed(usize),
    /// In each cycle the one that promises the most tokens in its time, by what an [`Outlook`] has seen.
    Auto,
}

impl Gamma {
    /// Whether nothing is ever proposed.
    pub fn is_ar(self) -> bool {
        self == Self::Fixed(0)
    }

    /// What kind it is of: fixed or auto.
    pub fn policy(self) -> &'static str {
        match self {
            Self::Fixed(_) => "fixed",
            Self::Auto => "auto",
        }
    }

    /// The most that a cycle may propose.
    pub fn most(self) -> usize {
        match self {
            Self::Fixed(gamma) => gamma,
            Self::Auto => MOST_GAMMA,
        }
    }
}

impl From<usize> for Gamma {
    fn from(gamma: usize) -> Self {
        Self::Fixed(gamma)
    }
}

impl fmt::Display for Gamma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(gamma) => write!(f, "{gamma}"),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl FromStr for Gamma {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fixed = || text.parse().ok().filter(|gamma| *gamma <= MOST_GAMMA).map(Self::Fixed);
        match text {
            "auto" => Ok(Self::Auto),
            _ => fixed().ok_or_else(|| format!("allowed: a whole number, 0 to {MOST_GAMMA}, or auto")),
        }
    }
}

/// What one cycle showed; times in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// Tokens that were proposed.
    pub gamma: usize,
    /// Whether an [`Outlook`] had chosen how many: trials are spaced by the time of such cycles.
    pub is_chosen: bool,
    /// Tokens of them that were accepted.
    pub accepted: usize,
    /// The draft's part, where it was asked for what it proposed.
    pub draft: Option<Drafted>,
    /// How long the cycle waited for the proposal: less than the draft took where it was drafted ahead.
    pub waited_s: f64,
    /// Whether its proposal could have been drafted ahead, had one been asked for in the session's cycle before.
    pub is_cold: bool,
    /// Whether it is of plain decoding, and the session's cycle before proposed something: the target has waited for that, and
    /// finds little of what it needs near.
    pub has_rested: bool,
    /// The target's forward pass and the choices from it.
    pub verify_s: f64,
    /// Rows of that pass, those of other sessions included.
    pub batch_rows: usize,
    /// How long the verdict waited for passes that were under way.
    pub queue_s: f64,
    /// All else on the way to it: the network, the coordinator.
    pub around_s: f64,
}

/// What the proposal of a cycle took; in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drafted {
    /// The draft's time for γ tokens.
    pub compute_s: f64,
    /// All else on the way: the network and the draft's queue.
    pub around_s: f64,
}

/// What of the past stays with each new cycle in what is accepted, in what a verdict takes by its rows, and in how long a cycle
/// waits by γ. How verdicts compare is the model's and its device's, and what changes for all of them is the pace; a wait changes
/// with the distance.
const MEMORY_ACCEPTANCE: f64 = 1.0 - 1.0 / 128.0;
const MEMORY_VERDICT: f64 = 1.0 - 1.0 / 512.0;
const MEMORY_WAIT: f64 = 1.0 - 1.0 / 64.0;

/// A verdict waits for others' passes for no more than so many times what its own takes: a prefill is none of the usual.
const LONGEST_QUEUE: f64 = 16.0;

/// How much of its way back to 1, in logarithms, a pace goes with each cycle.
const PACE_RETURNS: f64 = 1.0 / 64.0;

/// The chance of acceptance that is assumed before any is seen, and for how many proposals that counts.
const PRIOR_ACCEPTANCE: f64 = 0.7;
const PRIOR_PROPOSALS: f64 = 2.0;

/// For how many proposals the acceptance of all places counts at each place of the window.
const POOLED_PROPOSALS: f64 = 16.0;

/// What the first cycles propose, to see what each part costs; plain decoding most often, because all is held to it and it costs
/// least.
const FIRST_GAMMAS: [usize; 9] = [2, 2, 4, 0, 0, 0, 0, 0, 0];

/// A trial begins when the time since the last one of its kind is so many times what it is expected to lose: of [`Trial::Other`],
/// and of the two beside it.
const TRIAL_SPACING: [f64; 3] = [100.0, 200.0, 200.0];

/// A proposal is worth the draft's time where it promises so many times what plain decoding does: the best of many guesses is
/// likelier too high than too low.
const LEAST_GAIN: f64 = 1.03;

/// Cycles of each session between two trials, at least.
const TRIAL_CYCLES: u64 = 16;

/// Cycles of each session in a trial. The first one is cold where nothing was proposed before: what is drafted ahead shows
/// from the second on.
const TRIAL_LENGTH: u64 = 4;

/// The same of plain decoding, whose cycles are short. The first one is not learnt from: the target has rested.
const PLAIN_TRIAL_LENGTH: u64 = 6;

/// What is known of draft, target and the links between, from the cycles that were seen: which γ promises most.
///
/// In DESIGN §8's words: argmax over g of E(g) / T(g), with E from the survival and T from the times as they are. It follows
/// them as they change. What it does not use it would never see again, so another γ is tried now and then, as seldom as its
/// expected loss asks for: trials cost about a fiftieth of the time at most. A trial is several cycles, because what is
/// drafted ahead saves none of the first one's waiting.
///
/// All sessions that share a pair go by one outlook, and try together: what one of them takes depends on what the others
/// propose, so a session that tries alone learns what it would gain at the others' cost.
#[derive(Clone, Debug)]
pub struct Outlook {
    cycles: u64,
    /// Of each place of the window.
    places: [Place; MOST_GAMMA],
    /// A verdict by the rows of its pass, and what verdicts of any size take now over that: a machine's speed changes for all of
    /// them, those that are not seen as well.
    verdict: Curve,
    pace: Average,
    /// The draft's time for a token, and around all of them.
    draft_step_s: Average,
    draft_around_s: Average,
    /// How long cycles waited for proposals, by γ.
    waited: Curve,
    /// What a verdict waits for other passes, over what its own takes: those of all become longer and shorter together.
    queued: Average,
    /// Around a verdict.
    around_s: Average,
    /// Sessions in a pass.
    sessions: Average,
    /// Cycles since the last trial began, and the time since the last one of each [`Trial`].
    since_trial: u64,
    since_trial_s: [f64; 3],
    /// The γ that is tried, and for how many more cycles.
    trial: (usize, u64),
    /// The most that any cycle could propose.
    most: usize,
}

/// What is tried, to see again what was not used for long.
#[derive(Clone, Copy)]
enum Trial {
    /// No proposal, to which all else is held: a machine may have changed its speed since it was seen. Where that is best, a
    /// proposal, without which nothing of the draft is seen.
    Other,
    /// A longer proposal.
    Longer,
    /// A shorter one.
    Shorter,
}

/// What cycles take.
struct Times<'a> {
    verdict: Option<Fitted<'a>>,
    waited: Option<Fitted<'a>>,
    /// By how much a verdict takes longer, its queue included.
    pace: f64,
    around_s: f64,
    sessions: f64,
}

/// Tokens a second that each γ promises, from 0 on: E(γ) / T(γ).
struct Rates([f64; MOST_GAMMA + 1]);

/// Proposals at one place of the window that followed accepted ones, and those that were accepted themselves.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    reached: f64,
    accepted: f64,
}

impl Default for Outlook {
    fn default() -> Self {
        Self::new()
    }
}

impl Outlook {
    /// Nothing was seen yet.
    pub fn new() -> Self {
        Self {
            cycles: 0,
            places: [Place::default(); MOST_GAMMA],
            verdict: Curve::new(MEMORY_VERDICT),
            pace: Average::default(),
            draft_step_s: Average::default(),
            draft_around_s: Average::default(),
            waited: Curve::new(MEMORY_WAIT),
            queued: Average::default(),
            around_s: Average::default(),
            sessions: Average::default(),
            since_trial: 0,
            since_trial_s: [0.0; 3],
            trial: (0, 0),
            most: 0,
        }
    }

    /// Takes a cycle into account.
    pub fn learn(&mut self, cycle: &Observed) {
        let Observed {
            gamma,
            is_chosen,
            accepted,
            draft,
            waited_s,
            is_cold,
            has_rested,
            verify_s,
            batch_rows,
            queue_s,
            around_s,
        } = *cycle;
        let gamma = gamma.min(MOST_GAMMA);
        self.cycles += 1;
        if is_chosen {
            self.since_trial += 1;
            self.since_trial_s.iter_mut().for_each(|since_s| *since_s += verify_s + queue_s + around_s + waited_s);
        }
        let rows = batch_rows.max(1);
        if has_rested {
            // What plain decoding takes shows from the second cycle on.
            self.waited.fade();
            return;
        }
        let usual_s = self.verdict.fitted().map_or(0.0, |verdict| verdict.seconds(rows as f64));
        let mut verdict_s = verify_s;
        if usual_s > 0.0 {
            let pace = self.pace.get_or(1.0);
            verdict_s = verdict_s.min(LONGEST_SURPRISE * usual_s * pace);
            // What was not seen lately tells what such a pass takes, not how fast the machine is.
            self.pace.learn(pace + self.verdict.trust(rows) * (verdict_s / usual_s - pace));
        }
        self.verdict.learn(rows, verdict_s / self.pace.get_or(1.0));
        // Their product alone is seen. What the noise of either moves from one to the other goes back, or they would part for ever.
        let excess = self.pace.get_or(1.0).powf(PACE_RETURNS);
        self.pace.scale(1.0 / excess);
        self.verdict.scale(excess);
        if verify_s > 0.0 {
            self.queued.learn_time((queue_s / verify_s).min(LONGEST_QUEUE));
        }
        self.around_s.learn_time(around_s);
        self.sessions.learn(rows as f64 / (1 + gamma) as f64);
        if gamma == 0 {
            self.waited.fade();
            return;
        }
        if let Some(Drafted { compute_s, around_s }) = draft {
            self.draft_step_s.learn_time(compute_s / gamma as f64);
            self.draft_around_s.learn_time(around_s);
        }
        if !is_cold {
            self.waited.learn(gamma, waited_s);
        }
        for (place, seen) in self.places[..gamma].iter_mut().enumerate().take(accepted + 1) {
            seen.reached = MEMORY_ACCEPTANCE * seen.reached + 1.0;
            seen.accepted = MEMORY_ACCEPTANCE * seen.accepted + f64::from(u8::from(place < accepted));
        }
    }

    /// γ for the next cycle of one of so many sessions, up to `most`: the best, or another one to be tried.
    pub fn gamma(&mut self, sessions: usize, most: usize) -> usize {
        let most = most.min(MOST_GAMMA);
        self.most = self.most.max(most);
        if let Some(&first) = FIRST_GAMMAS.get(self.cycles as usize) {
            return first.min(most);
        }
        if let (gamma, left @ 1..) = self.trial
            && gamma <= most
        {
            self.trial = (gamma, left - 1);
            return gamma;
        }
        let rates = self.rates();
        let best = rates.best(most);
        let sessions = sessions.max(1) as u64;
        // A session that is about to end proposes less than the others would: it begins nothing for them.
        if self.since_trial < TRIAL_CYCLES * sessions || most < rates.best(self.most) {
            return best;
        }
        // What a proposal does not promise beyond plain decoding would be lost where it is not there.
        let promised = if best == 0 { LEAST_GAIN * rates.of(0) } else { rates.of(best) };
        let times = self.times();
        let due = [Trial::Other, Trial::Longer, Trial::Shorter].into_iter().filter_map(|trial| {
            let gamma = match trial {
                Trial::Other if best == 0 => rates.best_proposal(self.most),
                Trial::Other => 0,
                Trial::Longer => (best + best.div_ceil(2)).min(self.most),
                Trial::Shorter => best / 2,
            };
            let length = sessions * if gamma == 0 { PLAIN_TRIAL_LENGTH } else { TRIAL_LENGTH };
            let lost_s = length as f64 * times.cycle_s(gamma) * (1.0 - rates.of(gamma) / promised);
            let since_s = self.since_trial_s[trial as usize];
            (gamma != best && gamma <= most && since_s >= TRIAL_SPACING[trial as usize] * lost_s)
                .then_some((since_s, trial, gamma, length))
        });
        let Some((_, trial, gamma, length)) = due.max_by(|a, b| a.0.total_cmp(&b.0)) else { return best };
        self.since_trial = 0;
        self.since_trial_s[trial as usize] = 0.0;
        self.trial = (gamma, length - 1);
        gamma
    }

    /// What each γ promises.
    fn rates(&self) -> Rates {
        let expected = self.expected_tokens();
        let times = self.times();
        Rates(std::array::from_fn(|gamma| expected[gamma] / times.cycle_s(gamma)))
    }

    /// E(γ) = 1 + Σ survival(i), by γ from 0 on.
    fn expected_tokens(&self) -> [f64; MOST_GAMMA + 1] {
        let (reached, accepted) =
            self.places.iter().fold((PRIOR_PROPOSALS, PRIOR_PROPOSALS * PRIOR_ACCEPTANCE), |sum, place| {
                (sum.0 + place.reached, sum.1 + place.accepted)
            });
        let pooled = accepted / reached;
        let mut survival = 1.0;
        let mut expected = [1.0; MOST_GAMMA + 1];
        for (at, place) in self.places.iter().enumerate() {
            survival *= (place.accepted + POOLED_PROPOSALS * pooled) / (place.reached + POOLED_PROPOSALS);
            expected[at + 1] = expected[at] + survival;
        }
        expected
    }

    /// What a proposal of γ tokens takes from being asked for to being there, in seconds.
    pub fn draft_s(&self, gamma: usize) -> f64 {
        self.draft_around_s.get() + gamma as f64 * self.draft_step_s.get()
    }

    /// What is known of times now.
    fn times(&self) -> Times<'_> {
        Times {
            verdict: self.verdict.fitted(),
            waited: self.waited.fitted(),
            pace: self.pace.get_or(1.0) * (1.0 + self.queued.get()),
            around_s: self.around_s.get(),
            sessions: self.sessions.get(),
        }
    }
}

impl Times<'_> {
    /// T(γ): what a cycle takes, in seconds. A target that several sessions share verifies for all of them at once, and they
    /// all choose alike.
    fn cycle_s(&self, gamma: usize) -> f64 {
        let verdict_s = self.verdict.map_or(0.0, |verdict| verdict.seconds(self.sessions * (1 + gamma) as f64));
        let waited_s = self.waited.filter(|_| gamma > 0).map_or(0.0, |waited| waited.seconds(gamma as f64));
        self.pace * verdict_s + self.around_s + waited_s
    }
}

impl Rates {
    fn of(&self, gamma: usize) -> f64 {
        self.0[gamma]
    }

    /// The γ, up to `most`, that promises the most; 0 where that is little more than without a proposal.
    fn best(&self, most: usize) -> usize {
        let best = self.best_proposal(most);
        if self.of(best) > LEAST_GAIN * self.of(0) { best } else { 0 }
    }

    /// The same of those that propose something, where `most` lets them.
    fn best_proposal(&self, most: usize) -> usize {
        (2..=most).fold(1.min(most), |best, gamma| if self.of(gamma) > self.of(best) { gamma } else { best })
    }
}
