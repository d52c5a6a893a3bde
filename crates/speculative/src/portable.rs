//! `ln` and `exp` in f64, to within one unit in the last place, with the same bits on every machine.
//!
//! The standard library's call the platform's libm, whose last bit differs from system to system, and the last bit can
//! decide a choice. These use `+ - * /` and bit operations only, all exactly specified by IEEE 754.
//!
//! Algorithms and coefficients are those of fdlibm, `e_log.c` and `e_exp.c`, whose notice is:
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
