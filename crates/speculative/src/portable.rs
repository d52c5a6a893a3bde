//! `ln` and `exp` in f64, to within one unit in the last place, and the normal distribution's quantiles, with the same
//! bits on every machine.
//!
//! The standard library's call the platform's libm, whose last bit differs from system to system, and the last bit can
//! decide a choice. These use `+ - * /`, `sqrt` and bit operations only, all exactly specified by IEEE 754.
//!
//! Algorithms and coefficients of `ln` and `exp` are those of fdlibm, `e_log.c` and `e_exp.c`, whose notice is:
//!
//! > Copyright (C) 2004 by Sun Microsystems, Inc. All rights reserved. Permission to use, copy, modify, and distribute
//! > this software is freely granted, provided that this notice is preserved.

#[cfg(test)]
mod tests;

// Constants are given by their bits.

/// ln 2 in two parts: the first has zeros at its end, so that its product with an exponent is exact.
const LN2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
const LN2_LOW: f64 = f64::from_bits(0x3dea_39ef_3579_3c76);

/// The natural logarithm.
///
/// x = 2^k (1 + f) with 1 + f in [√½, √2); with s = f / (2 + f), ln(1 + f) = f − f²/2 + s (f²/2 + R(s²)), R a minimax
/// polynomial. `ln(0)` is −∞; of a negative number it is NaN.
pub fn ln(x: f64) -> f64 {
    if x == 0.0 {
        return f64::NEG_INFINITY;
    }
    if x.is_nan() || x < 0.0 {
        return f64::NAN;
    }
    if x == f64::INFINITY {
        return x;
    }
    let (k, f) = split(x);
    let half_square = 0.5 * f * f;
    let s = f / (2.0 + f);
    s * (half_square + log_remainder(s * s)) + k * LN2_LOW - half_square + f + k * LN2_HIGH
}

/// k and f of a positive, finite x = 2^k (1 + f), 1 + f in [√½, √2).
fn split(x: f64) -> (f64, f64) {
    const SQRT_HALF: u64 = 0x3fe6_a09e_0000_0000;
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    const MANTISSA: u64 = 0x000f_ffff_ffff_ffff;
    let (x, k_of_scale) = if x < f64::MIN_POSITIVE { (x * TWO_54, -54) } else { (x, 0) };
    let shifted = x.to_bits() + (ONE - SQRT_HALF);
    let k = (shifted >> 52) as i32 - 1023 + k_of_scale;
    (f64::from(k), f64::from_bits((shifted & MANTISSA) + SQRT_HALF) - 1.0)
}

const TWO_54: f64 = 18_014_398_509_481_984.0;

/// R of [`ln`], from z = s². Its two halves are independent, and added in this order.
fn log_remainder(z: f64) -> f64 {
    const L: [u64; 7] = [
        0x3fe5_5555_5555_5593,
        0x3fd9_9999_9997_fa04,
        0x3fd2_4924_9422_9359,
        0x3fcc_71c5_1d8e_78af,
        0x3fc7_4664_96cb_03de,
        0x3fc3_9a09_d078_c69f,
        0x3fc2_f112_df3e_5244,
    ];
    let l = L.map(f64::from_bits);
    let w = z * z;
    let even = w * (l[1] + w * (l[3] + w * l[5]));
    let odd = z * (l[0] + w * (l[2] + w * (l[4] + w * l[6])));
    odd + even
}

/// e to the power x.
///
/// x = k ln 2 + r with |r| ≤ ½ ln 2; e^r = 1 + r + r c / (2 − c), c = r − r² P(r²), P a minimax polynomial.
pub fn exp(x: f64) -> f64 {
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    const OVERFLOW: f64 = 709.782_712_893_384;
    const UNDERFLOW: f64 = -745.133_219_101_941_1;
    if x.is_nan() {
        return x;
    }
    if x > OVERFLOW {
        return f64::INFINITY;
    }
    if x < UNDERFLOW {
        return 0.0;
    }
    let half = if x < 0.0 { -0.5 } else { 0.5 };
    let k = (LOG2_E * x + half) as i32;
    let high = x - f64::from(k) * LN2_HIGH;
    let low = f64::from(k) * LN2_LOW;
    let r = high - low;
    let c = r - exp_remainder(r * r);
    times_power_of_two(1.0 + (r * c / (2.0 - c) - low + high), k)
}

/// r² P(r²) of [`exp`], from z = r².
fn exp_remainder(z: f64) -> f64 {
    const P: [u64; 5] = [
        0x3fc5_5555_5555_553e,
        0xbf66_c16c_16be_bd93,
        0x3f11_566a_af25_de2c,
        0xbebb_bd41_c5d2_6bf1,
        0x3e66_3769_72be_a4d0,
    ];
    let p = P.map(f64::from_bits);
    z * (p[0] + z * (p[1] + z * (p[2] + z * (p[3] + z * p[4]))))
}

/// y 2^k for y near 1 and −1075 ≤ k ≤ 1024, rounded once.
fn times_power_of_two(y: f64, k: i32) -> f64 {
    let power = |k: i32| f64::from_bits(((k + 1023) as u64) << 52);
    match k {
        1024.. => y * 2.0 * power(k - 1),
        ..-1021 => y * power(k + 54) * (1.0 / TWO_54),
        _ => y * power(k),
    }
}

/// The standard normal variate below which a share `p` of all lies, 0 < p < 1, to within 10⁻⁶.
///
/// Wichura, "Algorithm AS 241: the percentage points of the normal distribution", Applied Statistics 37, 1988, `PPND7`
/// without its far tails: for p between 2⁻³⁶ and 1 − 2⁻³⁶.
pub fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 4] = [3.387_132_717_9, 50.434_271_938, 159.291_132_02, 59.109_374_72];
    const B: [f64; 4] = [1.0, 17.895_169_469, 78.757_757_664, 67.187_563_6];
    const C: [f64; 4] = [1.423_437_277_7, 2.756_815_39, 1.306_728_481_6, 0.170_238_211_03];
    const D: [f64; 4] = [1.0, 0.737_001_642_5, 0.120_211_329_75, 0.0];
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * cubic(A, r) / cubic(B, r);
    }
    let r = (-ln(if q < 0.0 { p } else { 1.0 - p })).sqrt() - 1.6;
    let tail = cubic(C, r) / cubic(D, r);
    if q < 0.0 { -tail } else { tail }
}

fn cubic([c0, c1, c2, c3]: [f64; 4], x: f64) -> f64 {
    c0 + x * (c1 + x * (c2 + x * c3))
}
