//! A matrix of weights, in one of the formats that the kernels read.

use std::sync::Arc;

use half::{bf16, f16};
use memmap2::Mmap;

use super::bytes::Bytes;
use super::packed::{Format, Packed};
use super::simd::BLOCK;
use super::{LEAD, place};

/// A format whose weights stand alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FloatType {
    BF16,
    F16,
    F32,
}

impl FloatType {
    /// Its usual name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            FloatType::BF16 => "bf16",
            FloatType::F16 => "f16",
            FloatType::F32 => "f32",
        }
    }

    /// Bytes of a weight.
    pub(crate) fn size(self) -> usize {
        match self {
            FloatType::BF16 | FloatType::F16 => 2,
            FloatType::F32 => 4,
        }
    }

    /// A weight, exactly; `stored` is little-endian.
    pub(crate) fn value(self, stored: &[u8]) -> f32 {
        match self {
            FloatType::BF16 => bf16::from_le_bytes([stored[0], stored[1]]).to_f32(),
            FloatType::F16 => f16::from_le_bytes([stored[0], stored[1]]).to_f32(),
            FloatType::F32 => f32::from_le_bytes([stored[0], stored[1], stored[2], stored[3]]),
        }
    }

    /// Where the first element of `raw` is that is infinite or not a number.
    pub(crate) fn first_not_finite(self, raw: &[u8]) -> Option<usize> {
        // All ones in the exponent.
        let (high, mask) = match self {
            FloatType::BF16 | FloatType::F32 => (0x7f, 0x80),
            FloatType::F16 => (0x7c, 0),
        };
        let size = self.size();
        raw.chunks_exact(size).position(|b| b[size - 1] & high == high && b[size - 2] & mask == mask)
    }

    /// Weights, exactly; `raw` is little-endian.
    pub(crate) fn widen(self, raw: &[u8]) -> Vec<f32> {
        raw.chunks_exact(self.size()).map(|stored| self.value(stored)).collect()
    }

    /// Where element `i` of a row is kept. The even and odd ones of bf16 are told apart in a register, since two share a
    /// 32-bit word; those of the others stand in lane order.
    fn position(self, i: usize) -> usize {
        match self {
            FloatType::BF16 => i,
            FloatType::F16 | FloatType::F32 => place(i),
        }
    }
}

/// A matrix (outputs, inputs).
pub(crate) enum Matrix {
    Float(Float),
    Quantised(Packed),
}

impl Matrix {
    /// Of `raw`, which holds outputs · inputs weights, little-endian.
    pub(crate) fn float(kind: FloatType, raw: &[u8], outputs: usize, inputs: usize) -> Matrix {
        Matrix::Float(Float::new(kind, raw, outputs, inputs))
    }

    /// Of bf16 weights in a file, read where they lie: `at` is where the first is. None where the kernels need them
    /// otherwise: rows of whole blocks, little-endian, and something before the first.
    pub(crate) fn mapped(file: &Arc<Mmap>, at: usize, outputs: usize, inputs: usize) -> Option<Matrix> {
        Float::mapped(file, at, outputs, inputs).map(Matrix::Float)
    }

    /// Whether the weights are read from a file.
    pub(crate) fn is_mapped(&self) -> bool {
        matches!(self, Matrix::Float(Float { rows: Rows::Mapped { .. }, .. }))
    }

    /// Of `raw`, rows of GGUF's blocks. Gives the reason where they cannot be used.
    pub(crate) fn quantised(format: Format, raw: &[u8], outputs: usize, inputs: usize) -> Result<Matrix, String> {
        Packed::new(format, raw, outputs, inputs).map(Matrix::Quantised)
    }

    pub(crate) fn outputs(&self) -> usize {
        match self {
            Matrix::Float(float) => float.outputs,
            Matrix::Quantised(packed) => packed.outputs(),
        }
    }

    pub(crate) fn inputs(&self) -> usize {
        match self {
            Matrix::Float(float) => float.inputs,
            Matrix::Quantised(packed) => packed.inputs(),
        }
    }

    /// Elements of a row of activations: the inputs, in whole blocks.
    pub(crate) fn stride(&self) -> usize {
        self.inputs().next_multiple_of(BLOCK)
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.as_bytes().len() as u64
    }

    /// All weights, in the kernels' form.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Matrix::Float(float) => float.bytes(),
            Matrix::Quantised(packed) => packed.bytes(),
        }
    }

    /// The format's usual name.
    pub(crate) fn dtype(&self) -> &'static str {
        match self {
            Matrix::Float(float) => float.kind.name(),
            Matrix::Quantised(packed) => packed.format().name(),
        }
    }

    /// The weights of one output, in lane order, padded with zeros to whole blocks.
    pub(crate) fn row(&self, output: usize, out: &mut [f32]) {
        match self {
            Matrix::Float(float) => float.row(output, out),
            Matrix::Quantised(packed) => packed.row(output, out),
        }
    }
}

/// A matrix of bf16, f16 or f32, its rows padded with zeros to whole blocks.
pub(crate) struct Float {
    kind: FloatType,
    outputs: usize,
    inputs: usize,
    stride: usize,
    rows: Rows,
}

/// Rows of weights, with [`LEAD`] bytes before them that kernels may read.
enum Rows {
    Owned(Bytes),
    /// From byte `at` of a file on.
    Mapped {
        file: Arc<Mmap>,
        at: usize,
    },
}

impl Float {
    fn new(kind: FloatType, raw: &[u8], outputs: usize, inputs: usize) -> Float {
        let (size, stride) = (kind.size(), inputs.next_multiple_of(BLOCK));
        assert!(inputs > 0 && raw.len() == outputs * inputs * size, "{outputs} rows of {inputs}");
        let mut bytes = Bytes::zeroed(LEAD + outputs * stride * size);
        let rows = bytes[LEAD..].chunks_exact_mut(stride * size);
        for (to, from) in rows.zip(raw.chunks_exact(inputs * size)) {
            if kind == FloatType::BF16 && cfg!(target_endian = "little") {
                to[..from.len()].copy_from_slice(from);
                continue;
            }
            for (i, stored) in from.chunks_exact(size).enumerate() {
                let native = &mut to[kind.position(i) * size..][..size];
                native.copy_from_slice(stored);
                if cfg!(target_endian = "big") {
                    native.reverse();
                }
            }
        }
        Float { kind, outputs, inputs, stride, rows: Rows::Owned(bytes) }
    }

    fn mapped(file: &Arc<Mmap>, at: usize, outputs: usize, inputs: usize) -> Option<Float> {
        let kind = FloatType::BF16;
        let usable = cfg!(target_endian = "little") && at >= LEAD && inputs.is_multiple_of(BLOCK);
        let end = outputs.checked_mul(inputs * kind.size())?.checked_add(at)?;
        assert!(inputs > 0 && end <= file.len(), "{outputs} rows of {inputs} from byte {at} of {}", file.len());
        let rows = Rows::Mapped { file: Arc::clone(file), at };
        usable.then_some(Float { kind, outputs, inputs, stride: inputs, rows })
    }

    /// The rows, one after the other.
    fn bytes(&self) -> &[u8] {
        let from = match &self.rows {
            Rows::Owned(bytes) => &bytes[LEAD..],
            Rows::Mapped { file, at } => &file[*at..],
        };
        &from[..self.outputs * self.stride * self.kind.size()]
    }

    pub(super) fn kind(&self) -> FloatType {
        self.kind
    }

    /// Elements from row to row.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The first row.
    pub(super) fn start(&self) -> *const u8 {
        self.bytes().as_ptr()
    }

    fn row(&self, output: usize, out: &mut [f32]) {
        let size = self.kind.size();
        let row = &self.bytes()[output * self.stride * size..][..self.stride * size];
        for i in 0..self.stride {
            let mut stored = [0; 4];
            stored[..size].copy_from_slice(&row[self.kind.position(i) * size..][..size]);
            if cfg!(target_endian = "big") {
                stored[..size].reverse();
            }
            out[place(i)] = self.kind.value(&stored[..size]);
        }
    }
}
