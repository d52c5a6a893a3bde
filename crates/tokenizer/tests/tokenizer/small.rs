//! A byte-level vocabulary that is small enough to see through.

use tokenizer::Vocabulary;

/// Where the vocabulary's control tokens are.
pub(crate) const BEGIN: u32 = 260;
pub(crate) const END: u32 = 261;
pub(crate) const TOOL: u32 = 262;

/// GPT-2's character for a byte.
pub(crate) fn spell(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let moved = (0..byte).filter(|&below| !printable(below)).count() as u32;
    if printable(byte) { byte.into() } else { char::from_u32(0x100 + moved).unwrap() }
}

/// All bytes, `he`, `ll`, `hell`, `Ġhell`, three marks.
pub(crate) fn vocabulary() -> Vocabulary {
    let mut tokens: Vec<String> = (0..=u8::MAX).map(|byte| spell(byte).to_string()).collect();
    tokens.extend(["he", "ll", "hell", "Ġhell", "<s>", "<|im_end|>", "<tool>"].map(str::to_owned));
    let mut types = vec![1; 260];
    types.extend([3, 3, 4]);
    Vocabulary {
        model: "gpt2".to_owned(),
        pre: Some("gpt-2".to_owned()),
        tokens,
        token_types: Some(types),
        merges: ["h e", "l l", "he ll", "Ġ hell"].map(str::to_owned).into(),
        bos: Some(BEGIN),
        ..Vocabulary::default()
    }
}
