//! `outrider serve` over real HTTP: its text is the target's own, its errors say what is wrong, and it lets go.

#[path = "serve/connections.rs"]
mod connections;
#[path = "serve/generation.rs"]
mod generation;
#[path = "serve/keys.rs"]
mod keys;
#[path = "serve/logprobs.rs"]
mod logprobs;
#[path = "serve/metrics.rs"]
mod metrics;
#[path = "serve/refusals.rs"]
mod refusals;
#[path = "serve/stopping.rs"]
mod stopping;

use coordinator::{Pair, Request, Run};
use model::{EmbeddedModel, Limits, Worker};
use outrider_tests::{
    cluster::{Embedded, Node, alone, decoders, model, pair, request, run, sampled, spawn},
    http::{CONFIG, Serving, get, request_with},
    otlp::Receiver,
};
use serde_json::{Value, json};
use speculative::Acceptance;
use telemetry::Tracer;
use tokenizer::Tokenizer;
use tokio::task::JoinSet;

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn described(model: EmbeddedModel, tokenizer: &Tokenizer) -> Worker {
    let decoder = decoders::plain(outrider_tests::cluster::model(model));
    spawn(decoder.described(|model| model.tokenizer = tokenizer.clone()), Limits::default())
}

async fn with_tokenizer(tokenizer: &Tokenizer) -> Embedded {
    let draft = Node::draft(described(EmbeddedModel::Draft, tokenizer));
    Embedded::with(draft, Node::target(described(EmbeddedModel::Target, tokenizer))).await
}

/// What the target alone says.
async fn oracle(pair: &Pair, prompt: &str, temperature: f64, seed: u64, tokens: usize) -> Run {
    run(pair, &request(prompt, sampled(temperature, seed), tokens, 0)).await
}

/// Of a prompt that was not seen before.
fn usage(prompt: u64, completion: u64) -> Value {
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": { "cached_tokens": 0 },
    })
}

fn body(temperature: f64, seed: u64, tokens: usize, gamma: u32) -> Value {
    json!({ "prompt": "ROMEO:", "temperature": temperature, "seed": seed, "max_tokens": tokens, "gamma": gamma })
}

fn with(mut body: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    body.as_object_mut().expect("an object").extend(fields);
    body
}

/// The text of a stream's choice.
fn joined(chunks: &[Value], index: usize) -> String {
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().expect("choices"));
    let choices = choices.filter(|choice| choice["index"] == index);
    choices.filter_map(|choice| choice["text"].as_str().or(choice["delta"]["content"].as_str())).collect()
}

/// Greedy and sampled, drafted and not, with unknown fields: the target's own bytes, and an honest account of them.
#[tokio::test]
async fn a_completion_is_what_the_target_alone_says() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    for (temperature, seed) in [(0.0, 1), (0.8, 7)] {
        let alone = oracle(&embedded.pair, "ROMEO:", temperature, seed, 300).await;
        for gamma in [0, 4, 9] {
            let body = with(body(temperature, seed, 300, gamma), json!({ "user": "x", "unheard_of": [1] }));
            let answer = serving.answered(COMPLETIONS, &body).await;
            let choice = &answer["choices"][0];
            assert_eq!(choice["text"], alone.text, "γ = {gamma}, temperature {temperature}");
            assert_eq!((&choice["finish_reason"], &choice["seed"]), (&json!("length"), &json!(seed)));
            assert_eq!(answer["usage"], usage(6, 300));
            assert_eq!(answer["object"], "text_completion");
            assert_eq!(answer["model"], embedded.pair.target.description.model);
        }
    }
    serving.stop().await;
}

/// The block that vLLM's clients read, against the run itself, which is the same at every place but in its times.
#[tokio::test]
async fn the_answer_says_what_became_of_the_proposals() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let asked = request("ROMEO:", sampled(0.8, 7), 300, 4);
    let direct = run(&embedded.pair, &asked).await;
    let answer = serving.answered(COMPLETIONS, &body(0.8, 7, 300, 4)).await;
    let (block, counted): (_, &Acceptance) = (&answer["metrics"]["speculative_decoding"], &direct.acceptance);
    assert_eq!(block["num_spec_steps"], counted.drafts());
    assert_eq!(block["num_draft_tokens"], counted.proposed());
    assert_eq!(block["num_accepted_draft_tokens"], counted.accepted());
    assert_eq!(block["num_spec_tokens"], 4);
    for (name, value) in [
        ("draft_acceptance_rate", counted.acceptance_rate()),
        ("mean_acceptance_length", counted.mean_acceptance_length()),
    ] {
        let told = block[name].as_f64().expect("a number");
        assert!(value.is_some_and(|value| (told - value).abs() < 1e-9), "{name}: {told}, {value:?}");
    }
    assert_eq!(block["acceptance_per_position"].as_array().map(Vec::len), Some(4));
    let steps_that_accepted = |accepted| {
        let steps = direct.cycles.iter().filter(|cycle| cycle.gamma > 0 && cycle.accepted == accepted);
        json!(steps.count())
    };
    assert_eq!(block["acceptance_histogram"], Value::Array((0..=4).map(steps_that_accepted).collect()));
    for part in ["draft_compute_s", "target_compute_s", "coordinator_s", "wall_s"] {
        assert!(answer["metrics"]["cycle"]["mean"][part].as_f64().is_some_and(|part| part > 0.0), "{part}");
    }
    let alone = serving.answered(COMPLETIONS, &body(0.8, 7, 50, 0)).await;
    assert!(alone["metrics"]["speculative_decoding"].is_null());
}

/// The pieces joined are the answer in one piece; usage comes last and only where it is asked for.
#[tokio::test]
async fn a_streams_pieces_joined_are_the_whole_text() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let body = with(body(0.8, 7, 300, 4), json!({ "stop": ["QUEEN", "the w"] }));
    let whole = serving.answered(COMPLETIONS, &body).await;
    let chunks = serving.streamed(COMPLETIONS, &with(body.clone(), json!({ "stream": true }))).await;
    assert!(chunks.len() > 3, "it comes in pieces");
    assert_eq!(whole["choices"][0]["text"], joined(&chunks, 0));
    let last = &chunks.last().expect("chunks")["choices"][0];
    assert_eq!(last["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none() && chunk["id"] == chunks[0]["id"]));

    let asked = json!({ "stream": true, "stream_options": { "include_usage": true } });
    let chunks = serving.streamed(COMPLETIONS, &with(body, asked)).await;
    let (last, others) = chunks.split_last().expect("chunks");
    assert!(others.iter().all(|chunk| chunk.get("usage").is_some_and(Value::is_null)));
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], whole["usage"]);
    let block = |answer: &Value| answer["metrics"]["speculative_decoding"].clone();
    assert_eq!(block(last), block(&whole));
}

/// Where two tokens spell one character it comes as one, and not before both are there.
#[tokio::test]
async fn a_piece_never_ends_within_a_character() {
    let embedded = with_tokenizer(&decoders::halving()).await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let prompt: Vec<u32> = "ROMEO:".bytes().map(u32::from).collect();
    let body = with(body(0.8, 7, 200, 4), json!({ "prompt": prompt }));
    let asked = Request { prompt, ..request("", sampled(0.8, 7), 200, 0) };
    let alone = run(&embedded.pair, &asked).await.text;
    assert!(alone.contains('é'), "{alone}");
    let chunks = serving.streamed(COMPLETIONS, &with(body, json!({ "stream": true }))).await;
    assert_eq!(joined(&chunks, 0), alone);
}

#[tokio::test]
async fn choices_have_the_seeds_after_the_first() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let body = with(body(0.8, 40, 60, 4), json!({ "n": 3 }));
    let answer = serving.answered(COMPLETIONS, &body).await;
    let chunks = serving.streamed(COMPLETIONS, &with(body, json!({ "stream": true }))).await;
    for index in 0..3 {
        let alone = oracle(&embedded.pair, "ROMEO:", 0.8, 40 + index as u64, 60).await.text;
        let choice = &answer["choices"][index];
        assert_eq!((&choice["text"], &choice["index"]), (&json!(alone), &json!(index)));
        assert_eq!(choice["seed"], 40 + index);
        assert_eq!(joined(&chunks, index), alone);
    }
    assert_eq!(answer["usage"], usage(6, 180));
}

/// What is answered without a seed is answered again with the seed that was drawn.
#[tokio::test]
async fn a_seed_that_was_drawn_is_told() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let body = json!({ "prompt": ["ROMEO:"], "max_tokens": 40 });
    let (first, second) = tokio::join!(serving.answered(COMPLETIONS, &body), serving.answered(COMPLETIONS, &body));
    let choice = &first["choices"][0];
    assert_ne!(choice["seed"], second["choices"][0]["seed"]);
    let again = serving.answered(COMPLETIONS, &with(body, json!({ "seed": choice["seed"] }))).await;
    assert_eq!(again["choices"][0]["text"], choice["text"]);
}

/// The messages go through the model's own template.
#[tokio::test]
async fn a_chat_is_what_the_target_says_after_its_template() {
    let embedded = with_tokenizer(&decoders::chatting()).await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let prompt = "SYSTEM: Be brief.\nUSER: Who goes there?\nASSISTANT:";
    let alone = oracle(&embedded.pair, prompt, 0.8, 3, 80).await.text;
    let parts = json!([{ "type": "text", "text": "Who goes " }, { "type": "text", "text": "there?" }]);
    let messages = json!([{ "role": "developer", "content": "Be brief." }, { "role": "user", "content": parts }]);
    let body = json!({ "messages": messages, "temperature": 0.8, "seed": 3, "max_completion_tokens": 80 });
    let answer = serving.answered(CHAT, &body).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!(message, &json!({ "role": "assistant", "content": alone }));
    assert_eq!(answer["object"], "chat.completion");
    let chunks = serving.streamed(CHAT, &with(body, json!({ "stream": true }))).await;
    assert_eq!(joined(&chunks, 0), alone);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
}

/// Sixteen requests on one pair at once, streamed and not, each with a seed of its own.
#[tokio::test]
async fn requests_at_once_do_not_touch_each_other() {
    let embedded = Embedded::start().await;
    let serving = std::sync::Arc::new(Serving::start(&embedded.pair, CONFIG).await);
    let mut clients = JoinSet::new();
    for seed in 0..16 {
        let serving = serving.clone();
        clients.spawn(async move {
            let body = body(0.8, seed, 120, 4);
            let text = match seed % 2 {
                0 => serving.answered(COMPLETIONS, &body).await["choices"][0]["text"].as_str().map(str::to_owned),
                _ => Some(joined(&serving.streamed(COMPLETIONS, &with(body, json!({ "stream": true }))).await, 0)),
            };
            (seed, text)
        });
    }
    for (seed, text) in clients.join_all().await {
        let asked = request("ROMEO:", sampled(0.8, seed), 120, 4);
        assert_eq!(text, Some(run(&embedded.pair, &alone(&asked)).await.text), "seed {seed}");
    }
}

#[tokio::test]
async fn the_target_is_listed_as_the_model() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let models = get(&serving.address, "/v1/models").await.json().await;
    let id = &models["data"][0]["id"];
    assert_eq!(id, &embedded.pair.target.description.model);
    let model = get(&serving.address, &format!("/v1/models/{}", id.as_str().expect("a name"))).await.json().await;
    assert_eq!(model, models["data"][0]);
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(&serving.address, path).await.status, 200, "{path}");
    }
}

/// A target that sleeps before each forward and holds few sessions.
fn slow_target(pause_ms: u64, max_sessions: usize) -> Worker {
    let pause = std::time::Duration::from_millis(pause_ms);
    let limits = Limits { max_sessions, admission_timeout: std::time::Duration::ZERO, ..Limits::default() };
    spawn(decoders::sleepy(model(EmbeddedModel::Target), pause), limits)
}

/// What another prompt left in the target's cache is told as OpenAI tells it.
#[tokio::test]
async fn cached_tokens_of_a_prompt_are_told() {
    let target = Node::target(spawn(model(EmbeddedModel::Target), Limits::default()));
    let pair = pair(None, &target).await;
    let serving = Serving::start(&pair, CONFIG).await;
    let prompt = "Good night, good night! parting is such sweet sorrow,\n".repeat(3);
    let mut texts = Vec::new();
    for cached in [0, 128] {
        let body = json!({ "prompt": prompt, "seed": 3, "max_tokens": 8 });
        let answer = serving.answered(COMPLETIONS, &body).await;
        assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], cached);
        texts.push(answer["choices"][0]["text"].clone());
    }
    assert_eq!(texts[0], texts[1]);
}

/// A request with a `traceparent` is part of that trace, one with a wrong one begins its own.
#[tokio::test]
async fn a_request_belongs_to_its_clients_trace() {
    let receiver = Receiver::start().await.expect("a receiver");
    let embedded = Embedded::start().await;
    let tracer = Tracer::exporting("outrider-coordinator", &receiver.endpoint()).expect("a tracer");
    let (pair, exporting) = (embedded.pair.clone(), tracer.clone());
    let serving = Serving::loading(async { Ok((pair, exporting)) }, CONFIG).await;
    let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for traceparent in [format!("00-{trace}-{span}-01"), "00-wrong-wrong-01".to_owned()] {
        let headers = [("traceparent", traceparent.as_str())];
        let answer =
            request_with(&serving.address, "POST", COMPLETIONS, &headers, body(0.8, 1, 4, 0).to_string()).await;
        assert_eq!(answer.status, 200);
        answer.text().await;
    }
    tokio::task::spawn_blocking(move || tracer.shutdown()).await.expect("no panic");
    let spans = receiver.spans();
    let requests: Vec<_> = spans.iter().filter(|stored| stored.span.name == "generate").collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let [own, foreign] = ["", span].map(|parent| {
        let mut of_parent = requests.iter().filter(|stored| hex(&stored.span.parent_span_id) == parent);
        hex(&of_parent.next().expect("a request").span.trace_id)
    });
    assert_eq!(foreign, trace);
    assert_ne!(own, trace);
}

/// What was said is in the spans of those who opt in, and of nobody else.
#[tokio::test]
async fn content_is_recorded_only_where_that_is_asked_for() {
    for record_content in [false, true] {
        let receiver = Receiver::start().await.expect("a receiver");
        let embedded = Embedded::start().await;
        let tracer = Tracer::exporting("outrider-coordinator", &receiver.endpoint()).expect("a tracer");
        let (pair, exporting) = (embedded.pair.clone(), tracer.clone());
        let config = coordinator::serve::Config { record_content, ..CONFIG };
        let serving = Serving::loading(async { Ok((pair, exporting)) }, config).await;
        let text = serving.answered(COMPLETIONS, &body(0.8, 7, 40, 4)).await["choices"][0]["text"].clone();
        tokio::task::spawn_blocking(move || tracer.shutdown()).await.expect("no panic");
        let spans = receiver.spans();
        assert!(!spans.is_empty());
        let holds = |words: &str| spans.iter().any(|stored| format!("{:?}", stored.span).contains(words));
        let said = text.as_str().expect("a text").lines().max_by_key(|line| line.len()).expect("a line");
        assert!(said.len() > 5, "{text}");
        for words in ["ROMEO:", said, "gen_ai.input.messages", "gen_ai.output.messages"] {
            assert_eq!(holds(words), record_content, "{words}");
        }
    }
}

/// The document names what is served, and each field of a request that it names is one that a wrong value is refused for.
#[tokio::test]
async fn the_openapi_document_says_what_is_served() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let document = get(&serving.address, "/openapi.json").await.json().await;
    for (path, schema) in [(COMPLETIONS, "CompletionRequest"), (CHAT, "ChatRequest")] {
        assert!(document["paths"][path]["post"].is_object(), "{path}");
        let fields = document["components"]["schemas"][schema]["properties"].as_object().expect("fields");
        assert!(fields.len() > 15);
        for field in fields.keys() {
            let wrong = with(json!({ "prompt": "O", "messages": [] }), json!({ field: { "wrong": [] } }));
            let answer = serving.post(path, &wrong).await;
            assert_eq!(answer.status, 400, "{field}");
            assert_eq!(answer.json().await["error"]["param"], *field);
        }
    }
}
