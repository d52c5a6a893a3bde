//! A model's weights, as the kernels want them: candle's tensors, bf16, each row at a cache line where rows fill lines.

use candle_core::{CpuStorage, Device, Storage, Tensor};
use half::bf16;
use half::slice::HalfFloatSliceExt;

use crate::LoadError;
use crate::kernels::{BLOCK, LEAD, Norm, Weights, in_lane_order};
use crate::load::Tensors;

/// Where rows should begin, bytes.
const LINE: usize = 64;

/// A matrix (outputs, inputs) in bf16, its rows padded with zeros to whole blocks.
pub(crate) struct Matrix {
    /// (LEAD + outputs · stride), a view into an allocation that is a little longer, so that it can begin at a cache line.
    tensor: Tensor,
    outputs: usize,
    stride: usize,
}

impl Matrix {
    fn new(tensor: &Tensor) -> candle_core::Result<Matrix> {
        let (outputs, inputs) = tensor.dims2()?;
        let stride = inputs.next_multiple_of(BLOCK);
        let len = LEAD + outputs * stride;
        let mut values = vec![bf16::ZERO; len + LINE / size_of::<bf16>()];
        let start = values.as_ptr().align_offset(LINE).min(LINE / size_of::<bf16>());
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cpu(CpuStorage::BF16(stored)) = &*storage else { candle_core::bail!("not bf16 on the CPU") };
        let rows = stored[layout.start_offset()..].chunks_exact(inputs);
        for (to, from) in values[start + LEAD..].chunks_exact_mut(stride).zip(rows.take(outputs)) {
            to[..inputs].copy_from_slice(from);
        }
        let all = values.len();
        let tensor = Tensor::from_vec(values, all, &Device::Cpu)?.narrow(0, start, len)?;
        Ok(Matrix { tensor, outputs, stride })
    }

    /// Lends the weights to a kernel.
    pub(crate) fn with<R>(&self, use_them: impl FnOnce(&Weights<'_>) -> R) -> R {
        let (storage, layout) = self.tensor.storage_and_layout();
        match &*storage {
            Storage::Cpu(CpuStorage::BF16(values)) => {
                let bits = values[layout.start_offset()..][..LEAD + self.outputs * self.stride].reinterpret_cast();
                use_them(&Weights::new(bits, self.outputs, self.stride))
            }
            _ => unreachable!("made of bf16 on the CPU"),
        }
    }
}

/// A linear layer.
pub(crate) struct Linear {
    pub(crate) matrix: Matrix,
    /// Lane order, padded with zeros.
    pub(crate) bias: Vec<f32>,
}

/// One layer of the transformer.
pub(crate) struct Block {
    pub(crate) ln_1: Norm,
    pub(crate) attention: Linear,
    pub(crate) projection: Linear,
    pub(crate) ln_2: Norm,
    pub(crate) up: Linear,
    pub(crate) down: Linear,
}

/// All of a NanoGPT.
pub(crate) struct NanoGpt {
    /// (vocabulary, d): the embedding and the head.
    pub(crate) tokens: Matrix,
    /// (context, d)
    pub(crate) positions: Matrix,
    pub(crate) blocks: Vec<Block>,
    pub(crate) ln_f: Norm,
}

impl NanoGpt {
    pub(crate) fn new(tensors: &Tensors<'_>, layers: usize) -> Result<NanoGpt, LoadError> {
        Ok(NanoGpt {
            tokens: matrix(tensors, "wte")?,
            positions: matrix(tensors, "wpe")?,
            blocks: (0..layers).map(|layer| block(tensors, layer)).collect::<Result<_, _>>()?,
            ln_f: norm(tensors, "ln_f")?,
        })
    }
}

fn block(tensors: &Tensors<'_>, layer: usize) -> Result<Block, LoadError> {
    let name = |part: &str| format!("blocks.{layer}.{part}");
    Ok(Block {
        ln_1: norm(tensors, &name("ln_1"))?,
        attention: linear(tensors, &name("attn.c_attn"))?,
        projection: linear(tensors, &name("attn.c_proj"))?,
        ln_2: norm(tensors, &name("ln_2"))?,
        up: linear(tensors, &name("mlp.0"))?,
        down: linear(tensors, &name("mlp.2"))?,
    })
}

fn matrix(tensors: &Tensors<'_>, name: &str) -> Result<Matrix, LoadError> {
    let name = format!("{name}.weight");
    Matrix::new(&tensors.load(&name)?)
        .map_err(|error| tensors.refuse(&name, error.to_string(), "a bf16 matrix".to_owned()))
}

fn linear(tensors: &Tensors<'_>, name: &str) -> Result<Linear, LoadError> {
    Ok(Linear { matrix: matrix(tensors, name)?, bias: in_lane_order(&tensors.vector(&format!("{name}.bias"))?) })
}

fn norm(tensors: &Tensors<'_>, name: &str) -> Result<Norm, LoadError> {
    Ok(Norm::new(&tensors.vector(&format!("{name}.weight"))?, &tensors.vector(&format!("{name}.bias"))?))
}
