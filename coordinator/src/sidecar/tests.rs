use std::time::Duration;

use speculative::roofline::Work;

use super::*;

/// The ridge is at 10 FLOP/B.
const ROOFS: Roofs = Roofs { flops_per_s: 1e11, bytes_per_s: 1e10, memory_bytes_per_s: 5e9 };

fn total(flops: u64, bytes: u64, millis: u64) -> Total {
    Total { cycles: 4, wall: Duration::from_millis(millis), work: Work { flops, bytes }, ..Total::default() }
}

#[test]
fn a_phase_is_placed_by_what_it_did_and_how_long_it_took() {
    let (measurement, regime) = place(total(2_000_000_000, 1_000_000_000, 200), Some(&ROOFS));
    let Measurement { wall_time_s, n_iter, analytic_flops_total, analytic_bytes_total, .. } = measurement;
    assert_eq!((wall_time_s, n_iter), (0.2, 4));
    assert_eq!((analytic_flops_total, analytic_bytes_total), (2_000_000_000, 1_000_000_000));
    assert!((measurement.achieved_FLOPS - 1e10).abs() < 1.0 && (measurement.achieved_BW_GBps - 5.0).abs() < 1e-9);
    assert_eq!(measurement.intensity_FLOPS_per_byte, 2.0);
    // 5 of 10 GB/s, and a tenth of the FLOP/s.
    let utilisation = measurement.dispatch_utilization.expect("roofs");
    assert!((utilisation - 0.5).abs() < 1e-9, "{utilisation}");
    assert_eq!((regime.axis_arithmetic_intensity, regime.axis_dispatch), ("bandwidth_bound", "device_saturated"));
}

/// Both bands in which nothing is claimed include what lies on their lower ends, as the seed has it.
#[test]
fn the_regime_follows_the_seeds_rule() {
    for (intensity, utilisation, expected) in [
        (4.9, 0.6, ("bandwidth_bound", "device_saturated")),
        (5.0, 0.5, ("unmeasured", "device_saturated")),
        (10.0, 0.49, ("unmeasured", "unmeasured")),
        (20.0, 0.25, ("unmeasured", "unmeasured")),
        (20.1, 0.249, ("compute_bound", "dispatch_bound")),
    ] {
        let regime = Regime::infer(intensity, Some((utilisation, 10.0)));
        assert_eq!((regime.axis_arithmetic_intensity, regime.axis_dispatch), expected, "{regime:?}");
        assert!(regime.rule.contains("below 5.00") && regime.rule.contains("above 20.00"), "{regime:?}");
    }
}

#[test]
fn without_roofs_nothing_is_claimed() {
    let (measurement, regime) = place(total(10, 10, 1), None);
    assert_eq!(measurement.dispatch_utilization, None);
    assert_eq!((regime.axis_arithmetic_intensity, regime.axis_dispatch), ("unmeasured", "unmeasured"));
}
