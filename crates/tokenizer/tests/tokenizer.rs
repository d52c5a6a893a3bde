//! The tokenizer as other crates see it.

#[path = "tokenizer/chat.rs"]
mod chat;
#[path = "tokenizer/decoder.rs"]
mod decoder;
#[path = "tokenizer/document.rs"]
mod document;
#[path = "tokenizer/gguf.rs"]
mod gguf;
#[path = "tokenizer/hugging_face.rs"]
mod hugging_face;
#[path = "tokenizer/qwen.rs"]
mod qwen;
#[path = "tokenizer/small.rs"]
mod small;

use tokenizer::{Error, Tokenizer};

#[test]
fn the_character_tokenizer_is_the_one_that_the_embedded_models_were_trained_with() {
    let ascii = Tokenizer::ascii();
    assert_eq!(ascii.fingerprint(), "583768078104c74b0f43f7e63ae5ce2015609bfafda0df69b5e96e59e0cd8f8b");
    assert_eq!((ascii.size(), ascii.name(), ascii.end_tokens()), (128, "ascii", &[][..]));
    assert_eq!(ascii.encode("AZ").unwrap(), [65, 90]);
    let mut decoder = ascii.decoder();
    assert_eq!([65, 128, 90, u32::MAX].map(|token| decoder.push(token)).concat(), "AZ");
    assert_eq!(Tokenizer::from_bytes(&ascii.to_bytes()).unwrap(), ascii);
}

#[test]
fn a_character_outside_ascii_is_refused_with_its_place() {
    let refusal = Tokenizer::ascii().encode("ROMÉO").unwrap_err();
    assert!(matches!(refusal, Error::Character { character: 'É', at: 3, .. }), "{refusal}");
}
