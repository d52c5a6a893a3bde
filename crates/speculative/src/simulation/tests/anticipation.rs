//! What is drafted ahead (DESIGN §6).

use super::*;

fn ahead(branches: usize, world: World) -> Outcome {
    World { branches, tokens: 6000, ..world }.run(&times()).unwrap()
}

#[test]
fn a_step_away_it_beats_every_gamma_that_waits() {
    let rate = |gamma| with(gamma, World { tokens: 6000, ..away(1.0) }).run(&times()).unwrap().tokens_per_s;
    let best = (1..=16).map(rate).fold(0.0, f64::max);
    let outcome = ahead(16, away(1.0));
    assert!(outcome.tokens_per_s > 1.3 * best, "{} where {best} is the best that waits", outcome.tokens_per_s);
    let verdicts = outcome.hits + outcome.late_hits + outcome.misses;
    // All but the first cycle's proposal, and perhaps the last one's, which may have none.
    assert!((outcome.cycles - 2..outcome.cycles).contains(&verdicts));
    assert!(outcome.hits * 10 > 7 * verdicts, "{outcome:?}");
    // With the runway a cycle is the target's alone.
    let times = cycle_times(&away(1.0), 4);
    let verify_s = times.rtt_target_s + times.t_verify_s + times.overhead_s;
    assert_near(outcome.cycle_p50_s, verify_s, 1e-9, "a hit");
    assert!(outcome.wasted_branch_rows < outcome.branch_rows && outcome.drafts_busy > 0.3);
}

/// With one branch at a time: V is a cycle without the draft, D the last token's pass and those of the branch. All verdicts are hits
/// and cost V where R_d + D is no more. Where it is, a branch grows from one verdict to the next but one, so that two cycles
/// take V + R_d + D, of which at least every other waits for its branch.
#[test]
fn without_a_runway_the_draft_learns_each_verdict_late() {
    for steps in [0.0, 0.25, 1.0, 4.0] {
        let world = World { conditional_acceptance: vec![1.0], ..away(steps) };
        let times = cycle_times(&world, 4);
        let verify_s = times.rtt_target_s + times.t_verify_s + times.overhead_s;
        let outcome = ahead(1, world);
        let late_s = times.rtt_draft_s + 5.0 * DRAFT_S;
        assert_near(outcome.cycle.wall_s, 0.5 * (verify_s + late_s.max(verify_s)), 0.04, "a cycle");
        let late_share = outcome.late_hits as f64 / (outcome.hits + outcome.late_hits) as f64;
        let expected = if late_s > verify_s { 0.45..1.0 } else { 0.0..1e-9 };
        assert!(expected.contains(&late_share), "{late_share} at {steps} steps");
        // As long as a ranking is not trusted, another verdict is prepared for.
        assert!(outcome.misses * 10 < outcome.cycles, "{outcome:?}");
    }
}

/// At any distance as many verdicts are foreseen; fewer of them in time.
#[test]
fn distance_makes_hits_late() {
    let outcomes = [0.5, 1.0, 2.0, 4.0].map(|steps| ahead(16, away(steps)));
    let share = |part: u64, outcome: &Outcome| part as f64 / (outcome.cycles - 1) as f64;
    assert!(outcomes.is_sorted_by(|near, far| share(near.hits, near) > share(far.hits, far)));
    for outcome in &outcomes {
        let foreseen = share(outcome.hits + outcome.late_hits, outcome);
        assert!((0.85..0.97).contains(&foreseen), "{foreseen}");
    }
    let same = outcomes.each_ref().map(|outcome| outcome.acceptance.conditional_acceptance().unwrap());
    assert!(same.iter().all(|a| (a - 0.85).abs() < 0.015), "{same:?}");
}

/// A proposal that is asked for waits for no more than the pass that is under way, of its own branches or of others'.
#[test]
fn branches_yield_to_proposals() {
    for sessions in [1, 6] {
        // So many branches that one grows at any time.
        let acceptance = vec![0.6];
        let world = World { sessions, branches: 64, conditional_acceptance: acceptance, ..with(6, away(0.0)) };
        let outcome = World { tokens: 1000, ..world }.run(&times()).unwrap();
        assert!(outcome.misses > 50 && outcome.drafts_busy > 0.95, "{outcome:?}");
        let of_a_miss = |mean_s: f64| mean_s * outcome.cycles as f64 / outcome.misses as f64;
        let queue_s = of_a_miss(outcome.cycle.draft_queue_s);
        assert!(queue_s < DRAFT_S, "{queue_s}");
        // Its own branches' pass counts as the draft's.
        let compute_s = of_a_miss(outcome.cycle.draft_compute_s);
        assert!((6.0 * DRAFT_S..7.0 * DRAFT_S).contains(&compute_s), "{compute_s}");
    }
}

#[test]
fn co_located_branches_wait_for_everyone() {
    let world = World { placement: Placement::CoLocated, branches: 16, tokens: 2000, ..world() };
    let outcome = world.run(&times()).unwrap();
    // The device is the target's while the verdict is awaited, so little is there in time.
    assert!(outcome.drafts_busy + outcome.targets_busy < 1.0 + 1e-9);
    assert!(outcome.hits < outcome.misses, "{outcome:?}");
}

/// What is drafted ahead saves nothing in a cycle that follows one without a proposal: a trial of one cycle would never show
/// what it is worth, and γ would stay 0 where the draft is far away.
#[test]
fn auto_sees_from_afar_what_drafting_ahead_is_worth() {
    for steps in [2.0, 4.0] {
        for seed in 1..=6 {
            let world = World { branches: 16, tokens: 10_000, seed, ..away(steps) };
            let fixed = world.run(&times()).unwrap().tokens_per_s;
            let auto = World { gamma: Gamma::Auto, ..world }.run(&times()).unwrap();
            println!("{steps} steps, seed {seed}: auto {} of {fixed}, mean γ {}", auto.tokens_per_s, auto.gamma);
            assert!(auto.tokens_per_s > 0.8 * fixed, "{steps} steps, seed {seed}: {} of {fixed}", auto.tokens_per_s);
        }
    }
}
