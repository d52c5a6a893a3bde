//! Which normalisers and pre-tokenizers are known.
//!
//! A tokenizer's file comes from anywhere, or over the wire from a peer. So only parts that the supported families use
//! are let through, and none that makes much text of little.

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::{normalizers::NormalizerWrapper, pre_tokenizers::PreTokenizerWrapper};

use crate::{Error, pieces::Spelling};

/// The most parts of one kind, nested ones included.
const MOST: usize = 16;

/// The longest text, in bytes, that a normaliser puts in.
const LONGEST: usize = 8;

/// The normaliser, if there is one.
pub(crate) fn normalizer(value: &Value) -> Result<Option<NormalizerWrapper>, Error> {
    let parts = flatten("normalizer", value)?;
    let inserts = parts.iter().filter_map(|part| part.get("content").or_else(|| part.get("prepend")));
    for text in inserts.clone() {
        if text.as_str().is_none_or(|text| text.len() > LONGEST) {
            return Err(Error::field("normalizer content", text, "a string of at most 8 bytes"));
        }
    }
    // Each of them multiplies the text's length.
    if inserts.count() > 4 {
        return Err(Error::field("normalizer", parts.len(), "at most 4 that insert text"));
    }
    for part in parts {
        let known = matches!(kind(part), "NFC" | "NFD" | "NFKC" | "NFKD" | "Prepend" | "Replace");
        if !known {
            return Err(Error::field(
                "normalizer type",
                kind(part),
                "NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence",
            ));
        }
    }
    read("normalizer", value)
}

/// The pre-tokenizer, if there is one.
pub(crate) fn pre_tokenizer(value: &Value) -> Result<Option<PreTokenizerWrapper>, Error> {
    for part in flatten("pre_tokenizer", value)? {
        let known = matches!(kind(part), "ByteLevel" | "Digits" | "Metaspace" | "Punctuation" | "Split");
        if !known {
            return Err(Error::field(
                "pre_tokenizer type",
                kind(part),
                "ByteLevel, Digits, Metaspace, Punctuation, Sequence, Split",
            ));
        }
    }
    read("pre_tokenizer", value)
}

/// How the tokens are spelled, which is what a decoder undoes.
pub(crate) fn spelling(decoder: &Value) -> Result<Spelling, Error> {
    for part in flatten("decoder", decoder)? {
        match kind(part) {
            "ByteLevel" => return Ok(Spelling::ByteLevel),
            "Metaspace" => return Ok(Spelling::Spaces),
            "Replace" if part["pattern"]["String"] == "▁" && part["content"] == " " => return Ok(Spelling::Spaces),
            _ => {}
        }
    }
    Err(Error::field("decoder", decoder, "ByteLevel, Metaspace, or Replace of ▁ by a space"))
}

/// The parts themselves, those of nested sequences in order. `field` is what the file calls them.
pub(crate) fn flatten<'a>(field: &'static str, value: &'a Value) -> Result<Vec<&'a Value>, Error> {
    let list = match field {
        "normalizer" => "normalizers",
        "pre_tokenizer" => "pretokenizers",
        "post_processor" => "processors",
        _ => "decoders",
    };
    let mut waiting = vec![value];
    let mut parts = Vec::new();
    while let Some(part) = waiting.pop() {
        match (kind(part), part.get(list).and_then(Value::as_array)) {
            ("Sequence", Some(nested)) if nested.len() <= MOST => waiting.extend(nested.iter().rev()),
            ("Sequence", Some(nested)) => return Err(Error::field(field, nested.len(), "at most 16 parts")),
            _ if part.is_null() => {}
            _ => parts.push(part),
        }
        if parts.len() + waiting.len() > MOST {
            return Err(Error::field(field, parts.len() + waiting.len(), "at most 16 parts"));
        }
    }
    Ok(parts)
}

/// What a part calls itself.
pub(crate) fn kind(part: &Value) -> &str {
    part["type"].as_str().unwrap_or_default()
}

fn read<T: DeserializeOwned>(field: &'static str, value: &Value) -> Result<Option<T>, Error> {
    serde_json::from_value(value.clone()).map_err(|error| Error::document(field, error.to_string()))
}
