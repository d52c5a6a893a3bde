//! Sixteen lanes in plain Rust, for every processor: the path that the others are compared with.

use half::f16;

use super::simd::{LANES, Simd, tree};

/// The portable path.
#[derive(Clone, Copy)]
pub(super) struct Portable;

type Lanes = [f32; 16];
type Words = [i32; 16];

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
    type I = Words;
    type Scale = Words;
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
    unsafe fn load_f16(from: *const u16) -> Lanes {
        // SAFETY: the caller grants 16 elements; an array of u16 has their alignment.
        unsafe { from.cast::<[u16; 16]>().read() }.map(|bits| f16::from_bits(bits).to_f32_const())
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

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> Words {
        // SAFETY: the caller grants 64 bytes.
        unsafe { from.cast::<[[u8; 4]; 16]>().read() }.map(i32::from_le_bytes)
    }

    #[inline(always)]
    unsafe fn load_i8_pairs(from: *const u8) -> Words {
        // SAFETY: the caller grants 32 bytes.
        unsafe { from.cast::<[[i8; 2]; 16]>().read() }.map(|[a, b]| pair(a.into(), b.into()))
    }

    #[inline(always)]
    unsafe fn load_u8_pairs(from: *const u8) -> Words {
        // SAFETY: the caller grants 32 bytes.
        unsafe { from.cast::<[[u8; 2]; 16]>().read() }.map(|[a, b]| pair(a.into(), b.into()))
    }

    #[inline(always)]
    unsafe fn broadcast(from: *const u8) -> Words {
        // SAFETY: the caller grants 4 bytes.
        [i32::from_le_bytes(unsafe { from.cast::<[u8; 4]>().read() }); 16]
    }

    #[inline(always)]
    unsafe fn load_i32(from: *const i32) -> Words {
        // SAFETY: the caller grants 16 elements; an array of i32 has their alignment.
        unsafe { from.cast::<Words>().read() }
    }

    #[inline(always)]
    unsafe fn store_i32(to: *mut i32, v: Words) {
        // SAFETY: as in `load_i32`.
        unsafe { to.cast::<Words>().write(v) }
    }

    #[inline(always)]
    unsafe fn zero() -> Words {
        [0; 16]
    }

    #[inline(always)]
    unsafe fn or(a: Words, b: Words) -> Words {
        std::array::from_fn(|l| a[l] | b[l])
    }

    #[inline(always)]
    unsafe fn mask(v: Words, mask: u8) -> Words {
        v.map(|word| word & i32::from_le_bytes([mask; 4]))
    }

    #[inline(always)]
    unsafe fn up<const N: i32>(v: Words) -> Words {
        v.map(|word| word << N)
    }

    #[inline(always)]
    unsafe fn down<const N: i32>(v: Words) -> Words {
        v.map(|word| word >> N)
    }

    #[inline(always)]
    unsafe fn add_i32(a: Words, b: Words) -> Words {
        std::array::from_fn(|l| a[l].wrapping_add(b[l]))
    }

    #[inline(always)]
    unsafe fn sub_32_times(a: Words, b: Words) -> Words {
        std::array::from_fn(|l| a[l].wrapping_sub(b[l].wrapping_mul(32)))
    }

    #[inline(always)]
    unsafe fn dot_i16(a: Words, b: Words) -> Words {
        std::array::from_fn(|l| {
            let ([a, b], [c, d]) = (halves(a[l]), halves(b[l]));
            (a * c).wrapping_add(b * d)
        })
    }

    #[inline(always)]
    unsafe fn to_float(v: Words) -> Lanes {
        v.map(|word| word as f32)
    }

    #[inline(always)]
    unsafe fn scale(from: *const u8) -> Words {
        // SAFETY: the caller grants 16 bytes.
        unsafe { from.cast::<[u8; 16]>().read() }.map(i32::from)
    }

    #[inline(always)]
    unsafe fn scale_pairs(from: *const u8) -> (Words, Words) {
        // SAFETY: the caller grants 32 bytes.
        let pairs = unsafe { from.cast::<[[i8; 2]; 16]>().read() };
        (pairs.map(|[first, _]| first.into()), pairs.map(|[_, second]| second.into()))
    }

    #[inline(always)]
    unsafe fn unit_scale() -> Words {
        [1; 16]
    }

    #[inline(always)]
    unsafe fn dot<const RUN: usize>(levels: &[Words; 8], x: *const u8, first: Words, second: Words) -> Words {
        // SAFETY: the caller grants 32 bytes.
        let x = unsafe { x.cast::<[[i8; 4]; 8]>().read() };
        let mut sum = [0_i32; 16];
        for (step, levels) in levels.iter().enumerate() {
            let scale = if step / 2 % 2 == 0 { &first } else { &second };
            for l in 0..16 {
                let levels = levels[l].to_le_bytes();
                let products: i32 = (0..4).map(|k| i32::from(levels[k]) * i32::from(x[step][k])).sum();
                sum[l] = sum[l].wrapping_add(products * scale[l]);
            }
        }
        sum
    }
}

/// Two 16-bit integers in a word, the first in its low half.
#[inline(always)]
fn pair(first: i16, second: i16) -> i32 {
    i32::from(first) & 0xffff | i32::from(second) << 16
}

#[inline(always)]
fn halves(word: i32) -> [i32; 2] {
    [i32::from(word as i16), word >> 16]
}
