//! A definition from a GGUF file's vocabulary, as llama.cpp reads it.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{
    Error,
    definition::{Added, Definition, MOST_TOKENS},
    pieces::Spelling,
};

/// What a GGUF file says of its tokenizer; each field is the metadata of that name below `tokenizer.ggml`.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// `model`: `gpt2` is byte pairs, which are supported.
    pub model: String,
    /// `pre`: how text is split before merging; absent is `default`.
    pub pre: Option<String>,
    /// `tokens`, by id.
    pub tokens: Vec<String>,
    /// `token_type`, by id: 3 is control, 4 user-defined, 5 unused.
    pub token_types: Option<Vec<i32>>,
    /// `merges`, the first to be merged first, each two tokens with a space between them.
    pub merges: Vec<String>,
    /// `bos_token_id`.
    pub bos: Option<u32>,
    /// `eos_token_id`.
    pub eos: Option<u32>,
    /// `eot_token_id`.
    pub eot: Option<u32>,
    /// `add_bos_token`; absent is what `pre` implies.
    pub add_bos: Option<bool>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// Control tokens that end generation wherever they are in the vocabulary, because files often name only one of them.
const ENDS: &[&str] = &[
    "<|endoftext|>",
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<EOT>",
    "</s>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// How text is split before merging.
struct Pre {
    /// Each is applied to what the one before it left.
    patterns: &'static [&'static str],
    ignore_merges: bool,
    add_bos: bool,
}

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const QWEN_3_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Pre {
    fn named(name: &str) -> Result<Self, Error> {
        let (patterns, ignore_merges, add_bos): (&[_], _, _) = match name {
            "qwen2" | "deepseek-r1-qwen" | "megrez" | "stablelm2" => (&[QWEN_2], false, false),
            "qwen35" => (&[QWEN_3_5], false, false),
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" => (&[LLAMA_3], true, true),
            "dbrx" | "smaug-bpe" => (&[LLAMA_3], false, false),
            "tekken" => (&[TEKKEN], true, true),
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "exaone4" => (&[GPT_2], false, false),
            "smollm" | "starcoder" | "refact" | "codeshell" | "exaone" => (&[r"\p{N}", GPT_2], false, false),
            "default" => (&[r"[\p{P}$+<=>^~|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"], false, false),
            _ => {
                return Err(Error::field(
                    "tokenizer.ggml.pre",
                    name,
                    "qwen2, qwen35, deepseek-r1-qwen, megrez, stablelm2, llama-bpe, llama3, llama-v3, falcon3, dbrx, \
                     smaug-bpe, tekken, gpt-2, phi-2, mpt, olmo, exaone, exaone4, smollm, starcoder, refact, codeshell, \
                     default",
                ));
            }
        };
        Ok(Self { patterns, ignore_merges, add_bos })
    }

    fn pre_tokenizer(&self) -> Value {
        let split =
            |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
        let parts: Vec<_> = self.patterns.iter().map(split).chain([bytes]).collect();
        json!({"type": "Sequence", "pretokenizers": parts})
    }
}

impl Vocabulary {
    pub(crate) fn define(self) -> Result<Definition, Error> {
        if self.model != "gpt2" {
            return Err(Error::field("tokenizer.ggml.model", self.model, "gpt2"));
        }
        let name = self.pre.as_deref().unwrap_or("default");
        let pre = Pre::named(name)?;
        let size = self.size()?;
        let mut tokens = self.tokens;
        tokens.truncate(size);
        let types = self.token_types.unwrap_or_default();
        let begin = self.add_bos.unwrap_or(pre.add_bos).then_some(self.bos);
        if begin == Some(None) {
            return Err(Error::field("tokenizer.ggml.add_bos_token", true, "false where there is no bos_token_id"));
        }
        let added: Vec<_> = types.iter().zip(0..).take(size).filter_map(|(&kind, id)| added(kind, id)).collect();
        let control = added.iter().filter(|added| added.special).map(|added| added.id);
        let ends = control.filter(|&id| ENDS.contains(&tokens[id as usize].as_str()));
        Ok(Definition {
            name: name.to_owned(),
            end_tokens: ends.chain(self.eos).chain(self.eot).collect(),
            merges: merges(&tokens, &self.merges)?,
            tokens,
            spelling: Spelling::ByteLevel,
            ignore_merges: pre.ignore_merges,
            byte_fallback: false,
            unknown: None,
            fuse_unknown: false,
            added,
            normalizer: Value::Null,
            pre_tokenizer: pre.pre_tokenizer(),
            begin: begin.flatten(),
            bos_token: self.bos,
            eos_token: self.eos,
            chat_template: self.chat_template,
        })
    }

    /// How many tokens there are: unused ones at the end only fill the model's rows.
    fn size(&self) -> Result<usize, Error> {
        let count = self.tokens.len();
        if count > MOST_TOKENS {
            return Err(Error::field("tokenizer.ggml.tokens", count, "at most 1048576"));
        }
        let Some(types) = &self.token_types else {
            return Ok(count);
        };
        if types.len() != count {
            return Err(Error::field("tokenizer.ggml.token_type", types.len(), "one for each token"));
        }
        Ok(types.iter().rposition(|&kind| kind != UNUSED).map_or(0, |last| last + 1))
    }
}

fn added(kind: i32, id: u32) -> Option<Added> {
    let special = kind == CONTROL;
    let plain = Added { id, special, single_word: false, lstrip: false, rstrip: false, normalized: false };
    (special || kind == USER_DEFINED).then_some(plain)
}

fn merges(tokens: &[String], merges: &[String]) -> Result<Vec<(u32, u32)>, Error> {
    let ids: HashMap<&str, u32> = tokens.iter().map(String::as_str).zip(0..).collect();
    let id = |text: &str| ids.get(text).copied().ok_or_else(|| Error::field("merge", text, "tokens"));
    let pair = |line: &String| {
        let pair = line.split_once(' ');
        let (left, right) = pair.ok_or_else(|| Error::field("merge", line, "two tokens, a space between them"))?;
        Ok((id(left)?, id(right)?))
    };
    merges.iter().map(pair).collect()
}
