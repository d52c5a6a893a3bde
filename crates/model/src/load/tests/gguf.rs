//! GGUF files: the tiny models rewritten, and everything that a bad file may be.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use tokenizer::Tokenizer;

use super::super::Checkpoint;
use super::super::bytes::Bytes;
use super::super::gguf;
use crate::weights::Kernels;
use crate::{Compute, Decoder, LoadError, Rows, Source, Transformer};

type Metadata = BTreeMap<String, Value>;
type Tensors = BTreeMap<String, Tensor>;

fn folder(family: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tiny").join(family)
}

/// What llama.cpp's converter calls the tensors of transformers.
fn renamed(name: &str) -> String {
    const PARTS: [(&str, &str); 25] = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("transformer.wte", "token_embd"),
        ("transformer.wpe", "position_embd"),
        ("transformer.ln_f", "output_norm"),
        ("transformer.h", "blk"),
        ("ln_1", "attn_norm"),
        ("ln_2", "ffn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("mlp.c_fc", "ffn_up"),
        ("mlp.c_proj", "ffn_down"),
    ];
    PARTS.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// The rows of each head in the order that GGUF has for Llama: neighbours turn together.
fn interleaved(tensor: &Tensor, heads: usize) -> Tensor {
    let half = tensor.dim(0).unwrap() / heads / 2;
    let rest = tensor.elem_count() / (heads * 2 * half);
    let apart = tensor.reshape((heads, 2, half, rest)).unwrap();
    apart.transpose(1, 2).unwrap().reshape(tensor.dims()).unwrap()
}

/// A tiny model of transformers as llama.cpp's converter would write it.
pub(super) fn converted(family: &str, architecture: &str) -> (Metadata, Tensors) {
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder(family).join("config.json")).unwrap()).unwrap();
    let stored = candle_core::safetensors::load(folder(family).join("model.safetensors"), &Device::Cpu).unwrap();
    let tensor = |(name, tensor): (String, Tensor)| {
        let mut tensor = tensor.to_dtype(DType::F32).unwrap();
        if name.contains(".h.") && name.contains(".c_") && name.ends_with("weight") {
            tensor = tensor.t().unwrap().contiguous().unwrap();
        }
        for (part, heads) in [("q_proj", 4), ("k_proj", 2)] {
            if architecture == "llama" && name.contains(part) {
                tensor = interleaved(&tensor, heads);
            }
        }
        (renamed(&name), tensor)
    };
    let tensors = stored.into_iter().map(tensor).collect();
    let mut metadata = Metadata::from([("general.architecture".to_owned(), Value::String(architecture.to_owned()))]);
    let mut set = |name: &str, value| metadata.insert(format!("{architecture}.{name}"), value);
    let gpt2 = architecture == "gpt2";
    set("embedding_length", Value::U32(64));
    set("block_count", Value::U32(3));
    set("feed_forward_length", Value::U32(if gpt2 { 256 } else { 176 }));
    set("context_length", Value::U32(512));
    set("attention.head_count", Value::U32(4));
    if gpt2 {
        set("attention.layer_norm_epsilon", Value::F32(1e-5));
    } else {
        set("attention.head_count_kv", Value::U32(2));
        set("attention.layer_norm_rms_epsilon", Value::F32(config["rms_norm_eps"].as_f64().unwrap() as f32));
        set("rope.freq_base", Value::F32(config["rope_parameters"]["rope_theta"].as_f64().unwrap() as f32));
    }
    if architecture == "qwen3" {
        set("attention.key_length", Value::U32(32));
        set("attention.value_length", Value::U32(32));
    }
    (metadata, tensors)
}

/// The file's bytes; `dtype` chooses how matrices are stored.
pub(super) fn bytes(metadata: &Metadata, tensors: &Tensors, dtype: impl Fn(&str) -> GgmlDType) -> Vec<u8> {
    let quantised: Vec<(&str, QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| {
            let dtype = if tensor.rank() == 1 { GgmlDType::F32 } else { dtype(name) };
            (name.as_str(), QTensor::quantize(tensor, dtype).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = quantised.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    file.into_inner()
}

fn compute() -> Arc<Compute> {
    Arc::new(Compute::new(NonZeroUsize::new(2).unwrap()))
}

pub(super) fn load(bytes: &[u8]) -> Result<Transformer, LoadError> {
    let bytes = Bytes::Memory(bytes.to_vec().into());
    let checkpoint = gguf::checkpoint("m".into(), "m.gguf".into(), bytes)?;
    Ok(Transformer::new(Checkpoint::load(checkpoint, &Kernels)?, compute()))
}

fn logits(model: &mut Transformer) -> Vec<f32> {
    let mut cache = model.new_cache();
    let rows = Rows { cache: &mut cache, tokens: &[3, 1, 4, 1, 5, 9, 2, 6], logits_from: 0 };
    let forward = model.forward(&mut [rows]).unwrap();
    (0..8).flat_map(|row| forward.row(0, row).to_vec()).collect()
}

/// The refusal says all of these.
#[track_caller]
fn assert_refused(bytes: &[u8], said: &[&str]) {
    let error = load(bytes).err().expect("it is refused").to_string();
    for words in said {
        assert!(error.contains(words), "{error:?} says {words:?}");
    }
}

/// The same weights in both containers: the same bits.
#[test]
fn a_file_computes_what_the_folder_computes() {
    for (family, architecture) in [("llama", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3"), ("gpt2", "gpt2")] {
        let (metadata, tensors) = converted(family, architecture);
        let mut file = load(&bytes(&metadata, &tensors, |_| GgmlDType::BF16)).unwrap();
        let mut folder = Transformer::load(&Source::File(folder(family)), compute()).unwrap();
        assert_eq!(file.geometry(), folder.geometry(), "{family}");
        assert_eq!(logits(&mut file), logits(&mut folder), "{family}");
    }
}

/// Llama 3's stretched frequencies stand in the file as factors.
#[test]
fn factors_of_frequencies_are_applied() {
    let (metadata, mut tensors) = converted("llama3-rope", "llama");
    let factors = (0..8).map(|pair| {
        let turns = 64.0 * 500_000_f64.powf(-2.0 * f64::from(pair) / 16.0) / std::f64::consts::TAU;
        let kept = ((turns - 1.0) / 3.0).clamp(0.0, 1.0);
        (1.0 / ((1.0 - kept) / 8.0 + kept)) as f32
    });
    tensors.insert("rope_freqs.weight".to_owned(), Tensor::from_iter(factors, &Device::Cpu).unwrap());
    let ours = logits(&mut load(&bytes(&metadata, &tensors, |_| GgmlDType::BF16)).unwrap());
    let theirs = logits(&mut Transformer::load(&Source::File(folder("llama3-rope")), compute()).unwrap());
    assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-3));
}

/// A model whose matrices are wide enough for every format.
fn wide() -> (Metadata, Tensors) {
    let metadata = [
        ("general.architecture", Value::String("llama".to_owned())),
        ("llama.embedding_length", Value::U32(256)),
        ("llama.block_count", Value::U32(1)),
        ("llama.feed_forward_length", Value::U32(256)),
        ("llama.context_length", Value::U32(64)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let mut state = 1_u64;
    let mut tensor = |outputs: usize| {
        let numbers = (0..outputs * 256).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32 - 1.0) / 8.0
        });
        let numbers: Vec<f32> = numbers.collect();
        Tensor::from_vec(numbers, (outputs, 256), &Device::Cpu).unwrap()
    };
    let mut tensors = Tensors::from([("token_embd.weight".to_owned(), tensor(128))]);
    for (name, outputs) in [("attn_q", 256), ("attn_k", 128), ("attn_v", 128), ("attn_output", 256)] {
        tensors.insert(format!("blk.0.{name}.weight"), tensor(outputs));
    }
    for name in ["ffn_gate", "ffn_up", "ffn_down"] {
        tensors.insert(format!("blk.0.{name}.weight"), tensor(256));
    }
    for name in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"] {
        tensors.insert(format!("{name}.weight"), Tensor::ones(256, DType::F32, &Device::Cpu).unwrap());
    }
    (metadata.map(|(key, value)| (key.to_owned(), value)).into(), tensors)
}

/// Every format, those that are converted too, against its own weights dequantised.
#[test]
fn every_format_computes_what_its_numbers_say() {
    use GgmlDType::{BF16, F16, F32, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Q8K};
    let (metadata, tensors) = wide();
    for dtype in [F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K, Q8K] {
        let through = |tensor: &Tensor| QTensor::quantize(tensor, dtype).unwrap().dequantize(&Device::Cpu).unwrap();
        let exact = tensors.iter().map(|(name, t)| (name.clone(), if t.rank() == 1 { t.clone() } else { through(t) }));
        let expected = logits(&mut load(&bytes(&metadata, &exact.collect(), |_| F32)).unwrap());
        let ours = logits(&mut load(&bytes(&metadata, &tensors, |_| dtype)).unwrap());
        let size = expected.iter().map(|x| x * x).sum::<f32>();
        let off = ours.iter().zip(&expected).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        assert!((off / size).sqrt() < 0.02, "{dtype:?}: off by {} of {}", off.sqrt(), size.sqrt());
    }
}

#[test]
fn scales_must_be_finite() {
    let (metadata, tensors) = wide();
    for dtype in [GgmlDType::Q8_0, GgmlDType::Q4_1, GgmlDType::F16] {
        let mut file = bytes(&metadata, &tensors, |_| dtype);
        let end = file.len();
        let last = end - 128 * 256 / dtype.block_size() * dtype.type_size();
        // token_embd is the last by name; f16 infinity as its first scale, or element.
        file[last..last + 2].copy_from_slice(&[0x00, 0x7c]);
        assert_refused(&file, &["m.gguf", "tensor token_embd.weight", "not finite"]);
    }
}

fn strings(words: &[&str]) -> Value {
    Value::Array(words.iter().map(|word| Value::String((*word).to_owned())).collect())
}

/// A tokenizer of four tokens, with a chat template.
pub(super) fn add_tokenizer(metadata: &mut Metadata) {
    let mut set = |name: &str, value| metadata.insert(format!("tokenizer.{name}"), value);
    set("ggml.model", Value::String("gpt2".to_owned()));
    set("ggml.pre", Value::String("qwen2".to_owned()));
    set("ggml.tokens", strings(&["a", "b", "ab", "<|end|>"]));
    set("ggml.token_type", Value::Array([1, 1, 1, 3].map(Value::I32).into()));
    set("ggml.merges", strings(&["a b"]));
    set("ggml.eos_token_id", Value::U32(3));
    set("chat_template", Value::String("{{ messages }}".to_owned()));
}

#[test]
fn the_tokenizer_is_read() {
    let (mut metadata, tensors) = converted("qwen2", "qwen2");
    let model = load(&bytes(&metadata, &tensors, |_| GgmlDType::BF16)).unwrap();
    assert_eq!(model.description().tokenizer, Tokenizer::ascii());
    add_tokenizer(&mut metadata);
    let mut set = |name: &str, value| metadata.insert(format!("tokenizer.{name}"), value);
    set("ggml.add_bos_token", Value::Bool(false));
    let file = |metadata: &Metadata| bytes(metadata, &tensors, |_| GgmlDType::BF16);
    let model = load(&file(&metadata)).unwrap();
    let tokenizer = &model.description().tokenizer;
    assert_eq!((tokenizer.size(), tokenizer.end_tokens()), (4, &[3][..]));
    assert_eq!(tokenizer.encode("abb").unwrap(), [2, 1]);
    assert!(tokenizer.has_chat_template());

    let refused = |name: &str, value: Value, said: &[&str]| {
        let mut metadata = metadata.clone();
        metadata.insert(format!("tokenizer.ggml.{name}"), value);
        assert_refused(&file(&metadata), said);
    };
    refused("eos_token_id", Value::U32(4), &["tokenizer.ggml.eos_token_id is 4", "from 0 to 3"]);
    refused("tokens", Value::U32(4), &["tokenizer.ggml.tokens is 4", "an array of UTF-8 strings"]);
    refused("tokens", strings(&["a"; 321]), &["tokenizer.ggml.tokens is \"an array of 321\"", "320"]);
    refused("token_type", Value::Array(vec![Value::I32(1)]), &["tokenizer.ggml.token_type", "4 whole numbers"]);
    refused("model", Value::U32(1), &["tokenizer.ggml.model is 1", "a string"]);
}

#[test]
fn what_would_change_the_arithmetic_is_refused_by_name() {
    let (metadata, tensors) = converted("llama", "llama");
    let refused = |key: &str, value: Value, said: &[&str]| {
        let mut metadata = metadata.clone();
        metadata.insert(key.to_owned(), value);
        assert_refused(&bytes(&metadata, &tensors, |_| GgmlDType::BF16), said);
    };
    let word = |word: &str| Value::String(word.to_owned());
    refused(
        "general.architecture",
        word("mamba"),
        &["general.architecture is \"mamba\"", "llama, qwen2, qwen3 or gpt2"],
    );
    refused("general.architecture", Value::U8(3), &["general.architecture is 3", "a string"]);
    refused("split.count", Value::U16(3), &["split.count is 3", "merge"]);
    refused("llama.expert_count", Value::U32(8), &["llama.expert_count is 8"]);
    refused("llama.attention.sliding_window", Value::U32(64), &["llama.attention.sliding_window is 64"]);
    refused("llama.attention.head_count_kv", Value::U32(3), &["head_count_kv is 3", "a divisor of"]);
    let array = Value::Array(vec![Value::U32(2)]);
    refused("llama.attention.head_count_kv", array, &["head_count_kv is \"an array of 1\""]);
    refused("llama.attention.value_length", Value::U32(8), &["value_length is 8", "allowed is 16"]);
    refused("llama.rope.dimension_count", Value::U32(8), &["rope.dimension_count is 8", "allowed is 16"]);
    refused("llama.rope.scaling.type", word("yarn"), &["rope.scaling.type is \"yarn\"", "linear"]);
    refused("llama.rope.freq_base", Value::F32(f32::NAN), &["rope.freq_base is \"NaN\"", "a number"]);
    refused("llama.block_count", Value::U64(u64::MAX), &["block_count is 18446744073709551615", "1 to 256"]);
    refused("llama.block_count", Value::I32(-1), &["block_count is -1"]);
    refused("llama.block_count", Value::U32(4), &["blk.3.attn_norm.weight", "missing"]);
    refused("llama.block_count", Value::U32(2), &["blk.2.", "present"]);
    refused("llama.embedding_length", Value::U32(128), &["token_embd.weight", "[320, 64]", "[320, 128]"]);
    refused("general.alignment", Value::U32(24), &["general.alignment is 24", "a power of two"]);
}

/// A header written by hand: `entries` and `tensors` as they are.
fn raw(tensors: &[Vec<u8>], entries: &[Vec<u8>]) -> Vec<u8> {
    let counts = [(tensors.len() as u64).to_le_bytes(), (entries.len() as u64).to_le_bytes()].concat();
    [b"GGUF\x03\0\0\0".to_vec(), counts, entries.concat(), tensors.concat(), vec![0; 64]].concat()
}

fn text(words: &str) -> Vec<u8> {
    [&(words.len() as u64).to_le_bytes()[..], words.as_bytes()].concat()
}

fn tensor(name: &str, axes: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let axes = [&(axes.len() as u32).to_le_bytes()[..], &axes.iter().flat_map(|a| a.to_le_bytes()).collect::<Vec<_>>()];
    [&text(name), &axes.concat()[..], &kind.to_le_bytes(), &offset.to_le_bytes()].concat()
}

#[test]
fn hostile_headers_are_refused() {
    let refused = |bytes: &[u8], said: &[&str]| assert_refused(bytes, &[&["m.gguf: not a GGUF file: "], said].concat());
    let counted = |tensors: u64, entries: u64| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &entries.to_le_bytes(), &[0; 99]].concat()
    };
    refused(b"", &["4 bytes at byte 0, the file has 0 more"]);
    refused(b"GGML\x03\0\0\0", &["it does not begin with GGUF"]);
    refused(b"GGUF\x01\0\0\0", &["version 1, allowed is 2 or 3"]);
    refused(b"GGUF\0\0\0\x03", &["version 3 in big-endian order"]);
    refused(&counted(u64::MAX, 0), &["18446744073709551615 tensors, allowed is up to 65536"]);
    refused(&counted(0, 1 << 40), &["1099511627776 metadata entries"]);
    refused(&counted(9, 0)[..30], &["8 bytes at byte 24, the file has 6 more"]);

    let entry = |kind: u32, value: &[u8]| [&text("key"), &kind.to_le_bytes()[..], value].concat();
    refused(&raw(&[], &[entry(13, &[])]), &["metadata key: type 13, allowed is 0 to 12"]);
    refused(&raw(&[], &[entry(8, &u64::MAX.to_le_bytes())]), &["metadata key: 18446744073709551615 bytes at byte"]);
    refused(
        &raw(&[], &[entry(8, &[&1_u64.to_le_bytes()[..], &[0xff]].concat())]),
        &["metadata key: a string that is not UTF-8"],
    );
    refused(&raw(&[], &[u64::MAX.to_le_bytes().to_vec()]), &["a name of 18446744073709551615 bytes"]);
    refused(&raw(&[], &[entry(0, &[1]), entry(0, &[1])]), &["metadata key stands there twice"]);
    let array = |kind: u32, len: u64| [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat();
    refused(
        &raw(&[], &[entry(9, &array(10, u64::MAX))]),
        &["metadata key: an array of 18446744073709551615, beyond 64 bits"],
    );
    refused(&raw(&[], &[entry(9, &array(0, 1 << 40))]), &["metadata key: 1099511627776 bytes"]);
    refused(&raw(&[], &[entry(9, &array(8, u64::MAX))]), &["metadata key: ", "the file has"]);
    refused(&raw(&[], &[entry(9, &array(13, 1))]), &["an array of type 13"]);
    refused(&raw(&[], &[entry(9, &array(9, 1).repeat(50))]), &["arrays within arrays, allowed is a depth of 4"]);

    let bad = |axes: &[u64], kind, offset, said: &[&str]| refused(&raw(&[tensor("t", axes, kind, offset)], &[]), said);
    bad(&[], 0, 0, &["tensor t: 0 axes, allowed is 1 to 4"]);
    bad(&[1; 5], 0, 0, &["tensor t: 5 axes"]);
    bad(&[4, 0], 0, 0, &["tensor t: axes [4, 0], allowed is axes above 0"]);
    bad(&[1 << 40, 1 << 40], 0, 0, &["tensor t: axes", "whose product is beyond 64 bits"]);
    bad(&[1 << 62], 0, 0, &["tensor t: axes", "beyond 64 bits"]);
    bad(&[48], 8, 0, &["tensor t: axes [48]", "the first a multiple of 32"]);
    bad(&[4], 20, 0, &["tensor t: of type IQ4_NL, allowed is F32,"]);
    bad(&[4], 4711, 0, &["tensor t: of type 4711, which is unknown"]);
    bad(&[4], 0, 4, &["tensor t: offset 4, allowed is a multiple of 32"]);
    bad(&[4], 0, 1 << 40, &["tensor t: 16 bytes at offset 1099511627776, the file has"]);
    bad(&[1 << 20], 0, 0, &["tensor t: 4194304 bytes at offset 0, the file has"]);
    bad(&[4], 0, !31, &["tensor t: 16 bytes at offset"]);
    let overlapping = raw(&[tensor("a", &[10], 0, 0), tensor("b", &[1], 0, 32)], &[]);
    refused(&overlapping, &["tensor b: offset 32, which lies in another tensor, allowed is from 40"]);
}

/// A byte that flips anywhere in the header, and a file cut anywhere in it, is an error or a model, never a panic.
#[test]
fn damaged_headers_never_panic() {
    let (mut metadata, tensors) = wide();
    let word = |word: &str| Value::String(word.to_owned());
    metadata.insert("tokenizer.ggml.model".to_owned(), word("gpt2"));
    metadata.insert("tokenizer.ggml.tokens".to_owned(), Value::Array(vec![word("a"), word("b")]));
    let good = bytes(&metadata, &tensors, |_| GgmlDType::Q4K);
    load(&good).unwrap();
    let weights: usize = tensors.values().filter(|t| t.rank() == 2).map(|t| t.elem_count() / 256 * 144).sum();
    let header = good.len() - weights - 3 * 1024;
    for at in 0..header {
        for flip in [1, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            let _ = load(&bad);
        }
        assert!(load(&good[..at]).is_err());
    }
    for cut in (header..good.len()).step_by(4097) {
        assert!(load(&good[..cut]).is_err());
    }
}
