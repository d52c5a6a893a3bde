//! Weights on a device.

use std::{borrow::Cow, sync::Arc};

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};

use super::ROWS;
use crate::kernels::{FloatType, Format};
use crate::weights::{Form, Unusable, Weights};

/// The form of candle's tensors on a device.
#[derive(Clone, Debug)]
pub(super) struct OnDevice {
    pub(super) device: Device,
}

/// A matrix (outputs, inputs) on a device.
#[derive(Clone)]
pub(super) enum Matrix {
    Dense(Tensor),
    Quantised(Format, Arc<QTensor>),
}

/// What a norm is made of, on the host: (width).
#[derive(Clone, Debug)]
pub(super) struct NormVectors {
    pub(super) scale: Vec<f32>,
    /// LayerNorm's.
    pub(super) bias: Option<Vec<f32>>,
    pub(super) epsilon: f32,
}

impl Form for OnDevice {
    type Matrix = Matrix;
    type Norm = NormVectors;
    /// Of each part, on the host.
    type Bias = Vec<Vec<f32>>;

    fn float(&self, kind: FloatType, raw: &[u8], shape: [usize; 2]) -> std::result::Result<Matrix, Unusable> {
        let dtype = match kind {
            FloatType::BF16 => DType::BF16,
            FloatType::F16 => DType::F16,
            FloatType::F32 => DType::F32,
        };
        Tensor::from_raw_buffer(raw, dtype, &shape, &self.device).map(Matrix::Dense).map_err(Unusable::Device)
    }

    fn quantised(&self, format: Format, raw: &[u8], shape: [usize; 2]) -> std::result::Result<Matrix, Unusable> {
        format.check(raw, shape).map_err(Unusable::Weights)?;
        let dtype = match format {
            Format::Q4_0 => GgmlDType::Q4_0,
            Format::Q5_0 => GgmlDType::Q5_0,
            Format::Q8_0 => GgmlDType::Q8_0,
            Format::Q4K => GgmlDType::Q4K,
            Format::Q5K => GgmlDType::Q5K,
            Format::Q6K => GgmlDType::Q6K,
        };
        QStorage::from_data(Cow::Borrowed(raw), &self.device, dtype)
            .and_then(|storage| QTensor::new(storage, shape.to_vec()))
            .map(|tensor| Matrix::Quantised(format, Arc::new(tensor)))
            .map_err(Unusable::Device)
    }

    fn norm(scale: Vec<f32>, bias: Option<Vec<f32>>, epsilon: f32) -> NormVectors {
        NormVectors { scale, bias, epsilon }
    }

    fn bias(parts: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        parts
    }

    fn norm_bytes(norm: &NormVectors) -> u64 {
        let numbers = norm.scale.len() + norm.bias.as_ref().map_or(0, Vec::len);
        (numbers * size_of::<f32>()) as u64
    }

    fn bias_bytes(bias: &Vec<Vec<f32>>) -> u64 {
        bias.iter().map(|part| size_of_val(&part[..]) as u64).sum()
    }
}

impl Weights for Matrix {
    fn outputs(&self) -> usize {
        match self {
            Matrix::Dense(tensor) => tensor.dims()[0],
            Matrix::Quantised(_, tensor) => tensor.shape().dims()[0],
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Matrix::Dense(tensor) => (tensor.elem_count() * tensor.dtype().size_in_bytes()) as u64,
            Matrix::Quantised(_, tensor) => tensor.storage_size_in_bytes() as u64,
        }
    }

    fn dtype(&self) -> &'static str {
        match self {
            Matrix::Dense(tensor) => tensor.dtype().as_str(),
            Matrix::Quantised(format, _) => format.name(),
        }
    }
}

impl Matrix {
    /// The same weights for activations of a type; what is quantised stays so.
    pub(super) fn with(self, dtype: DType) -> Result<Matrix> {
        match self {
            Matrix::Dense(tensor) => Ok(Matrix::Dense(tensor.to_dtype(dtype)?)),
            quantised @ Matrix::Quantised(..) => Ok(quantised),
        }
    }

    /// The rows of these numbers: (ids, inputs).
    pub(super) fn rows(&self, ids: &Tensor, dtype: DType) -> Result<Tensor> {
        match self {
            Matrix::Dense(tensor) => tensor.index_select(ids, 0),
            Matrix::Quantised(_, tensor) => tensor.embedding(ids)?.to_dtype(dtype),
        }
    }

    /// x · selfᵀ, tile by tile; `x`: (tiles · [`ROWS`], inputs).
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let one = |tile: &Tensor| match self {
            Matrix::Dense(tensor) => tile.matmul(&tensor.t()?),
            Matrix::Quantised(_, tensor) => candle_core::quantized::QMatMul::QTensor(Arc::clone(tensor)).forward(tile),
        };
        match x.dim(0)? / ROWS {
            1 => one(x),
            tiles => {
                let tiles = (0..tiles).map(|tile| one(&x.narrow(0, tile * ROWS, ROWS)?)).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&tiles, 0) // (tiles · ROWS, outputs)
            }
        }
    }
}

/// A norm on a device.
pub(super) struct Norm {
    scale: Tensor,
    bias: Option<Tensor>,
    epsilon: f32,
}

impl Norm {
    pub(super) fn new(vectors: NormVectors, dtype: DType, device: &Device) -> Result<Norm> {
        let NormVectors { scale, bias, epsilon } = vectors;
        let vector = |values: Vec<f32>| Tensor::new(values, device)?.to_dtype(dtype);
        Ok(Norm { scale: vector(scale)?, bias: bias.map(vector).transpose()?, epsilon })
    }

    /// Over the last axis.
    pub(super) fn apply(&self, x: &Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => candle_nn::ops::layer_norm(x, &self.scale, bias, self.epsilon),
            None => candle_nn::ops::rms_norm(x, &self.scale, self.epsilon),
        }
    }
}

/// Matrices with the same inputs, each with its bias.
pub(super) struct Linear(Vec<(Matrix, Option<Tensor>)>);

impl Linear {
    pub(super) fn new(linear: crate::weights::Linear<OnDevice>, dtype: DType, device: &Device) -> Result<Linear> {
        let mut biases = linear.bias.unwrap_or_default().into_iter();
        let part = |matrix: Matrix| {
            let bias = biases.next().map(|bias| Tensor::new(bias, device)?.to_dtype(dtype)).transpose()?;
            Ok((matrix.with(dtype)?, bias))
        };
        Ok(Linear(linear.parts.into_iter().map(part).collect::<Result<_>>()?))
    }

    /// What one of the matrices makes of `x`: (tiles · [`ROWS`], inputs) to (tiles · [`ROWS`], outputs).
    pub(super) fn part(&self, number: usize, x: &Tensor) -> Result<Tensor> {
        let (matrix, bias) = &self.0[number];
        let y = matrix.apply(x)?;
        match bias {
            Some(bias) => y.broadcast_add(bias),
            None => Ok(y),
        }
    }
}

/// Rows of zeros below `x` up to whole tiles: (tiles · [`ROWS`], width).
pub(super) fn padded(x: &Tensor) -> Result<Tensor> {
    let rows = x.dim(0)?;
    match rows.next_multiple_of(ROWS) - rows {
        0 => Ok(x.clone()),
        missing => x.pad_with_zeros(D::Minus2, 0, missing),
    }
}
