//! The tokenizer that the other crates use.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{
    Decoder, Error, Message, Vocabulary, bounded,
    chat::{self, Marks},
    definition::Definition,
    hugging_face,
    pieces::Pieces,
};

/// Ids of the character tokenizer.
const ASCII_SIZE: usize = 128;

/// Text to tokens and back. Cheap to clone. Two are equal where each id stands for the same text.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

struct Inner {
    name: String,
    size: usize,
    fingerprint: String,
    kind: Kind,
}

#[expect(clippy::large_enum_variant, reason = "a process holds few of them, each behind an Arc")]
enum Kind {
    Ascii,
    BytePairs(BytePairs),
    /// Ids alone.
    Any,
}

struct BytePairs {
    /// The document for a peer; also what the engine is made of.
    document: Arc<[u8]>,
    pieces: Pieces,
    /// Text to tokens. Made when it is first needed, because it is large and a model service never needs it.
    engine: OnceLock<Result<tokenizers::Tokenizer, Error>>,
    missing_bytes: Vec<u8>,
    begin: Option<u32>,
    end_tokens: Vec<u32>,
    bos: String,
    eos: String,
    chat_template: Option<String>,
}

/// What travels to a peer.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Document {
    Ascii,
    BytePairs(Box<Definition>),
}

impl Tokenizer {
    /// The character models' tokenizer: 128 ids, each the ASCII character of that code.
    pub fn ascii() -> Self {
        let ids = (0..ASCII_SIZE as u32).map(|id| [id.to_le_bytes(), id.to_le_bytes()].concat());
        let digest = Sha256::new_with_prefix("outrider tokenizer: id, code point\n");
        Self(Arc::new(Inner {
            name: "ascii".to_owned(),
            size: ASCII_SIZE,
            fingerprint: hexadecimal(ids.fold(digest, Sha256::chain_update)),
            kind: Kind::Ascii,
        }))
    }

    /// From the files of a Hugging Face folder: `tokenizer.json`, and where there are, `tokenizer_config.json` and
    /// `chat_template.jinja`, which goes before the template in the former. `end_tokens` are those that the model's
    /// configuration names; the tokenizer's `eos_token` is one in any case.
    ///
    /// # Errors
    /// A file that cannot be read, or a part of the tokenizer that is unknown or does not fit the others.
    pub fn from_hugging_face(
        tokenizer_json: &[u8],
        tokenizer_config_json: Option<&[u8]>,
        chat_template: Option<&str>,
        end_tokens: &[u32],
    ) -> Result<Self, Error> {
        let definition = hugging_face::define(tokenizer_json, tokenizer_config_json, chat_template, end_tokens)?;
        Self::new(definition)
    }

    /// From the vocabulary in a GGUF file.
    ///
    /// # Errors
    /// A part of the tokenizer that is unknown or does not fit the others.
    pub fn from_gguf(vocabulary: Vocabulary) -> Result<Self, Error> {
        Self::new(vocabulary.define()?)
    }

    /// From the document that a peer's [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// A document that is none, too large, or whose parts do not fit together.
    pub fn from_bytes(document: &[u8]) -> Result<Self, Error> {
        match read(document)? {
            Document::Ascii => Ok(Self::ascii()),
            Document::BytePairs(definition) => Self::new(*definition),
        }
    }

    /// Of who works with ids alone, whatever they stand for: it has no fingerprint, and fits any other.
    pub fn any() -> Self {
        let (name, size, fingerprint) = ("any".to_owned(), u32::MAX as usize, String::new());
        Self(Arc::new(Inner { name, size, fingerprint, kind: Kind::Any }))
    }

    /// A document from which a peer makes the same tokenizer.
    pub fn to_bytes(&self) -> Arc<[u8]> {
        match &self.0.kind {
            Kind::Ascii => write(&Document::Ascii),
            Kind::BytePairs(pairs) => pairs.document.clone(),
            Kind::Any => Arc::new([]),
        }
    }

    fn new(mut definition: Definition) -> Result<Self, Error> {
        definition.check()?;
        definition.end_tokens.sort_unstable();
        definition.end_tokens.dedup();
        let digest = Sha256::new_with_prefix("outrider tokenizer: id, length, text\n");
        let digest = definition.tokens.iter().zip(0_u32..).fold(digest, |digest, (token, id)| {
            digest.chain_update(id.to_le_bytes()).chain_update((token.len() as u64).to_le_bytes()).chain_update(token)
        });
        let text = |id: Option<u32>| id.map_or("", |id| &definition.tokens[id as usize]).to_owned();
        let pairs = BytePairs {
            pieces: definition.pieces(),
            engine: OnceLock::new(),
            missing_bytes: definition.missing_bytes(),
            begin: definition.begin,
            end_tokens: definition.end_tokens.clone(),
            bos: text(definition.bos_token),
            eos: text(definition.eos_token),
            chat_template: definition.chat_template.clone(),
            document: Arc::new([]),
        };
        let (name, size) = (definition.name.clone(), definition.tokens.len());
        let document = write(&Document::BytePairs(Box::new(definition)));
        let kind = Kind::BytePairs(BytePairs { document, ..pairs });
        Ok(Self(Arc::new(Inner { name, size, fingerprint: hexadecimal(digest), kind })))
    }

    /// Ids below this are tokens.
    pub fn size(&self) -> usize {
        self.0.size
    }

    /// SHA-256 over what each id stands for, hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.0.fingerprint
    }

    /// A short name for people. It does not tell tokenizers apart.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Generation ends with any of these, in ascending order.
    pub fn end_tokens(&self) -> &[u32] {
        match &self.0.kind {
            Kind::Ascii | Kind::Any => &[],
            Kind::BytePairs(pairs) => &pairs.end_tokens,
        }
    }

    /// Whether [`Self::render_chat`] can do something.
    pub fn has_chat_template(&self) -> bool {
        matches!(&self.0.kind, Kind::BytePairs(pairs) if pairs.chat_template.is_some())
    }

    /// The tokens of a prompt. Special tokens in the text count as such; where the model wants a first token, it is put
    /// in front unless the text begins with it.
    ///
    /// # Errors
    /// A character that no token spells.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        match &self.0.kind {
            Kind::Ascii => {
                known(text, "ASCII, which is all that the model's tokenizer knows", |byte| byte.is_ascii())?;
                Ok(text.bytes().map(u32::from).collect())
            }
            Kind::BytePairs(pairs) => pairs.encode(text),
            Kind::Any => Err(Error::Unusable("it knows ids alone, and no text".to_owned())),
        }
    }

    /// The prompt in which the assistant is to answer `messages`, after the model's own chat template.
    ///
    /// # Errors
    /// No template, or one that refuses the messages or cannot be rendered.
    pub fn render_chat(&self, messages: &[Message]) -> Result<String, Error> {
        match &self.0.kind {
            Kind::BytePairs(BytePairs { chat_template: Some(template), bos, eos, .. }) => {
                chat::render(template, Marks { bos, eos }, messages)
            }
            _ => Err(Error::NoChatTemplate { tokenizer: self.0.name.clone() }),
        }
    }

    /// What turns tokens into text as they come.
    pub fn decoder(&self) -> Decoder {
        Decoder::new(self.clone())
    }

    /// The bytes that a token stands for: none for a special one, and parts of characters for some.
    pub fn bytes(&self, token: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_bytes(token, &mut bytes);
        bytes
    }

    pub(crate) fn append_bytes(&self, token: u32, bytes: &mut Vec<u8>) {
        match &self.0.kind {
            Kind::Ascii => bytes.extend(u8::try_from(token).ok().filter(u8::is_ascii)),
            Kind::BytePairs(pairs) => bytes.extend_from_slice(pairs.pieces.get(token)),
            Kind::Any => {}
        }
    }
}

impl BytePairs {
    fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        known(text, "what the tokenizer's tokens spell", |byte| !self.missing_bytes.contains(&byte))?;
        let engine = self.engine.get_or_init(|| self.build()).as_ref().map_err(Error::clone)?;
        let encoding = engine.encode_fast(text, false).map_err(|error| Error::Unusable(error.to_string()))?;
        let ids = encoding.get_ids();
        let begin = self.begin.filter(|begin| ids.first() != Some(begin));
        Ok(begin.into_iter().chain(ids.iter().copied()).collect())
    }

    fn build(&self) -> Result<tokenizers::Tokenizer, Error> {
        match read(&self.document)? {
            Document::BytePairs(definition) => definition.engine(),
            Document::Ascii => unreachable!("the document was written from a definition"),
        }
    }
}

/// Refuses the first character with a byte that is not `known`.
fn known(text: &str, allowed: &'static str, known: impl Fn(u8) -> bool) -> Result<(), Error> {
    match text.bytes().position(|byte| !known(byte)) {
        Some(at) => {
            let at = text.floor_char_boundary(at);
            let character = text[at..].chars().next().unwrap_or_default();
            Err(Error::Character { character, at, allowed })
        }
        None => Ok(()),
    }
}

fn read(document: &[u8]) -> Result<Document, Error> {
    bounded::json("tokenizer document", document)
}

fn write(document: &Document) -> Arc<[u8]> {
    serde_json::to_vec(document).expect("a document is plain data with string keys").into()
}

/// A digest in hexadecimal.
fn hexadecimal(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl PartialEq for Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.0.fingerprint == other.0.fingerprint
    }
}

impl Eq for Tokenizer {}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { name, size, fingerprint, .. } = &*self.0;
        write!(formatter, "Tokenizer({name}, {size} ids, {fingerprint})")
    }
}
