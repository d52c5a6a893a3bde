//! How many tokens a cycle proposes.

use std::{fmt, str::FromStr};

use self::{load::Load, survival::Survival, times::Average};

mod load;
mod survival;
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
    /// Sessions that chose γ together by an [`Outlook`], its own included; 0 of a γ that was not chosen.
    pub sessions: usize,
    /// Tokens that were wanted of the draft.
    pub wanted: usize,
    /// Tokens that were proposed.
    pub gamma: usize,
    /// Whether they are fewer than were wanted because the draft ended the proposal: it was not sure enough, or had nothing to propose.
    pub ended_early: bool,
    /// Tokens of them that were accepted.
    pub accepted: usize,
    /// The draft's part, where it was asked for what it proposed.
    pub draft: Option<Drafted>,
    /// How long the cycle waited for the proposal: less than the draft took where it was drafted ahead.
    pub waited_s: f64,
    /// Whether its proposal could have been drafted ahead, had one been asked for in the session's cycle before.
    pub is_cold: bool,
    /// Whether others were wanted than in the session's cycle before, or there was none.
    pub has_changed: bool,
    /// From sending what is to be verified to having taken in the verdict: the target's pass, and those that it waited for, the
    /// network, the coordinator.
    pub verdict_s: f64,
}

/// What the proposal of a cycle took; in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Drafted {
    /// The draft's time for γ tokens.
    pub compute_s: f64,
    /// All else on the way: the network and the draft's queue.
    pub around_s: f64,
}

/// What is known of draft, target and the links between, from the cycles that were seen: which γ promises most.
///
/// In DESIGN §8's words: argmax over g of E(g) / T(g), with E from the survival and T from what cycles took. It follows them as
/// they change. What it does not use it would never see again, so another γ is tried now and then, as seldom as its
/// expected loss asks for: trials cost about a fiftieth of the time at most. A trial is several cycles, because what is
/// drafted ahead saves none of the first one's waiting.
///
/// All sessions that share a pair go by one outlook, and try together: what one of them takes depends on what the others
/// propose, so a session that tries alone learns what it would gain at the others' cost. What cycles take is known for each
/// load by itself, 1 session, 2 to 3, 4 to 7 and so on, as a whole: by how they meet in passes and wait for each other
/// it is less than the sum of what passes take, or more, and otherwise for proposals than for plain decoding.
#[derive(Clone, Debug, Default)]
pub struct Outlook {
    survival: Survival,
    /// The draft's time for a token, and around all of them.
    draft_step_s: Average,
    draft_around_s: Average,
    loads: Vec<Load>,
    /// Which of them is the present one.
    present: usize,
}

impl Outlook {
    /// Nothing was seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a cycle into account.
    pub fn learn(&mut self, cycle: &Observed) {
        let gamma = cycle.gamma.min(MOST_GAMMA);
        if let Some(Drafted { compute_s, around_s }) = cycle.draft.filter(|_| gamma > 0) {
            self.draft_step_s.learn_time(compute_s / gamma as f64);
            self.draft_around_s.learn_time(around_s);
        }
        self.survival.learn(gamma, cycle.accepted, cycle.ended_early);
        if cycle.sessions > 0 {
            self.load(cycle.sessions).learn(cycle);
        }
    }

    /// γ for the next cycle of one of so many sessions, up to `most`: the best, or another one to be tried.
    pub fn gamma(&mut self, sessions: usize, most: usize) -> usize {
        let expected = self.survival.expected_tokens();
        let (sessions, before) = (sessions.max(1), self.present);
        self.present = at(sessions);
        let is_new = self.present != before;
        let load = self.load(sessions);
        if is_new {
            load.enters(sessions);
        }
        load.gamma(&expected, sessions, most.min(MOST_GAMMA))
    }

    /// What a proposal of γ tokens takes from being asked for to being there, in seconds.
    pub fn draft_s(&self, gamma: usize) -> f64 {
        self.draft_around_s.get() + gamma as f64 * self.draft_step_s.get()
    }

    fn load(&mut self, sessions: usize) -> &mut Load {
        let at = at(sessions);
        if at >= self.loads.len() {
            self.loads.resize_with(at + 1, Load::default);
        }
        &mut self.loads[at]
    }
}

/// Where what is known of the load of so many sessions is, one at least.
fn at(sessions: usize) -> usize {
    sessions.ilog2() as usize
}
