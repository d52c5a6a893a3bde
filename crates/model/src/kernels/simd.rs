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
