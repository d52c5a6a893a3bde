//! A model's weights, as the kernels want them: candle's tensors, bf16, each row at a cache line where rows fill lines.

use crate::LoadError;
use crate::kernels::{FloatType, Matrix, Norm, in_lane_order};
use crate::load::Tensors;

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
    let (raw, outputs, inputs) = tensors.raw(&name)?;
    Ok(Matrix::float(FloatType::Bf16, raw, outputs, inputs))
}

fn linear(tensors: &Tensors<'_>, name: &str) -> Result<Linear, LoadError> {
    Ok(Linear { matrix: matrix(tensors, name)?, bias: in_lane_order(&tensors.vector(&format!("{name}.bias"))?) })
}

fn norm(tensors: &Tensors<'_>, name: &str) -> Result<Norm, LoadError> {
    Ok(Norm::new(&tensors.vector(&format!("{name}.weight"))?, &tensors.vector(&format!("{name}.bias"))?))
}
