//! Requests that are refused, and why.

use std::time::Duration;

use coordinator::{Deadlines, serve::Config};
use hyper::header::{ALLOW, RETRY_AFTER};
use outrider_tests::{
    cluster::{Embedded, LONG, Node, PATIENT, eventually, pair, worker},
    http::{CONFIG, Serving, get, request},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{CHAT, COMPLETIONS, EmbeddedModel, body, slow_target, with};

/// Each by its status, with the field in `param` and in the message what is allowed.
#[tokio::test]
async fn a_wrong_field_is_named_with_its_value_and_what_is_allowed() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    for (path, field, value, words) in [
        (COMPLETIONS, "max_tokens", json!("many"), "max_tokens is \"many\", allowed: a whole number, 1 to"),
        (COMPLETIONS, "max_tokens", json!(0), "max_tokens is 0, allowed: a whole number, 1 to"),
        (COMPLETIONS, "max_completion_tokens", json!(-1), "max_completion_tokens is -1, allowed"),
        (COMPLETIONS, "temperature", json!("hot"), "temperature is \"hot\", allowed: a number"),
        (COMPLETIONS, "temperature", json!(-0.5), "temperature is -0.5, allowed: 0 to 100"),
        (COMPLETIONS, "top_p", json!(1.5), "top_p is 1.5, allowed"),
        (COMPLETIONS, "seed", json!(1.5), "seed is 1.5, allowed"),
        (COMPLETIONS, "gamma", json!(33), "gamma is 33, allowed: a whole number, 0 to 32"),
        (COMPLETIONS, "n", json!(33), "n is 33, allowed: a whole number, 1 to 32"),
        (COMPLETIONS, "stream", json!(1), "stream is 1, allowed: true or false"),
        (COMPLETIONS, "stream_options", json!({ "include_usage": true }), "allowed: null, unless stream is true"),
        (COMPLETIONS, "stop", json!([""]), "stop is [\"\"], allowed: a string of 1 to 256 bytes"),
        (COMPLETIONS, "prompt", json!({}), "prompt is {}, allowed: a string"),
        (COMPLETIONS, "prompt", json!(["one", "two"]), "prompt is [\"one\",\"two\"], allowed"),
        (COMPLETIONS, "prompt", json!([128]), "prompt is [128], allowed"),
        (COMPLETIONS, "prompt", json!(""), "prompt has 0 tokens, allowed: 1 to"),
        (COMPLETIONS, "prompt", json!("R".repeat(2048)), "prompt has 2048 tokens, allowed: 1 to 2047"),
        (COMPLETIONS, "prompt", json!("ROMÉO"), "prompt cannot be encoded"),
        (COMPLETIONS, "logprobs", json!(21), "logprobs is 21, allowed: a whole number, 0 to 20"),
        (COMPLETIONS, "logprobs", json!(true), "logprobs is true, allowed: a whole number"),
        (CHAT, "logprobs", json!(1), "logprobs is 1, allowed: true or false"),
        (CHAT, "top_logprobs", json!(2), "top_logprobs is 2, allowed: 0 or null, unless logprobs is true"),
        (COMPLETIONS, "presence_penalty", json!(2.5), "presence_penalty is 2.5, allowed: -2 to 2"),
        (COMPLETIONS, "repetition_penalty", json!(0), "repetition_penalty is 0, allowed: above 0, up to 10"),
        (COMPLETIONS, "logit_bias", json!({ "5": 1 }), "allowed: nothing in it"),
        (COMPLETIONS, "best_of", json!(3), "best_of is 3, allowed: the same as n"),
        (COMPLETIONS, "model", json!(5), "model is 5, allowed: a string"),
        (CHAT, "messages", json!("Hi"), "messages is \"Hi\", allowed: an array"),
        (CHAT, "messages", json!([{ "role": "user", "content": "Hi" }]), "ascii has no chat template"),
        (CHAT, "tools", json!([{ "type": "function" }]), "allowed: nothing in it"),
        (CHAT, "response_format", json!({ "type": "json_object" }), "allowed: {\"type\": \"text\"}"),
    ] {
        let body = with(body(0.8, 1, 8, 4), json!({ field: value }));
        let answer = serving.post(path, &body).await;
        assert_eq!(answer.status, 400, "{field}");
        let error = answer.json().await["error"].clone();
        assert_eq!(error["param"], field, "{error}");
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|message| message.contains(words)), "{error} lacks {words}");
        assert!(!error.to_string().contains("127.0.0.1"), "{error} tells where a service is");
    }
    for (value, param) in [
        (json!([{ "role": "king", "content": "Hi" }]), "messages[0].role"),
        (json!([{ "role": "user", "content": "Hi" }, { "role": "user" }]), "messages[1].content"),
        (json!([{ "role": "user", "content": [{ "type": "image_url" }] }]), "messages[0].content[0].type"),
    ] {
        let answer = serving.post(CHAT, &json!({ "messages": value })).await;
        assert_eq!((answer.status, answer.json().await["error"]["param"].clone()), (400, json!(param)));
    }
    let bodies = ["", "[]", "{", "{\"prompt\": \"\u{1}\"}", &"[".repeat(10_000)];
    for body in bodies {
        let answer = request(&serving.address, "POST", COMPLETIONS, body.to_owned()).await;
        assert_eq!(answer.status, 400);
        assert!(answer.json().await["error"]["param"].is_null());
    }
}

#[tokio::test]
async fn what_is_not_served_is_said_in_the_same_object() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, Config { max_body_bytes: 1000, ..CONFIG }).await;
    let other_model = with(body(0.8, 1, 8, 4), json!({ "model": "gpt-4" })).to_string();
    let large = json!({ "prompt": "R".repeat(1000) }).to_string();
    for (method, path, body, status) in [
        ("GET", "/v1/nothing", String::new(), 404),
        ("GET", "/v1/models/gpt-4", String::new(), 404),
        ("POST", COMPLETIONS, other_model, 404),
        ("GET", COMPLETIONS, String::new(), 405),
        ("DELETE", "/v1/models", String::new(), 405),
        ("POST", COMPLETIONS, large, 413),
    ] {
        let answer = request(&serving.address, method, path, body).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.headers.contains_key(ALLOW), status == 405);
        let error = answer.json().await["error"].clone();
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
    }
}

/// Over the service's own limit, and over the target's.
#[tokio::test]
async fn too_many_at_once_are_told_when_to_come_again() {
    for (max_concurrent, max_sessions) in [(1, 8), (8, 1)] {
        let target = slow_target(20, max_sessions);
        let node = Node::target(target.clone());
        let pair = pair(None, &node).await;
        let serving = Serving::start(&pair, Config { max_concurrent, ..CONFIG }).await;
        let mut first = serving.post(COMPLETIONS, &with(body(0.8, 1, 1000, 0), json!({ "stream": true }))).await;
        assert!(first.part().await.is_some());
        for stream in [false, true] {
            let answer = serving.post(COMPLETIONS, &with(body(0.8, 2, 8, 0), json!({ "stream": stream }))).await;
            assert_eq!(answer.status, 429);
            assert_eq!(answer.headers[RETRY_AFTER], "1");
            assert_eq!(answer.json().await["error"]["type"], "rate_limit_error");
        }
        drop(first);
        eventually("the session is freed", || target.open_sessions() == 0).await;
    }
}

#[tokio::test]
async fn until_the_pair_is_there_requests_are_turned_away() {
    let embedded = Embedded::start().await;
    let (loaded, load) = oneshot::channel();
    let serving = Serving::loading(async { Ok(load.await.expect("a pair")) }, CONFIG).await;
    assert_eq!(get(&serving.address, "/healthz").await.status, 200);
    for answer in [
        get(&serving.address, "/readyz").await,
        get(&serving.address, "/v1/models").await,
        serving.post(COMPLETIONS, &body(0.8, 1, 8, 4)).await,
    ] {
        assert_eq!(answer.status, 503);
        assert!(answer.headers.contains_key(RETRY_AFTER));
        assert_eq!(answer.json().await["error"]["message"], "the models are loading");
    }
    let _ = loaded.send((embedded.pair.clone(), telemetry::Tracer::off()));
    while get(&serving.address, "/readyz").await.status != 200 {}
    serving.answered(COMPLETIONS, &body(0.8, 1, 8, 4)).await;
}

/// Before and within a stream; when the target is back all goes on.
#[tokio::test]
async fn a_target_that_is_gone_is_an_error_and_not_the_end() {
    let mut node = Node::target(slow_target(5, 8));
    let pair = pair(None, &node).await;
    let deadlines = Deadlines { target: Duration::from_secs(2), ..PATIENT };
    let serving = Serving::start(&pair, Config { deadlines, ..CONFIG }).await;
    let mut stream = serving.post(COMPLETIONS, &with(body(0.8, 1, 2000, 0), json!({ "stream": true }))).await;
    assert!(stream.part().await.is_some());
    node.kill();
    let text = stream.text().await;
    let last = text.trim_end().rsplit("data: ").next().expect("an event");
    let last: Value = serde_json::from_str(last).expect("no [DONE] after an error");
    assert_eq!(last["error"]["type"], "server_error");
    assert_eq!(get(&serving.address, "/readyz").await.status, 503);
    let answer = serving.post(COMPLETIONS, &body(0.8, 1, 8, 0)).await;
    assert_eq!(answer.status, 503);
    node.restart(worker(EmbeddedModel::Target));
    let begun = std::time::Instant::now();
    while get(&serving.address, "/readyz").await.status != 200 {
        assert!(begun.elapsed() < LONG);
    }
    serving.answered(COMPLETIONS, &body(0.8, 1, 8, 0)).await;
}
