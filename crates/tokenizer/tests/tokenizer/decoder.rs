//! Text as it comes.

use proptest::prelude::*;
use tokenizer::Tokenizer;

use super::small::vocabulary;

#[test]
fn a_character_comes_when_its_last_byte_has() {
    let mut decoder = Tokenizer::from_gguf(vocabulary()).unwrap().decoder();
    let tokens = "aé🤖".bytes().map(u32::from);
    let pieces: Vec<_> = tokens.map(|token| decoder.push(token)).collect();
    assert_eq!(pieces, ["a", "", "é", "", "", "", "🤖"]);
    assert_eq!(decoder.finish(), "");
}

#[test]
fn a_character_that_never_ends_is_replaced() {
    let mut decoder = Tokenizer::from_gguf(vocabulary()).unwrap().decoder();
    assert_eq!([0xf0, 0x9f].map(|token| decoder.push(token)), ["", ""]);
    assert_eq!(decoder.push(u32::from(b'a')), "\u{fffd}a");
    decoder.push(0xc3);
    assert_eq!(decoder.finish(), "\u{fffd}");
    assert_eq!(decoder.push(u32::from(b'b')), "b");
}

proptest! {
    #[test]
    fn all_pieces_together_are_the_tokens_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let mut decoder = Tokenizer::from_gguf(vocabulary()).unwrap().decoder();
        let mut text: String = bytes.iter().map(|&byte| decoder.push(byte.into())).collect();
        text += &decoder.finish();
        prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
    }
}
