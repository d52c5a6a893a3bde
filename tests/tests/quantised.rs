//! The oracle on quantised targets: the embedded one in GGUF's block formats, served from a file, with the embedded draft.

use std::{fs, path::Path};

use candle_core::{
    DType, Device,
    quantized::{GgmlDType, QTensor, gguf_file, gguf_file::Value},
};
use coordinator::Request;
use model::{Compute, EmbeddedModel, Limits, Source, Transformer};
use outrider_tests::cluster::{Embedded, Node, alone, assert_same, request, run, sampled, spawn, worker};
use speculative::Sampling;
use tempfile::TempDir;

const TOKENS: usize = 512;

/// What GGUF calls a NanoGPT's tensors.
fn renamed(name: &str) -> String {
    const PARTS: [(&str, &str); 10] = [
        ("blocks.", "blk."),
        ("wte", "token_embd"),
        ("wpe", "position_embd"),
        ("ln_f", "output_norm"),
        ("ln_1", "attn_norm"),
        ("ln_2", "ffn_norm"),
        ("attn.c_attn", "attn_qkv"),
        ("attn.c_proj", "attn_output"),
        ("mlp.0", "ffn_up"),
        ("mlp.2", "ffn_down"),
    ];
    PARTS.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Writes the embedded target as a GGUF file: rows of 384 in `wide`, rows of 1536 in `down`.
fn write(path: &Path, wide: GgmlDType, down: GgmlDType) {
    let stored = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/model/embedded/target.safetensors");
    let tensors = candle_core::safetensors::load(stored, &Device::Cpu).unwrap();
    let tensors: Vec<(String, QTensor)> = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let dtype = match tensor.dims() {
                [_] => GgmlDType::F32,
                [_, 1536] => down,
                _ => wide,
            };
            let tensor = tensor.to_dtype(DType::F32).unwrap();
            (renamed(&name), QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let number = |name: &'static str, value: u32| (name, Value::U32(value));
    let metadata = [
        ("general.architecture", Value::String("gpt2".to_owned())),
        number("gpt2.embedding_length", 384),
        number("gpt2.block_count", 6),
        number("gpt2.feed_forward_length", 1536),
        number("gpt2.context_length", 2048),
        number("gpt2.attention.head_count", 6),
        ("gpt2.attention.layer_norm_epsilon", Value::F32(1e-5)),
    ];
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(name, value)| (*name, value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

async fn equals_ar(wide: GgmlDType, down: GgmlDType, dtype: &str) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("target.gguf");
    write(&path, wide, down);
    let compute = Compute::new(std::num::NonZeroUsize::new(2).unwrap()).into();
    let target = Transformer::load(&Source::File(path), compute).unwrap();
    let target = Node::target(spawn(target, Limits::default()));
    let pair = Embedded::with(Node::draft(worker(EmbeddedModel::Draft)), target).await;
    assert_eq!(pair.pair.target.description.dtype, dtype);
    let hot = Sampling { top_p: 0.95, ..sampled(0.8, 11) };
    for (sampling, gammas) in [(Sampling::greedy(), [1, 4, 16]), (hot, [2, 5, 8])] {
        let base = request("First Citizen:\n", sampling, TOKENS, 0);
        let alone = run(&pair.pair, &alone(&base)).await;
        assert_eq!(alone.token_ids.len(), TOKENS);
        for gamma in gammas {
            let speculative = run(&pair.pair, &Request { gamma: gamma.into(), ..base.clone() }).await;
            assert_same(&speculative, &alone, &format!("{wide:?} and {down:?}, γ {gamma}, {sampling:?}"));
            assert!(speculative.acceptance.acceptance_rate().unwrap() > 0.2, "the draft still foresees the target");
        }
    }
}

#[tokio::test]
async fn a_target_of_8_and_6_bits_writes_what_it_writes_alone() {
    equals_ar(GgmlDType::Q8_0, GgmlDType::Q6K, "q8_0").await;
}

#[tokio::test]
async fn a_target_of_4_bits_writes_what_it_writes_alone() {
    equals_ar(GgmlDType::Q4_0, GgmlDType::Q4K, "q4_0").await;
}

#[tokio::test]
async fn a_target_of_5_bits_writes_what_it_writes_alone() {
    equals_ar(GgmlDType::Q5_0, GgmlDType::Q5K, "q5_0").await;
}

#[tokio::test]
async fn a_target_of_half_precision_writes_what_it_writes_alone() {
    equals_ar(GgmlDType::F16, GgmlDType::F32, "f16").await;
}
