//! Many sessions, and who computes for whom.

use super::*;

/// 64 sessions and as many drafts.
fn crowd() -> World {
    let draft_rtt = Distance::default();
    World { sessions: 64, drafts: 64, tokens: 256, draft_rtt, target_rtt: Distance::default(), ..world() }
}

fn at_once() -> Times {
    Times { draft_around_s: 0.0, target_around_s: 0.0, coordinator_s: 0.0, ..times() }
}

#[test]
fn sessions_of_a_target_share_its_passes() {
    let outcome = with(0, crowd()).run(&at_once()).unwrap();
    let pass_s = at_once().target_pass.seconds(64);
    assert_near(outcome.tokens_per_s, 64.0 / pass_s, 1e-9, "AR");
    assert_near(outcome.targets_busy, 1.0, 1e-9, "busy");

    // Whoever comes while a pass is under way waits for its end, and passes are not as full.
    let target_rtt = Distance { rtt_s: STEP_S, jitter_s: 2.0 * STEP_S };
    let outcome = World { target_rtt, ..with(0, crowd()) }.run(&at_once()).unwrap();
    assert!(outcome.tokens_per_s < 64.0 / pass_s && outcome.targets_busy > 0.9, "{outcome:?}");
    assert!(outcome.cycle.target_queue_s > 0.1 * outcome.cycle.target_compute_s, "{:?}", outcome.cycle);

    let outcome = crowd().run(&at_once()).unwrap();
    let most = expected_tokens(&outcome.acceptance.survival()) * 64.0 / at_once().target_pass.seconds(64 * 5);
    assert!((0.85..1.0).contains(&(outcome.tokens_per_s / most)), "{} of {most}", outcome.tokens_per_s);
    let half = World { sessions: 32, drafts: 32, ..crowd() }.run(&at_once()).unwrap();
    assert!(outcome.tokens_per_s < 1.2 * half.tokens_per_s, "rows cost");
}

#[test]
fn each_session_in_a_pass_of_the_target_costs() {
    let times = Times { target_session_s: 0.02e-3, ..at_once() };
    let outcome = with(0, crowd()).run(&times).unwrap();
    assert_near(outcome.tokens_per_s, 64.0 / (times.target_pass.seconds(64) + 63.0 * 0.02e-3), 1e-9, "AR");
}

/// Messages that coordinator and target exchange all come between the passes of one session.
#[test]
fn a_coordinator_on_the_targets_device_keeps_it_from_no_pass_of_one_session() {
    let alone = World { target_rtt: Distance::default(), tokens: 500, ..world() };
    for gamma in [0, 4] {
        let world = with(gamma, alone.clone());
        let beside = Times { handling_s: times().target_around_s / 4.0, ..times() };
        assert_near(world.run(&beside).unwrap().seconds, world.run(&times()).unwrap().seconds, 1e-9, "seconds");
    }
}

/// It sends all windows before the next pass begins; elsewhere those of two sessions may miss each other for ever.
#[test]
fn windows_meet_in_a_pass_where_messages_go_first() {
    let times = Times { begin_s: STEP_S, ..times() };
    let two = with(0, World { sessions: 2, target_rtt: Distance::default(), tokens: 1000, ..world() });
    let elsewhere = two.run(&times).unwrap();
    assert_near(elsewhere.tokens_per_s, 1.0 / STEP_S, 0.01, "one after the other");
    let here = two.run(&Times { handling_s: 0.015e-3, ..times.clone() }).unwrap();
    // Both verdicts and both windows go before the pass.
    let pass_s = times.target_pass.seconds(2) + 8.0 * 0.015e-3 + times.coordinator_s;
    assert_near(here.tokens_per_s, 2.0 / pass_s, 0.02, "together");
}

#[test]
fn messages_lengthen_a_pass_that_is_under_way() {
    let world = World { branches: 16, draft_rtt: Distance::default(), target_rtt: Distance::default(), ..away(0.0) };
    let (apart, handling_s) = (world.run(&times()).unwrap(), 0.02e-3);
    let beside = world.run(&Times { handling_s, ..times() }).unwrap();
    let branches = beside.branch_rows as f64 / 4.0 / beside.cycles as f64;
    let longer_s = beside.cycle.target_compute_s - apart.cycle.target_compute_s;
    assert!((0.7..1.1).contains(&(longer_s / (branches * handling_s))), "{longer_s} of {branches} branches");
    assert_near(beside.targets_busy, beside.cycle.target_compute_s / beside.cycle.wall_s, 0.01, "busy");
}

/// Of sessions that begin one after the other, what all do together counts.
#[test]
fn what_comes_before_all_have_begun_is_of_fewer() {
    let crowd = World { targets: 64, ..with(0, crowd()) };
    let one_each = crowd.run(&at_once()).unwrap();
    let late = World { targets: 1, sessions: 4, tokens: 8, ..with(0, crowd) };
    let each = PassCurve::constant(0.1 * STEP_S).unwrap();
    let times = Times { begin_s: 0.4 * STEP_S, target_pass: each, ..at_once() };
    let outcome = late.run(&times).unwrap();
    assert_near(one_each.tokens_per_s, 64.0 / STEP_S, 1e-9, "a target each");
    // The last of the four begins after three passes; from then on each pass is of all.
    assert_near(outcome.tokens_per_s, 4.0 / (0.1 * STEP_S), 1e-9, "together");
    assert_near(outcome.seconds, 11.0 * 0.1 * STEP_S, 1e-9, "all of it");
}

#[test]
fn servers_beside_each_other_share_the_sessions() {
    let one = World { sessions: 16, drafts: 16, ..crowd() }.run(&times()).unwrap();
    let four = World { targets: 4, ..crowd() }.run(&times()).unwrap();
    assert_near(four.tokens_per_s, 4.0 * one.tokens_per_s, 0.03, "four of them");
}

/// arXiv 2606.25091 (DESIGN §6): where each row costs, a target whose drafting is offloaded serves 1 + γ t_d / t_v times as many.
#[test]
fn offloading_carries_as_many_more_as_drafting_took() {
    let each = |seconds: f64| PassCurve::new(vec![(1.0, seconds), (2.0, 2.0 * seconds)]).unwrap();
    let (gamma, row_s) = (4, 1e-3);
    let times = Times { target_pass: each(row_s), draft_pass: each(0.3 * row_s), ..at_once() };
    // Little is accepted whole, so that few proposals begin with two rows.
    let crowd = World { conditional_acceptance: vec![0.4], ..with(gamma, crowd()) };
    let co_located = World { placement: Placement::CoLocated, ..crowd.clone() }.run(&times).unwrap();
    let expected = 1.0 + gamma as f64 * 0.3 / (1 + gamma) as f64;
    for rtt_s in [0.0, 20.0 * row_s] {
        let draft_rtt = Distance { rtt_s, jitter_s: 0.5 * rtt_s };
        let offloaded = World { draft_rtt, ..crowd.clone() }.run(&times).unwrap();
        assert_near(offloaded.tokens_per_s / co_located.tokens_per_s, expected, 0.04, "offloaded over co-located");
    }
    assert_near(co_located.drafts_busy + co_located.targets_busy, 1.0, 1e-6, "one device");
}

#[test]
fn a_draft_that_many_share_is_waited_for() {
    let own = crowd().run(&at_once()).unwrap();
    let draft_pass = PassCurve::new(vec![(1.0, DRAFT_S), (2.0, 2.0 * DRAFT_S)]).unwrap();
    let shared = World { drafts: 1, ..crowd() }.run(&Times { draft_pass, ..at_once() }).unwrap();
    assert!(shared.tokens_per_s < 0.8 * own.tokens_per_s && shared.drafts_busy > 0.4, "{shared:?}");
}

/// "Speculation at a Distance": a synchronous cycle over a network never beats the one that needs none.
#[test]
fn co_located_drafts_beat_distant_ones_as_fast() {
    for gamma in [2, 4, 8] {
        let world = World { tokens: 2000, ..with(gamma, world()) };
        let comparison = Comparison::of((&world, &times()), (&world, &times())).unwrap();
        assert_eq!(comparison.break_even_co_located, BreakEven::Never);
        assert_eq!(comparison.best(), Setup::CoLocated);
        let beside = World { draft_rtt: Distance::default(), ..world }.run(&times()).unwrap();
        assert_near(beside.tokens_per_s, comparison.co_located.tokens_per_s, 1e-9, "no distance");
    }
}

#[test]
fn the_break_even_distance_is_the_formulas() {
    for (gamma, a) in [(2, 0.7), (4, 0.85), (8, 0.95)] {
        let world = World { conditional_acceptance: vec![a], ..with(gamma, world()) };
        let comparison = Comparison::of((&world, &times()), (&world, &times())).unwrap();
        let expected = expected_tokens(&comparison.distributed.acceptance.survival());
        let around_s = times().draft_around_s;
        let rtt_s = cycle_times(&world, gamma).break_even_draft_rtt_s(expected, gamma as u32) - around_s;
        let BreakEven::At(seen_s) = comparison.break_even_ar else { panic!("{:?}", comparison.break_even_ar) };
        assert_near(seen_s, rtt_s, 0.01, "break-even RTT");
    }
    let hopeless = World { conditional_acceptance: vec![0.05], ..world() };
    let comparison = Comparison::of((&hopeless, &times()), (&hopeless, &times())).unwrap();
    assert_eq!((comparison.break_even_ar, comparison.best()), (BreakEven::Never, Setup::Ar));
}

/// A target that is busy with many is relieved by drafts elsewhere, up to a distance.
#[test]
fn capacity_is_worth_a_distance() {
    let each = PassCurve::new(vec![(1.0, 1e-3), (2.0, 2e-3)]).unwrap();
    let times =
        Times { target_pass: PassCurve::new(vec![(1.0, 4e-3), (40.0, 8e-3)]).unwrap(), draft_pass: each, ..times() };
    let world = World { sessions: 8, drafts: 8, tokens: 200, ..world() };
    let comparison = Comparison::of((&world, &times), (&world, &times)).unwrap();
    assert_eq!(comparison.best(), Setup::Distributed);
    assert!(matches!(comparison.break_even_co_located, BreakEven::At(rtt_s) if rtt_s > STEP_S), "{comparison:?}");
}
