//! A matrix of weights as the kernels want it.

use std::borrow::Cow;

use candle_core::Device;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use half::{bf16, f16};

use super::{BLOCK, LEAD, Weights, place, widen};

/// Where rows should begin, bytes.
const LINE: usize = 64;

/// How a float is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FloatType {
    BF16,
    F16,
    F32,
}

impl FloatType {
    /// Bytes of an element.
    pub(crate) fn size(self) -> usize {
        match self {
            FloatType::BF16 | FloatType::F16 => 2,
            FloatType::F32 => 4,
        }
    }

    /// Where the first element of `raw` is that is infinite or not a number.
    pub(crate) fn first_not_finite(self, raw: &[u8]) -> Option<usize> {
        // All ones in the exponent.
        let at = |mask: u32, shift| {
            let exponent = |b: &[u8]| b.iter().rev().fold(0, |bits, byte| bits << 8 | u32::from(*byte)) >> shift & mask;
            raw.chunks_exact(self.size()).position(|b| exponent(b) == mask)
        };
        match self {
            FloatType::BF16 => at(0xff, 7),
            FloatType::F16 => at(0x1f, 10),
            FloatType::F32 => at(0xff, 23),
        }
    }

    /// Elements, little endian, widened exactly.
    pub(crate) fn widen(self, raw: &[u8]) -> Vec<f32> {
        let pairs = raw.chunks_exact(2).map(|b| [b[0], b[1]]);
        match self {
            FloatType::BF16 => pairs.map(|b| widen(u16::from_le_bytes(b))).collect(),
            FloatType::F16 => pairs.map(|b| f16::from_le_bytes(b).to_f32()).collect(),
            FloatType::F32 => raw.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        }
    }
}

/// A block format of GGUF that is computed with as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Q8_0,
    Q4_0,
    Q5_0,
    Q4K,
    Q5K,
    Q6K,
}

/// A matrix (outputs, inputs) in bf16, its rows padded with zeros to whole blocks.
pub(crate) struct Matrix {
    /// Begins at a cache line from `start` on: `LEAD` elements, then the rows.
    values: Vec<u16>,
    start: usize,
    outputs: usize,
    inputs: usize,
}

impl Matrix {
    /// `raw`: (outputs, inputs), little endian.
    pub(crate) fn float(dtype: FloatType, raw: &[u8], outputs: usize, inputs: usize) -> Matrix {
        assert_eq!(raw.len(), outputs * inputs * dtype.size(), "({outputs}, {inputs}) of {dtype:?}");
        let stride = inputs.next_multiple_of(BLOCK);
        let len = LEAD + outputs * stride;
        let mut values = vec![0; len + LINE / 2];
        let start = values.as_ptr().align_offset(LINE).min(LINE / 2);
        let rows = values[start + LEAD..].chunks_exact_mut(stride).zip(raw.chunks_exact(inputs * dtype.size()));
        for (to, from) in rows {
            for (to, value) in to.iter_mut().zip(dtype.widen(from)) {
                *to = bf16::from_f32(value).to_bits();
            }
        }
        Matrix { values, start, outputs, inputs }
    }

    /// `raw`: rows of GGUF blocks.
    pub(crate) fn quantised(format: Format, raw: &[u8], outputs: usize, inputs: usize) -> Result<Matrix, String> {
        let dtype = match format {
            Format::Q8_0 => GgmlDType::Q8_0,
            Format::Q4_0 => GgmlDType::Q4_0,
            Format::Q5_0 => GgmlDType::Q5_0,
            Format::Q4K => GgmlDType::Q4K,
            Format::Q5K => GgmlDType::Q5K,
            Format::Q6K => GgmlDType::Q6K,
        };
        let row = inputs / dtype.block_size() * dtype.type_size();
        let mut halves = Vec::with_capacity(2 * outputs * inputs);
        for rows in raw.chunks(row * 64) {
            let values = QStorage::from_data(Cow::Borrowed(rows), &Device::Cpu, dtype)
                .and_then(|storage| QTensor::new(storage, (rows.len() / row, inputs)))
                .and_then(|tensor| tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>())
                .map_err(|error| error.to_string())?;
            if values.iter().any(|value| !value.is_finite()) {
                return Err("not finite".to_owned());
            }
            halves.extend(values.into_iter().flat_map(|value| bf16::from_f32(value).to_le_bytes()));
        }
        Ok(Matrix::float(FloatType::BF16, &halves, outputs, inputs))
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        (2 * self.outputs * self.inputs.next_multiple_of(BLOCK)) as u64
    }

    pub(crate) fn dtype(&self) -> &'static str {
        "bf16"
    }

    /// One row in lane order, its padding zero.
    pub(crate) fn row(&self, index: usize, to: &mut [f32]) {
        for (i, bits) in self.weights().row(index).iter().enumerate() {
            to[place(i)] = widen(*bits);
        }
    }

    pub(super) fn weights(&self) -> Weights<'_> {
        let stride = self.inputs.next_multiple_of(BLOCK);
        Weights::new(&self.values[self.start..][..LEAD + self.outputs * stride], self.outputs, stride)
    }
}
