//! The sizes that define a NanoGPT.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::LoadError;
use crate::description::TOKENIZER_SIZE;
use crate::kernels::attention::Shape;

/// A NanoGPT's sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Rows of the token embedding, which is the head too.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Attention heads of a layer, each `d_model / heads` wide.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Positions of a sequence.
    pub context: usize,
}

impl Geometry {
    /// Reads `vocab_size`, `n_embd`, `n_head`, `n_layer` and `max_seq_len` from JSON; further fields are ignored.
    pub(crate) fn from_json(file: &str, json: &[u8]) -> Result<Geometry, LoadError> {
        let fields: Map<String, Value> =
            serde_json::from_slice(json).map_err(|error| LoadError::Json { file: file.to_owned(), error })?;
        let field = |name: &'static str, allowed: RangeInclusive<u64>| {
            let value = fields.get(name);
            match value.and_then(Value::as_u64).filter(|value| allowed.contains(value)) {
                Some(value) => Ok(value as usize),
                None => Err(LoadError::Geometry {
                    file: file.to_owned(),
                    field: name,
                    value: value.map_or_else(|| "missing".to_owned(), Value::to_string),
                    allowed: format!("a whole number from {} to {}", allowed.start(), allowed.end()),
                }),
            }
        };
        let geometry = Geometry {
            vocab_size: field("vocab_size", TOKENIZER_SIZE as u64..=1 << 18)?,
            d_model: field("n_embd", 1..=1 << 14)?,
            heads: field("n_head", 1..=1 << 8)?,
            layers: field("n_layer", 1..=1 << 8)?,
            context: field("max_seq_len", 1..=1 << 20)?,
        };
        if !geometry.d_model.is_multiple_of(geometry.heads) {
            return Err(LoadError::Geometry {
                file: file.to_owned(),
                field: "n_head",
                value: geometry.heads.to_string(),
                allowed: format!("a divisor of n_embd, {}", geometry.d_model),
            });
        }
        Ok(geometry)
    }

    /// The tensors of such a model, by name and shape, in the order of the layers.
    pub(crate) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let d = self.d_model;
        let mut tensors =
            vec![("wte.weight".to_owned(), vec![self.vocab_size, d]), ("wpe.weight".to_owned(), vec![self.context, d])];
        for layer in 0..self.layers {
            let mut affine = |name: &str, weight: Vec<usize>, bias: usize| {
                tensors.push((format!("blocks.{layer}.{name}.weight"), weight));
                tensors.push((format!("blocks.{layer}.{name}.bias"), vec![bias]));
            };
            affine("ln_1", vec![d], d);
            affine("attn.c_attn", vec![3 * d, d], 3 * d);
            affine("attn.c_proj", vec![d, d], d);
            affine("ln_2", vec![d], d);
            affine("mlp.0", vec![4 * d, d], 4 * d);
            affine("mlp.2", vec![d, 4 * d], d);
        }
        tensors.push(("ln_f.weight".to_owned(), vec![d]));
        tensors.push(("ln_f.bias".to_owned(), vec![d]));
        tensors
    }

    /// Number of weights.
    pub(crate) fn parameters(&self) -> u64 {
        let (d, layers) = (self.d_model as u64, self.layers as u64);
        let layer = 12 * d * d + 13 * d;
        (self.vocab_size + self.context) as u64 * d + layers * layer + 2 * d
    }

    pub(crate) fn shape(&self) -> Shape {
        Shape { layers: self.layers, heads: self.heads, head_dim: self.d_model / self.heads }
    }
}
