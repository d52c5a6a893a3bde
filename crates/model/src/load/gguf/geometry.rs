//! The geometry that a GGUF file's metadata describes.

use serde_json::json;

use super::header::Header;
use crate::LoadError;
use crate::geometry::fields::{CONTEXT, EPSILON, FACTOR, Fields, HEADS, HIDDEN, LAYERS, THETA, VOCAB, WIDTH};
use crate::geometry::{Biases, Geometry, Mlp, Normalisation, Positions, Rotary, Scaling};
use crate::weights::Names;

/// Metadata of one architecture: its keys begin with the architecture's name.
struct Keys<'a> {
    fields: Fields<'a>,
    architecture: String,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }
}

/// Reads names and geometry. What would change the arithmetic and is not ours is refused by name.
pub(super) fn geometry(file: &str, header: &Header<'_>) -> Result<(Names, Geometry), LoadError> {
    let fields = Fields::new(file, header.fields.clone());
    let names = match fields.words_or("general.architecture", "")? {
        "llama" => Names::GGUF_LLAMA,
        "qwen2" | "qwen3" => Names::GGUF,
        "gpt2" => Names::GGUF_GPT2,
        _ => return Err(fields.refuse("general.architecture", "llama, qwen2, qwen3 or gpt2")),
    };
    if fields.get("split.count").is_some_and(|count| count.as_u64().is_none_or(|count| count > 1)) {
        return Err(fields.refuse("split.count", "1: merge the parts, with llama-gguf-split --merge"));
    }
    let architecture = fields.words_or("general.architecture", "")?.to_owned();
    let keys = Keys { fields, architecture };
    let Keys { fields, .. } = &keys;
    for none in ["expert_count", "attention.sliding_window", "attention.causal_sliding_window"] {
        fields.only(&keys.key(none), &json!(0))?;
    }
    let embedding = format!("{}.weight", names.tokens);
    let vocab_size = header.tensors.iter().find(|(name, _)| *name == embedding).map(|(_, tensor)| tensor.shape[0]);
    let vocab_size = vocab_size.unwrap_or_default();
    if !VOCAB.contains(&(vocab_size as u64)) {
        return Err(LoadError::Tensor {
            file: file.to_owned(),
            tensor: embedding,
            value: format!("of {vocab_size} rows"),
            allowed: format!("from {} to {}", VOCAB.start(), VOCAB.end()),
        });
    }
    let has = |name: String| header.tensors.iter().any(|(tensor, _)| *tensor == name);
    let gpt2 = keys.architecture == "gpt2";
    let d_model = fields.whole(&keys.key("embedding_length"), WIDTH)?;
    let (heads, kv_heads, head_dim) = heads(&keys, d_model)?;
    Ok((
        names,
        Geometry {
            vocab_size,
            d_model,
            layers: fields.whole(&keys.key("block_count"), LAYERS)?,
            heads,
            kv_heads,
            head_dim,
            hidden: fields.whole(&keys.key("feed_forward_length"), HIDDEN)?,
            context: fields.whole(&keys.key("context_length"), CONTEXT)?,
            norm: if gpt2 { Normalisation::Layer } else { Normalisation::Rms },
            epsilon: {
                let name = if gpt2 { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
                fields.number(&keys.key(name), EPSILON)? as f32
            },
            positions: match gpt2 {
                true => Positions::Learned,
                false => Positions::Rotary(rotary(&keys, head_dim, has(format!("{}.weight", names.factors)))?),
            },
            mlp: if gpt2 { Mlp::GeluTanh } else { Mlp::SwiGlu },
            biases: Biases {
                qkv: has(names.inside(0, names.qkv[0], "bias")),
                projection: has(names.inside(0, names.projection, "bias")),
                mlp: has(names.inside(0, names.down, "bias")),
            },
            head_norms: keys.architecture == "qwen3",
            tied: !has(format!("{}.weight", names.head)),
        },
    ))
}

/// Heads, heads of keys, and the width of each.
fn heads(keys: &Keys<'_>, d_model: usize) -> Result<(usize, usize, usize), LoadError> {
    let fields = &keys.fields;
    let [count, count_kv, length] =
        ["head_count", "head_count_kv", "key_length"].map(|n| keys.key(&format!("attention.{n}")));
    let heads = fields.whole(&count, HEADS)?;
    let kv_heads = fields.whole_or(&count_kv, HEADS, heads)?;
    fields.divides(&count_kv, kv_heads, &count, heads)?;
    if fields.get(&length).is_none() {
        fields.divides(&count, heads, &keys.key("embedding_length"), d_model)?;
    }
    let head_dim = fields.whole_or(&length, WIDTH, d_model / heads)?;
    fields.only(&keys.key("attention.value_length"), &json!(head_dim))?;
    Ok((heads, kv_heads, head_dim))
}

/// `stored`: whether the factors of the frequencies stand beside the weights.
fn rotary(keys: &Keys<'_>, head_dim: usize, stored: bool) -> Result<Rotary, LoadError> {
    let fields = &keys.fields;
    let dims = keys.key("rope.dimension_count");
    fields.only(&dims, &json!(head_dim))?;
    if !head_dim.is_multiple_of(2) {
        return Err(fields.refuse(&dims, "an even number, as it turns in pairs"));
    }
    let kind = keys.key("rope.scaling.type");
    let factor = fields.number_or(&keys.key("rope.scaling.factor"), FACTOR, 1.0)?;
    let scaling = match fields.words_or(&kind, "none")? {
        "none" if stored => Scaling::Stored,
        "none" => Scaling::None,
        "linear" if !stored => Scaling::Linear { factor },
        _ => return Err(fields.refuse(&kind, "none, or linear without rope_freqs.weight")),
    };
    // Files of the first years.
    fields.only(&keys.key("rope.scale_linear"), &json!(1.0))?;
    let theta = fields.number_or(&keys.key("rope.freq_base"), THETA, 10_000.0)?;
    Ok(Rotary { theta, dims: head_dim, scaling })
}
