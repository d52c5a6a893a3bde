use proptest::prelude::*;

use super::{CycleTimes, break_even_draft_rtt, expected_tokens, expected_tokens_constant};

const TIMES: CycleTimes = CycleTimes {
    t_ar_s: 0.010,
    t_draft_s: 0.001,
    t_verify_s: 0.012,
    rtt_draft_s: 0.003,
    rtt_target_s: 0.002,
    overhead_s: 0.0005,
};

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-12 * a.abs().max(b.abs()).max(1.0)
}

#[test]
fn expected_tokens_at_the_ends() {
    assert_eq!(expected_tokens(&[]), 1.0);
    assert_eq!(expected_tokens(&[1.0; 4]), 5.0);
    assert_eq!(expected_tokens_constant(0.0, 4), 1.0);
    assert_eq!(expected_tokens_constant(1.0, 4), 5.0);
    assert_eq!(expected_tokens_constant(0.7, 0), 1.0);
}

/// DESIGN.md, section 2: at a = 0.7 and γ = 4 the acceptance rate is 0.44.
#[test]
fn conditional_acceptance_is_not_the_acceptance_rate() {
    let rate = (expected_tokens_constant(0.7, 4) - 1.0) / 4.0;
    assert!((rate - 0.44).abs() < 0.005, "{rate}");
}

proptest! {
    #[test]
    fn constant_acceptance_is_a_geometric_series(a in 0.0..0.999f64, gamma in 0..40u32) {
        let closed = (1.0 - a.powi(gamma as i32 + 1)) / (1.0 - a);
        let survival: Vec<f64> = (1..=gamma as i32).map(|i| a.powi(i)).collect();
        prop_assert!(close(expected_tokens_constant(a, gamma), closed));
        prop_assert!(close(expected_tokens(&survival), closed));
    }

    /// Put into the speedup (without overhead, which the break-even leaves out), the break-even RTT gives 1.
    #[test]
    fn at_the_break_even_rtt_the_speedup_is_one(
        a in 0.1..0.95f64, t_draft_s in 0.0001..0.01f64, rtt_target_s in 0.0..0.05f64, per_row in 0.0..0.002f64
    ) {
        let survival: Vec<f64> = (1..=8).map(|i| a.powi(i)).collect();
        let verify_s: Vec<f64> = (0..=8).map(|gamma| 0.010 + per_row * f64::from(gamma)).collect();
        let (gamma, rtt_draft_s) = break_even_draft_rtt(0.010, t_draft_s, rtt_target_s, &survival, &verify_s).unwrap();
        let speedup = |gamma: u32, rtt_draft_s: f64| {
            let t_verify_s = verify_s[gamma as usize];
            let times = CycleTimes { t_ar_s: 0.010, t_draft_s, t_verify_s, rtt_draft_s, rtt_target_s, overhead_s: 0.0 };
            times.speedup(expected_tokens(&survival[..gamma as usize]), gamma)
        };
        prop_assert!(close(speedup(gamma, rtt_draft_s), 1.0));
        for other in 1..=8 {
            prop_assert!(speedup(other, rtt_draft_s.max(0.0) + 1e-9) < 1.0 || rtt_draft_s < 0.0);
        }
    }
}

#[test]
fn speedups_by_hand() {
    // A cycle takes 4 + 12 + 3 + 2 + 0.5 = 21.5 ms.
    assert!(close(TIMES.speedup(3.0, 4), 3.0 * 12.5 / 21.5));
    assert!(close(TIMES.speedup_at_target(3.0, 4), 3.0 * 10.0 / 21.5));
}

/// The seed's 2.1 at α = 0.7, γ = 4 needs c of about 0.08, with v = 1 and no network.
#[test]
fn the_seeds_example() {
    let near = CycleTimes {
        t_draft_s: 0.0008,
        t_verify_s: 0.010,
        rtt_draft_s: 0.0,
        rtt_target_s: 0.0,
        overhead_s: 0.0,
        ..TIMES
    };
    let speedup = near.speedup(expected_tokens_constant(0.7, 4), 4);
    assert!((speedup - 2.1).abs() < 0.01, "{speedup}");
    assert!(close(
        speedup,
        near.speedup_at_target(expected_tokens_constant(0.7, 4), 4)
    ));
}

#[test]
fn break_even_needs_survival_and_verify_time() {
    assert_eq!(break_even_draft_rtt(1.0, 0.1, 0.0, &[], &[1.0, 1.0]), None);
    assert_eq!(break_even_draft_rtt(1.0, 0.1, 0.0, &[0.5], &[1.0]), None);
    assert_eq!(break_even_draft_rtt(1.0, 0.1, 0.0, &[0.5], &[]), None);
    let (gamma, rtt) = break_even_draft_rtt(1.0, 0.125, 0.5, &[0.75, 0.5, 0.0], &[9.0, 1.0, 1.0, 1.0, 0.0]).unwrap();
    assert_eq!((gamma, rtt), (2, 1.5 * 2.25 - 1.0 - 0.25 - 0.5));
}

#[test]
fn a_draft_that_is_never_right_pays_nowhere() {
    let (gamma, rtt) = break_even_draft_rtt(1.0, 0.25, 0.0, &[0.0, 0.0], &[1.0, 1.0, 1.0]).unwrap();
    assert_eq!((gamma, rtt), (1, -0.25));
}
