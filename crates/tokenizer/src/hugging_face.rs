//! A definition from the files of a Hugging Face folder.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    Error, bounded,
    definition::{Added, Definition, MOST_TOKENS},
    parts,
};

/// `tokenizer.json`, as far as it matters here.
#[derive(Deserialize)]
struct File<'a> {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    #[serde(default, deserialize_with = "bounded::part")]
    normalizer: Value,
    #[serde(default, deserialize_with = "bounded::part")]
    pre_tokenizer: Value,
    #[serde(default, deserialize_with = "bounded::part")]
    post_processor: Value,
    #[serde(default, deserialize_with = "bounded::part")]
    decoder: Value,
    #[serde(borrow)]
    model: &'a RawValue,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

/// A model's kind; old files do not say it and mean byte pairs.
#[derive(Deserialize)]
struct Kind {
    #[serde(rename = "type", default = "byte_pairs")]
    kind: String,
}

fn byte_pairs() -> String {
    "BPE".to_owned()
}

#[derive(Deserialize)]
struct BytePairs {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
    unk_token: Option<String>,
    dropout: Option<f32>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair(String, String),
    Line(String),
}

/// `tokenizer_config.json`, as far as it matters here.
#[derive(Default, Deserialize)]
struct Config {
    tokenizer_class: Option<String>,
    bos_token: Option<Mark>,
    eos_token: Option<Mark>,
    add_bos_token: Option<bool>,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Mark {
    Text(String),
    Token { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

/// The definition in these files.
pub(crate) fn define(
    tokenizer_json: &[u8],
    tokenizer_config_json: Option<&[u8]>,
    chat_template: Option<&str>,
    end_tokens: &[u32],
) -> Result<Definition, Error> {
    let file: File = bounded::json("tokenizer.json", tokenizer_json)?;
    let config: Config = match tokenizer_config_json {
        Some(config) => bounded::json("tokenizer_config.json", config)?,
        None => Config::default(),
    };
    let model = BytePairs::read(file.model)?;
    let tokens = tokens(&model.vocab, &file.added_tokens)?;
    let ids = Ids { vocab: &model.vocab, added: &file.added_tokens };
    let bos_token = config.bos_token.map(|mark| ids.of("bos_token", mark.text())).transpose()?;
    let eos_token = config.eos_token.map(|mark| ids.of("eos_token", mark.text())).transpose()?;
    let begin = match config.add_bos_token {
        Some(true) if bos_token.is_none() => {
            return Err(Error::field("add_bos_token", true, "false where there is no bos_token"));
        }
        Some(true) => bos_token,
        Some(false) => None,
        None => put_in_front(&file.post_processor)?.map(|text| ids.of("post_processor", text)).transpose()?,
    };
    Ok(Definition {
        name: config
            .tokenizer_class
            .map_or("tokenizer.json".to_owned(), |class| class.replace("TokenizerFast", "Tokenizer")),
        tokens,
        spelling: parts::spelling(&file.decoder)?,
        merges: merges(&model)?,
        ignore_merges: model.ignore_merges,
        byte_fallback: model.byte_fallback,
        unknown: model.unk_token.as_deref().map(|text| ids.of("unk_token", text)).transpose()?,
        fuse_unknown: model.fuse_unk,
        added: file.added_tokens.iter().map(AddedToken::added).collect(),
        normalizer: file.normalizer,
        pre_tokenizer: file.pre_tokenizer,
        begin,
        end_tokens: end_tokens.iter().copied().chain(eos_token).collect(),
        bos_token,
        eos_token,
        chat_template: chat_template.map(str::to_owned).or_else(|| config.chat_template.and_then(Templates::choose)),
    })
}

impl BytePairs {
    fn read(model: &RawValue) -> Result<Self, Error> {
        let Kind { kind } = bounded::json("tokenizer.json model", model.get().as_bytes())?;
        if kind != "BPE" {
            return Err(Error::field("model type", kind, "BPE"));
        }
        let model: Self = bounded::json("tokenizer.json model", model.get().as_bytes())?;
        if let Some(dropout) = model.dropout.filter(|&dropout| dropout != 0.0) {
            return Err(Error::field("model dropout", dropout, "none"));
        }
        let affixes = [
            ("model continuing_subword_prefix", &model.continuing_subword_prefix),
            ("model end_of_word_suffix", &model.end_of_word_suffix),
        ];
        for (field, affix) in affixes {
            if let Some(affix) = affix.as_ref().filter(|affix| !affix.is_empty()) {
                return Err(Error::field(field, affix, "none"));
            }
        }
        Ok(model)
    }
}

/// What each id stands for.
fn tokens(vocab: &HashMap<String, u32>, added: &[AddedToken]) -> Result<Vec<String>, Error> {
    let added = added.iter().map(|added| (&added.content, added.id));
    let all = || vocab.iter().map(|(text, &id)| (text, id)).chain(added.clone());
    let size = all().map(|(_, id)| id as usize + 1).max().unwrap_or(0);
    if size > MOST_TOKENS {
        return Err(Error::field("largest id", size - 1, "below 1048576"));
    }
    let mut tokens = vec![String::new(); size];
    for (text, id) in all() {
        let token = &mut tokens[id as usize];
        if !token.is_empty() && token != text {
            return Err(Error::field(format!("id {id}"), (&*token, text), "one text"));
        }
        token.clone_from(text);
    }
    Ok(tokens)
}

fn merges(model: &BytePairs) -> Result<Vec<(u32, u32)>, Error> {
    let id = |text: &str| model.vocab.get(text).copied().ok_or_else(|| Error::field("merge", text, "tokens"));
    let pair = |merge: &Merge| {
        let (left, right) = match merge {
            Merge::Pair(left, right) => (left.as_str(), right.as_str()),
            Merge::Line(line) => {
                line.split_once(' ').ok_or_else(|| Error::field("merge", line, "two tokens, a space between them"))?
            }
        };
        Ok((id(left)?, id(right)?))
    };
    let comment = |merge: &&Merge| matches!(merge, Merge::Line(line) if line.starts_with("#version"));
    model.merges.iter().filter(|merge| !comment(merge)).map(pair).collect()
}

/// Finds tokens by their text.
struct Ids<'a> {
    vocab: &'a HashMap<String, u32>,
    added: &'a [AddedToken],
}

impl Ids<'_> {
    fn of(&self, field: &str, text: &str) -> Result<u32, Error> {
        let added = self.added.iter().find(|added| added.content == text).map(|added| added.id);
        added.or_else(|| self.vocab.get(text).copied()).ok_or_else(|| Error::field(field, text, "the text of a token"))
    }
}

/// The special token that a template puts in front of a text.
fn put_in_front(post_processor: &Value) -> Result<Option<&str>, Error> {
    let parts = parts::flatten("post_processor", post_processor)?;
    let mut templates = parts.into_iter().filter(|part| parts::kind(part) == "TemplateProcessing");
    Ok(templates.find_map(|template| template["single"][0]["SpecialToken"]["id"].as_str()))
}

impl AddedToken {
    fn added(&self) -> Added {
        let Self { id, single_word, lstrip, rstrip, normalized, special, .. } = *self;
        Added { id, special, single_word, lstrip, rstrip, normalized }
    }
}

impl Mark {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Token { content: text } => text,
        }
    }
}

impl Templates {
    /// The default one, or else the first.
    fn choose(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Named(mut templates) => {
                let default = templates.iter().position(|named| named.name == "default").unwrap_or(0);
                (default < templates.len()).then(|| templates.swap_remove(default).template)
            }
        }
    }
}
