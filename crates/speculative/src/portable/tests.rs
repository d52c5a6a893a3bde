use super::{exp, ln, normal_quantile};

/// Neighbouring floats of one sign have neighbouring bits.
fn ulps_apart(a: f64, b: f64) -> u64 {
    assert_eq!(a.is_sign_negative(), b.is_sign_negative(), "{a} and {b}");
    a.to_bits().abs_diff(b.to_bits())
}

/// The standard library's answer is the nearest float or nearly so: ours is that one or its neighbour.
#[test]
fn ln_agrees_with_std_over_all_magnitudes() {
    for exponent in 0..2046u64 {
        for step in 0..200u64 {
            let mantissa = step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12;
            let x = f64::from_bits((exponent << 52) | mantissa);
            if x > 0.0 {
                assert!(ulps_apart(ln(x), x.ln()) <= 1, "ln({x:e}) = {:e}", ln(x));
            }
        }
    }
}

/// Where the answer is small, a relative error would show most.
#[test]
fn ln_agrees_with_std_around_one() {
    for step in -200_000..200_000 {
        let x = 1.0 + f64::from(step) * 2e-6;
        assert!(ulps_apart(ln(x), x.ln()) <= 1, "ln({x:e}) = {:e}", ln(x));
    }
    let below_one = 1.0 - f64::EPSILON / 2.0;
    assert_eq!(ln(below_one), -f64::EPSILON / 2.0);
}

#[test]
fn exp_agrees_with_std_over_its_range() {
    let mut x = -745.2;
    while x < 709.9 {
        assert!(ulps_apart(exp(x), x.exp()) <= 1, "exp({x}) = {:e}", exp(x));
        x += 0.001_234_567;
    }
    for step in -100_000..100_000 {
        let x = f64::from(step) * 1e-5;
        assert!(ulps_apart(exp(x), x.exp()) <= 1, "exp({x}) = {:e}", exp(x));
    }
}

#[test]
fn ends_of_the_line() {
    assert_eq!(ln(0.0), f64::NEG_INFINITY);
    assert_eq!(ln(-0.0), f64::NEG_INFINITY);
    assert_eq!(ln(1.0).to_bits(), 0);
    assert_eq!(ln(f64::INFINITY), f64::INFINITY);
    assert!(ln(-1.0).is_nan() && ln(f64::NAN).is_nan());
    assert_eq!(exp(0.0), 1.0);
    assert_eq!(exp(1e-300), 1.0);
    assert_eq!(exp(f64::NEG_INFINITY), 0.0);
    assert_eq!(exp(f64::INFINITY), f64::INFINITY);
    assert_eq!(exp(710.0), f64::INFINITY);
    assert_eq!(exp(-746.0), 0.0);
    assert!(exp(f64::NAN).is_nan());
}

/// The quantiles of tables (NIST/SEMATECH e-Handbook, 1.3.6.7.1, and R's `qnorm`), and far out.
#[test]
fn normal_quantiles_are_the_tabulated_ones() {
    for (p, z) in [
        (0.5, 0.0),
        (0.6, 0.253_347_103),
        (0.75, 0.674_489_750),
        (0.92, 1.405_071_560),
        (0.93, 1.475_791_028),
        (0.975, 1.959_963_985),
        (0.999, 3.090_232_306),
        (1.0 - 1e-6, 4.753_424_309),
        (1.0 - 1e-9, 5.997_807_015),
    ] {
        assert!((normal_quantile(p) - z).abs() < 1e-6, "{p}: {}, not {z}", normal_quantile(p));
        assert!((normal_quantile(1.0 - p) + z).abs() < 1e-6, "{}: {}", 1.0 - p, normal_quantile(1.0 - p));
    }
}
