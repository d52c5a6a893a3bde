//! The `config.json` of a Hugging Face folder.

use serde_json::{Value, json};

use super::fields::{CONTEXT, EPSILON, FACTOR, Fields, HEADS, HIDDEN, LAYERS, THETA, VOCAB, WIDTH};
use super::{Biases, Geometry, Mlp, Normalisation, Positions, Rotary, Scaling};
use crate::LoadError;

/// Families that are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Gpt2,
    Llama,
    Qwen2,
    Qwen3,
}

/// Reads the family and its geometry. What would change the arithmetic and is not ours is refused by name.
pub(crate) fn geometry(file: &str, json: &[u8]) -> Result<(Family, Geometry), LoadError> {
    let fields = Fields::parse(file, json)?;
    let family = match fields.words_or("model_type", "")? {
        "gpt2" => Family::Gpt2,
        "llama" => Family::Llama,
        "qwen2" => Family::Qwen2,
        "qwen3" => Family::Qwen3,
        _ => return Err(fields.refuse("model_type", "gpt2, llama, qwen2 or qwen3")),
    };
    if fields.get("quantization_config").is_some() {
        return Err(fields.refuse("quantization_config", "none: quantised models come as GGUF"));
    }
    let geometry = if family == Family::Gpt2 { gpt2(&fields)? } else { llama(&fields, family)? };
    Ok((family, geometry))
}

fn gpt2(fields: &Fields<'_>) -> Result<Geometry, LoadError> {
    fields.only("scale_attn_weights", &json!(true))?;
    fields.only("scale_attn_by_inverse_layer_idx", &json!(false))?;
    fields.only("add_cross_attention", &json!(false))?;
    let mlp = match fields.words_or("activation_function", "gelu_new")? {
        "gelu_new" | "gelu_pytorch_tanh" => Mlp::GeluTanh,
        "gelu" => Mlp::Gelu,
        _ => return Err(fields.refuse("activation_function", "gelu_new, gelu_pytorch_tanh or gelu")),
    };
    let d_model = fields.whole("n_embd", WIDTH)?;
    let heads = fields.whole("n_head", HEADS)?;
    fields.divides("n_head", heads, "n_embd", d_model)?;
    let vocab_size = fields.whole("vocab_size", VOCAB)?;
    let layers = fields.whole("n_layer", LAYERS)?;
    let context = fields.whole("n_positions", CONTEXT)?;
    Ok(Geometry {
        hidden: fields.whole_or("n_inner", HIDDEN, 4 * d_model)?,
        epsilon: fields.number_or("layer_norm_epsilon", EPSILON, 1e-5)? as f32,
        mlp,
        tied: fields.flag_or("tie_word_embeddings", true)?,
        ..Geometry::gpt(vocab_size, d_model, heads, layers, context)
    })
}

/// Llama, and what differs from it by a few flags.
fn llama(fields: &Fields<'_>, family: Family) -> Result<Geometry, LoadError> {
    fields.only("hidden_act", &json!("silu"))?;
    fields.only("use_sliding_window", &json!(false))?;
    let full = |layers: &Value| layers.as_array().is_some_and(|l| l.iter().all(|layer| layer == "full_attention"));
    if fields.get("layer_types").is_some_and(|layers| !full(layers)) {
        return Err(fields.refuse("layer_types", "full_attention in every layer"));
    }
    let d_model = fields.whole("hidden_size", WIDTH)?;
    let heads = fields.whole("num_attention_heads", HEADS)?;
    let kv_heads = fields.whole_or("num_key_value_heads", HEADS, heads)?;
    fields.divides("num_key_value_heads", kv_heads, "num_attention_heads", heads)?;
    if fields.get("head_dim").is_none() {
        fields.divides("num_attention_heads", heads, "hidden_size", d_model)?;
    }
    let head_dim = fields.whole_or("head_dim", WIDTH, d_model / heads)?;
    let attention_bias = fields.flag_or("attention_bias", false)?;
    let mlp_bias = family == Family::Llama && fields.flag_or("mlp_bias", false)?;
    Ok(Geometry {
        vocab_size: fields.whole("vocab_size", VOCAB)?,
        d_model,
        layers: fields.whole("num_hidden_layers", LAYERS)?,
        heads,
        kv_heads,
        head_dim,
        hidden: fields.whole("intermediate_size", HIDDEN)?,
        context: fields.whole("max_position_embeddings", CONTEXT)?,
        norm: Normalisation::Rms,
        epsilon: fields.number_or("rms_norm_eps", EPSILON, 1e-6)? as f32,
        positions: Positions::Rotary(rotary(fields, head_dim)?),
        mlp: Mlp::SwiGlu,
        biases: match family {
            Family::Qwen2 => Biases { qkv: true, projection: false, mlp: false },
            _ => Biases { qkv: attention_bias, projection: attention_bias, mlp: mlp_bias },
        },
        head_norms: family == Family::Qwen3,
        tied: fields.flag_or("tie_word_embeddings", false)?,
    })
}

/// `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before).
fn rotary(fields: &Fields<'_>, head_dim: usize) -> Result<Rotary, LoadError> {
    if !head_dim.is_multiple_of(2) {
        return Err(fields.refuse("head_dim", "an even number, as it turns in pairs"));
    }
    fields.only("partial_rotary_factor", &json!(1.0))?;
    let parameters =
        fields.within(if fields.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" })?;
    parameters.only("partial_rotary_factor", &json!(1.0))?;
    let theta = fields.number_or("rope_theta", THETA, 10_000.0)?;
    let theta = parameters.number_or("rope_theta", THETA, theta)?;
    // Older files say "type".
    let named = if parameters.get("rope_type").is_some() { "rope_type" } else { "type" };
    let scaling = match parameters.words_or(named, "default")? {
        "default" => Scaling::None,
        "linear" => Scaling::Linear { factor: parameters.number("factor", FACTOR)? },
        "llama3" => llama3(fields, &parameters)?,
        _ => return Err(parameters.refuse(named, "default, linear or llama3")),
    };
    Ok(Rotary { theta, dims: head_dim, scaling })
}

fn llama3(fields: &Fields<'_>, parameters: &Fields<'_>) -> Result<Scaling, LoadError> {
    let name = "original_max_position_embeddings";
    let holder = if parameters.get(name).is_some() { parameters } else { fields };
    let low = parameters.number("low_freq_factor", FACTOR)?;
    let high = parameters.number("high_freq_factor", FACTOR)?;
    if high <= low {
        return Err(parameters.refuse("high_freq_factor", &format!("more than low_freq_factor, {low}")));
    }
    let factor = parameters.number("factor", FACTOR)?;
    Ok(Scaling::Llama3 { factor, low, high, original_context: holder.whole(name, CONTEXT)? as f64 })
}
