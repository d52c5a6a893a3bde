//! Philox4x32-10, a counter-based generator: any word of its stream is a pure function of a key and a counter.
//!
//! Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

#[cfg(test)]
mod tests;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The last word of a counter says what the words are for, so that no two uses of one seed share them. 0 is the noise
/// that draft and target share.
pub mod stream {
    /// The noise in the weights of a synthetic model.
    pub const WEIGHTS: u32 = 1;
    /// The lots of a synthetic acceptance.
    pub const ACCEPTANCE: u32 = 2;
    /// What the models of a simulation choose.
    pub const TEXT: u32 = 3;
    /// How long the passes of a simulation take.
    pub const PASSES: u32 = 4;
    /// How long the messages of a simulation travel.
    pub const MESSAGES: u32 = 5;
    /// A draft's samples under rejection coupling.
    pub const PROPOSAL: u32 = 6;
    /// The test that a proposed token passes or does not.
    pub const TEST: u32 = 7;
    /// The final token of a verdict.
    pub const FINAL: u32 = 8;
}

/// The four random words that belong to `counter` under `key`.
#[inline]
pub fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        counter = round(counter, key);
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// The number from 0 to below 1 that belongs to `position` under `seed`, of the 53 upper bits of the first two words. `word`
/// and `stream` are the last words of the counter.
pub fn uniform(seed: u64, position: u64, word: u32, stream: u32) -> f64 {
    let [key, counter] = [seed, position].map(|halves| [halves as u32, (halves >> 32) as u32]);
    let words = philox4x32_10([counter[0], counter[1], word, stream], key);
    let k = (u64::from(words[0]) | u64::from(words[1]) << 32) >> 11;
    k as f64 * (f64::EPSILON / 2.0)
}

#[inline]
fn round(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let (high0, low0) = wide_product(MULTIPLIERS[0], counter[0]);
    let (high1, low1) = wide_product(MULTIPLIERS[1], counter[2]);
    [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
}

#[inline]
fn wide_product(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}
