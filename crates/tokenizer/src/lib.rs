//! Text to tokens and back, for every model.
//!
//! A [`Tokenizer`] is made from a Hugging Face folder, from a GGUF file's vocabulary or from the document that another
//! tokenizer wrote; or it is [`Tokenizer::ascii`], the character models' own. Whatever it is made from, two tokenizers
//! are equal where each id stands for the same text.
//!
//! # Layout
//! - [`Tokenizer`], [`Decoder`]: what the other crates use
//! - `definition`: all that a byte-pair tokenizer is made of, checked; also the document that travels
//! - `hugging_face`, `gguf`: definitions from files
//! - `parts`: which normalisers and pre-tokenizers are known
//! - `bounded`: JSON from anywhere, in bounded memory
//! - `pieces`: the bytes that each id stands for
//! - `chat`: messages to prompt text

mod bounded;
mod chat;
mod decoder;
mod definition;
mod error;
mod gguf;
mod hugging_face;
mod parts;
mod pieces;
mod tokenizer;

pub use chat::Message;
pub use decoder::Decoder;
pub use error::Error;
pub use gguf::Vocabulary;
pub use tokenizer::Tokenizer;
