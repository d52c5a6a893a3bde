//! The x86-64 paths: AVX-512 holds the virtual lanes in one vector, AVX2 with FMA in two.

use std::arch::x86_64::*;

use super::simd::{LANES, Simd};

/// The path of processors with `avx512f`, `avx512bw` and `avx512vnni`.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// The path of processors with `avx2`, `fma` and `f16c`.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// The sign, exponent and mantissa of the odd one of two bf16.
const ODD: i32 = 0xffff_0000_u32 as i32;

macro_rules! path {
    ($path:ident: $v:ident, $width:literal,
     $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $fma:ident, $max:ident,
     $min:ident, $shift_left:ident, $add_int:ident, $as_int:ident, $as_float:ident, $load_bf16:ident;
     $i:ident, $half:ident, $load_half:ident, $cvtph:ident, $load_int:ident, $store_int:ident, $set1_epi32:ident,
     $zero:ident, $or:ident, $and:ident, $set1_epi8:ident, $sll:ident, $srl:ident, $sub_int:ident, $madd:ident,
     $to_float:ident, $i8_to_i16:ident, $u8_to_i16:ident, $scales:ident) => {
        impl Simd for $path {
            type V = $v;
            type I = $i;
            type Scale = $i;
            const WIDTH: usize = $width;

            #[inline(always)]
            unsafe fn splat(x: f32) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $splat(x) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> $v {
                // SAFETY: the caller enabled the path's features and grants WIDTH elements.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(to: *mut f32, v: $v) {
                // SAFETY: the caller enabled the path's features and grants WIDTH elements.
                unsafe { $store(to, v) }
            }

            #[inline(always)]
            unsafe fn load_bf16(from: *const u16) -> ($v, $v) {
                // SAFETY: the caller enabled the path's features and grants 2 · WIDTH elements and the one before.
                unsafe { $load_bf16(from) }
            }

            #[inline(always)]
            unsafe fn load_f16(from: *const u16) -> $v {
                // SAFETY: the caller enabled the path's features and grants WIDTH elements.
                unsafe { $cvtph($load_half(from.cast())) }
            }

            #[inline(always)]
            unsafe fn add(a: $v, b: $v) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $add(a, b) }
            }

            #[inline(always)]
            unsafe fn sub(a: $v, b: $v) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $sub(a, b) }
            }

            #[inline(always)]
            unsafe fn mul(a: $v, b: $v) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $mul(a, b) }
            }

            #[inline(always)]
            unsafe fn div(a: $v, b: $v) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $div(a, b) }
            }

            #[inline(always)]
            unsafe fn fma(a: $v, b: $v, c: $v) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $fma(a, b, c) }
            }

            #[inline(always)]
            unsafe fn max(a: $v, b: $v) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $max(a, b) }
            }

            #[inline(always)]
            unsafe fn min(a: $v, b: $v) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $min(a, b) }
            }

            #[inline(always)]
            unsafe fn add_exponent(v: $v, n: $v) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $as_float($add_int($as_int(v), $shift_left::<23>($as_int(n)))) }
            }

            #[inline(always)]
            unsafe fn sixteen_trees(lanes: *const f32, run: usize, to: *mut f32) {
                // SAFETY: the caller enabled the path's features, AVX among them, and grants 16 runs and 8 + 8 places.
                unsafe {
                    let (first, second) = (eight_trees(lanes, run), eight_trees(lanes.add(8 * run), run));
                    _mm256_storeu_ps(to, _mm256_permute2f128_ps::<0x20>(first, second));
                    _mm256_storeu_ps(to.add(LANES), _mm256_permute2f128_ps::<0x31>(first, second));
                }
            }

            #[inline(always)]
            unsafe fn prefetch(at: *const u16) {
                // SAFETY: a prefetch neither faults nor changes what a program can see.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
            }

            #[inline(always)]
            unsafe fn load_bytes(from: *const u8) -> $i {
                // SAFETY: the caller enabled the path's features and grants 4 · WIDTH bytes.
                unsafe { $load_int(from.cast()) }
            }

            #[inline(always)]
            unsafe fn load_i8_pairs(from: *const u8) -> $i {
                // SAFETY: the caller enabled the path's features and grants 2 · WIDTH bytes.
                unsafe { $i8_to_i16($load_half(from.cast())) }
            }

            #[inline(always)]
            unsafe fn load_u8_pairs(from: *const u8) -> $i {
                // SAFETY: the caller enabled the path's features and grants 2 · WIDTH bytes.
                unsafe { $u8_to_i16($load_half(from.cast())) }
            }

            #[inline(always)]
            unsafe fn broadcast(from: *const u8) -> $i {
                // SAFETY: the caller enabled the path's features and grants 4 bytes.
                unsafe { $set1_epi32(from.cast::<i32>().read_unaligned()) }
            }

            #[inline(always)]
            unsafe fn load_i32(from: *const i32) -> $i {
                // SAFETY: the caller enabled the path's features and grants WIDTH elements.
                unsafe { $load_int(from.cast()) }
            }

            #[inline(always)]
            unsafe fn store_i32(to: *mut i32, v: $i) {
                // SAFETY: the caller enabled the path's features and grants WIDTH elements.
                unsafe { $store_int(to.cast(), v) }
            }

            #[inline(always)]
            unsafe fn zero() -> $i {
                // SAFETY: the caller enabled the path's features.
                unsafe { $zero() }
            }

            #[inline(always)]
            unsafe fn or(a: $i, b: $i) -> $i {
                // SAFETY: the caller enabled the path's features.
                unsafe { $or(a, b) }
            }

            #[inline(always)]
            unsafe fn mask(v: $i, mask: u8) -> $i {
                // SAFETY: the caller enabled the path's features.
                unsafe { $and(v, $set1_epi8(mask as i8)) }
            }

            #[inline(always)]
            unsafe fn up<const N: i32>(v: $i) -> $i {
                // SAFETY: the caller enabled the path's features.
                unsafe { $sll(v, _mm_cvtsi32_si128(N)) }
            }

            #[inline(always)]
            unsafe fn down<const N: i32>(v: $i) -> $i {
                // SAFETY: the caller enabled the path's features.
                unsafe { $srl(v, _mm_cvtsi32_si128(N)) }
            }

            #[inline(always)]
            unsafe fn add_i32(a: $i, b: $i) -> $i {
                // SAFETY: the caller enabled the path's features.
                unsafe { $add_int(a, b) }
            }

            #[inline(always)]
            unsafe fn sub_32_times(a: $i, b: $i) -> $i {
                // SAFETY: the caller enabled the path's features.
                unsafe { $sub_int(a, $shift_left::<5>(b)) }
            }

            #[inline(always)]
            unsafe fn dot_i16(a: $i, b: $i) -> $i {
                // SAFETY: the caller enabled the path's features.
                unsafe { $madd(a, b) }
            }

            #[inline(always)]
            unsafe fn to_float(v: $i) -> $v {
                // SAFETY: the caller enabled the path's features.
                unsafe { $to_float(v) }
            }

            $scales!();
        }
    };
}

/// The even halves by a shift, the odd ones by a mask.
///
/// # Safety
/// AVX-512 is enabled where this is inlined, and `from` has 32 elements.
#[inline(always)]
unsafe fn load_32_bf16(from: *const u16) -> (__m512, __m512) {
    // SAFETY: by the function's own conditions.
    unsafe {
        let pairs = _mm512_loadu_si512(from.cast());
        let odd = _mm512_and_si512(pairs, _mm512_set1_epi32(ODD));
        (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(odd))
    }
}

/// The odd halves by a mask, and the even ones too, which are the odd halves one element earlier: on Zen 3 a shift takes
/// a multiply-add's place and a mask does not (five rows: 10.9 cycles for 20 multiply-adds instead of 12.7).
///
/// # Safety
/// AVX2 is enabled where this is inlined, and `from` has 16 elements and one before them.
#[inline(always)]
unsafe fn load_16_bf16(from: *const u16) -> (__m256, __m256) {
    // SAFETY: by the function's own conditions.
    unsafe {
        let mask = _mm256_set1_epi32(ODD);
        let even = _mm256_and_si256(mask, _mm256_loadu_si256(from.sub(1).cast()));
        let odd = _mm256_and_si256(mask, _mm256_loadu_si256(from.cast()));
        (_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd))
    }
}

/// [`tree`](super::simd::tree) of eight runs of 16 lanes at once, transposing as it halves: those of the even runs in the
/// low half, those of the odd ones in the high half.
///
/// # Safety
/// AVX is enabled where this is inlined, and `lanes` has 8 runs of 16 elements, each `run` after the one before.
#[inline(always)]
unsafe fn eight_trees(lanes: *const f32, run: usize) -> __m256 {
    // SAFETY: by the function's own conditions.
    unsafe {
        let mut pairs = [_mm256_setzero_ps(); 4];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let (even, odd) = (lanes.add(2 * i * run), lanes.add((2 * i + 1) * run));
            // l + 8
            let even = _mm256_add_ps(_mm256_loadu_ps(even), _mm256_loadu_ps(even.add(8)));
            let odd = _mm256_add_ps(_mm256_loadu_ps(odd), _mm256_loadu_ps(odd.add(8)));
            // l + 4: an even run in the low half, its odd neighbour in the high half.
            *pair = _mm256_add_ps(_mm256_permute2f128_ps::<0x20>(even, odd), _mm256_permute2f128_ps::<0x31>(even, odd));
        }
        // l + 2: two runs in each half.
        let [a, b, c, d] = pairs;
        let ab = _mm256_add_ps(_mm256_shuffle_ps::<0b01_00_01_00>(a, b), _mm256_shuffle_ps::<0b11_10_11_10>(a, b));
        let cd = _mm256_add_ps(_mm256_shuffle_ps::<0b01_00_01_00>(c, d), _mm256_shuffle_ps::<0b11_10_11_10>(c, d));
        // l + 1: four.
        _mm256_add_ps(_mm256_shuffle_ps::<0b10_00_10_00>(ab, cd), _mm256_shuffle_ps::<0b11_01_11_01>(ab, cd))
    }
}

/// Scales as 32-bit integers, and VNNI's sums of four products.
macro_rules! scales_for_vnni {
    () => {
        #[inline(always)]
        unsafe fn scale(from: *const u8) -> __m512i {
            // SAFETY: the caller enabled the path's features and grants 16 bytes.
            unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast())) }
        }

        #[inline(always)]
        unsafe fn scale_pairs(from: *const u8) -> (__m512i, __m512i) {
            // SAFETY: the caller enabled the path's features and grants 32 bytes.
            unsafe {
                let pairs = _mm512_cvtepi8_epi16(_mm256_loadu_si256(from.cast()));
                (_mm512_srai_epi32::<16>(_mm512_slli_epi32::<16>(pairs)), _mm512_srai_epi32::<16>(pairs))
            }
        }

        #[inline(always)]
        unsafe fn unit_scale() -> __m512i {
            // SAFETY: the caller enabled the path's features.
            unsafe { _mm512_set1_epi32(1) }
        }

        #[inline(always)]
        unsafe fn dot<const RUN: usize>(
            levels: &[__m512i; 8],
            x: *const u8,
            first: __m512i,
            second: __m512i,
        ) -> __m512i {
            // SAFETY: the caller enabled the path's features and grants 32 bytes.
            unsafe {
                let mut sums = [_mm512_setzero_si512(); 2];
                for (step, levels) in levels.iter().enumerate() {
                    let sum = &mut sums[step / 2 % 2];
                    *sum = _mm512_dpbusd_epi32(*sum, *levels, Self::broadcast(x.add(4 * step)));
                }
                if RUN > 2 {
                    return _mm512_mullo_epi32(_mm512_add_epi32(sums[0], sums[1]), first);
                }
                _mm512_add_epi32(_mm512_mullo_epi32(sums[0], first), _mm512_mullo_epi32(sums[1], second))
            }
        }
    };
}

/// Scales as pairs of equal 16-bit integers, which a multiply-add applies as it folds the sums of two products.
macro_rules! scales_for_avx2 {
    () => {
        #[inline(always)]
        unsafe fn scale(from: *const u8) -> __m256i {
            // SAFETY: the caller enabled the path's features and grants 8 bytes.
            unsafe {
                let scales = _mm256_cvtepu8_epi32(_mm_loadl_epi64(from.cast()));
                _mm256_or_si256(scales, _mm256_slli_epi32::<16>(scales))
            }
        }

        #[inline(always)]
        unsafe fn scale_pairs(from: *const u8) -> (__m256i, __m256i) {
            // SAFETY: the caller enabled the path's features and grants 16 bytes.
            unsafe {
                let pairs = _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast()));
                let (first, second) = (_mm256_slli_epi32::<16>(pairs), _mm256_srli_epi32::<16>(pairs));
                (_mm256_blend_epi16::<0b1010_1010>(pairs, first), _mm256_blend_epi16::<0b1010_1010>(second, pairs))
            }
        }

        #[inline(always)]
        unsafe fn unit_scale() -> __m256i {
            // SAFETY: the caller enabled the path's features.
            unsafe { _mm256_set1_epi16(1) }
        }

        #[inline(always)]
        unsafe fn dot<const RUN: usize>(
            levels: &[__m256i; 8],
            x: *const u8,
            first: __m256i,
            second: __m256i,
        ) -> __m256i {
            // SAFETY: the caller enabled the path's features and grants 32 bytes.
            unsafe {
                let mut sum = _mm256_setzero_si256();
                for run in 0..8 / RUN {
                    let mut products = _mm256_setzero_si256();
                    for step in run * RUN..(run + 1) * RUN {
                        let two = _mm256_maddubs_epi16(levels[step], Self::broadcast(x.add(4 * step)));
                        products = _mm256_add_epi16(products, two);
                    }
                    let scale = if RUN > 2 || run % 2 == 0 { first } else { second };
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(products, scale));
                }
                sum
            }
        }
    };
}

path!(Avx512: __m512, 16,
    _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps, _mm512_div_ps,
    _mm512_fmadd_ps, _mm512_max_ps, _mm512_min_ps, _mm512_slli_epi32, _mm512_add_epi32, _mm512_castps_si512,
    _mm512_castsi512_ps, load_32_bf16;
    __m512i, __m256i, _mm256_loadu_si256, _mm512_cvtph_ps, _mm512_loadu_si512, _mm512_storeu_si512,
    _mm512_set1_epi32, _mm512_setzero_si512, _mm512_or_si512, _mm512_and_si512, _mm512_set1_epi8, _mm512_sll_epi16,
    _mm512_srl_epi16, _mm512_sub_epi32, _mm512_madd_epi16, _mm512_cvtepi32_ps, _mm512_cvtepi8_epi16,
    _mm512_cvtepu8_epi16, scales_for_vnni);

path!(Avx2: __m256, 8,
    _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps, _mm256_div_ps,
    _mm256_fmadd_ps, _mm256_max_ps, _mm256_min_ps, _mm256_slli_epi32, _mm256_add_epi32, _mm256_castps_si256,
    _mm256_castsi256_ps, load_16_bf16;
    __m256i, __m128i, _mm_loadu_si128, _mm256_cvtph_ps, _mm256_loadu_si256, _mm256_storeu_si256,
    _mm256_set1_epi32, _mm256_setzero_si256, _mm256_or_si256, _mm256_and_si256, _mm256_set1_epi8, _mm256_sll_epi16,
    _mm256_srl_epi16, _mm256_sub_epi32, _mm256_madd_epi16, _mm256_cvtepi32_ps, _mm256_cvtepi8_epi16,
    _mm256_cvtepu8_epi16, scales_for_avx2);
