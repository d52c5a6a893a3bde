//! exp, erf, GELU and SiLU in `+ − · ÷` and fma, each lane by itself: the same bits on every path.

use super::simd::Simd;

/// Below this, e^x is taken for e^−87: no weight of a softmax that could be seen, and no subnormal result.
const EXP_FLOOR: f32 = -87.0;

/// 1.5 · 2²³: adding it leaves a whole number in the low bits.
const ROUND: f32 = 12_582_912.0;

/// ln 2 in two parts, the first short enough for exact products (Cody, Waite 1980).
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;

/// 1/n! for n from 7 down to 2: e^r on |r| ≤ ½ ln 2 within 6e-9.
const EXP_SERIES: [f32; 6] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5];

/// Beyond this erf is ±1 in f32.
const ERF_CEILING: f32 = 4.0;

/// erf(x) ≈ x · P(x²) / Q(x²) on |x| ≤ 4 within 4e-8, these roundings of the coefficients included: a minimax fit
/// (Lawson's weights over 400 Chebyshev nodes, in 40 digits). Highest power first.
#[expect(clippy::approx_constant, reason = "a fitted coefficient near 2/√π, not that constant")]
const ERF_P: [f32; 6] = [1.974_549_4e-6, 2.879_641_3e-4, 4.002_099_4e-3, 5.346_281e-2, 1.962_187_9e-1, 1.128_379];
const ERF_Q: [f32; 6] = [3.747_381e-5, 1.215_900_1e-3, 1.544_144_8e-2, 1.164_632_96e-1, 5.072_256e-1, 1.0];

/// e^x for x ≤ 0, at least e^−87.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller enabled the path's features.
    unsafe {
        let x = S::max(S::splat(EXP_FLOOR), x);
        let shifted = S::fma(x, S::splat(std::f32::consts::LOG2_E), S::splat(ROUND));
        let n = S::sub(shifted, S::splat(ROUND));
        let r = S::fma(n, S::splat(-LN_2_LOW), S::fma(n, S::splat(-LN_2_HIGH), x));
        let mut series = S::splat(EXP_SERIES[0]);
        for c in &EXP_SERIES[1..] {
            series = S::fma(series, r, S::splat(*c));
        }
        let one = S::splat(1.0);
        let series = S::fma(S::fma(series, r, one), r, one);
        S::add_exponent(series, shifted)
    }
}

/// The error function, within 4e-7.
#[inline(always)]
unsafe fn erf<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller enabled the path's features.
    unsafe {
        let x = S::min(S::splat(ERF_CEILING), S::max(S::splat(-ERF_CEILING), x));
        let square = S::mul(x, x);
        let mut p = S::splat(ERF_P[0]);
        let mut q = S::splat(ERF_Q[0]);
        for (a, b) in ERF_P[1..].iter().zip(&ERF_Q[1..]) {
            p = S::fma(p, square, S::splat(*a));
            q = S::fma(q, square, S::splat(*b));
        }
        S::div(S::mul(x, p), q)
    }
}

/// The exact GELU, ½x · (1 + erf(x / √2)) (Hendrycks, Gimpel 2016, arXiv 1606.08415).
#[inline(always)]
pub(super) unsafe fn gelu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller enabled the path's features.
    unsafe {
        let half = S::mul(x, S::splat(0.5));
        S::fma(half, erf::<S>(S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2))), half)
    }
}

/// x · σ(t) for a `t` of x's sign, σ the logistic function: for t < 0 that is x · e^t / (1 + e^t), else x / (1 + e^−t).
#[inline(always)]
unsafe fn weighted_by_logistic<S: Simd>(x: S::V, t: S::V) -> S::V {
    // SAFETY: the caller enabled the path's features.
    unsafe {
        let zero = S::splat(0.0);
        let e = exp::<S>(S::min(S::sub(zero, t), t));
        // One of the two is 0; NaN stays NaN.
        let above = S::max(zero, x);
        let below = S::min(zero, x);
        S::div(S::fma(below, e, above), S::add(S::splat(1.0), e))
    }
}

/// SiLU, x · σ(x) (Elfwing, Uchibe, Doya 2017, arXiv 1702.03118).
#[inline(always)]
pub(super) unsafe fn silu<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller enabled the path's features.
    unsafe { weighted_by_logistic::<S>(x, x) }
}

/// GELU by its tanh approximation, ½x · (1 + tanh(√(2/π) · (x + 0.044715 x³))), as GPT-2 has it; ½(1 + tanh u) = σ(2u).
#[inline(always)]
pub(super) unsafe fn gelu_tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller enabled the path's features.
    unsafe {
        let cubic = S::fma(S::mul(S::mul(x, x), S::splat(0.044_715)), x, x);
        weighted_by_logistic::<S>(x, S::mul(cubic, S::splat(1.595_769)))
    }
}
