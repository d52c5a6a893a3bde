//! A Hugging Face folder: `config.json`, weights in one or several safetensors files, and the tokenizer's files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use tokenizer::Tokenizer;

use super::bytes::{self, Bytes};
use super::stored::Stored;
use super::{Checkpoint, MAX_JSON, safetensors};
use crate::LoadError;
use crate::geometry::hugging_face::{self, Family};
use crate::weights::Names;

/// Longest index, and longest file about the tokenizer, bytes.
const MAX_INDEX: u64 = 16 << 20;
const MAX_TOKENIZER: u64 = 64 << 20;

/// Files that weights may be spread over.
const MAX_SHARDS: usize = 512;

/// Which file has a tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) fn open(folder: &Path) -> Result<Checkpoint, LoadError> {
    let config = folder.join("config.json");
    let json = bytes::read(&config, MAX_JSON)?;
    let (family, geometry) = hugging_face::geometry(&config.display().to_string(), &json)?;
    let mut stored = Stored::new();
    for file in files(folder)? {
        let path = folder.join(file);
        safetensors::add(&mut stored, path.display().to_string(), Bytes::map(&path)?)?;
    }
    let names = names(family, &stored);
    let name = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let name = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Checkpoint { name, geometry, names, stored, tokenizer: tokenizer(folder)? })
}

/// The names of the files with weights.
fn files(folder: &Path) -> Result<BTreeSet<String>, LoadError> {
    let path = folder.join("model.safetensors.index.json");
    let Some(json) = bytes::read_if_there(&path, MAX_INDEX)? else {
        return Ok(BTreeSet::from(["model.safetensors".to_owned()]));
    };
    let file = path.display().to_string();
    let index: Index = serde_json::from_slice(&json).map_err(|error| LoadError::Json { file: file.clone(), error })?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    let refuse = |value: String, allowed: String| LoadError::Geometry {
        file: file.clone(),
        field: "weight_map".to_owned(),
        value,
        allowed,
    };
    if !(1..=MAX_SHARDS).contains(&shards.len()) {
        return Err(refuse(format!("{} files", shards.len()), format!("1 to {MAX_SHARDS} files")));
    }
    // A name, and no way out of the folder.
    let plain = |shard: &str| shard.ends_with(".safetensors") && !shard.contains(['/', '\\', ':']);
    match shards.iter().find(|shard| !plain(shard)) {
        Some(shard) => Err(refuse(format!("{shard:?}"), "names of .safetensors files in the folder".to_owned())),
        None => Ok(shards),
    }
}

/// What the family calls its tensors; models saved without their head lack the prefix.
fn names(family: Family, stored: &Stored) -> Names {
    let names = if family == Family::Gpt2 { Names::GPT2 } else { Names::LLAMA };
    let prefixed = stored.contains(&names.outside(names.tokens, "weight"));
    if prefixed { names } else { Names { prefix: "", ..names } }
}

fn tokenizer(folder: &Path) -> Result<Tokenizer, LoadError> {
    let read = |name: &str| bytes::read_if_there(&folder.join(name), MAX_TOKENIZER);
    let Some(tokenizer) = read("tokenizer.json")? else {
        tracing::warn!(folder = %folder.display(), "no tokenizer.json: tokens are taken for ASCII characters");
        return Ok(Tokenizer::ascii());
    };
    let (configuration, template) = (read("tokenizer_config.json")?, read("chat_template.jinja")?);
    let template = template.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let ends = match read("generation_config.json")? {
        Some(json) => end_tokens(&folder.join("generation_config.json").display().to_string(), &json)?,
        None => Vec::new(),
    };
    Tokenizer::from_hugging_face(&tokenizer, configuration.as_deref(), template.as_deref(), &ends)
        .map_err(|error| LoadError::Tokenizer { file: folder.display().to_string(), error: Box::new(error) })
}

/// The ids that end a text, by `generation_config.json`: one, several or none.
fn end_tokens(file: &str, json: &[u8]) -> Result<Vec<u32>, LoadError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ends {
        One(u32),
        Several(Vec<u32>),
    }
    #[derive(Deserialize)]
    struct Generation {
        eos_token_id: Option<Ends>,
    }
    let generation: Generation =
        serde_json::from_slice(json).map_err(|error| LoadError::Json { file: file.to_owned(), error })?;
    Ok(match generation.eos_token_id {
        None => Vec::new(),
        Some(Ends::One(id)) => vec![id],
        Some(Ends::Several(ids)) => ids,
    })
}
