//! What weights become where they are computed with: one model, read in one way, for our kernels and for candle's devices.

use crate::kernels::{FloatType, Format, Matrix, Norm, in_lane_order};
use crate::load::Bytes;

/// What weights become where they are computed with.
pub(crate) trait Form {
    /// (outputs, inputs)
    type Matrix: Weights;
    /// LayerNorm, or RMSNorm where it has no bias.
    type Norm;
    /// Of all parts of a linear layer.
    type Bias;

    /// Of `raw`, which holds outputs · inputs finite weights, little-endian.
    fn float(&self, kind: FloatType, raw: &[u8], shape: [usize; 2]) -> Result<Self::Matrix, Unusable>;

    /// Of `raw`, rows of GGUF's blocks.
    fn quantised(&self, format: Format, raw: &[u8], shape: [usize; 2]) -> Result<Self::Matrix, Unusable>;

    /// Of the weights from byte `at` of a file on, which stay there; none where they have to be copied.
    fn in_file(&self, _file: &Bytes, _kind: FloatType, _at: usize, _shape: [usize; 2]) -> Option<Self::Matrix> {
        None
    }

    /// `scale` and `bias`: (width).
    fn norm(scale: Vec<f32>, bias: Option<Vec<f32>>, epsilon: f32) -> Self::Norm;

    /// The biases of each part: (outputs).
    fn bias(parts: Vec<Vec<f32>>) -> Self::Bias;

    /// Bytes of a norm's numbers in memory.
    fn norm_bytes(norm: &Self::Norm) -> u64;

    /// Bytes of biases in memory.
    fn bias_bytes(bias: &Self::Bias) -> u64;
}

/// A matrix of weights in memory.
pub(crate) trait Weights {
    fn outputs(&self) -> usize;

    fn bytes(&self) -> u64;

    /// The usual name of its type.
    fn dtype(&self) -> &'static str;

    /// Whether it is read from a file.
    fn is_mapped(&self) -> bool {
        false
    }
}

/// Why weights cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// What is wrong with them.
    Weights(String),
    /// The device did not take them.
    Device(candle_core::Error),
}

/// The form of our own kernels, on the CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels;

impl Form for Kernels {
    type Matrix = Matrix;
    type Norm = Norm;
    /// Lane order, each part padded with zeros to whole blocks.
    type Bias = Vec<f32>;

    fn float(&self, kind: FloatType, raw: &[u8], [outputs, inputs]: [usize; 2]) -> Result<Matrix, Unusable> {
        Ok(Matrix::float(kind, raw, outputs, inputs))
    }

    fn quantised(&self, format: Format, raw: &[u8], [outputs, inputs]: [usize; 2]) -> Result<Matrix, Unusable> {
        Matrix::quantised(format, raw, outputs, inputs).map_err(Unusable::Weights)
    }

    fn in_file(&self, file: &Bytes, kind: FloatType, at: usize, [outputs, inputs]: [usize; 2]) -> Option<Matrix> {
        file.matrix(kind, at, outputs, inputs)
    }

    fn norm(scale: Vec<f32>, bias: Option<Vec<f32>>, epsilon: f32) -> Norm {
        match bias {
            Some(bias) => Norm::layer(&scale, &bias, epsilon),
            None => Norm::rms(&scale, epsilon),
        }
    }

    fn bias(parts: Vec<Vec<f32>>) -> Vec<f32> {
        parts.iter().flat_map(|part| in_lane_order(part)).collect()
    }

    fn norm_bytes(norm: &Norm) -> u64 {
        (norm.parameters() * size_of::<f32>()) as u64
    }

    fn bias_bytes(bias: &Vec<f32>) -> u64 {
        size_of_val(&bias[..]) as u64
    }
}

impl Weights for Matrix {
    fn outputs(&self) -> usize {
        self.outputs()
    }

    fn bytes(&self) -> u64 {
        self.bytes()
    }

    fn dtype(&self) -> &'static str {
        self.dtype()
    }

    fn is_mapped(&self) -> bool {
        self.is_mapped()
    }
}
