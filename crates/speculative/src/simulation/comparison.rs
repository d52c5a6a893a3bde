//! Whether distance pays.

use super::{Distance, InvalidWorld, Outcome, Placement, Times, World, run::Run, text::Text};
use crate::policy::{Gamma, Outlook};

/// How near to each other the bounds of a break-even RTT are in the end, as a share of the upper one.
const PRECISION: f64 = 0.005;

/// What is faster by less is as fast.
const ROUNDING: f64 = 1e-9;

/// The most halvings on the way there.
const MOST_HALVINGS: u32 = 24;

/// One world in the three set-ups that a report on distance has to hold to each other.
///
/// Where one server can host both models, a synchronous cycle over a network never beats co-located speculation; distance pays
/// by what overlaps, by capacity, and where the target's device cannot host the draft ("Speculation at a Distance",
/// arXiv 2606.25091; DESIGN §6). A draft apart brings devices of its own, so all are compared by the tokens of all sessions, and
/// who pays for the devices is not asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The targets alone, over the same link.
    pub ar: Outcome,
    /// Speculation with the drafts on the targets' devices, nothing drafted ahead.
    pub co_located: Outcome,
    /// The world as it is, the drafts apart.
    pub distributed: Outcome,
    /// The RTT to the drafts up to which `distributed` beats AR.
    pub break_even_ar: BreakEven,
    /// That up to which it beats co-located speculation.
    pub break_even_co_located: BreakEven,
}

/// A set-up of a [`Comparison`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// The targets alone.
    Ar,
    /// Drafts on the targets' devices.
    CoLocated,
    /// Drafts apart.
    Distributed,
}

/// Up to which RTT something pays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BreakEven {
    /// Not even without a distance.
    Never,
    /// Up to so many seconds.
    At(f64),
    /// At any distance.
    Always,
}

impl Comparison {
    /// Runs `apart` as it is and as AR, and `near` with its drafts on the targets' devices; then `apart` at other distances as often
    /// as a search by halves needs: some thirty runs in all. The two worlds may differ in γ, and in what a draft's pass takes, as the
    /// drafts' devices do. The models choose the same tokens in all runs.
    ///
    /// # Errors
    /// A field that has none of the values that it may have.
    pub fn of(
        (apart, apart_times): (&World, &Times),
        (near, near_times): (&World, &Times),
    ) -> Result<Self, InvalidWorld> {
        for (world, times) in [(apart, apart_times), (near, near_times)] {
            world.validate()?;
            times.validate()?;
        }
        let text = Text::new(apart.seed, &apart.conditional_acceptance, [apart.sessions, apart.tokens]);
        let run = |world: &World| Run::new(world, apart_times, &text, Outlook::new()).outcome().0;
        let apart = World { placement: Placement::Apart, ..apart.clone() };
        let near = World { placement: Placement::CoLocated, branches: 0, ..near.clone() };
        let ar = run(&World { gamma: Gamma::Fixed(0), ..apart.clone() });
        let (co_located, _) = Run::new(&near, near_times, &text, Outlook::new()).outcome();
        let distributed = run(&apart);
        let break_even = |baseline: &Outcome| {
            let wins = |rtt_s: f64| {
                let draft_rtt = Distance { rtt_s, ..apart.draft_rtt };
                run(&World { draft_rtt, ..apart.clone() }).tokens_per_s > (1.0 + ROUNDING) * baseline.tokens_per_s
            };
            break_even(wins, hopeless_rtt_s(&apart, baseline))
        };
        Ok(Self {
            break_even_ar: break_even(&ar),
            break_even_co_located: break_even(&co_located),
            ar,
            co_located,
            distributed,
        })
    }

    /// The set-up with the most tokens a second; of equals the one that needs less.
    pub fn best(&self) -> Setup {
        let most = self.ar.tokens_per_s.max(self.co_located.tokens_per_s).max(self.distributed.tokens_per_s);
        if self.ar.tokens_per_s == most {
            Setup::Ar
        } else if self.co_located.tokens_per_s == most {
            Setup::CoLocated
        } else {
            Setup::Distributed
        }
    }
}

/// An RTT at which proposals are too far away to win whatever else is: were nothing else to take time, as many cycles as may be
/// under way in one RTT would bring fewer tokens than the baseline.
fn hopeless_rtt_s(world: &World, baseline: &Outcome) -> f64 {
    let cycles = world.sessions * (1 + world.branches);
    (cycles * (1 + world.gamma.most())) as f64 / baseline.tokens_per_s
}

/// Where `wins` ends between 0 and an RTT of `most_s`.
fn break_even(wins: impl Fn(f64) -> bool, most_s: f64) -> BreakEven {
    if !wins(0.0) {
        return BreakEven::Never;
    }
    if wins(most_s) {
        return BreakEven::Always;
    }
    let (mut low_s, mut high_s) = (0.0, most_s);
    for _ in 0..MOST_HALVINGS {
        if high_s - low_s <= PRECISION * high_s {
            break;
        }
        let middle_s = 0.5 * (low_s + high_s);
        *(if wins(middle_s) { &mut low_s } else { &mut high_s }) = middle_s;
    }
    BreakEven::At(0.5 * (low_s + high_s))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_never_ends_or_begins_is_told_apart() {
        assert_eq!(break_even(|_| false, 8.0), BreakEven::Never);
        assert_eq!(break_even(|_| true, 8.0), BreakEven::Always);
        let BreakEven::At(rtt_s) = break_even(|rtt_s| rtt_s < 0.3, 8.0) else { panic!("it ends") };
        assert!((rtt_s / 0.3 - 1.0).abs() < PRECISION, "{rtt_s}");
    }
}
