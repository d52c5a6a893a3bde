//! Quantised weights (GGUF's blocks), repacked so that one vector holds a byte of 16 outputs.
//!
//! Outputs go in groups of 16, which stand in *lane order* (see [`place`](super::place)): group 2i has the even outputs of
//! the i-th 32, group 2i + 1 the odd ones. A group's blocks follow each other along the inputs, and a block is, for its 16
//! outputs: the scales, then for each 32 inputs the levels, 4 inputs of 16 outputs to a line of 64 bytes, the inputs in
//! lane order as well. Nothing but the order of the bits changes, except that the 6-bit scales of Q4_K and Q5_K take a
//! byte each (2.8% more).

use std::num::NonZeroUsize;
use std::thread;

use super::bytes::Bytes;
use super::simd::LANES;
use super::{BLOCK, place};

mod block;
#[cfg(test)]
mod tests;

use block::Block;

/// A quantised format of GGUF (ggml's `block_q…`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Format {
    /// Blocks of 32: `d · (q − 8)`, 4 bits.
    Q4_0,
    /// Blocks of 32: `d · (q − 16)`, 5 bits.
    Q5_0,
    /// Blocks of 32: `d · q`, 8 bits, signed.
    Q8_0,
    /// Blocks of 256, scale and minimum for each 32: `d · s · q − e · m`, 4 bits.
    Q4K,
    /// The same with 5 bits.
    Q5K,
    /// Blocks of 256, scale for each 16: `d · s · (q − 32)`, 6 bits.
    Q6K,
}

impl Format {
    /// Its usual name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Q4_0 => "q4_0",
            Format::Q5_0 => "q5_0",
            Format::Q8_0 => "q8_0",
            Format::Q4K => "q4_k",
            Format::Q5K => "q5_k",
            Format::Q6K => "q6_k",
        }
    }

    /// Inputs of a block.
    pub(crate) fn block_len(self) -> usize {
        match self {
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => 32,
            Format::Q4K | Format::Q5K | Format::Q6K => 256,
        }
    }

    /// Whether `raw` is outputs · inputs weights in whole blocks, with scales that are finite. Gives what is wrong.
    pub(crate) fn check(self, raw: &[u8], [outputs, inputs]: [usize; 2]) -> Result<(), String> {
        let row_bytes = self.row_bytes(raw, [outputs, inputs])?;
        let finite =
            |row: &[u8]| row.chunks_exact(self.block_bytes()).all(|block| Block::read(self, block).is_finite());
        match raw.chunks_exact(row_bytes).position(|row| !finite(row)) {
            Some(row) => Err(not_finite(row)),
            None => Ok(()),
        }
    }

    /// Bytes of a row of `raw`, which must be outputs · inputs weights in whole blocks.
    fn row_bytes(self, raw: &[u8], [outputs, inputs]: [usize; 2]) -> Result<usize, String> {
        if inputs == 0 || !inputs.is_multiple_of(self.block_len()) {
            return Err(format!("rows of {inputs}, not a multiple of {}", self.block_len()));
        }
        let row_bytes = inputs / self.block_len() * self.block_bytes();
        match outputs.checked_mul(row_bytes) == Some(raw.len()) {
            true => Ok(row_bytes),
            false => Err(format!("{} bytes, not {outputs} rows of {row_bytes}", raw.len())),
        }
    }

    /// Bytes of a block in a file.
    pub(crate) fn block_bytes(self) -> usize {
        match self {
            Format::Q4_0 => 18,
            Format::Q5_0 => 22,
            Format::Q8_0 => 34,
            Format::Q4K => 144,
            Format::Q5K => 176,
            Format::Q6K => 210,
        }
    }

    /// Where a packed block of 16 outputs has its parts.
    pub(crate) const fn layout(self) -> Layout {
        match self {
            Format::Q4_0 => Layout { levels: 32, run: 256, runs: 1 },
            Format::Q5_0 => Layout { levels: 32, run: 256 + 64, runs: 1 },
            Format::Q8_0 => Layout { levels: 32, run: 512, runs: 1 },
            Format::Q4K => Layout { levels: 320, run: 256, runs: 8 },
            Format::Q5K => Layout { levels: 320, run: 256 + 64, runs: 8 },
            Format::Q6K => Layout { levels: 288, run: 256 + 128, runs: 8 },
        }
    }
}

/// Offsets in a packed block of 16 outputs, bytes. `d` is at 0, `e` of the K formats at 32.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Where the levels begin; scales and minima are before them.
    pub(crate) levels: usize,
    /// From one run of 32 inputs to the next.
    pub(crate) run: usize,
    /// Runs of 32 inputs.
    pub(crate) runs: usize,
}

impl Layout {
    /// Scales of Q4_K and Q5_K: (run, output); minima: (pair of runs, output, run of the pair).
    pub(crate) const SCALES: usize = 64;
    pub(crate) const MINIMA: usize = 64 + 8 * LANES;
    /// Scales of Q6_K: (run, output, half of the run).
    pub(crate) const HALF_SCALES: usize = 32;

    pub(crate) const fn bytes(self) -> usize {
        self.levels + self.runs * self.run
    }
}

/// A quantised matrix (outputs, inputs).
pub(crate) struct Packed {
    format: Format,
    outputs: usize,
    inputs: usize,
    bytes: Bytes,
}

impl Packed {
    /// Packs `raw`, the rows of a file. Gives the reason where that cannot be.
    pub(crate) fn new(format: Format, raw: &[u8], outputs: usize, inputs: usize) -> Result<Packed, String> {
        let row_bytes = format.row_bytes(raw, [outputs, inputs])?;
        let (blocks, layout) = (inputs / format.block_len(), format.layout());
        let panels = outputs.div_ceil(BLOCK);
        let panel_bytes = BLOCK / LANES * blocks * layout.bytes();
        let mut bytes = Bytes::zeroed(panels * panel_bytes);
        // Each thread packs a run of panels from a run of rows.
        let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let share = panels.div_ceil(threads).max(1);
        let packed = thread::scope(|scope| {
            let parts = bytes.chunks_mut(share * panel_bytes).zip(raw.chunks(share * BLOCK * row_bytes));
            let parts: Vec<_> =
                parts.map(|(packed, rows)| scope.spawn(move || pack_rows(format, rows, row_bytes, packed))).collect();
            parts.into_iter().map(|part| part.join().expect("packing does not panic")).collect::<Vec<_>>()
        });
        match packed.into_iter().enumerate().find_map(|(part, row)| Some(part * share * BLOCK + row?)) {
            Some(row) => Err(not_finite(row)),
            None => Ok(Packed { format, outputs, inputs, bytes }),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// All groups.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The blocks of a group.
    pub(super) fn group(&self, group: usize) -> &[u8] {
        let group_bytes = self.inputs / self.format.block_len() * self.format.layout().bytes();
        &self.bytes[group * group_bytes..][..group_bytes]
    }

    /// The weights of one output, in lane order.
    pub(crate) fn row(&self, output: usize, out: &mut [f32]) {
        let block_bytes = self.format.layout().bytes();
        let (group, lane) = (place(output) / LANES, place(output) % LANES);
        let blocks = self.group(group).chunks_exact(block_bytes);
        for (packed, out) in blocks.zip(out.chunks_exact_mut(self.format.block_len())) {
            let mut values = [0.0; 256];
            Block::unpack(self.format, packed, lane).values(self.format, &mut values);
            for i in 0..out.len() {
                out[place(i)] = values[i];
            }
        }
    }
}

fn not_finite(row: usize) -> String {
    format!("not finite: a scale of row {row}")
}

/// Packs rows, the first of which begins a panel, into `packed`, all zeros before. Gives the first row with a scale that is
/// not finite.
fn pack_rows(format: Format, rows: &[u8], row_bytes: usize, packed: &mut [u8]) -> Option<usize> {
    let (blocks, block_bytes) = (row_bytes / format.block_bytes(), format.layout().bytes());
    for (output, row) in rows.chunks_exact(row_bytes).enumerate() {
        let (group, lane) = (place(output) / LANES, place(output) % LANES);
        for (at, stored) in row.chunks_exact(format.block_bytes()).enumerate() {
            let block = Block::read(format, stored);
            if !block.is_finite() {
                return Some(output);
            }
            block.pack(format, &mut packed[(group * blocks + at) * block_bytes..][..block_bytes], lane);
        }
    }
    None
}
