//! The tokenizer inside a GGUF file.

use tokenizer::Vocabulary;

use super::header::Header;
use crate::LoadError;
use crate::geometry::fields::Fields;

/// Reads the tokenizer of a model with `vocab_size` embeddings, if there is one.
pub(super) fn read(file: &str, header: &Header<'_>, vocab_size: usize) -> Result<Option<Vocabulary>, LoadError> {
    let fields = Fields::new(file, header.fields.clone());
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    if fields.get(&key("model")).is_none() {
        return Ok(None);
    }
    let words = |key: &str| -> Result<Option<String>, LoadError> {
        let words = fields.words_or(key, "")?;
        Ok(fields.get(key).is_some().then(|| words.to_owned()))
    };
    let strings = |name: &str| -> Result<Vec<String>, LoadError> {
        let refuse = || fields.refuse(&key(name), "an array of UTF-8 strings");
        let array = header.arrays.get(&key(name)).and_then(|array| array.strings()).ok_or_else(refuse)?;
        array.map(|text| std::str::from_utf8(text).map(str::to_owned).map_err(|_| refuse())).collect()
    };
    let tokens = strings("tokens")?;
    if !(1..=vocab_size).contains(&tokens.len()) {
        return Err(fields.refuse(&key("tokens"), &format!("1 to {vocab_size}, the rows of the embedding")));
    }
    let types = match header.arrays.get(&key("token_type")) {
        None => None,
        Some(array) => {
            let types = array.int32().filter(|types| types.len() == tokens.len());
            let allowed = || format!("an array of {} whole numbers, one for each token", tokens.len());
            Some(types.ok_or_else(|| fields.refuse(&key("token_type"), &allowed()))?)
        }
    };
    let last = tokens.len() as u64 - 1;
    let id = |name: &str| -> Result<Option<u32>, LoadError> {
        let key = key(name);
        fields.get(&key).is_some().then(|| fields.whole(&key, 0..=last).map(|id| id as u32)).transpose()
    };
    Ok(Some(Vocabulary {
        model: fields.words_or(&key("model"), "")?.to_owned(),
        pre: words(&key("pre"))?,
        token_types: types,
        merges: if fields.get(&key("merges")).is_some() { strings("merges")? } else { Vec::new() },
        bos: id("bos_token_id")?,
        eos: id("eos_token_id")?,
        eot: id("eot_token_id")?,
        add_bos: match fields.get(&key("add_bos_token")) {
            Some(_) => Some(fields.flag_or(&key("add_bos_token"), false)?),
            None => None,
        },
        chat_template: words("tokenizer.chat_template")?,
        tokens,
    }))
}
