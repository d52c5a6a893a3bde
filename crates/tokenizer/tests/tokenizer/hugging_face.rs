//! Tokenizers from a Hugging Face folder.

use serde_json::{Value, json};
use tokenizer::{Message, Tokenizer, Vocabulary};

use super::small::{BEGIN, END, TOOL, vocabulary};

/// The small vocabulary as `tokenizer.json` has it.
fn file() -> Value {
    let Vocabulary { tokens, merges, .. } = vocabulary();
    let vocab: serde_json::Map<_, _> = tokens.iter().take(260).cloned().zip((0..).map(Value::from)).collect();
    let added = |id: u32, special| {
        json!({"id": id, "content": tokens[id as usize], "special": special, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false})
    };
    json!({
        "version": "1.0",
        "added_tokens": [added(BEGIN, true), added(END, true), added(TOOL, false)],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": {"type": "Sequence", "processors": [
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            {"type": "TemplateProcessing", "pair": [], "special_tokens": {},
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
        ]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    })
}

fn read(file: &Value, config: Option<Value>) -> Result<Tokenizer, tokenizer::Error> {
    let config = config.map(|config| config.to_string());
    Tokenizer::from_hugging_face(file.to_string().as_bytes(), config.as_ref().map(String::as_bytes), None, &[])
}

#[test]
fn a_folder_and_a_gguf_file_of_one_tokenizer_agree() {
    let folder = read(&file(), Some(json!({"add_bos_token": false, "tokenizer_class": "GPT2TokenizerFast"}))).unwrap();
    let gguf = Tokenizer::from_gguf(vocabulary()).unwrap();
    assert_eq!((&folder, folder.size()), (&gguf, gguf.size()));
    assert_eq!(folder.name(), "GPT2Tokenizer");
    for text in ["hello hell", "<s>héllo<tool> 12\n\n", ""] {
        assert_eq!(folder.encode(text).unwrap(), gguf.encode(text).unwrap(), "{text:?}");
    }
}

#[test]
fn the_first_token_is_what_the_configuration_or_else_the_template_says() {
    let first = |config: Value| read(&file(), Some(config)).unwrap().encode("he").unwrap();
    assert_eq!(first(json!({})), [BEGIN, 256]);
    assert_eq!(first(json!({"add_bos_token": false})), [256]);
    assert_eq!(first(json!({"add_bos_token": true, "bos_token": {"content": "<|im_end|>"}})), [END, 256]);
}

#[test]
fn end_tokens_are_the_models_and_the_tokenizers_own() {
    let config = json!({"eos_token": "<|im_end|>"}).to_string();
    let file = file().to_string();
    let tokenizer = Tokenizer::from_hugging_face(file.as_bytes(), Some(config.as_bytes()), None, &[TOOL, 5]).unwrap();
    assert_eq!(tokenizer.end_tokens(), [5, END, TOOL]);
}

#[test]
fn the_chat_template_is_the_folders_own_file_or_else_the_default_one() {
    let content = |template: &Value, own: Option<&str>| {
        let config = json!({"chat_template": template, "bos_token": "<s>"}).to_string();
        let file = file().to_string();
        let tokenizer = Tokenizer::from_hugging_face(file.as_bytes(), Some(config.as_bytes()), own, &[]).unwrap();
        tokenizer.render_chat(&[Message { role: "user".to_owned(), content: "hi".to_owned() }]).unwrap()
    };
    assert_eq!(content(&json!("{{ bos_token }}{{ messages[0].content }}"), None), "<s>hi");
    assert_eq!(content(&json!("one"), Some("own")), "own");
    let named = json!([{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "default"}]);
    assert_eq!(content(&named, None), "default");
}

#[test]
fn merges_may_be_pairs_and_the_models_type_may_be_left_out() {
    let mut old = file();
    old["model"].as_object_mut().unwrap().remove("type");
    old["model"]["merges"] = json!([["h", "e"], ["l", "l"], ["he", "ll"], ["Ġ", "hell"]]);
    assert_eq!(read(&old, None).unwrap().encode("hell").unwrap(), [BEGIN, 258]);
}

#[test]
fn sentence_pieces_are_spaces_and_bytes() {
    let mut vocab: serde_json::Map<_, _> = (0..256).map(|byte| (format!("<0x{byte:02X}>"), json!(byte))).collect();
    let more = ["<unk>", "▁", "h", "i", "hi", "▁hi"];
    vocab.extend(more.iter().zip(256..).map(|(token, id)| ((*token).to_owned(), json!(id))));
    let file = json!({
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["h i", "▁ hi"], "byte_fallback": true, "fuse_unk": true,
            "unk_token": "<unk>"},
    });
    let tokenizer = read(&file, None).unwrap();
    let tokens = tokenizer.encode("hi é").unwrap();
    assert_eq!(tokens, [261, 257, 0xc3, 0xa9]);
    let mut decoder = tokenizer.decoder();
    assert_eq!(tokens.iter().map(|&token| decoder.push(token)).collect::<Vec<_>>(), [" hi", " ", "", "é"]);
}

#[test]
fn a_part_that_does_not_fit_is_refused_by_its_name() {
    let cases: [(&str, Value, &[&str]); 16] = [
        ("/model/type", json!("Unigram"), &["model type", "Unigram", "BPE"]),
        ("/model/vocab", json!([]), &["tokenizer.json model", "sequence"]),
        ("/model/vocab/he", json!(4_000_000_000_u32), &["largest id", "4000000000"]),
        ("/model/vocab/he", json!(3), &["id 3", "he"]),
        ("/model/merges", json!(["h e", "x"]), &["merge", "x"]),
        ("/model/merges", json!(["h h"]), &["merge", "hh"]),
        ("/model/dropout", json!(0.5), &["dropout", "0.5"]),
        ("/model/end_of_word_suffix", json!("</w>"), &["end_of_word_suffix", "</w>"]),
        ("/model/unk_token", json!("<nothing>"), &["unk_token", "<nothing>"]),
        ("/decoder", json!({"type": "WordPiece"}), &["decoder", "WordPiece"]),
        (
            "/normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
            &["normalizer type", "Precompiled"],
        ),
        ("/normalizer", json!({"type": "Prepend", "prepend": "too long a text"}), &["normalizer content", "8 bytes"]),
        ("/pre_tokenizer", json!({"type": "FixedLength", "length": 0}), &["pre_tokenizer type", "FixedLength"]),
        (
            "/pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": false}),
            &["pre_tokenizer"],
        ),
        ("/added_tokens/0/id", json!(5), &["id 5", "<s>"]),
        ("/added_tokens/1", json!({"id": 260}), &["tokenizer.json", "content"]),
    ];
    for (place, value, words) in cases {
        let mut file = file();
        match file.pointer_mut(place) {
            Some(field) => *field = value,
            None => file["model"][place.rsplit('/').next().unwrap()] = value,
        }
        let message = read(&file, None).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{place}: {message} lacks one of {words:?}");
    }
    for (config, words) in [
        (json!({"eos_token": "<nothing>"}), ["eos_token", "<nothing>"]),
        (json!({"add_bos_token": true}), ["add_bos_token", "bos_token"]),
        (json!({"chat_template": 5}), ["tokenizer_config.json", "chat_template"]),
    ] {
        let message = read(&file(), Some(config)).unwrap_err().to_string();
        assert!(words[0..1].iter().all(|word| message.contains(word)), "{message} lacks one of {words:?}");
    }
}
