//! What a model's files say about text.

use super::gguf::Vocabulary;

/// Where a model's tokenizer comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// Each ASCII character is a token.
    Characters,
    /// The files of a Hugging Face folder.
    Files(TokenizerFiles),
    /// What is in a GGUF file.
    Vocabulary(Box<Vocabulary>),
}

/// The files of a Hugging Face folder, as they are.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerFiles {
    /// `tokenizer.json`
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`: special tokens, and the chat template.
    pub configuration: Option<Vec<u8>>,
    /// `generation_config.json`: the ids that end a text.
    pub generation: Option<Vec<u8>>,
    /// `chat_template.jinja`, which newer folders have instead of the one in the configuration.
    pub chat_template: Option<Vec<u8>>,
}
