//! Hugging Face folders, changed one thing at a time.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use safetensors::SafeTensors;
use safetensors::tensor::serialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use tokenizer::Tokenizer;

use crate::{Compute, Decoder, LoadError, Rows, Source, Transformer};

pub(super) fn tiny(family: &str) -> TempDir {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny").join(family);
    let folder = TempDir::new().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

pub(super) fn load(folder: &TempDir) -> Result<Transformer, LoadError> {
    Transformer::load(&Source::File(folder.path().to_owned()), Arc::new(Compute::new(NonZeroUsize::MIN)))
}

/// The refusal says all of these.
#[track_caller]
fn assert_refused(folder: &TempDir, said: &[&str]) {
    let error = load(folder).err().expect("it is refused").to_string();
    for words in said {
        assert!(error.contains(words), "{error:?} says {words:?}");
    }
}

fn configure(folder: &TempDir, change: impl FnOnce(&mut Value)) {
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    fs::write(path, config.to_string()).unwrap();
}

#[track_caller]
fn refused_field(family: &str, field: &str, value: Value, said: &[&str]) {
    let folder = tiny(family);
    configure(&folder, |config| config[field] = value);
    assert_refused(&folder, said);
}

fn logits(model: &mut Transformer) -> Vec<f32> {
    let mut cache = model.new_cache();
    let rows = Rows { cache: &mut cache, tokens: &[3, 1, 4, 1, 5], logits_from: 4 };
    model.forward(&mut [rows]).unwrap().row(0, 0).to_vec()
}

#[test]
fn what_would_change_the_arithmetic_is_refused_by_name() {
    refused_field("llama", "model_type", json!("mamba"), &["model_type is \"mamba\"", "gpt2, llama, qwen2 or qwen3"]);
    refused_field("llama", "model_type", json!(3), &["model_type is 3", "a string"]);
    refused_field("llama", "hidden_act", json!("relu"), &["hidden_act is \"relu\"", "allowed is \"silu\""]);
    refused_field("llama", "quantization_config", json!({"bits": 4}), &["quantization_config", "GGUF"]);
    refused_field("llama", "num_key_value_heads", json!(3), &["num_key_value_heads is 3", "a divisor of", "4"]);
    refused_field("llama", "head_dim", json!(15), &["head_dim is 15", "even"]);
    refused_field("llama", "rms_norm_eps", json!("small"), &["rms_norm_eps is \"small\"", "a number"]);
    refused_field("llama", "tie_word_embeddings", json!(1), &["tie_word_embeddings is 1", "true or false"]);
    refused_field("llama", "hidden_size", json!(1e9), &["hidden_size is 1000000000", "1 to 16384"]);
    refused_field("llama", "vocab_size", Value::Null, &["vocab_size is null"]);
    refused_field("qwen2", "use_sliding_window", json!(true), &["use_sliding_window is true"]);
    refused_field("qwen2", "layer_types", json!(["sliding_attention"]), &["layer_types", "full_attention"]);
    refused_field("gpt2", "activation_function", json!("relu"), &["activation_function is \"relu\"", "gelu_new"]);
    refused_field("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), &["scale_attn_by_inverse_layer_idx is true"]);
    refused_field("gpt2", "n_head", json!(5), &["n_head is 5", "a divisor of n_embd, 64"]);
    let rope = |change: Value| json!({"rope_type": change, "factor": 2.0});
    refused_field("llama", "rope_parameters", rope(json!("yarn")), &["rope_parameters.rope_type is \"yarn\""]);
    refused_field("llama", "rope_parameters", rope(json!("llama3")), &["rope_parameters.low_freq_factor is missing"]);
    refused_field("llama", "rope_parameters", json!([1]), &["rope_parameters is [1]", "an object"]);
}

/// The older fields, `rope_theta` and `rope_scaling`, say the same as the newer one.
#[test]
fn both_ways_to_write_rotations_are_read() {
    let folder = tiny("llama3-rope");
    let expected = logits(&mut load(&folder).unwrap());
    configure(&folder, |config| {
        let mut rope = config["rope_parameters"].take();
        config["rope_theta"] = rope["rope_theta"].take();
        config["rope_scaling"] = rope;
    });
    assert_eq!(logits(&mut load(&folder).unwrap()), expected);
    configure(&folder, |config| config["rope_scaling"]["factor"] = json!(2.0));
    assert_ne!(logits(&mut load(&folder).unwrap()), expected);
}

/// Two shards give what one file gives.
#[test]
fn shards_are_read_together() {
    let folder = tiny("qwen3");
    let mut whole = load(&folder).unwrap();
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap().tensors();
    let (first, second) = tensors.split_at(tensors.len() / 2);
    let mut map = serde_json::Map::new();
    for (shard, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        let views = part.iter().map(|(name, view)| (name.as_str(), view.clone()));
        fs::write(folder.path().join(shard), serialize(views, None).unwrap()).unwrap();
        map.extend(part.iter().map(|(name, _)| (name.clone(), json!(shard))));
    }
    fs::remove_file(&path).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let write = |map: &Value| fs::write(&index, json!({"metadata": {}, "weight_map": map}).to_string()).unwrap();
    write(&map.clone().into());
    let mut sharded = load(&folder).unwrap();
    assert_eq!(logits(&mut sharded), logits(&mut whole));
    assert_eq!(sharded.description().fingerprint, whole.description().fingerprint);

    write(&json!({"x": "../b.safetensors"}));
    assert_refused(&folder, &["weight_map", "../b.safetensors", "in the folder"]);
    write(&json!({"x": "c.safetensors"}));
    assert_refused(&folder, &["c.safetensors"]);
    write(&json!({"x": "a.safetensors"}));
    assert_refused(&folder, &["a.safetensors", "missing"]);
    write(&json!({"x": 1}));
    assert_refused(&folder, &["index.json", "not the JSON"]);
    write(&json!({}));
    assert_refused(&folder, &["weight_map is 0 files"]);
    fs::copy(folder.path().join("a.safetensors"), folder.path().join("b.safetensors")).unwrap();
    write(&json!({"x": "a.safetensors", "y": "b.safetensors"}));
    assert_refused(&folder, &["b.safetensors", "too", "one tensor of a name"]);
}

#[test]
fn folders_without_their_files_are_refused() {
    let folder = TempDir::new().unwrap();
    assert_refused(&folder, &["config.json"]);
    let folder = tiny("llama");
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert_refused(&folder, &["model.safetensors"]);
    fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    assert_refused(&folder, &["model.safetensors", "not a file"]);
}

/// A model that lacks what its configuration promises, or has what it does not.
#[test]
fn configuration_and_weights_must_agree() {
    refused_field("llama", "attention_bias", json!(true), &["self_attn.q_proj.bias", "missing"]);
    refused_field("llama", "num_hidden_layers", json!(4), &["model.layers.3.input_layernorm.weight", "missing"]);
    refused_field("llama", "num_hidden_layers", json!(2), &["model.layers.2.", "present"]);
    refused_field("llama", "intermediate_size", json!(175), &["gate_proj.weight", "[176, 64]", "[175, 64]"]);
    refused_field("qwen3", "model_type", json!("llama"), &["self_attn.k_norm.weight", "present"]);
    refused_field("gpt2", "n_inner", json!(128), &["mlp.c_fc.weight", "[64, 256]", "[64, 128]"]);
    refused_field("llama3-rope", "tie_word_embeddings", json!(false), &["lm_head.weight", "missing"]);
}

#[test]
fn the_tokenizer_is_read() {
    let folder = tiny("llama");
    assert_eq!(load(&folder).unwrap().description().tokenizer, Tokenizer::ascii());
    let write = |name: &str, json: serde_json::Value| fs::write(folder.path().join(name), json.to_string()).unwrap();
    let bytes = |model: serde_json::Value| {
        json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
            "post_processor": null,
            "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
            "model": model,
        })
    };
    let vocabulary = json!({ "a": 0, "b": 1, "ab": 2, "c": 3 });
    write("tokenizer.json", bytes(json!({ "type": "BPE", "vocab": vocabulary, "merges": [["a", "b"]] })));
    write("generation_config.json", json!({ "eos_token_id": [2, 3] }));
    let model = load(&folder).unwrap();
    let tokenizer = &model.description().tokenizer;
    assert_eq!((tokenizer.size(), tokenizer.end_tokens()), (4, &[2, 3][..]));
    assert_eq!(tokenizer.encode("abc").unwrap(), [2, 3]);

    write("generation_config.json", json!({ "eos_token_id": "x" }));
    let error = load(&folder).err().unwrap().to_string();
    assert!(error.contains("generation_config.json"), "{error}");
    write("generation_config.json", json!({}));
    write("tokenizer.json", bytes(json!({ "type": "Unheard" })));
    let error = load(&folder).err().unwrap().to_string();
    assert!(error.contains("tokenizer"), "{error}");
}
