//! Log-probabilities: the target's own, whatever was proposed, in OpenAI's two forms.

use coordinator::Request;
use model::{Decoder, EmbeddedModel, Rows};
use outrider_tests::{
    cluster::{Embedded, decoders, model, request, run, sampled},
    http::{CONFIG, Serving},
};
use serde_json::{Value, json};
use speculative::Logprobs;

use super::{CHAT, COMPLETIONS, body, with, with_tokenizer};

/// The same bits with and without a draft; the greedy choice is the likeliest token, and each row sums to what it should.
#[tokio::test]
async fn they_do_not_depend_on_the_proposals() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    for (temperature, seed) in [(0.0, 1), (0.8, 7)] {
        let asked = |gamma| with(body(temperature, seed, 200, gamma), json!({ "logprobs": 20 }));
        let alone = serving.answered(COMPLETIONS, &asked(0)).await["choices"][0].clone();
        let drafted = serving.answered(COMPLETIONS, &asked(4)).await["choices"][0].clone();
        assert_eq!(alone, drafted, "temperature {temperature}");
        let told = &alone["logprobs"];
        let tokens: String = told["tokens"].as_array().expect("tokens").iter().filter_map(Value::as_str).collect();
        assert_eq!(alone["text"], tokens);
        assert_eq!(told["text_offset"], json!((0..200).collect::<Vec<_>>()));
        for (token, top) in
            told["tokens"].as_array().expect("tokens").iter().zip(told["top_logprobs"].as_array().expect("rows"))
        {
            let row = top.as_object().expect("a row");
            let share: f64 = row.values().filter_map(Value::as_f64).map(f64::exp).sum();
            assert!(row.len() >= 20 && share > 0.5 && share < 1.0 + 1e-6, "{row:?}");
            let likeliest = row.iter().max_by(|a, b| a.1.as_f64().partial_cmp(&b.1.as_f64()).expect("numbers"));
            assert!(temperature > 0.0 || likeliest.is_some_and(|(likeliest, _)| token == likeliest), "{row:?}");
        }
    }
}

/// What the model itself computes for the sequence, in one forward of all its tokens.
#[tokio::test]
async fn they_are_the_softmax_of_the_targets_logits() {
    let embedded = Embedded::start().await;
    let asked = Request { top_logprobs: Some(2), ..request("ROMEO:", sampled(0.8, 7), 40, 3) };
    let told = run(&embedded.pair, &asked).await;
    let sequence = [&asked.prompt[..], &told.token_ids].concat();
    let mut target = model(EmbeddedModel::Target);
    let mut cache = target.new_cache();
    let rows = Rows { cache: &mut cache, tokens: &sequence, logits_from: asked.prompt.len() - 1 };
    let forward = target.forward(&mut [rows]).expect("a forward");
    assert_eq!(told.logprobs.len(), 40);
    for (at, (token, logprobs)) in told.token_ids.iter().zip(&told.logprobs).enumerate() {
        assert_eq!(*logprobs, Logprobs::of(forward.row(0, at), 128, *token, 2), "token {at}");
    }
}

/// A stream's chunks together tell what the whole answer tells, those of a cut-off stop string included.
#[tokio::test]
async fn a_streams_are_those_of_the_whole() {
    let embedded = with_tokenizer(&decoders::chatting()).await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let chat = json!({ "messages": [{ "role": "user", "content": "Who goes there?" }], "seed": 3, "temperature": 0.8,
        "max_tokens": 80, "logprobs": true, "top_logprobs": 3, "stop": ["the"] });
    let completion = with(body(0.8, 7, 200, 4), json!({ "logprobs": 2, "stop": "the w" }));
    for (path, body) in [(CHAT, chat), (COMPLETIONS, completion)] {
        let whole = serving.answered(path, &body).await;
        let chunks = serving.streamed(path, &with(body, json!({ "stream": true }))).await;
        let whole_logprobs = whole["choices"][0]["logprobs"].as_object().expect("log-probabilities");
        for (name, told) in whole_logprobs.iter().filter(|(name, _)| *name != "refusal") {
            let parts = chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"][name].as_array());
            assert_eq!(json!(parts.flatten().collect::<Vec<_>>()), *told, "{name}");
            assert_eq!(told.as_array().map(Vec::len), whole["usage"]["completion_tokens"].as_u64().map(|n| n as usize));
        }
    }
    let body =
        json!({ "messages": [{ "role": "user", "content": "Who?" }], "seed": 3, "max_tokens": 4, "logprobs": true });
    let answer = serving.answered(CHAT, &body).await;
    for token in answer["choices"][0]["logprobs"]["content"].as_array().expect("tokens") {
        assert_eq!(token["top_logprobs"], json!([]));
        assert!(token["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0));
    }
    assert!(serving.answered(COMPLETIONS, &super::body(0.8, 7, 4, 4)).await["choices"][0]["logprobs"].is_null());
}
