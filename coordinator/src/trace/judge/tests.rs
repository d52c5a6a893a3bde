use super::*;
use crate::trace::request::Side;

/// Cycles of these times in milliseconds: draft compute, queue, network; target compute, queue, network.
fn request(gamma: usize, cycles: impl IntoIterator<Item = ([f64; 6], usize)>) -> Request {
    let side = |[compute, queue, network]: [f64; 3]| Side {
        compute_ns: compute * 1e6,
        queue_ns: queue * 1e6,
        network_ns: network * 1e6,
        ..Side::default()
    };
    let cycle = |(at, (times, accepted)): (usize, ([f64; 6], usize))| Cycle {
        number: at as u64 + 1,
        start_ns: 0,
        wall_ns: times.iter().sum::<f64>() * 1e6,
        gamma,
        accepted,
        draft: (gamma > 0).then(|| side([times[0], times[1], times[2]])),
        target: side([times[3], times[4], times[5]]),
        coordinator_ns: 0.0,
        happened: Vec::new(),
    };
    let cycles: Vec<Cycle> = cycles.into_iter().enumerate().map(cycle).collect();
    Request {
        trace_id: "0af7".to_owned(),
        model: "target".to_owned(),
        gamma,
        is_auto: false,
        prompt_tokens: 3,
        output_tokens: 9,
        finish_reason: "length".to_owned(),
        start_ns: 0,
        end_ns: 1,
        first_token_ns: None,
        prefill_ns: None,
        roofs: [None; 2],
        all_cycles: cycles.len() as u64,
        cycles,
    }
}

/// Plain decoding of 10 ms a step.
fn alone() -> Request {
    request(0, [([0.0, 0.0, 0.0, 10.0, 0.0, 0.0], 0); 8])
}

fn judge(times: [f64; 6], accepted: usize) -> Judgement {
    Judgement::of(&request(4, [(times, accepted); 20]), &[alone()])
}

#[test]
fn the_speedup_is_that_of_the_theory() {
    // Three tokens a cycle of 4 + 12 + 2 ms, against steps of 10 ms.
    let judgement = judge([4.0, 0.0, 2.0, 12.0, 0.0, 0.0], 2);
    let speedup = judgement.speedup.expect("a speed-up");
    assert!((speedup - 3.0 * 10.0 / 18.0).abs() < 1e-9, "{speedup}");
    assert!(!judgement.speedup_is_bound);
    let shares: f64 = judgement.budget.iter().map(|share| share.share).sum();
    assert!((shares - 1.0).abs() < 1e-9);
    assert_eq!(judgement.tokens_per_cycle, 3.0);
}

#[test]
fn what_costs_most_is_what_limits() {
    for (times, accepted, limit) in [
        ([30.0, 0.0, 1.0, 10.0, 0.0, 0.0], 4, Limit::Draft),
        ([2.0, 0.0, 40.0, 10.0, 0.0, 0.0], 4, Limit::Network),
        ([2.0, 0.0, 1.0, 10.0, 30.0, 0.0], 4, Limit::Queue),
        ([2.0, 0.0, 1.0, 40.0, 0.0, 0.0], 4, Limit::Verify),
        ([2.0, 0.0, 1.0, 10.0, 0.0, 0.0], 0, Limit::Acceptance),
    ] {
        let judgement = judge(times, accepted);
        assert_eq!(judgement.limit, limit, "{judgement}");
        assert!(judgement.levers.iter().all(|lever| lever.speedup.is_finite()), "{judgement}");
    }
}

/// The target's passes carry the rows of another session's prefill: that is not the verify's own cost, whether cycles without such
/// rows were seen or not.
#[test]
fn passes_full_of_others_rows_are_the_queues() {
    let shared = |cycle: &mut Cycle| {
        cycle.target = Side { compute_ns: 45e6, forward_ns: 45e6, others_rows: 256, ..Side::default() };
        cycle.wall_ns = 48e6;
    };
    let mut sometimes = request(4, [([2.0, 0.0, 1.0, 12.0, 0.0, 0.0], 4); 20]);
    sometimes.cycles.iter_mut().step_by(2).for_each(shared);
    let mut always = sometimes.clone();
    always.cycles.iter_mut().for_each(shared);
    for (request, expected) in [(sometimes, (45.0 - 12.0) / 2.0 / 31.5), (always, 35.0 / 48.0)] {
        let judgement = Judgement::of(&request, &[alone()]);
        assert_eq!(judgement.limit, Limit::Queue, "{judgement}");
        assert!((judgement.shared - expected).abs() < 1e-9, "{} for {expected}", judgement.shared);
    }
}

/// Where each pass had others' rows, what it would be without them is where the line through them begins.
#[test]
fn what_a_pass_would_be_alone_is_told_from_more_and_fewer_rows() {
    let mut always = request(4, [([2.0, 0.0, 1.0, 0.0, 0.0, 0.0], 4); 20]);
    for cycle in &mut always.cycles {
        let rows = 10 + cycle.number % 5;
        let compute_ns = (11.0 + 0.1 * rows as f64) * 1e6;
        cycle.target = Side { compute_ns, forward_ns: compute_ns, others_rows: rows, ..Side::default() };
    }
    let judgement = Judgement::of(&always, &[]);
    let expected = 1.2 / (3.0 + 12.2);
    assert!((judgement.shared - expected).abs() < 1e-9, "{} for {expected}", judgement.shared);
    assert_ne!(judgement.limit, Limit::Queue, "{judgement}");

    // Nothing to tell it from: no claim is made.
    always.cycles.iter_mut().for_each(|cycle| cycle.target.others_rows = 15);
    assert_eq!(Judgement::of(&always, &[]).shared, 0.0);
    let mut plain = alone();
    plain.cycles.iter_mut().for_each(|cycle| cycle.target.others_rows = 15);
    assert_eq!(Judgement::of(&plain, &[]).headline(), "plain decoding, in passes with other sessions");
}

/// Nothing is accepted beyond the first position, so that a γ of 1 is better than 4.
#[test]
fn another_gamma_is_found() {
    let judgement = judge([8.0, 0.0, 0.0, 14.0, 0.0, 0.0], 1);
    let lever = judgement.levers.iter().find(|lever| lever.limit.is_none()).expect("another γ");
    assert!(lever.what.contains("γ 1"), "{judgement}");
    // Two tokens in 2 + 11 ms.
    assert!((lever.speedup - 2.0 * 10.0 / 13.0).abs() < 1e-9, "{judgement}");
}

#[test]
fn without_a_step_of_plain_decoding_the_speedup_is_a_bound() {
    let judgement = Judgement::of(&request(4, [([4.0, 0.0, 2.0, 12.0, 0.0, 0.0], 2); 20]), &[]);
    assert!(judgement.speedup_is_bound && judgement.headline().starts_with("at most 2.00 ×"), "{judgement}");
}

#[test]
fn a_slow_cycle_is_explained_by_what_took_longer_than_usual() {
    let mut request = request(4, [([2.0, 0.0, 1.0, 10.0, 0.0, 1.0], 2); 20]);
    let queued = &mut request.cycles[7];
    (queued.target.queue_ns, queued.target.behind_rows) = (4.1e6 * 5.0, 512);
    queued.wall_ns += 4.1e6 * 5.0;
    let judgement = Judgement::of(&request, &[]);
    assert_eq!(judgement.slowest[0].cycle, 8);
    let why = &judgement.slowest[0].why;
    assert_eq!(why, "verify waited 20.50 ms for the model behind another session's prefill, a pass of 512 rows");
    assert_eq!(judgement.slowest[1].why, "nothing in it took much longer than usual");
}

#[test]
fn plain_decoding_has_nothing_to_change() {
    let judgement = Judgement::of(&alone(), &[]);
    assert!(judgement.speedup.is_none() && judgement.levers.is_empty(), "{judgement}");
    assert_eq!(judgement.t_ar_s, Some(0.01));
}
