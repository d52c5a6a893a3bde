//! What tensors are called.

/// The names of one way to store a model. Each is followed by `.weight` or `.bias`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names {
    /// Before all names but the head's.
    pub(crate) prefix: &'static str,
    /// Before the number of a layer.
    pub(crate) layers: &'static str,
    pub(crate) tokens: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) attention_norm: &'static str,
    /// Queries, keys and values, one by one or together.
    pub(crate) qkv: &'static [&'static str],
    pub(crate) query_norm: &'static str,
    pub(crate) key_norm: &'static str,
    pub(crate) projection: &'static str,
    pub(crate) mlp_norm: &'static str,
    /// Up, or gate and up.
    pub(crate) up: &'static [&'static str],
    pub(crate) down: &'static str,
    pub(crate) norm: &'static str,
    pub(crate) head: &'static str,
    /// What the frequencies of the rotation are divided by.
    pub(crate) factors: &'static str,
    /// Whether linear layers are stored (inputs, outputs).
    pub(crate) transposed: bool,
    /// Whether the outputs of queries and keys alternate between a head's halves.
    pub(crate) interleaved: bool,
}

impl Names {
    /// Our own NanoGPT, and PyTorch's.
    pub(crate) const NANOGPT: Names = Names {
        prefix: "",
        layers: "blocks.",
        tokens: "wte",
        positions: "wpe",
        attention_norm: "ln_1",
        qkv: &["attn.c_attn"],
        query_norm: "",
        key_norm: "",
        projection: "attn.c_proj",
        mlp_norm: "ln_2",
        up: &["mlp.0"],
        down: "mlp.2",
        norm: "ln_f",
        head: "lm_head",
        factors: "",
        transposed: false,
        interleaved: false,
    };

    /// GPT-2 in transformers.
    pub(crate) const GPT2: Names = Names {
        prefix: "transformer.",
        layers: "h.",
        up: &["mlp.c_fc"],
        down: "mlp.c_proj",
        transposed: true,
        ..Names::NANOGPT
    };

    /// Llama, Qwen2 and Qwen3 in transformers.
    pub(crate) const LLAMA: Names = Names {
        prefix: "model.",
        layers: "layers.",
        tokens: "embed_tokens",
        positions: "",
        attention_norm: "input_layernorm",
        qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        query_norm: "self_attn.q_norm",
        key_norm: "self_attn.k_norm",
        projection: "self_attn.o_proj",
        mlp_norm: "post_attention_layernorm",
        up: &["mlp.gate_proj", "mlp.up_proj"],
        down: "mlp.down_proj",
        norm: "norm",
        head: "lm_head",
        factors: "",
        transposed: false,
        interleaved: false,
    };

    /// A tensor outside the layers.
    pub(crate) fn outside(&self, name: &str, part: &str) -> String {
        format!("{}{name}.{part}", self.prefix)
    }

    /// A tensor of a layer.
    pub(crate) fn inside(&self, layer: usize, name: &str, part: &str) -> String {
        format!("{}{}{layer}.{name}.{part}", self.prefix, self.layers)
    }
}
