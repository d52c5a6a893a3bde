//! Several sessions that choose by one outlook.

use super::*;

/// Four sessions whose cycles end in turn, each of which takes what `takes` says of the γ that it proposes, of the most that any
/// does then, and of how many cycles ago one did.
fn of_four(outlook: &mut Outlook, cycles: usize, takes: impl Fn(usize, usize, usize) -> f64) -> Vec<usize> {
    let mut wanted = [0; 4];
    let (mut seen, mut since) = (Vec::new(), 0);
    for cycle in 0..cycles {
        let session = cycle % 4;
        let before = wanted[session];
        let gamma = outlook.gamma(4, MOST_GAMMA);
        let longest = wanted.iter().copied().fold(gamma, usize::max);
        wanted[session] = gamma;
        since = if longest > 0 { 0 } else { since + 1 };
        seen.push(gamma);
        let draft = (gamma > 0).then_some(Drafted { compute_s: 0.1, around_s: 0.0 });
        outlook.learn(&Observed {
            sessions: 4,
            wanted: gamma,
            gamma,
            accepted: gamma / 2,
            draft,
            has_changed: gamma != before,
            verdict_s: takes(gamma, longest, since),
            ..Observed::default()
        });
    }
    seen
}

/// While some sessions still do what was wanted before, the cycles of the others take what theirs take, and a processor that
/// has computed for them is slow for a while.
#[test]
fn while_sessions_change_nothing_is_learnt_of_what_they_take() {
    for [beside, after] in [[1.0, 0.0], [0.0, 0.5]] {
        let mut outlook = Outlook::new();
        let takes = |gamma: usize, longest: usize, since: usize| {
            let is_slow = gamma == 0 && since < 60;
            1.0 + 0.05 * gamma as f64 + beside * (longest - gamma).min(1) as f64 + if is_slow { after } else { 0.0 }
        };
        let seen = of_four(&mut outlook, 6000, takes);
        let plain = seen.iter().filter(|gamma| **gamma == 0).count();
        assert!((100..4000).contains(&plain), "{plain} plain cycles");
        let times = outlook.load(4).times();
        assert!((times.cycle_s(0) - 1.0).abs() < 0.02, "{}", times.cycle_s(0));
    }
}

/// What takes long only where it begins is tried the more seldom for that.
#[test]
fn a_trial_that_stalls_all_cycles_is_seldom_made_again() {
    let proposed = |stall: f64| {
        let mut outlook = Outlook::new();
        // Until all propose, all wait for the drafts.
        let takes = |gamma: usize, _: usize, _: usize| 1.0 + 0.45 * gamma as f64;
        let begun = std::cell::Cell::new(0);
        let stalls = |gamma: usize, longest: usize, since: usize| {
            begun.set(if gamma == 0 { 0 } else { begun.get() + 1 });
            takes(gamma, longest, since) + if (1..=4).contains(&begun.get()) { stall } else { 0.0 }
        };
        of_four(&mut outlook, 22_000, stalls).into_iter().filter(|gamma| *gamma > 0).count()
    };
    let (smooth, stalled) = (proposed(0.0), proposed(40.0));
    assert!(smooth > 100 && stalled < smooth / 2, "{stalled} with stalls, {smooth} without");
}

#[test]
fn what_one_load_takes_says_nothing_of_another() {
    let mut outlook = Outlook::new();
    NEAR.run(&mut outlook, 20_000, 10);
    let alone = outlook.load(1).times().cycle_s(4);
    of_four(&mut outlook, 2000, |gamma, _, _| 7.0 + gamma as f64);
    assert!((outlook.load(1).times().cycle_s(4) - alone).abs() < 1e-9);
    assert!((outlook.load(5).times().cycle_s(2) - 9.0).abs() < 0.2, "{}", outlook.load(5).times().cycle_s(2));
}

/// Short requests alone, after long ones: they go on learning, as far as they can propose.
#[test]
fn sessions_that_can_propose_little_learn_too() {
    let mut outlook = Outlook::new();
    let mut proposed = |most, cycles, row: f64| {
        let mut count = 0;
        for _ in 0..cycles {
            let gamma = outlook.gamma(4, most);
            assert!(gamma <= most);
            count += usize::from(gamma > 0);
            let draft = (gamma > 0).then(Drafted::default);
            let (accepted, verdict_s) = (gamma, 1.0 + row * gamma as f64);
            outlook.learn(&Observed { sessions: 4, wanted: gamma, gamma, accepted, draft, verdict_s, ..ALONE });
        }
        count
    };
    proposed(MOST_GAMMA, 4000, 0.01);
    // Rows have become dear.
    proposed(3, 8000, 4.0);
    let proposed = proposed(3, 1000, 4.0);
    assert!(proposed < 200, "{proposed} of 1000");
}

/// A trial that some cannot take part in goes on for the others, and ends.
#[test]
fn a_trial_ends_where_some_sessions_are_too_short_for_it() {
    let mut outlook = Outlook::new();
    of_four(&mut outlook, 2000, |gamma, _, _| 1.0 + gamma as f64);
    let mut proposed = 0;
    for cycle in 0..8000 {
        let gamma = outlook.gamma(4, if cycle % 4 == 0 { 1 } else { MOST_GAMMA });
        proposed += usize::from(gamma > 0);
        let draft = (gamma > 0).then(Drafted::default);
        let verdict_s = 1.0 + gamma as f64;
        outlook.learn(&Observed { sessions: 4, wanted: gamma, gamma, draft, verdict_s, ..ALONE });
    }
    assert!(proposed < 800, "{proposed} of 8000");
}
