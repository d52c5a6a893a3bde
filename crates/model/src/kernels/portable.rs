//! Sixteen lanes in plain Rust, for every processor: the path that the others are compared with.

use super::simd::{LANES, Simd, tree};

/// The portable path.
#[derive(Clone, Copy)]
pub(super) struct Portable;

type Lanes = [f32; 16];

macro_rules! lanewise {
    ($l:ident => $value:expr) => {{
        let mut out = [0.0_f32; 16];
        for $l in 0..16 {
            out[$l] = $value;
        }
        out
    }};
}

/// `a · b + c`, rounded once.
///
/// The product of two f32 is exact in f64. The sum is rounded to odd, so that rounding it again, to f32, gives what one
/// rounding would have given (Boldo, Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using
/// rounding to odd", IEEE Trans. Computers 57(4), 2008). A libm's `fmaf` is called per element and not right everywhere.
#[inline(always)]
pub(super) fn fused_multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_feature = "fma", target_arch = "aarch64")) {
        return a.mul_add(b, c);
    }
    let product = f64::from(a) * f64::from(b);
    let addend = f64::from(c);
    let sum = product + addend;
    // What the addition lost (Knuth's TwoSum); NaN where the sum is not finite, which then stays as it is.
    let shadow = sum - product;
    let lost = (product - (sum - shadow)) + (addend - shadow);
    let bits = sum.to_bits();
    // Away from zero where the loss has the sum's sign, else towards it: to whichever neighbour is odd.
    let even = bits & 1 == 0;
    let towards_zero = (lost > 0.0) != (sum > 0.0);
    let odd = if towards_zero { bits.wrapping_sub(1) } else { bits.wrapping_add(1) };
    let inexact = lost.abs() > 0.0;
    f64::from_bits(if even && inexact { odd } else { bits }) as f32
}

impl Simd for Portable {
    type V = Lanes;
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Lanes {
        [x; 16]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Lanes {
        // SAFETY: the caller grants 16 elements; an array of f32 has their alignment.
        unsafe { from.cast::<Lanes>().read() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Lanes) {
        // SAFETY: as in `load`.
        unsafe { to.cast::<Lanes>().write(v) }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> (Lanes, Lanes) {
        // SAFETY: the caller grants 32 elements; an array of u16 has their alignment.
        let pairs = unsafe { from.cast::<[u16; 32]>().read() };
        let even = lanewise!(l => f32::from_bits(u32::from(pairs[2 * l]) << 16));
        let odd = lanewise!(l => f32::from_bits(u32::from(pairs[2 * l + 1]) << 16));
        (even, odd)
    }

    #[inline(always)]
    unsafe fn add(a: Lanes, b: Lanes) -> Lanes {
        lanewise!(l => a[l] + b[l])
    }

    #[inline(always)]
    unsafe fn sub(a: Lanes, b: Lanes) -> Lanes {
        lanewise!(l => a[l] - b[l])
    }

    #[inline(always)]
    unsafe fn mul(a: Lanes, b: Lanes) -> Lanes {
        lanewise!(l => a[l] * b[l])
    }

    #[inline(always)]
    unsafe fn div(a: Lanes, b: Lanes) -> Lanes {
        lanewise!(l => a[l] / b[l])
    }

    #[inline(always)]
    unsafe fn fma(a: Lanes, b: Lanes, c: Lanes) -> Lanes {
        lanewise!(l => fused_multiply_add(a[l], b[l], c[l]))
    }

    #[inline(always)]
    unsafe fn max(a: Lanes, b: Lanes) -> Lanes {
        lanewise!(l => if a[l] > b[l] { a[l] } else { b[l] })
    }

    #[inline(always)]
    unsafe fn min(a: Lanes, b: Lanes) -> Lanes {
        lanewise!(l => if a[l] < b[l] { a[l] } else { b[l] })
    }

    #[inline(always)]
    unsafe fn add_exponent(v: Lanes, n: Lanes) -> Lanes {
        lanewise!(l => f32::from_bits(v[l].to_bits().wrapping_add(n[l].to_bits() << 23)))
    }

    #[inline(always)]
    unsafe fn sixteen_trees(lanes: *const f32, run: usize, to: *mut f32) {
        for i in 0..16 {
            // SAFETY: the caller grants 16 runs of 16 elements, and 8 + 8 places.
            unsafe { *to.add(i / 2 + i % 2 * LANES) = tree(lanes.add(i * run).cast::<Lanes>().read()) }
        }
    }

    #[inline(always)]
    unsafe fn prefetch(_at: *const u16) {}
}
