//! A GGUF file: configuration, tokenizer and weights in one.
//!
//! <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>

use std::path::Path;

use tokenizer::Tokenizer;

use self::header::Header;
use super::bytes::Bytes;
use super::stored::Stored;
use super::{Checkpoint, stem};
use crate::LoadError;
use crate::weights::Names;

mod geometry;
mod header;
mod types;
mod vocabulary;

pub(super) fn open(path: &Path) -> Result<Checkpoint, LoadError> {
    checkpoint(stem(path), path.display().to_string(), Bytes::map(path)?)
}

/// Reads all of a file but its weights.
pub(super) fn checkpoint(name: String, file: String, bytes: Bytes) -> Result<Checkpoint, LoadError> {
    let header =
        Header::read(&bytes).map_err(|reason| LoadError::Format { file: file.clone(), format: "GGUF", reason })?;
    let (names, geometry) = geometry::geometry(&file, &header)?;
    let tokenizer = match vocabulary::read(&file, &header, geometry.vocab_size)? {
        Some(vocabulary) => Tokenizer::from_gguf(vocabulary)
            .map_err(|error| LoadError::Tokenizer { file: file.clone(), error: Box::new(error) })?,
        None => {
            tracing::warn!(file, "no tokenizer inside: tokens are taken for ASCII characters");
            Tokenizer::ascii()
        }
    };
    let entries = header.tensors;
    let mut stored = Stored::new();
    stored.add(file, bytes, entries)?;
    Ok(Checkpoint { name, geometry, names, stored, tokenizer })
}

impl Names {
    /// GGUF, for Qwen2 and Qwen3.
    const GGUF: Names = Names {
        prefix: "",
        layers: "blk.",
        tokens: "token_embd",
        positions: "position_embd",
        attention_norm: "attn_norm",
        qkv: &["attn_q", "attn_k", "attn_v"],
        query_norm: "attn_q_norm",
        key_norm: "attn_k_norm",
        projection: "attn_output",
        mlp_norm: "ffn_norm",
        up: &["ffn_gate", "ffn_up"],
        down: "ffn_down",
        norm: "output_norm",
        head: "output",
        factors: "rope_freqs",
        transposed: false,
        interleaved: false,
    };

    /// GGUF, for Llama, whose queries and keys are made for turning neighbours instead of halves.
    const GGUF_LLAMA: Names = Names { interleaved: true, ..Names::GGUF };

    /// GGUF, for GPT-2.
    const GGUF_GPT2: Names = Names { qkv: &["attn_qkv"], up: &["ffn_up"], ..Names::GGUF };
}
