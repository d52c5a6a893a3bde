//! A model's weights, as the forward pass wants them, and how they are put together from named tensors.

use crate::LoadError;
use crate::geometry::{Geometry, Normalisation, Positions, Scaling};

mod form;
mod names;

pub(crate) use form::{Form, Kernels, Unusable, Weights};
pub(crate) use names::Names;

/// A matrix that is wanted from a file, or several that are stored as one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a str,
    /// Outputs of each matrix; in the file they stand one after the other.
    pub(crate) outputs: &'a [usize],
    pub(crate) inputs: usize,
    pub(crate) layout: Layout,
}

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// (outputs, inputs)
    Rows,
    /// (inputs, outputs), as GPT-2's.
    Transposed,
    /// (outputs, inputs), but the outputs of each of `heads` heads alternate between its first half and its second: GGUF
    /// stores the queries and keys of Llama so.
    Interleaved { heads: usize },
}

impl Layout {
    /// Where row `row` of `rows` stands.
    pub(crate) fn stored(self, row: usize, rows: usize) -> usize {
        match self {
            Layout::Rows | Layout::Transposed => row,
            Layout::Interleaved { heads } => {
                let half = rows / heads / 2;
                let (head, i) = (row / (2 * half), row % (2 * half));
                head * 2 * half + i % half * 2 + i / half
            }
        }
    }
}

/// Where weights come from: files, or nothing at all for models that are made up.
pub(crate) trait Tensors {
    fn matrices<F: Form>(&mut self, form: &F, wanted: Wanted<'_>) -> Result<Vec<F::Matrix>, LoadError>;

    /// `len` numbers, widened exactly.
    fn vector(&mut self, name: &str, len: usize) -> Result<Vec<f32>, LoadError>;
}

/// Matrices with the same inputs, applied together.
pub(crate) struct Linear<F: Form = Kernels> {
    pub(crate) parts: Vec<F::Matrix>,
    pub(crate) bias: Option<F::Bias>,
}

/// One layer of the transformer.
pub(crate) struct Block<F: Form = Kernels> {
    pub(crate) attention_norm: F::Norm,
    /// Queries, keys, values.
    pub(crate) qkv: Linear<F>,
    /// For each head of queries, and of keys.
    pub(crate) head_norms: Option<[F::Norm; 2]>,
    pub(crate) projection: Linear<F>,
    pub(crate) mlp_norm: F::Norm,
    /// Up, or gate and up.
    pub(crate) up: Linear<F>,
    pub(crate) down: Linear<F>,
}

/// All of a model.
pub(crate) struct Parameters<F: Form = Kernels> {
    /// (vocabulary, d): the embedding, and the head where there is no other.
    pub(crate) tokens: F::Matrix,
    /// (context, d)
    pub(crate) positions: Option<F::Matrix>,
    /// Radians for each position that pairs of dimensions turn by; none where they don't.
    pub(crate) frequencies: Vec<f64>,
    pub(crate) blocks: Vec<Block<F>>,
    pub(crate) norm: F::Norm,
    /// (vocabulary, d)
    pub(crate) head: Option<F::Matrix>,
}

impl<F: Form> Parameters<F> {
    pub(crate) fn new(
        tensors: &mut impl Tensors,
        form: &F,
        names: &Names,
        geometry: &Geometry,
    ) -> Result<Parameters<F>, LoadError> {
        let mut builder = Builder { tensors, form, names, geometry };
        let (vocab_size, d) = (geometry.vocab_size, geometry.d_model);
        Ok(Parameters {
            tokens: builder.matrix(&names.outside(names.tokens, "weight"), vocab_size, d)?,
            positions: match geometry.positions {
                Positions::Learned => {
                    Some(builder.matrix(&names.outside(names.positions, "weight"), geometry.context, d)?)
                }
                Positions::Rotary(_) => None,
            },
            frequencies: builder.frequencies()?,
            blocks: (0..geometry.layers).map(|layer| builder.block(layer)).collect::<Result<_, _>>()?,
            norm: builder.norm(|part| names.outside(names.norm, part))?,
            head: match geometry.tied {
                true => None,
                false => Some(builder.matrix(&format!("{}.weight", names.head), vocab_size, d)?),
            },
        })
    }

    /// The matrix of the logits.
    pub(crate) fn head(&self) -> &F::Matrix {
        self.head.as_ref().unwrap_or(&self.tokens)
    }

    /// All matrices.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &F::Matrix> {
        let blocks = self.blocks.iter().flat_map(Block::matrices);
        blocks.chain([&self.tokens]).chain(&self.positions).chain(&self.head)
    }

    /// Bytes of all weights in memory.
    pub(crate) fn bytes(&self) -> u64 {
        let vectors = self.blocks.iter().map(Block::vector_bytes).sum::<u64>() + F::norm_bytes(&self.norm);
        self.matrices().map(Weights::bytes).sum::<u64>() + vectors
    }

    /// The type that most of the weights are stored in.
    pub(crate) fn dtype(&self) -> &'static str {
        let mut types: Vec<(&'static str, u64)> = Vec::new();
        for matrix in self.matrices() {
            match types.iter_mut().find(|(dtype, _)| *dtype == matrix.dtype()) {
                Some((_, bytes)) => *bytes += matrix.bytes(),
                None => types.push((matrix.dtype(), matrix.bytes())),
            }
        }
        types.into_iter().max_by_key(|(_, bytes)| *bytes).map_or("bf16", |(dtype, _)| dtype)
    }
}

impl<F: Form> Block<F> {
    pub(crate) fn matrices(&self) -> impl Iterator<Item = &F::Matrix> {
        [&self.qkv, &self.projection, &self.up, &self.down].into_iter().flat_map(|linear| &linear.parts)
    }

    /// Bytes of norms and biases in memory.
    pub(crate) fn vector_bytes(&self) -> u64 {
        let biases = [&self.qkv, &self.projection, &self.up, &self.down].into_iter().filter_map(|l| l.bias.as_ref());
        let norms = [&self.attention_norm, &self.mlp_norm].into_iter().chain(self.head_norms.iter().flatten());
        biases.map(F::bias_bytes).sum::<u64>() + norms.map(F::norm_bytes).sum::<u64>()
    }
}

struct Builder<'a, T, F> {
    tensors: &'a mut T,
    form: &'a F,
    names: &'a Names,
    geometry: &'a Geometry,
}

impl<T: Tensors, F: Form> Builder<'_, T, F> {
    fn block(&mut self, layer: usize) -> Result<Block<F>, LoadError> {
        let Geometry { d_model, hidden, biases, .. } = *self.geometry;
        let shape = self.geometry.shape();
        let names = self.names;
        let (width, kv_width) = (shape.width(), shape.kv_width());
        let qkv = [(width, shape.heads), (kv_width, shape.kv_heads), (kv_width, shape.kv_heads)];
        let up = vec![(hidden, 1); self.geometry.ups() as usize];
        Ok(Block {
            attention_norm: self.norm(|part| names.inside(layer, names.attention_norm, part))?,
            qkv: self.linear(layer, names.qkv, &qkv, d_model, biases.qkv)?,
            head_norms: match self.geometry.head_norms {
                true => Some([self.head_norm(layer, names.query_norm)?, self.head_norm(layer, names.key_norm)?]),
                false => None,
            },
            projection: self.linear(layer, &[names.projection], &[(d_model, 1)], width, biases.projection)?,
            mlp_norm: self.norm(|part| names.inside(layer, names.mlp_norm, part))?,
            up: self.linear(layer, names.up, &up, d_model, biases.mlp)?,
            down: self.linear(layer, &[names.down], &[(d_model, 1)], hidden, biases.mlp)?,
        })
    }

    fn matrix(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<F::Matrix, LoadError> {
        let wanted = Wanted { name, outputs: &[outputs], inputs, layout: Layout::Rows };
        Ok(self.tensors.matrices(self.form, wanted)?.swap_remove(0))
    }

    /// `parts`: outputs and heads of each matrix. They are stored one by one, or all under one name.
    fn linear(
        &mut self,
        layer: usize,
        stored: &[&str],
        parts: &[(usize, usize)],
        inputs: usize,
        biased: bool,
    ) -> Result<Linear<F>, LoadError> {
        let (mut matrices, mut biases) = (Vec::new(), Vec::new());
        let together = parts.len() / stored.len();
        for (number, (name, parts)) in stored.iter().zip(parts.chunks(together)).enumerate() {
            let layout = match (self.names.transposed, self.names.interleaved && stored.len() == 3 && number < 2) {
                (true, _) => Layout::Transposed,
                (false, true) => Layout::Interleaved { heads: parts[0].1 },
                (false, false) => Layout::Rows,
            };
            let outputs: Vec<usize> = parts.iter().map(|(outputs, _)| *outputs).collect();
            let weight = self.names.inside(layer, name, "weight");
            let wanted = Wanted { name: &weight, outputs: &outputs, inputs, layout };
            matrices.extend(self.tensors.matrices(self.form, wanted)?);
            if biased {
                let stored = self.tensors.vector(&self.names.inside(layer, name, "bias"), outputs.iter().sum())?;
                append_biases(&mut biases, &stored, &outputs, layout);
            }
        }
        Ok(Linear { parts: matrices, bias: biased.then(|| F::bias(biases)) })
    }

    fn norm(&mut self, name: impl Fn(&str) -> String) -> Result<F::Norm, LoadError> {
        let (d, epsilon) = (self.geometry.d_model, self.geometry.epsilon);
        let scale = self.tensors.vector(&name("weight"), d)?;
        let bias = match self.geometry.norm {
            Normalisation::Layer => Some(self.tensors.vector(&name("bias"), d)?),
            Normalisation::Rms => None,
        };
        Ok(F::norm(scale, bias, epsilon))
    }

    fn head_norm(&mut self, layer: usize, name: &str) -> Result<F::Norm, LoadError> {
        let scale = self.tensors.vector(&self.names.inside(layer, name, "weight"), self.geometry.head_dim)?;
        Ok(F::norm(scale, None, self.geometry.epsilon))
    }

    fn frequencies(&mut self) -> Result<Vec<f64>, LoadError> {
        let Positions::Rotary(rotary) = self.geometry.positions else { return Ok(Vec::new()) };
        let stored = match rotary.scaling {
            Scaling::Stored => Some(self.tensors.vector(&format!("{}.weight", self.names.factors), rotary.dims / 2)?),
            _ => None,
        };
        Ok(rotary.frequencies(stored.as_deref()))
    }
}

/// Appends the biases of parts with `outputs` each.
fn append_biases(to: &mut Vec<Vec<f32>>, stored: &[f32], outputs: &[usize], layout: Layout) {
    let mut from = 0;
    for &outputs in outputs {
        to.push((0..outputs).map(|row| stored[from + layout.stored(row, outputs)]).collect());
        from += outputs;
    }
}
