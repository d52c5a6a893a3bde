//! One block of one output: its scales and levels, as a file has them and as a packed group has them.

use half::f16;

use super::super::place;
use super::super::simd::LANES;
use super::{Format, Layout};

/// Scales and levels, each in its own number. A format without minima has zeros there.
pub(super) struct Block {
    /// `d` and `e` (ggml's `dmin`), f16.
    pub(super) d: [u8; 2],
    pub(super) e: [u8; 2],
    /// One for each 32 inputs (Q4_K, Q5_K) or each 16 (Q6_K).
    pub(super) scales: [u8; 16],
    pub(super) minima: [u8; 8],
    /// Bits of each input's level, natural order; those of Q8_0 are signed.
    pub(super) levels: [u8; 256],
}

impl Block {
    /// Reads a block of a file.
    pub(super) fn read(format: Format, stored: &[u8]) -> Block {
        let mut block = Block { d: [0; 2], e: [0; 2], scales: [0; 16], minima: [0; 8], levels: [0; 256] };
        match format {
            Format::Q4_0 | Format::Q5_0 => {
                block.d = [stored[0], stored[1]];
                let (high, low) = stored[2..].split_at(if format == Format::Q5_0 { 4 } else { 0 });
                for i in 0..16 {
                    block.levels[i] = low[i] & 0xf | bit(high, i) << 4;
                    block.levels[i + 16] = low[i] >> 4 | bit(high, i + 16) << 4;
                }
            }
            Format::Q8_0 => {
                block.d = [stored[0], stored[1]];
                block.levels[..32].copy_from_slice(&stored[2..]);
            }
            Format::Q4K | Format::Q5K => {
                (block.d, block.e) = ([stored[0], stored[1]], [stored[2], stored[3]]);
                block.read_six_bit_scales(&stored[4..16]);
                let (high, low) = stored[16..].split_at(if format == Format::Q5K { 32 } else { 0 });
                for (run, levels) in block.levels.chunks_exact_mut(32).enumerate() {
                    for (i, level) in levels.iter_mut().enumerate() {
                        let four = low[run / 2 * 32 + i] >> (run % 2 * 4) & 0xf;
                        *level = four | high.get(i).map_or(0, |bits| bits >> run & 1) << 4;
                    }
                }
            }
            Format::Q6K => {
                let (low, rest) = stored.split_at(128);
                let (high, rest) = rest.split_at(64);
                block.scales.copy_from_slice(&rest[..16]);
                block.d = [rest[16], rest[17]];
                for (i, level) in block.levels.iter_mut().enumerate() {
                    // Halves of 128; in each, runs of 32: two share the low nibbles' bytes, four the high bits'.
                    let (half, run, column) = (i / 128, i % 128 / 32, i % 32);
                    let four = low[half * 64 + run % 2 * 32 + column] >> (run / 2 * 4) & 0xf;
                    *level = four | (high[half * 32 + column] >> (2 * run) & 3) << 4;
                }
            }
        }
        block
    }

    /// Six bits each of eight scales and eight minima, as ggml's `get_scale_min_k4` finds them.
    fn read_six_bit_scales(&mut self, bits: &[u8]) {
        for j in 0..4 {
            self.scales[j] = bits[j] & 63;
            self.minima[j] = bits[j + 4] & 63;
            self.scales[j + 4] = bits[j + 8] & 0xf | bits[j] >> 6 << 4;
            self.minima[j + 4] = bits[j + 8] >> 4 | bits[j + 4] >> 6 << 4;
        }
    }

    pub(super) fn is_finite(&self) -> bool {
        f16::from_le_bytes(self.d).is_finite() && f16::from_le_bytes(self.e).is_finite()
    }

    /// Puts the block into a packed group, all zeros before, at `lane`.
    pub(super) fn pack(&self, format: Format, packed: &mut [u8], lane: usize) {
        let layout = format.layout();
        packed[2 * lane..][..2].copy_from_slice(&self.d);
        match format {
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => {}
            Format::Q4K | Format::Q5K => {
                packed[32 + 2 * lane..][..2].copy_from_slice(&self.e);
                for run in 0..8 {
                    packed[Layout::SCALES + run * LANES + lane] = self.scales[run];
                    packed[Layout::MINIMA + (run / 2 * LANES + lane) * 2 + run % 2] = self.minima[run];
                }
            }
            Format::Q6K => {
                for half in 0..16 {
                    packed[Layout::HALF_SCALES + (half / 2 * LANES + lane) * 2 + half % 2] = self.scales[half];
                }
            }
        }
        for (run, levels) in self.levels[..format.block_len()].chunks_exact(32).enumerate() {
            pack_run(format, levels, &mut packed[layout.levels + run * layout.run..][..layout.run], lane);
        }
    }

    /// Takes a block from a packed group.
    pub(super) fn unpack(format: Format, packed: &[u8], lane: usize) -> Block {
        let layout = format.layout();
        let mut block = Block { d: [0; 2], e: [0; 2], scales: [0; 16], minima: [0; 8], levels: [0; 256] };
        block.d.copy_from_slice(&packed[2 * lane..][..2]);
        match format {
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => {}
            Format::Q4K | Format::Q5K => {
                block.e.copy_from_slice(&packed[32 + 2 * lane..][..2]);
                for run in 0..8 {
                    block.scales[run] = packed[Layout::SCALES + run * LANES + lane];
                    block.minima[run] = packed[Layout::MINIMA + (run / 2 * LANES + lane) * 2 + run % 2];
                }
            }
            Format::Q6K => {
                for half in 0..16 {
                    block.scales[half] = packed[Layout::HALF_SCALES + (half / 2 * LANES + lane) * 2 + half % 2];
                }
            }
        }
        for (run, levels) in block.levels[..format.block_len()].chunks_exact_mut(32).enumerate() {
            unpack_run(format, &packed[layout.levels + run * layout.run..][..layout.run], lane, levels);
        }
        block
    }

    /// The weights, natural order.
    pub(super) fn values(&self, format: Format, out: &mut [f32; 256]) {
        let (d, e) = (f16::from_le_bytes(self.d).to_f32(), f16::from_le_bytes(self.e).to_f32());
        for i in 0..format.block_len() {
            let level = f32::from(self.levels[i]);
            out[i] = match format {
                Format::Q4_0 => d * (level - 8.0),
                Format::Q5_0 => d * (level - 16.0),
                Format::Q8_0 => d * f32::from(self.levels[i] as i8),
                Format::Q4K | Format::Q5K => {
                    d * f32::from(self.scales[i / 32]) * level - e * f32::from(self.minima[i / 32])
                }
                Format::Q6K => d * f32::from(self.scales[i / 16] as i8) * (level - 32.0),
            };
        }
    }
}

fn bit(bits: &[u8], i: usize) -> u8 {
    bits.get(i / 8).map_or(0, |byte| byte >> (i % 8) & 1)
}

/// Where a run has the high bits, after the low ones.
const HIGH: usize = 256;

/// The four low bits, the lowest, the two lowest of each byte.
const FOUR: u32 = 0x0f0f_0f0f;
const ONE: u32 = 0x0101_0101;
const TWO: u32 = 0x0303_0303;

/// Puts the levels of 32 inputs into a packed run, all zeros before.
///
/// A step is 4 inputs, in lane order. Of 8 bits, two inputs of 16 outputs take 32 bytes. Of fewer, steps 0 … 3 have the low
/// nibbles of their lines and steps 4 … 7 the high ones; the fifth bit of step s is bit s of a further line; the two
/// high ones of six are bits 2(s mod 4) and the next of two further lines.
fn pack_run(format: Format, levels: &[u8], packed: &mut [u8], lane: usize) {
    let mut ordered = [0; 32];
    (0..32).for_each(|i| ordered[place(i)] = levels[i]);
    if format == Format::Q8_0 {
        for (two, packed) in ordered.chunks_exact(2).zip(packed.chunks_exact_mut(2 * LANES)) {
            packed[2 * lane..][..2].copy_from_slice(two);
        }
        return;
    }
    let step = |s: usize| u32::from_le_bytes([0, 1, 2, 3].map(|k| ordered[4 * s + k]));
    let mut put = |line: usize, word: u32| packed[line * 64 + 4 * lane..][..4].copy_from_slice(&word.to_le_bytes());
    (0..4).for_each(|s| put(s, step(s) & FOUR | (step(s + 4) & FOUR) << 4));
    match format {
        Format::Q5_0 | Format::Q5K => put(HIGH / 64, (0..8).fold(0, |bits, s| bits | (step(s) >> 4 & ONE) << s)),
        Format::Q6K => {
            let bits = |first: usize| (0..4).fold(0, |bits, s| bits | (step(first + s) >> 4 & TWO) << (2 * s));
            put(HIGH / 64, bits(0));
            put(HIGH / 64 + 1, bits(4));
        }
        Format::Q4_0 | Format::Q8_0 | Format::Q4K => {}
    }
}

/// The reverse of [`pack_run`].
fn unpack_run(format: Format, packed: &[u8], lane: usize, levels: &mut [u8]) {
    let mut ordered = [0; 32];
    if format == Format::Q8_0 {
        for (two, packed) in ordered.chunks_exact_mut(2).zip(packed.chunks_exact(2 * LANES)) {
            two.copy_from_slice(&packed[2 * lane..][..2]);
        }
    } else {
        let get = |line: usize| u32::from_le_bytes([0, 1, 2, 3].map(|k| packed[line * 64 + 4 * lane + k]));
        for (s, four) in ordered.chunks_exact_mut(4).enumerate() {
            let high = match format {
                Format::Q5_0 | Format::Q5K => get(HIGH / 64) >> s & ONE,
                Format::Q6K => get(HIGH / 64 + s / 4) >> (s % 4 * 2) & TWO,
                Format::Q4_0 | Format::Q8_0 | Format::Q4K => 0,
            };
            four.copy_from_slice(&(get(s % 4) >> (s / 4 * 4) & FOUR | high << 4).to_le_bytes());
        }
    }
    (0..32).for_each(|i| levels[i] = ordered[place(i)]);
}
