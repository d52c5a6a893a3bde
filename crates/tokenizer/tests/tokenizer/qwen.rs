//! The tokenizer of a real model, against what llama.cpp makes of the same file.

use std::{env, fs::File, path::PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use proptest::prelude::*;
use tokenizer::{Message, Tokenizer, Vocabulary};

/// What llama.cpp's `/tokenize` answers for Qwen2.5-Coder, special tokens parsed.
const EXPECTED: &[(&str, &[u32])] = &[
    ("Hello, world!", &[9707, 11, 1879, 0]),
    ("I'll say it's WE'VE they'D don't", &[40, 3278, 1977, 432, 594, 19677, 6, 4491, 807, 27705, 1513, 944]),
    (
        "  leading\t\ttabs   and runs \n\n\n  of\r\nspace   ",
        &[220, 6388, 197, 3244, 3435, 256, 323, 8473, 14731, 220, 315, 319, 8746, 262],
    ),
    (
        "fn main() {\n    println!(\"{}\", 0x1F + 12345.678e-9);\n}\n",
        &[
            8822, 1887, 368, 341, 262, 13751, 79878, 220, 15, 87, 16, 37, 488, 220, 16, 17, 18, 19, 20, 13, 21, 22, 23,
            68, 12, 24, 317, 532,
        ],
    ),
    ("1234567890 ½ ٣ Ⅷ", &[16, 17, 18, 19, 20, 21, 22, 23, 24, 15, 220, 26062, 220, 149, 96, 220, 70467, 100]),
    (
        "北京欢迎你，世界！こんにちは 안녕하세요",
        &[68990, 100437, 56568, 3837, 99489, 6313, 89015, 95170, 144370, 91145],
    ),
    (
        "👩\u{200d}👩\u{200d}👧\u{200d}👦🇫🇷 🤖x",
        &[145233, 378, 235, 145233, 378, 235, 145665, 378, 235, 145988, 145919, 145070, 11162, 97, 244, 87],
    ),
    ("e\u{301}a\u{308} n\u{303} क\u{94d}ष", &[68, 53839, 64, 136, 230, 308, 136, 225, 47809, 30484, 115]),
    (
        "<|im_start|>user\nhi<|im_end|>\n<tool_call>{}</tool_call><|fim_prefix|>",
        &[151644, 872, 198, 6023, 151645, 198, 151657, 6257, 151658, 151659],
    ),
    ("\u{a0}\u{2003}\u{3000}x\u{feff}\u{200b}", &[4102, 378, 225, 22441, 87, 3225, 15692]),
    ("a\u{0}b\u{7f}", &[64, 188, 65, 221]),
    (
        "naïve Straße ΣΊΣΥΦΟΣ ſ'ſ",
        &[
            3376, 37572, 586, 26647, 23455, 7851, 96, 147743, 144624, 145503, 144935, 145079, 144624, 25917, 123, 6,
            144815,
        ],
    ),
    ("<|im_start|><|im_end", &[151644, 27, 91, 318, 6213]),
    ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", &[44102, 44102, 44102, 44102, 44102]),
];

/// The tokenizer of one of the models in the folder that `OUTRIDER_MODELS` names.
fn qwen(file: &str) -> Option<Tokenizer> {
    let path = PathBuf::from(env::var_os("OUTRIDER_MODELS")?).join(file);
    let Ok(mut opened) = File::open(&path) else {
        eprintln!("skipped: OUTRIDER_MODELS has no {file}");
        return None;
    };
    let metadata = Content::read(&mut opened).unwrap().metadata;
    let text = |name: &str| metadata.get(name).map(|value| value.to_string().unwrap().clone());
    let number = |name: &str| metadata.get(name).map(|value| value.to_u32().unwrap());
    let list = |name: &str| metadata[name].to_vec().unwrap();
    let texts = |name: &str| list(name).iter().map(|value: &Value| value.to_string().unwrap().clone()).collect();
    let vocabulary = Vocabulary {
        model: text("tokenizer.ggml.model").unwrap(),
        pre: text("tokenizer.ggml.pre"),
        tokens: texts("tokenizer.ggml.tokens"),
        token_types: Some(list("tokenizer.ggml.token_type").iter().map(|kind| kind.to_i32().unwrap()).collect()),
        merges: texts("tokenizer.ggml.merges"),
        bos: number("tokenizer.ggml.bos_token_id"),
        eos: number("tokenizer.ggml.eos_token_id"),
        eot: number("tokenizer.ggml.eot_token_id"),
        add_bos: metadata.get("tokenizer.ggml.add_bos_token").map(|value| value.to_bool().unwrap()),
        chat_template: text("tokenizer.chat_template"),
    };
    Some(Tokenizer::from_gguf(vocabulary).unwrap())
}

fn small() -> Option<Tokenizer> {
    let found = qwen("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf");
    if found.is_none() {
        eprintln!("skipped: set OUTRIDER_MODELS to a folder with the Qwen2.5-Coder pair");
    }
    found
}

#[test]
fn a_real_models_tokens_are_llama_cpps() {
    let Some(tokenizer) = small() else { return };
    assert_eq!((tokenizer.size(), tokenizer.name()), (151_665, "qwen2"));
    for (text, expected) in EXPECTED {
        assert_eq!(tokenizer.encode(text).unwrap(), *expected, "{text:?}");
    }
    // <|endoftext|>, <|im_end|>, <|fim_pad|>, <|repo_name|>, <|file_sep|>
    assert_eq!(tokenizer.end_tokens(), [151_643, 151_645, 151_662, 151_663, 151_664]);
}

#[test]
fn a_real_models_chat_is_llama_cpps() {
    let Some(tokenizer) = small() else { return };
    let rendered = |messages: &[(&str, &str)]| {
        let message = |&(role, content): &(&str, &str)| Message { role: role.to_owned(), content: content.to_owned() };
        tokenizer.render_chat(&messages.iter().map(message).collect::<Vec<_>>()).unwrap()
    };
    assert_eq!(
        rendered(&[("user", "Hi <there> & \"you\"")]),
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n\
         <|im_start|>user\nHi <there> & \"you\"<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        rendered(&[("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye")]),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes?<|im_end|>\n\
         <|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn two_sizes_of_one_family_share_the_tokenizer_and_a_peer_makes_it_anew() {
    let Some(small) = small() else { return };
    let Some(large) = qwen("qwen2.5-coder-1.5b-instruct-q4_k_m.gguf") else { return };
    assert_eq!(small, large);
    let there = Tokenizer::from_bytes(&small.to_bytes()).unwrap();
    assert_eq!(there, small);
    assert_eq!(there.encode(EXPECTED[3].0).unwrap(), EXPECTED[3].1);
}

#[test]
fn a_real_models_text_comes_back() {
    let Some(tokenizer) = small() else { return };
    let configuration = ProptestConfig::with_cases(64);
    proptest!(configuration, |(text in any::<String>())| {
        let mut decoder = tokenizer.decoder();
        let mut back: String = tokenizer.encode(&text).unwrap().into_iter().map(|token| decoder.push(token)).collect();
        back += &decoder.finish();
        prop_assert_eq!(back, text);
    });
}
