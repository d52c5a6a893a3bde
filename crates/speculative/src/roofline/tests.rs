use super::{Bound, Placement, Roofs, Work};

/// Ridge 10 FLOP/B.
const ROOFS: Roofs = Roofs { flops_per_s: 1e12, bytes_per_s: 1e11, memory_bytes_per_s: 5e10 };

#[test]
fn a_forward_on_the_bandwidth_roof() {
    let placement = Placement::of(Work { flops: 2_000_000, bytes: 1_000_000 }, 1e-5, &ROOFS);
    assert_eq!(placement.intensity, 2.0);
    assert!((placement.achieved_flops_per_s / 2e11 - 1.0).abs() < 1e-12);
    assert!((placement.achieved_bytes_per_s / 1e11 - 1.0).abs() < 1e-12);
    assert!((placement.utilisation - 1.0).abs() < 1e-12);
    assert_eq!(placement.bound, Bound::Bandwidth);
}

/// Achieved FLOP/s over min(peak, intensity × bandwidth), on either side of the ridge.
#[test]
fn utilisation_is_the_share_of_the_attainable() {
    for (flops, bytes) in [(1_000, 1_000), (9_000, 1_000), (11_000, 1_000), (900_000, 1_000)] {
        let placement = Placement::of(Work { flops, bytes }, 1e-6, &ROOFS);
        let attainable = ROOFS.flops_per_s.min(placement.intensity * ROOFS.bytes_per_s);
        let expected = placement.achieved_flops_per_s / attainable;
        assert!((placement.utilisation / expected - 1.0).abs() < 1e-12);
    }
}

#[test]
fn bounds_change_at_half_and_twice_the_ridge() {
    assert_eq!(ROOFS.ridge(), 10.0);
    let bound = |flops: u64, utilisation: f64| {
        let work = Work { flops, bytes: 1_000_000 };
        let attainable = ROOFS.flops_per_s.min(flops as f64 / 1e6 * ROOFS.bytes_per_s);
        Placement::of(work, flops as f64 / (attainable * utilisation), &ROOFS).bound
    };
    assert_eq!(bound(4_999_999, 0.9), Bound::Bandwidth);
    assert_eq!(bound(5_000_000, 0.9), Bound::Ridge);
    assert_eq!(bound(20_000_000, 0.9), Bound::Ridge);
    assert_eq!(bound(20_000_001, 0.9), Bound::Compute);
    assert_eq!(bound(1_000_000, 0.251), Bound::Bandwidth);
    assert_eq!(bound(1_000_000, 0.249), Bound::Dispatch);
    assert_eq!(bound(90_000_000, 0.249), Bound::Dispatch);
}

#[test]
fn degenerate_forwards_give_no_nan() {
    for work in [Work::default(), Work { flops: 5, bytes: 0 }, Work { flops: 0, bytes: 5 }] {
        for seconds in [0.0, 1.0] {
            let placement = Placement::of(work, seconds, &ROOFS);
            assert!(!placement.intensity.is_nan() && !placement.utilisation.is_nan());
            assert_eq!(placement.bound, Bound::Dispatch);
        }
    }
}

#[test]
fn work_adds_up() {
    let mut sum = Work { flops: 1, bytes: 2 } + Work { flops: 10, bytes: 20 };
    sum += Work { flops: 100, bytes: 200 };
    assert_eq!(sum, Work { flops: 111, bytes: 222 });
}

#[test]
fn names_are_those_of_the_reports() {
    let names = [Bound::Bandwidth, Bound::Compute, Bound::Ridge, Bound::Dispatch].map(Bound::as_str);
    assert_eq!(names, ["bandwidth_bound", "compute_bound", "ridge", "dispatch_bound"]);
}
