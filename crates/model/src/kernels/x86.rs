//! The x86-64 paths: AVX-512 holds the virtual lanes in one vector, AVX2 with FMA in two.

use std::arch::x86_64::*;

use super::simd::Simd;

/// The path of processors with `avx512f`; no other part of AVX-512 is used.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// The path of processors with `avx2` and `fma`.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// The sign, exponent and mantissa of the odd one of two bf16.
const ODD: i32 = 0xffff_0000_u32 as i32;

macro_rules! path {
    ($path:ident: $v:ident, $width:literal,
     $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $fma:ident, $max:ident,
     $min:ident, $load_int:ident, $splat_int:ident, $and:ident, $shift_left:ident, $add_int:ident, $as_int:ident,
     $as_float:ident) => {
        impl Simd for $path {
            type V = $v;
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
                // SAFETY: the caller enabled the path's features and grants 2 · WIDTH elements.
                unsafe {
                    let pairs = $load_int(from.cast());
                    (
                        $as_float($shift_left::<16>(pairs)),
                        $as_float($and(pairs, $splat_int(ODD))),
                    )
                }
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
            unsafe fn eight_trees(lanes: *const f32) -> [[f32; 4]; 2] {
                // SAFETY: the caller enabled the path's features, AVX among them, and grants 8 runs of 16 elements.
                unsafe { eight_trees(lanes) }
            }

            #[inline(always)]
            unsafe fn prefetch(at: *const u16) {
                // SAFETY: a prefetch neither faults nor changes what a program can see.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
            }
        }
    };
}

/// [`tree`](super::simd::tree) of eight runs of 16 lanes at once, transposing as it halves.
///
/// # Safety
/// AVX is enabled where this is inlined, and `lanes` has 8 runs of 16 elements.
#[inline(always)]
unsafe fn eight_trees(lanes: *const f32) -> [[f32; 4]; 2] {
    // SAFETY: by the function's own conditions; `__m256` and eight f32 have the same layout.
    unsafe {
        let mut pairs = [_mm256_setzero_ps(); 4];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let [even, odd] = [2 * i, 2 * i + 1].map(|run| lanes.add(16 * run));
            let even = _mm256_add_ps(_mm256_loadu_ps(even), _mm256_loadu_ps(even.add(8)));
            let odd = _mm256_add_ps(_mm256_loadu_ps(odd), _mm256_loadu_ps(odd.add(8)));
            // l + 4: an even run in the low half, its odd neighbour in the high half.
            *pair = _mm256_add_ps(
                _mm256_permute2f128_ps::<0x20>(even, odd),
                _mm256_permute2f128_ps::<0x31>(even, odd),
            );
        }
        // l + 2: two runs in each half.
        let [a, b, c, d] = pairs;
        let ab = _mm256_add_ps(
            _mm256_shuffle_ps::<0b01_00_01_00>(a, b),
            _mm256_shuffle_ps::<0b11_10_11_10>(a, b),
        );
        let cd = _mm256_add_ps(
            _mm256_shuffle_ps::<0b01_00_01_00>(c, d),
            _mm256_shuffle_ps::<0b11_10_11_10>(c, d),
        );
        // l + 1: four.
        let sums = _mm256_add_ps(
            _mm256_shuffle_ps::<0b10_00_10_00>(ab, cd),
            _mm256_shuffle_ps::<0b11_01_11_01>(ab, cd),
        );
        std::mem::transmute::<__m256, [[f32; 4]; 2]>(sums)
    }
}

path!(Avx512: __m512, 16,
    _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_add_ps, _mm512_sub_ps, _mm512_mul_ps, _mm512_div_ps,
    _mm512_fmadd_ps, _mm512_max_ps, _mm512_min_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_and_si512,
    _mm512_slli_epi32, _mm512_add_epi32, _mm512_castps_si512, _mm512_castsi512_ps);

path!(Avx2: __m256, 8,
    _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_add_ps, _mm256_sub_ps, _mm256_mul_ps, _mm256_div_ps,
    _mm256_fmadd_ps, _mm256_max_ps, _mm256_min_ps, _mm256_loadu_si256, _mm256_set1_epi32, _mm256_and_si256,
    _mm256_slli_epi32, _mm256_add_epi32, _mm256_castps_si256, _mm256_castsi256_ps);
