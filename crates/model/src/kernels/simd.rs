//! The vectors that every kernel is written in.
//!
//! The canonical order of reduction has [`LANES`] virtual lanes. A path holds them in one vector of 16 or in two of 8;
//! lanes never mix before [`tree`], so how many a path computes at once does not show in the bits.

/// Virtual lanes of every reduction.
pub(super) const LANES: usize = 16;

/// Elements of a row that one step of the canonical order takes: two for each lane.
pub(crate) const BLOCK: usize = 2 * LANES;

/// One path's vectors: `WIDTH` f32 at a time, each operation rounded once, as IEEE 754 says.
///
/// # Safety
/// Every method may only be called inside a function that enables the path's target features (so that they are always
/// inlined), and a pointer must be valid for the lanes that the method moves, at any alignment of the element.
pub(super) trait Simd: Copy {
    /// `WIDTH` lanes.
    type V: Copy;
    /// `WIDTH` lanes of a 32-bit integer, of two 16-bit ones, or of four bytes.
    type I: Copy;
    /// A whole number for each lane, ready for [`dot`](Self::dot).
    type Scale: Copy;
    /// Lanes of a vector: 8 or 16.
    const WIDTH: usize;
    /// Vectors that make up the virtual lanes.
    const PARTS: usize = LANES / Self::WIDTH;

    /// `x` in every lane.
    unsafe fn splat(x: f32) -> Self::V;
    /// `WIDTH` f32 from `from`.
    unsafe fn load(from: *const f32) -> Self::V;
    /// `WIDTH` f32 to `to`.
    unsafe fn store(to: *mut f32, v: Self::V);
    /// `2 · WIDTH` bf16 from `from`, widened exactly: those at even places, and those at odd places. The element before
    /// `from` must be readable too.
    unsafe fn load_bf16(from: *const u16) -> (Self::V, Self::V);
    /// `WIDTH` f16 from `from`, widened exactly.
    unsafe fn load_f16(from: *const u16) -> Self::V;
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a − b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b`.
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a · b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a` where `a > b`, otherwise `b` (also where either is NaN).
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `a` where `a < b`, otherwise `b` (also where either is NaN).
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// The bits of `v` plus the bits of `n` shifted left by 23, as integers: `v · 2ⁿ` where the low bits of `n` hold a
    /// whole number and the result is normal.
    unsafe fn add_exponent(v: Self::V, n: Self::V) -> Self::V;
    /// The [`tree`] sums of sixteen runs of [`LANES`], each `run` elements after the one before, in lane order: those of
    /// the even runs to the first 8 places of `to`, those of the odd ones to the 8 from [`LANES`] on.
    unsafe fn sixteen_trees(lanes: *const f32, run: usize, to: *mut f32);
    /// Asks for the cache line at `at`, which need not be mapped.
    unsafe fn prefetch(at: *const u16);

    /// `4 · WIDTH` bytes from `from`.
    unsafe fn load_bytes(from: *const u8) -> Self::I;
    /// `2 · WIDTH` signed bytes from `from`, each as 16 bits.
    unsafe fn load_i8_pairs(from: *const u8) -> Self::I;
    /// `2 · WIDTH` unsigned bytes from `from`, each as 16 bits.
    unsafe fn load_u8_pairs(from: *const u8) -> Self::I;
    /// The same 4 bytes from `from` in every lane.
    unsafe fn broadcast(from: *const u8) -> Self::I;
    /// `WIDTH` integers from `from`.
    unsafe fn load_i32(from: *const i32) -> Self::I;
    /// `WIDTH` integers to `to`.
    unsafe fn store_i32(to: *mut i32, v: Self::I);
    /// 0 in every lane.
    unsafe fn zero() -> Self::I;
    /// The bits of both.
    unsafe fn or(a: Self::I, b: Self::I) -> Self::I;
    /// The bits of each byte that `mask` has.
    unsafe fn mask(v: Self::I, mask: u8) -> Self::I;
    /// Each byte's bits moved up by `N`; those that come from its neighbour are of no meaning.
    unsafe fn up<const N: i32>(v: Self::I) -> Self::I;
    /// Each byte's bits moved down by `N`; those that come from its neighbour are of no meaning.
    unsafe fn down<const N: i32>(v: Self::I) -> Self::I;
    /// `a + b`, 32 bits, wrapping.
    unsafe fn add_i32(a: Self::I, b: Self::I) -> Self::I;
    /// `a − 32 · b`, 32 bits, wrapping.
    unsafe fn sub_32_times(a: Self::I, b: Self::I) -> Self::I;
    /// `a₀ · b₀ + a₁ · b₁` for the two 16-bit integers of each lane.
    unsafe fn dot_i16(a: Self::I, b: Self::I) -> Self::I;
    /// The nearest f32 of each integer.
    unsafe fn to_float(v: Self::I) -> Self::V;
    /// `WIDTH` unsigned bytes as scales.
    unsafe fn scale(from: *const u8) -> Self::Scale;
    /// `2 · WIDTH` signed bytes as scales: those at even places, and those at odd places.
    unsafe fn scale_pairs(from: *const u8) -> (Self::Scale, Self::Scale);
    /// Scales of 1.
    unsafe fn unit_scale() -> Self::Scale;
    /// In each lane the products of eight times four unsigned `levels` with the 32 signed bytes from `x`, summed: those of
    /// levels 0, 1, 4 and 5 times `first`, those of 2, 3, 6 and 7 times `second`. Exact where the sum of `2 · RUN` products
    /// is below 2¹⁵; where `RUN` is more than 2, both scales are the same.
    unsafe fn dot<const RUN: usize>(
        levels: &[Self::I; 8],
        x: *const u8,
        first: Self::Scale,
        second: Self::Scale,
    ) -> Self::I;
}

/// The sum of the virtual lanes: l + 8, then + 4, + 2, + 1.
#[inline(always)]
pub(super) fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] += lanes[l + width];
        }
        width /= 2;
    }
    lanes[0]
}
