//! The noise that draft and target share.

use std::f64::consts::LN_2;

use crate::TokenId;
use crate::philox::philox4x32_10;
use crate::portable::ln;

/// No draw is greater: [`Draw::ceiling`] of the greatest u.
pub(super) const CEILING: f64 = ceiling(1);

/// The standard Gumbel variate that belongs to `token` at `position` under `seed`.
///
/// g = −ln(−ln u), u = (2k + 1)·2⁻⁵³, k the upper 52 bits of the first two words of Philox4x32-10 with key (seed low,
/// seed high) and counter (position low, position high, token, 0). `position` is the zero-based index of the chosen
/// token in the sequence. Gumbel coupling: Daliri et al. 2024 (arXiv 2408.07978).
pub fn gumbel(seed: u64, position: u64, token: TokenId) -> f64 {
    Draw::new(seed, position, token).gumbel()
}

/// The 52 random bits behind one variate, before the two logarithms that make it dear.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    #[inline]
    pub(super) fn new(seed: u64, position: u64, token: TokenId) -> Self {
        let key = [seed as u32, (seed >> 32) as u32];
        let words = philox4x32_10([position as u32, (position >> 32) as u32, token, 0], key);
        Draw((u64::from(words[0]) | u64::from(words[1]) << 32) >> 12)
    }

    #[cfg(test)]
    pub(super) fn of_bits(k: u64) -> Self {
        Draw(k)
    }

    pub(super) fn gumbel(self) -> f64 {
        let u = (2 * self.0 + 1) as f64 * (f64::EPSILON / 2.0);
        -ln(-ln(u))
    }

    /// A bound on the variate that costs no logarithm, at most ln 2 above it when u is near 1.
    ///
    /// −ln u ≥ 1 − u, so g ≤ −ln(1 − u), and 1 − u = odd·2⁻⁵³ is at least the power of two at or below it.
    #[inline]
    pub(super) fn ceiling(self) -> f64 {
        ceiling((1 << 53) - (2 * self.0 + 1))
    }
}

/// The bound where 1 − u = `odd`·2⁻⁵³; the last term pays for what the logarithms round.
const fn ceiling(odd: u64) -> f64 {
    (53 - odd.ilog2()) as f64 * LN_2 + 1e-9
}
