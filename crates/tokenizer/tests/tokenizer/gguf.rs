//! Tokenizers from a GGUF file's vocabulary.

use proptest::prelude::*;
use tokenizer::{Error, Tokenizer, Vocabulary};

use super::small::{BEGIN, END, TOOL, vocabulary};

fn text(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    let mut decoder = tokenizer.decoder();
    let text: String = tokens.iter().map(|&token| decoder.push(token)).collect();
    text + &decoder.finish()
}

fn refused(change: impl FnOnce(&mut Vocabulary)) -> Error {
    let mut vocabulary = vocabulary();
    change(&mut vocabulary);
    Tokenizer::from_gguf(vocabulary).unwrap_err()
}

#[test]
fn pairs_are_merged_in_their_order() {
    let tokenizer = Tokenizer::from_gguf(vocabulary()).unwrap();
    assert_eq!(tokenizer.encode("hello hell").unwrap(), [258, 111, 259]);
}

#[test]
fn marks_in_the_text_are_tokens_and_control_tokens_stand_for_no_text() {
    let tokenizer = Tokenizer::from_gguf(vocabulary()).unwrap();
    let tokens = tokenizer.encode("<s>he<|im_end|><tool>").unwrap();
    assert_eq!(tokens, [BEGIN, 256, END, TOOL]);
    assert_eq!(text(&tokenizer, &tokens), "he<tool>");
}

#[test]
fn the_first_token_is_put_in_front_once() {
    let tokenizer = Tokenizer::from_gguf(Vocabulary { add_bos: Some(true), ..vocabulary() }).unwrap();
    assert_eq!(tokenizer.encode("he").unwrap(), [BEGIN, 256]);
    assert_eq!(tokenizer.encode("<s>he").unwrap(), [BEGIN, 256]);
    assert_eq!(tokenizer.encode("").unwrap(), [BEGIN]);
}

#[test]
fn each_way_to_split_is_its_own() {
    let words = |pre: &str| {
        let vocabulary = Vocabulary { pre: Some(pre.to_owned()), ..vocabulary() };
        Tokenizer::from_gguf(vocabulary).unwrap().encode("hello hell").unwrap().len()
    };
    assert_eq!(["gpt-2", "qwen2", "qwen35", "smollm", "default", "dbrx"].map(words), [3; 6]);
    // These take a first token, too.
    assert_eq!(["llama-bpe", "tekken"].map(words), [4; 2]);
    // Digits stay alone, come in threes, or stay together.
    let digits = |pre: &str| {
        let mut vocabulary = Vocabulary { pre: Some(pre.to_owned()), ..vocabulary() };
        vocabulary.add_bos = Some(false);
        for pair in ["1 2", "3 4", "12 34"] {
            vocabulary.tokens.push(pair.replace(' ', ""));
            vocabulary.merges.push(pair.to_owned());
        }
        vocabulary.token_types = None;
        Tokenizer::from_gguf(vocabulary).unwrap().encode("1234").unwrap().len()
    };
    assert_eq!(["smollm", "qwen2", "llama-bpe", "default", "gpt-2"].map(digits), [4, 4, 3, 3, 1]);
}

#[test]
fn a_word_that_is_a_token_is_taken_whole_where_merges_are_ignored() {
    let mut vocabulary = Vocabulary { pre: Some("llama-bpe".to_owned()), add_bos: Some(false), ..vocabulary() };
    vocabulary.merges.truncate(2);
    assert_eq!(Tokenizer::from_gguf(vocabulary.clone()).unwrap().encode("hell").unwrap(), [258]);
    vocabulary.pre = Some("dbrx".to_owned());
    assert_eq!(Tokenizer::from_gguf(vocabulary).unwrap().encode("hell").unwrap(), [256, 257]);
}

#[test]
fn padding_at_the_end_is_not_part_of_the_tokenizer() {
    let plain = Tokenizer::from_gguf(vocabulary()).unwrap();
    let mut padded = vocabulary();
    padded.tokens.extend((263..300).map(|id| format!("[PAD{id}]")));
    padded.token_types.as_mut().unwrap().extend([5; 37]);
    let padded = Tokenizer::from_gguf(padded).unwrap();
    assert_eq!(padded.size(), 263);
    assert_eq!(padded, plain);
    assert_eq!(text(&padded, &[263]), "");
}

#[test]
fn another_text_of_one_token_is_another_tokenizer() {
    let mut other = vocabulary();
    other.tokens[TOOL as usize] = "<tools>".to_owned();
    assert_ne!(Tokenizer::from_gguf(other).unwrap(), Tokenizer::from_gguf(vocabulary()).unwrap());
}

#[test]
fn end_tokens_are_those_named_and_those_known_by_their_text() {
    let tokenizer = Tokenizer::from_gguf(Vocabulary { eos: Some(7), eot: Some(7), ..vocabulary() }).unwrap();
    assert_eq!(tokenizer.end_tokens(), [7, END]);
}

#[test]
fn a_vocabulary_that_does_not_fit_is_refused_with_the_field() {
    let cases: Vec<(Error, &[&str])> = vec![
        (refused(|it| it.model = "llama".to_owned()), &["tokenizer.ggml.model", "llama", "gpt2"]),
        (refused(|it| it.pre = Some("kimi-k2".to_owned())), &["tokenizer.ggml.pre", "kimi-k2", "qwen2"]),
        (refused(|it| it.token_types = Some(vec![1])), &["token_type", "1"]),
        (refused(|it| (it.token_types, it.merges) = (Some(vec![5; 263]), Vec::new())), &["number of tokens", "0"]),
        (refused(|it| it.tokens[3] = "he".to_owned()), &["token", "he", "once"]),
        (refused(|it| it.merges.push("he".to_owned())), &["merge", "he"]),
        (refused(|it| it.merges.push("he zz".to_owned())), &["merge", "zz"]),
        (refused(|it| it.merges.push("he he".to_owned())), &["merge", "hehe"]),
        (refused(|it| it.eos = Some(263)), &["end token", "263"]),
        (refused(|it| it.bos = Some(999)), &["bos_token", "999"]),
        (refused(|it| (it.bos, it.add_bos) = (None, Some(true))), &["add_bos_token", "bos_token_id"]),
    ];
    for (error, words) in cases {
        let message = error.to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message} lacks one of {words:?}");
    }
}

#[test]
fn a_character_that_no_token_spells_is_refused_with_its_place() {
    let mut vocabulary = vocabulary();
    vocabulary.tokens[0xc3] = "<none>".to_owned();
    let tokenizer = Tokenizer::from_gguf(vocabulary).unwrap();
    assert!(matches!(tokenizer.encode("hellé"), Err(Error::Character { character: 'é', at: 4, .. })));
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded_to_the_same_text(
        given in any::<String>(), pre in prop::sample::select(vec!["gpt-2", "qwen2", "qwen35", "smollm", "default", "dbrx"])
    ) {
        let tokenizer = Tokenizer::from_gguf(Vocabulary { pre: Some(pre.to_owned()), ..vocabulary() }).unwrap();
        prop_assert_eq!(text(&tokenizer, &tokenizer.encode(&given).unwrap()), given);
    }
}
