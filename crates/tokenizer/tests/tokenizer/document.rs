//! What travels to a peer.

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizer::{Message, Tokenizer, Vocabulary};

use super::small::{BEGIN, END, vocabulary};

fn full() -> Tokenizer {
    let chat_template = Some("{{ messages[0].content }}{{ eos_token }}".to_owned());
    Tokenizer::from_gguf(Vocabulary { chat_template, add_bos: Some(true), eos: Some(END), ..vocabulary() }).unwrap()
}

#[test]
fn a_peer_makes_the_same_tokenizer() {
    let (here, there) = (full(), Tokenizer::from_bytes(&full().to_bytes()).unwrap());
    assert_eq!(here, there);
    assert_eq!((here.name(), here.size(), here.end_tokens()), (there.name(), there.size(), there.end_tokens()));
    assert_eq!(there.encode("hell<s>").unwrap(), [BEGIN, 258, BEGIN]);
    let message = Message { role: "user".to_owned(), content: "hi".to_owned() };
    assert_eq!(there.render_chat(&[message]).unwrap(), "hi<|im_end|>");
    assert_eq!(there.to_bytes(), here.to_bytes());
}

#[test]
fn a_document_that_does_not_fit_is_refused_with_the_field() {
    let cases: [(&str, Value, &str); 13] = [
        ("spelling", json!("words"), "words"),
        ("tokens", json!([]), "number of tokens"),
        ("tokens", json!(["a", ""]), "last token"),
        ("tokens", json!(["a", "a"]), "token"),
        ("merges", json!([[0, 999_999]]), "merge"),
        // Together longer than any token.
        ("merges", json!([[BEGIN, END]]), "merge"),
        ("begin", json!(263), "first token"),
        ("end_tokens", json!([263]), "end token"),
        ("end_tokens", json!(vec![1; 65]), "end tokens"),
        ("unknown", json!(263), "unk_token"),
        ("normalizer", json!({"type": "Sequence", "normalizers": vec![json!({"type": "NFC"}); 17]}), "normalizer"),
        (
            "pre_tokenizer",
            json!({"type": "Sequence", "normalizers": [], "pretokenizers": [{"type": "FixedLength", "length": 0}]}),
            "pre_tokenizer type",
        ),
        (
            "added",
            json!(vec![
                json!({"id": 1, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false});
                2
            ]),
            "added token",
        ),
    ];
    for (field, value, word) in cases {
        let mut document: Value = serde_json::from_slice(&full().to_bytes()).unwrap();
        document["byte_pairs"][field] = value;
        let message = Tokenizer::from_bytes(document.to_string().as_bytes()).unwrap_err().to_string();
        assert!(message.contains(word), "{field}: {message}");
    }
    let large = vec![b' '; (64 << 20) + 1];
    assert!(Tokenizer::from_bytes(&large).unwrap_err().to_string().contains("at most 64 MiB"));
    for value in ["[".repeat(100_000), ["[", &"[".repeat(1000), &"]".repeat(1000), "]"].concat()] {
        let deep = ["{\"byte_pairs\":{\"normalizer\":", &value].concat();
        Tokenizer::from_bytes(deep.as_bytes()).unwrap_err();
    }
    let many = ["{\"byte_pairs\":{\"tokens\":[", &"\"\",".repeat(1 << 21)].concat();
    assert!(Tokenizer::from_bytes(many.as_bytes()).unwrap_err().to_string().contains("at most 1048576 tokens"));
    let wide = ["{\"byte_pairs\":{\"pre_tokenizer\":[", &"[],".repeat(1 << 20), "[]]"].concat();
    assert!(Tokenizer::from_bytes(wide.as_bytes()).unwrap_err().to_string().contains("at most 1 MiB"));
    assert!(Tokenizer::from_bytes(b"\"words\"").unwrap_err().to_string().contains("words"));
}

proptest! {
    /// Whatever a peer sends: an error or a tokenizer that can be used.
    #[test]
    fn a_damaged_document_never_panics(
        at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 0..4), cut in 0..4_usize
    ) {
        let mut document = full().to_bytes().to_vec();
        let at = at.index(document.len());
        let end = (at + cut).min(document.len());
        document.splice(at..end, bytes);
        if let Ok(tokenizer) = Tokenizer::from_bytes(&document) {
            let _ = tokenizer.encode("hello hell <|im_end|> é");
            let _ = tokenizer.render_chat(&[]);
            let mut decoder = tokenizer.decoder();
            (0..300).for_each(|token| drop(decoder.push(token)));
        }
    }

    /// The same where the damage is in the structure and not in the text.
    #[test]
    fn a_document_with_foreign_numbers_never_panics(
        field in prop::sample::select(vec!["merges", "added", "begin", "end_tokens", "tokens", "unknown", "bos_token"]),
        id in prop::sample::select(vec![0_u32, 1, 259, 262, 263, u32::MAX]), place in any::<prop::sample::Index>()
    ) {
        let mut document: Value = serde_json::from_slice(&full().to_bytes()).unwrap();
        match &mut document["byte_pairs"][field] {
            Value::Array(entries) if !entries.is_empty() => {
                let entry = place.get_mut(entries);
                match entry {
                    Value::Array(pair) => pair[(id % 2) as usize] = json!(id),
                    Value::Object(_) => entry["id"] = json!(id),
                    _ => *entry = if field == "tokens" { json!(id.to_string()) } else { json!(id) },
                }
            }
            other => *other = json!(id),
        }
        if let Ok(tokenizer) = Tokenizer::from_bytes(document.to_string().as_bytes()) {
            let _ = tokenizer.encode("hello hell <|im_end|> é");
        }
    }
}
