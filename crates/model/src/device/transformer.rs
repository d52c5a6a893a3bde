//! The forward on a device: the same blocks of the same parts as [`Transformer`](crate::Transformer), in candle's
//! operations.

use candle_core::{DType, Device, Result, Tensor};
use speculative::roofline::Roofs;

use super::attention::{Window, attend, windows};
use super::form::{Linear, Matrix, Norm, OnDevice, padded};
use super::{Kept, ROWS, roofs};
use crate::decoder::Batch;
use crate::description::arithmetic;
use crate::geometry::Mlp;
use crate::kernels::rope::Rotation;
use crate::load::Loaded;
use crate::weights;
use crate::{Decoder, Description, Error, Forward, Geometry, KvCache, Rows, cost};

/// A model on a device.
pub(super) struct DeviceTransformer {
    description: Description,
    geometry: Geometry,
    bytes: cost::Bytes,
    device: Device,
    /// Of activations, keys and values.
    dtype: DType,
    tokens: Matrix,
    positions: Option<Matrix>,
    frequencies: Vec<f64>,
    blocks: Vec<Block>,
    norm: Norm,
    head: Matrix,
}

struct Block {
    attention_norm: Norm,
    qkv: Linear,
    head_norms: Option<[Norm; 2]>,
    projection: Linear,
    mlp_norm: Norm,
    up: Linear,
    down: Linear,
}

impl DeviceTransformer {
    /// Activations are of `dtype`, or of the type that most of the weights have; f32 where these are quantised.
    pub(super) fn new(
        loaded: Loaded<OnDevice>,
        named: super::Device,
        device: &Device,
        dtype: Option<DType>,
    ) -> Result<DeviceTransformer> {
        let (description, geometry, weights) = loaded.described(described(named, device));
        let quantised = weights.matrices().any(|matrix| matches!(matrix, Matrix::Quantised(..)));
        let dtype = dtype.unwrap_or(match description.dtype {
            "bf16" if !quantised => DType::BF16,
            "f16" if !quantised => DType::F16,
            _ => DType::F32,
        });
        let bytes = cost::Bytes::of(&weights, dtype.size_in_bytes());
        let head = weights.head().clone();
        let block = |block: weights::Block<OnDevice>| {
            let norm = |vectors| Norm::new(vectors, dtype, device);
            let linear = |linear| Linear::new(linear, dtype, device);
            Ok(Block {
                attention_norm: norm(block.attention_norm)?,
                qkv: linear(block.qkv)?,
                head_norms: match block.head_norms {
                    Some([queries, keys]) => Some([norm(queries)?, norm(keys)?]),
                    None => None,
                },
                projection: linear(block.projection)?,
                mlp_norm: norm(block.mlp_norm)?,
                up: linear(block.up)?,
                down: linear(block.down)?,
            })
        };
        let mut transformer = DeviceTransformer {
            description,
            geometry,
            bytes,
            device: device.clone(),
            dtype,
            tokens: weights.tokens.with(dtype)?,
            positions: weights.positions.map(|positions| positions.with(dtype)).transpose()?,
            frequencies: weights.frequencies,
            blocks: weights.blocks.into_iter().map(block).collect::<Result<_>>()?,
            norm: Norm::new(weights.norm, dtype, device)?,
            head: head.with(dtype)?,
        };
        transformer.description.arithmetic = arithmetic(&mut transformer).map_err(candle_core::Error::wrap)?;
        Ok(transformer)
    }

    /// The logits of the wanted rows: (wanted, vocabulary).
    fn run(&self, batch: &mut [Rows<'_>], Batch { rows, wanted, .. }: &Batch) -> Result<Vec<f32>> {
        if *rows == 0 {
            return Ok(Vec::new());
        }
        let rotation = self.rotation(batch, *rows)?;
        let mut x = self.embed(batch, *rows)?; // (tiles · ROWS, d)
        let windows = windows(batch, self.geometry.shape(), self.dtype, &self.device)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = self.block(block, layer, x, rotation.as_ref(), &windows)?; // (tiles · ROWS, d)
        }
        if wanted.is_empty() {
            // Without an answer to wait for: the pass ends when it has been computed.
            self.device.synchronize()?;
            return Ok(Vec::new());
        }
        let index: Vec<u32> = wanted.iter().map(|row| *row as u32).collect();
        let x = padded(&x.index_select(&Tensor::new(index, &self.device)?, 0)?)?;
        let logits = self.head.apply(&self.norm.apply(&x)?)?.narrow(0, 0, wanted.len())?; // (wanted, vocabulary)
        logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
    }

    /// Token and position, added. Rows beyond those of the batch are of token 0 at position 0.
    fn embed(&self, batch: &[Rows<'_>], rows: usize) -> Result<Tensor> {
        let index = |mut numbers: Vec<u32>| {
            numbers.resize(rows.next_multiple_of(ROWS), 0);
            Tensor::new(numbers, &self.device)
        };
        let tokens = index(batch.iter().flat_map(|rows| rows.tokens).copied().collect())?;
        let x = self.tokens.rows(&tokens, self.dtype)?;
        match &self.positions {
            Some(positions) => x + positions.rows(&index(at(batch).map(|at| at as u32).collect())?, self.dtype)?,
            None => Ok(x),
        }
    }

    /// Cosines and sines: (tiles · [`ROWS`], half) each.
    fn rotation(&self, batch: &[Rows<'_>], rows: usize) -> Result<Option<[Tensor; 2]>> {
        if self.frequencies.is_empty() {
            return Ok(None);
        }
        let half = self.frequencies.len();
        let padding = rows.next_multiple_of(ROWS) - rows;
        let turns = Rotation::new(&self.frequencies, at(batch).chain(std::iter::repeat_n(0, padding)));
        let tensor = |part: usize| {
            let values: Vec<f32> = turns.turns().iter().map(|turn| turn[part]).collect();
            Tensor::from_vec(values, (rows + padding, half), &self.device)?.to_dtype(self.dtype)
        };
        Ok(Some([tensor(0)?, tensor(1)?]))
    }

    /// x + projection(attention(norm(x))), then x + MLP(norm(x)).
    fn block(
        &self,
        block: &Block,
        layer: usize,
        x: Tensor,
        rotation: Option<&[Tensor; 2]>,
        windows: &[Window<'_>],
    ) -> Result<Tensor> {
        let shape = self.geometry.shape();
        let input = block.attention_norm.apply(&x)?;
        let part = |number: usize, heads: usize| {
            let projected = block.qkv.part(number, &input)?;
            projected.reshape((projected.dim(0)?, heads, shape.head_dim)) // (rows, heads, head_dim)
        };
        let turned = |x: Tensor, norm: usize| {
            let x = match &block.head_norms {
                Some(norms) => norms[norm].apply(&x)?,
                None => x,
            };
            rotation.map_or(Ok(x.clone()), |rotation| turn(&x, rotation))
        };
        let queries = turned(part(0, shape.heads)?, 0)?.reshape(((), shape.width()))?;
        let keys = turned(part(1, shape.kv_heads)?, 1)?;
        let queries = (queries * (shape.head_dim as f64).sqrt().recip())?;
        let attended = attend(windows, layer, shape, &queries, [&keys, &part(2, shape.kv_heads)?])?; // (rows, width)
        let x = (x + block.projection.part(0, &padded(&attended)?)?)?;

        let input = block.mlp_norm.apply(&x)?;
        let up = block.up.part(0, &input)?; // (rows, hidden)
        let middle = match self.geometry.mlp {
            Mlp::Gelu => up.gelu_erf()?,
            Mlp::GeluTanh => up.gelu()?,
            Mlp::SwiGlu => (up.silu()? * block.up.part(1, &input)?)?,
        };
        x + block.down.part(0, &middle)?
    }
}

/// The positions of a batch's rows.
fn at<'a>(batch: &'a [Rows<'_>]) -> impl Iterator<Item = usize> + use<'a> {
    batch.iter().flat_map(|rows| (rows.cache.len()..).take(rows.tokens.len()))
}

/// Turns the first dimensions of each head; `x`: (rows, heads, head_dim).
fn turn(x: &Tensor, [cos, sin]: &[Tensor; 2]) -> Result<Tensor> {
    let dims = 2 * cos.dim(1)?;
    let rest = x.dim(2)? - dims;
    let turned = x.narrow(2, 0, dims)?.contiguous()?.unsqueeze(0)?;
    let turned = candle_nn::rotary_emb::rope_thd(&turned, cos, sin)?.squeeze(0)?;
    match rest {
        0 => Ok(turned),
        rest => Tensor::cat(&[&turned, &x.narrow(2, dims, rest)?], 2),
    }
}

/// The device for people: what was asked for, and what is there.
fn described(named: super::Device, device: &Device) -> String {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(cuda) = device
        && let Ok(model) = cuda.cuda_stream().context().name()
    {
        return format!("{named} {model}");
    }
    let _ = device;
    named.to_string()
}

impl Decoder for DeviceTransformer {
    fn description(&self) -> &Description {
        &self.description
    }

    fn new_cache(&self) -> KvCache {
        let (shape, context) = (self.geometry.shape(), self.geometry.context);
        KvCache::on_device(shape, context, Kept::new(shape, context, self.dtype, self.device.clone()))
    }

    fn forward(&mut self, batch: &mut [Rows<'_>]) -> std::result::Result<Forward, Error> {
        let checked = Batch::new(&self.geometry, batch, |cache| !cache.is_paged())?;
        let logits = self.run(batch, &checked).map_err(|error| Error::Device(error.to_string()))?;
        for rows in batch.iter_mut() {
            rows.cache.advance(rows.tokens.len());
        }
        let work = cost::forward(&self.geometry, &self.bytes, &checked.parts, 0);
        Ok(Forward::new(self.geometry.vocab_size, &checked.counts(), logits, work))
    }

    fn measure_roofs(&mut self) -> Option<Roofs> {
        let measured = roofs::measure(&self.device, self.dtype, self.description.weight_bytes);
        measured.inspect_err(|error| tracing::warn!(%error, "the roofs cannot be measured")).ok()
    }
}
