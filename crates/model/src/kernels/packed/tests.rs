//! Packing against candle's own reading of the same bytes, and the integer kernels against their canonical order.

use std::num::NonZeroUsize;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, ggml_file::qtensor_from_ggml};
use half::f16;
use proptest::prelude::*;

use super::super::matmul::{Scratch, Sink, matmul};
use super::super::{Isa, Matrix, in_lane_order};
use super::*;
use crate::Compute;

const FORMATS: [Format; 6] = [Format::Q4_0, Format::Q5_0, Format::Q8_0, Format::Q4K, Format::Q5K, Format::Q6K];

/// Numbers that are as good as random.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn value(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// Rows of blocks with any bits but for their scales, which are small numbers of either sign.
fn stored(format: Format, outputs: usize, inputs: usize, random: &mut Random) -> Vec<u8> {
    let blocks = outputs * inputs / format.block_len();
    let mut raw: Vec<u8> = (0..blocks * format.block_bytes()).map(|_| random.next() as u8).collect();
    for block in raw.chunks_exact_mut(format.block_bytes()) {
        let scales = match format {
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 => 0..2,
            Format::Q4K | Format::Q5K => 0..4,
            Format::Q6K => 208..210,
        };
        for scale in block[scales].chunks_exact_mut(2) {
            scale.copy_from_slice(&f16::from_f32(random.value() / 64.0).to_le_bytes());
        }
    }
    raw
}

fn by_candle(format: Format, raw: &[u8], outputs: usize, inputs: usize) -> Vec<Vec<f32>> {
    let dtype = match format {
        Format::Q4_0 => GgmlDType::Q4_0,
        Format::Q5_0 => GgmlDType::Q5_0,
        Format::Q8_0 => GgmlDType::Q8_0,
        Format::Q4K => GgmlDType::Q4K,
        Format::Q5K => GgmlDType::Q5K,
        Format::Q6K => GgmlDType::Q6K,
    };
    let tensor = qtensor_from_ggml(dtype, raw, vec![outputs, inputs], &Device::Cpu).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap().to_vec2().unwrap()
}

/// Every weight of every format is the one that candle reads.
#[test]
fn packed_rows_are_those_of_candle() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for format in FORMATS {
        let (outputs, inputs) = (37, 512);
        let raw = stored(format, outputs, inputs, &mut random);
        let expected = by_candle(format, &raw, outputs, inputs);
        let packed = Packed::new(format, &raw, outputs, inputs).unwrap();
        for (output, expected) in expected.iter().enumerate() {
            let mut row = vec![f32::NAN; inputs];
            packed.row(output, &mut row);
            assert_eq!(row, in_lane_order(expected), "{format:?}, output {output}");
        }
    }
}

#[test]
fn what_cannot_be_packed_is_refused() {
    let mut random = Random(1);
    for format in FORMATS {
        let mut raw = stored(format, 2, 256, &mut random);
        let reason = |result: Result<Packed, String>| result.err().unwrap();
        assert!(reason(Packed::new(format, &raw, 2, 16)).contains("rows of 16, not a multiple of"));
        assert!(reason(Packed::new(format, &raw, 3, 256)).contains("not 3 rows of"));
        assert!(reason(Packed::new(format, &raw, usize::MAX, 256)).contains("rows of"));
        let scale = if format == Format::Q6K { raw.len() - 2 } else { raw.len() - format.block_bytes() };
        raw[scale..scale + 2].copy_from_slice(&f16::NAN.to_le_bytes());
        assert_eq!(reason(Packed::new(format, &raw, 2, 256)), "not finite: a scale of row 1");
    }
}

/// A block of activations as the canonical order rounds it.
fn rounded(values: &[f32]) -> (f32, Vec<i64>) {
    let greatest = values.iter().fold(0.0_f32, |greatest, value| greatest.max(value.abs()));
    let inverse = if greatest == 0.0 { 0.0 } else { 127.0 / greatest };
    (greatest / 127.0, values.iter().map(|value| (value * inverse).round_ties_even() as i64).collect())
}

/// One output of one row, as the module of the integer kernels defines it.
fn canonical(format: Format, row: &[u8], x: &[f32]) -> f32 {
    let mut sum = 0.0_f32;
    let blocks = row.chunks_exact(format.block_bytes());
    for (block, x) in blocks.zip(x.chunks_exact(format.block_len())) {
        let block = Block::read(format, block);
        let (dx, x) = rounded(x);
        let (d, e) = (f16::from_le_bytes(block.d).to_f32(), f16::from_le_bytes(block.e).to_f32());
        let dot = |of: &dyn Fn(usize) -> i64| (0..x.len()).map(|i| of(i) * x[i]).sum::<i64>() as f32;
        let level = |i: usize| i64::from(block.levels[i]);
        let integer = match format {
            Format::Q4_0 => dot(&|i| level(i) - 8),
            Format::Q5_0 => dot(&|i| level(i) - 16),
            Format::Q8_0 => dot(&|i| i64::from(block.levels[i] as i8)),
            Format::Q4K | Format::Q5K => dot(&|i| i64::from(block.scales[i / 32]) * level(i)),
            Format::Q6K => dot(&|i| i64::from(block.scales[i / 16] as i8) * (level(i) - 32)),
        };
        sum = (d * dx).mul_add(integer, sum);
        if matches!(format, Format::Q4K | Format::Q5K) {
            sum = (-e * dx).mul_add(dot(&|i| block.minima[i / 32].into()), sum);
        }
    }
    sum
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Every format, path and number of threads gives the canonical bits, for many rows and for one alone, also where a
    /// float matrix and two quantised ones are stacked.
    #[test]
    fn quantised_rows_are_canonical(format in prop::sample::select(&FORMATS[..]), other in prop::sample::select(&FORMATS[..]),
                                    rows in 1_usize..=70, blocks in 1_usize..=3, outputs in 1_usize..=80,
                                    threads in 1_usize..=4, seed in 1_u64..1000) {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let inputs = 256 * blocks;
        let sizes = [outputs, 33];
        let raw = [stored(format, sizes[0], inputs, &mut random), stored(other, sizes[1], inputs, &mut random)];
        let x: Vec<f32> = (0..rows * inputs).map(|_| random.value() * 3.0).collect();
        let formats = [format, other];
        let matrices = [0, 1].map(|i| Matrix::quantised(formats[i], &raw[i], sizes[i], inputs).unwrap());
        let bases = [0, outputs.next_multiple_of(32)];
        let width = bases[1] + 64;
        for isa in Isa::available() {
            let compute = Compute::with_isa(NonZeroUsize::new(threads).unwrap(), isa).unwrap();
            let run = |range: std::ops::Range<usize>| {
                let placed: Vec<f32> =
                    range.clone().flat_map(|row| in_lane_order(&x[row * inputs..][..inputs])).collect();
                let mut out = vec![f32::NAN; range.len() * width];
                let sink = Sink::Store { out: &mut out, stride: width };
                matmul(&compute, &matrices, None, &placed, range.len(), sink, &mut Scratch::default());
                out
            };
            let together = run(0..rows);
            for row in [0, rows / 2, rows - 1] {
                let alone = run(row..row + 1);
                prop_assert_eq!(bits(&alone), bits(&together[row * width..][..width]), "row {} alone, {}", row, isa);
                for part in 0..2 {
                    let row_bytes = inputs / formats[part].block_len() * formats[part].block_bytes();
                    for output in 0..sizes[part] {
                        let expected = canonical(formats[part], &raw[part][output * row_bytes..][..row_bytes],
                                                 &x[row * inputs..][..inputs]);
                        let found = together[row * width + bases[part] + place(output)];
                        prop_assert_eq!(found.to_bits(), expected.to_bits(), "{} {:?} {}", isa, formats[part], output);
                    }
                }
            }
        }
    }
}
