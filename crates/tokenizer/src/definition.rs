//! All that a byte-pair tokenizer is made of.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokenizers::{
    AddedToken,
    models::bpe::{BPE, Vocab},
};

use crate::{
    Error, bounded, parts,
    pieces::{Pieces, Spelling},
};

/// The most ids. The largest known vocabularies have a quarter of it.
pub(crate) const MOST_TOKENS: usize = 1 << 20;

/// The most merges.
const MOST_MERGES: usize = 1 << 21;

/// The most end tokens.
const MOST_END_TOKENS: usize = 64;

/// All that a byte-pair tokenizer is made of, wherever it was read from. It is also what travels to a peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Definition {
    /// A short name for people.
    pub(crate) name: String,
    /// What each id stands for, spelled; empty for an id that stands for nothing.
    #[serde(deserialize_with = "bounded::tokens")]
    pub(crate) tokens: Vec<String>,
    pub(crate) spelling: Spelling,
    /// Pairs of ids, the first to be merged first.
    pub(crate) merges: Vec<(u32, u32)>,
    /// A word that is a token is taken whole.
    pub(crate) ignore_merges: bool,
    /// What has no token is spelled in bytes.
    pub(crate) byte_fallback: bool,
    /// Stands for what has no token otherwise.
    pub(crate) unknown: Option<u32>,
    /// Neighbouring unknowns become one.
    pub(crate) fuse_unknown: bool,
    /// Tokens that are found in the text before anything else.
    pub(crate) added: Vec<Added>,
    #[serde(deserialize_with = "bounded::part")]
    pub(crate) normalizer: Value,
    #[serde(deserialize_with = "bounded::part")]
    pub(crate) pre_tokenizer: Value,
    /// Text begins with this token.
    pub(crate) begin: Option<u32>,
    /// Generation ends with any of these.
    pub(crate) end_tokens: Vec<u32>,
    /// What the chat template knows as `bos_token` and `eos_token`.
    pub(crate) bos_token: Option<u32>,
    pub(crate) eos_token: Option<u32>,
    pub(crate) chat_template: Option<String>,
}

/// A token that is found in the text before anything else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Added {
    pub(crate) id: u32,
    /// It marks structure and stands for no text.
    pub(crate) special: bool,
    pub(crate) single_word: bool,
    pub(crate) lstrip: bool,
    pub(crate) rstrip: bool,
    pub(crate) normalized: bool,
}

impl Definition {
    /// Checks that the parts fit together, so that nothing later relies on what the file promised.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_tokens()?;
        self.check_merges()?;
        let ids = self.end_tokens.iter().map(|&id| ("end token", id));
        let ids = ids.chain(self.begin.map(|id| ("first token", id)));
        let ids = ids.chain(self.bos_token.map(|id| ("bos_token", id)));
        let ids = ids.chain(self.eos_token.map(|id| ("eos_token", id)));
        let ids = ids.chain(self.unknown.map(|id| ("unk_token", id)));
        let ids = ids.chain(self.added.iter().map(|added| ("added token", added.id)));
        for (field, id) in ids {
            self.token(field, id)?;
        }
        if self.end_tokens.len() > MOST_END_TOKENS {
            return Err(Error::field("number of end tokens", self.end_tokens.len(), "at most 64"));
        }
        let mut seen = HashSet::new();
        if let Some(twice) = self.added.iter().find(|added| !seen.insert(added.id)) {
            return Err(Error::field("added token", twice.id, "each id once"));
        }
        parts::normalizer(&self.normalizer)?;
        parts::pre_tokenizer(&self.pre_tokenizer)?;
        Ok(())
    }

    fn check_tokens(&self) -> Result<(), Error> {
        if !(1..=MOST_TOKENS).contains(&self.tokens.len()) {
            return Err(Error::field("number of tokens", self.tokens.len(), "1 to 1048576"));
        }
        if self.tokens.last().is_some_and(String::is_empty) {
            return Err(Error::field("last token", "", "a token that stands for something"));
        }
        let mut seen = HashSet::with_capacity(self.tokens.len());
        match self.tokens.iter().find(|token| !token.is_empty() && !seen.insert(token.as_str())) {
            Some(twice) => Err(Error::field("token", twice, "each text once")),
            None => Ok(()),
        }
    }

    fn check_merges(&self) -> Result<(), Error> {
        if self.merges.len() > MOST_MERGES {
            return Err(Error::field("number of merges", self.merges.len(), "at most 2097152"));
        }
        let known: HashSet<&str> = self.tokens.iter().map(String::as_str).collect();
        let mut merged = String::new();
        for &(left, right) in &self.merges {
            merged.clear();
            merged.push_str(self.token("merge", left)?);
            merged.push_str(self.token("merge", right)?);
            if !known.contains(merged.as_str()) {
                return Err(Error::field("merge", &merged, "pairs that together are a token"));
            }
        }
        Ok(())
    }

    /// The text of a token that `field` names.
    pub(crate) fn token(&self, field: &str, id: u32) -> Result<&str, Error> {
        match self.tokens.get(id as usize) {
            Some(token) if !token.is_empty() => Ok(token),
            _ => Err(Error::field(field, id, "an id that is a token")),
        }
    }

    /// The bytes that each id stands for.
    pub(crate) fn pieces(&self) -> Pieces {
        let added: HashMap<u32, bool> = self.added.iter().map(|added| (added.id, added.special)).collect();
        Pieces::new(self.tokens.iter().zip(0..).map(|(token, id)| match added.get(&id) {
            Some(true) => Vec::new(),
            Some(false) => token.clone().into_bytes(),
            None => self.spelling.bytes(token),
        }))
    }

    /// The bytes that no token spells and that text could hold. Without them text would silently lose characters.
    pub(crate) fn missing_bytes(&self) -> Vec<u8> {
        let unspelled = self.spelling == Spelling::ByteLevel && self.unknown.is_none();
        let never_in_text = |byte| matches!(byte, 0xc0 | 0xc1 | 0xf5..=0xff);
        let known: HashSet<&str> = self.tokens.iter().map(String::as_str).collect();
        let missing = |&byte: &u8| !never_in_text(byte) && !known.contains(self.spelling.token(byte).as_str());
        (0..=u8::MAX).filter(|_| unspelled).filter(missing).collect()
    }

    /// What turns text into tokens.
    pub(crate) fn engine(self) -> Result<tokenizers::Tokenizer, Error> {
        let unusable = |error: tokenizers::Error| Error::Unusable(error.to_string());
        let token = |id: u32| self.tokens[id as usize].clone();
        let merges = self.merges.iter().map(|&(left, right)| (token(left), token(right))).collect();
        let added: Vec<_> = self.added.iter().map(|added| added.in_text(token(added.id))).collect();
        let unknown = self.unknown.map(token);
        let named = self.tokens.into_iter().zip(0..).filter(|(token, _)| !token.is_empty());
        let model = BPE::builder()
            .vocab_and_merges(named.collect::<Vocab>(), merges)
            .ignore_merges(self.ignore_merges)
            .byte_fallback(self.byte_fallback)
            .fuse_unk(self.fuse_unknown);
        let model = match unknown {
            Some(unknown) => model.unk_token(unknown),
            None => model,
        };
        let mut engine = tokenizers::Tokenizer::new(model.build().map_err(unusable)?);
        engine.with_normalizer(parts::normalizer(&self.normalizer)?).map_err(unusable)?;
        engine.with_pre_tokenizer(parts::pre_tokenizer(&self.pre_tokenizer)?);
        engine.add_tokens(added).map_err(unusable)?;
        Ok(engine)
    }
}

impl Added {
    fn in_text(&self, content: String) -> AddedToken {
        let Self { special, single_word, lstrip, rstrip, normalized, .. } = *self;
        AddedToken { content, single_word, lstrip, rstrip, normalized, special }
    }
}
