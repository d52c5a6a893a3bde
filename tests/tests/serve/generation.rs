//! `outrider.v1.GenerationService`: what HTTP answers, over gRPC.

use std::time::{Duration, Instant};

use coordinator::serve::{Config, Keys};
use model::Limits;
use outrider_tests::{
    cluster::{Embedded, LONG, Node, decoders, eventually, model, pair, spawn, within},
    http::{CONFIG, Serving},
};
use proto::v1::{
    ChatMessage, Conversation, Ended, FinishReason, GenerateRequest, Piece, Summary, TokenIds, generate_request::Input,
    generate_response::Event, generation_service_client::GenerationServiceClient,
};
use serde_json::json;
use telemetry::Tracer;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use super::{COMPLETIONS, body, oracle, slow_target, with, with_tokenizer};

fn channel(serving: &Serving) -> Channel {
    Endpoint::from_shared(serving.grpc_url.clone()).expect("a URL").connect_lazy()
}

fn asked(temperature: f64, seed: u64, tokens: u32, gamma: u32) -> GenerateRequest {
    GenerateRequest {
        input: Some(Input::Prompt("ROMEO:".to_owned())),
        temperature: Some(temperature),
        seed: Some(seed),
        max_tokens: Some(tokens),
        gamma: Some(gamma),
        ..GenerateRequest::default()
    }
}

/// A whole answer.
struct Answer {
    pieces: Vec<Piece>,
    ended: Vec<Ended>,
    summary: Summary,
}

impl Answer {
    fn text(&self, index: u32) -> String {
        self.pieces.iter().filter(|piece| piece.index == index).map(|piece| piece.text.as_str()).collect()
    }
}

async fn call(
    serving: &Serving,
    request: impl tonic::IntoRequest<GenerateRequest>,
) -> Result<Streaming<proto::v1::GenerateResponse>, Status> {
    let mut client = GenerationServiceClient::new(channel(serving));
    within(LONG, client.generate(request)).await.map(tonic::Response::into_inner)
}

async fn answer(serving: &Serving, request: GenerateRequest) -> Result<Answer, Status> {
    let mut stream = call(serving, request).await?;
    let (mut pieces, mut ended, mut summary) = (Vec::new(), Vec::new(), None);
    while let Some(response) = within(LONG, stream.message()).await? {
        assert!(summary.is_none(), "the summary is the last");
        match response.event.expect("an event") {
            Event::Piece(piece) => pieces.push(piece),
            Event::Ended(end) => ended.push(end),
            Event::Summary(said) => summary = Some(said),
        }
    }
    Ok(Answer { pieces, ended, summary: summary.expect("a summary") })
}

/// The text is the target's own, its tokens too, and the summary says what HTTP's answer says.
#[tokio::test]
async fn it_says_what_http_says() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let alone = oracle(&embedded.pair, "ROMEO:", 0.8, 7, 300).await;
    let http = serving.answered(COMPLETIONS, &with(body(0.8, 7, 300, 4), json!({ "logprobs": 2 }))).await;
    let request = GenerateRequest { top_logprobs: Some(2), ..asked(0.8, 7, 300, 4) };
    let grpc = answer(&serving, request).await.expect("an answer");
    assert_eq!(grpc.text(0), alone.text);
    let tokens: Vec<u32> = grpc.pieces.iter().flat_map(|piece| piece.token_ids.clone()).collect();
    assert_eq!(tokens, alone.token_ids);
    let logprobs: Vec<f32> = grpc.pieces.iter().flat_map(|piece| &piece.logprobs).map(|told| told.logprob).collect();
    let over_http = http["choices"][0]["logprobs"]["token_logprobs"].as_array().expect("log-probabilities");
    let over_http: Vec<f32> = over_http.iter().filter_map(|told| told.as_f64().map(|told| told as f32)).collect();
    assert_eq!(logprobs, over_http);
    assert!(grpc.pieces.iter().any(|piece| piece.accepted) && grpc.pieces.iter().any(|piece| !piece.accepted));
    let end = Ended { index: 0, finish_reason: FinishReason::Length.into(), seed: 7 };
    assert_eq!(grpc.ended, [end]);
    let (usage, block) = (&http["usage"], &http["metrics"]["speculative_decoding"]);
    let summary = grpc.summary;
    assert_eq!(summary.completion_tokens, usage["completion_tokens"]);
    assert_eq!(summary.prompt_tokens, usage["prompt_tokens"]);
    assert_eq!((summary.model, summary.inexact), (embedded.pair.target.description.model.clone(), false));
    assert!(summary.time_to_first_token_s.is_some_and(|time| time > 0.0));
    let told = summary.speculative_decoding.expect("a draft");
    assert_eq!(told.num_spec_steps, block["num_spec_steps"]);
    assert_eq!(told.num_accepted_draft_tokens, block["num_accepted_draft_tokens"]);
    assert_eq!(json!(told.acceptance_histogram), block["acceptance_histogram"]);
    assert_eq!(answer(&serving, asked(0.8, 7, 20, 0)).await.expect("AR").summary.speculative_decoding, None);
    serving.stop().await;
}

/// Several choices, a stop string, tokens and messages as input, and a seed that is drawn.
#[tokio::test]
async fn it_takes_what_http_takes() {
    let embedded = with_tokenizer(&decoders::chatting()).await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let request = GenerateRequest { n: Some(3), stop: vec!["the w".to_owned()], ..asked(0.8, 40, 200, 4) };
    let choices = answer(&serving, request).await.expect("an answer");
    for index in 0..3 {
        let asked = with(body(0.8, 40 + u64::from(index), 200, 4), json!({ "stop": "the w" }));
        let alone = serving.answered(COMPLETIONS, &asked).await;
        assert_eq!(choices.text(index), alone["choices"][0]["text"], "choice {index}");
    }
    assert_eq!(choices.ended.len(), 3);

    let ids = TokenIds { ids: "ROMEO:".bytes().map(u32::from).collect() };
    let request = GenerateRequest { input: Some(Input::TokenIds(ids)), ..asked(0.8, 40, 60, 4) };
    let by_tokens = answer(&serving, request).await.expect("an answer");
    assert_eq!(by_tokens.text(0), oracle(&embedded.pair, "ROMEO:", 0.8, 40, 60).await.text);

    let said = |role: &str, content: &str| ChatMessage { role: role.to_owned(), content: content.to_owned() };
    let conversation = Conversation { messages: vec![said("developer", "Be brief."), said("user", "Who goes there?")] };
    let request = GenerateRequest { input: Some(Input::Conversation(conversation)), ..asked(0.8, 3, 60, 4) };
    let chat = answer(&serving, request).await.expect("an answer");
    let prompt = "SYSTEM: Be brief.\nUSER: Who goes there?\nASSISTANT:";
    assert_eq!(chat.text(0), oracle(&embedded.pair, prompt, 0.8, 3, 60).await.text);

    let drawn = GenerateRequest { seed: None, ..asked(0.8, 0, 40, 4) };
    let first = answer(&serving, drawn).await.expect("an answer");
    let again = answer(&serving, asked(0.8, first.ended[0].seed, 40, 4)).await.expect("an answer");
    assert_eq!(first.text(0), again.text(0));
}

#[tokio::test]
async fn what_is_wrong_is_refused_by_name() {
    let embedded = Embedded::start().await;
    let serving = Serving::start(&embedded.pair, CONFIG).await;
    let input = |input| GenerateRequest { input: Some(input), ..asked(0.8, 1, 8, 4) };
    for (request, code, words) in [
        (GenerateRequest { input: None, ..asked(0.8, 1, 8, 4) }, Code::InvalidArgument, "input is missing"),
        (asked(-0.5, 1, 8, 4), Code::InvalidArgument, "temperature is -0.5, allowed: 0 to 100"),
        (asked(f64::NAN, 1, 8, 4), Code::InvalidArgument, "temperature is NaN, allowed: 0 to 100"),
        (asked(0.8, 1, 0, 4), Code::InvalidArgument, "max_tokens is 0, allowed: 1 to"),
        (asked(0.8, 1, 8, 33), Code::InvalidArgument, "gamma is 33, allowed: 0 to 32"),
        (GenerateRequest { n: Some(0), ..asked(0.8, 1, 8, 4) }, Code::InvalidArgument, "n is 0, allowed: 1 to 32"),
        (
            GenerateRequest { top_logprobs: Some(21), ..asked(0.8, 1, 8, 4) },
            Code::InvalidArgument,
            "top_logprobs is 21, allowed: 0 to 20",
        ),
        (
            GenerateRequest { stop: vec![String::new()], ..asked(0.8, 1, 8, 4) },
            Code::InvalidArgument,
            "stop is 0 bytes long, allowed: 1 to 256",
        ),
        (input(Input::Prompt(String::new())), Code::InvalidArgument, "prompt has 0 tokens, allowed: 1 to"),
        (input(Input::Prompt("ROMÉO".to_owned())), Code::InvalidArgument, "prompt cannot be encoded"),
        (input(Input::TokenIds(TokenIds { ids: vec![5, 128] })), Code::InvalidArgument, "token_ids is 128"),
        (input(Input::Conversation(Conversation::default())), Code::InvalidArgument, "conversation is empty"),
        (GenerateRequest { model: "another".to_owned(), ..asked(0.8, 1, 8, 4) }, Code::NotFound, "another"),
    ] {
        let status = answer(&serving, request).await.map(drop).expect_err("a refusal");
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(words), "{status} lacks {words}");
        assert!(!status.message().contains("127.0.0.1"), "{status}");
    }
}

#[tokio::test]
async fn it_needs_the_key_that_http_needs() {
    let embedded = Embedded::start().await;
    let pair = embedded.pair.clone();
    let keys = Keys::new(Some("a-key"), None).expect("a key");
    let serving = Serving::guarded(async { Ok((pair, Tracer::off())) }, CONFIG, keys).await;
    for (sent, code) in [
        (None, Some(Code::Unauthenticated)),
        (Some("Bearer b-key"), Some(Code::Unauthenticated)),
        (Some("Bearer a-key"), None),
    ] {
        let mut request = Request::new(asked(0.8, 1, 4, 0));
        if let Some(sent) = sent {
            request.metadata_mut().insert("authorization", sent.parse().expect("ASCII"));
        }
        assert_eq!(call(&serving, request).await.err().map(|status| status.code()), code, "{sent:?}");
    }
}

/// A client's deadline ends the call, and what it had at the target; a client that goes away does so at once.
#[tokio::test]
async fn a_deadline_and_a_departure_free_the_session() {
    let target = slow_target(20, 8);
    let node = Node::target(target.clone());
    let pair = pair(None, &node).await;
    let serving = Serving::start(&pair, CONFIG).await;
    let mut request = Request::new(asked(0.8, 1, 2000, 0));
    request.set_timeout(Duration::from_millis(400));
    let begun = Instant::now();
    let ended = async {
        let mut stream = call(&serving, request).await?;
        while stream.message().await?.is_some() {}
        Ok::<_, Status>(())
    };
    let status = ended.await.expect_err("2000 tokens take 40 s");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    eventually("the session is freed", || target.open_sessions() == 0).await;
    assert!(begun.elapsed() < Duration::from_secs(10));

    let mut stream = call(&serving, asked(0.8, 1, 2000, 0)).await.expect("a stream");
    assert!(stream.message().await.expect("a piece").is_some());
    assert_eq!(target.open_sessions(), 1);
    drop(stream);
    eventually("the session is freed", || target.open_sessions() == 0).await;
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// Too many choices at once are turned away as HTTP turns them away; a stop lets what runs end and takes nothing new.
#[tokio::test]
async fn it_is_full_and_it_stops() {
    let target =
        spawn(decoders::sleepy(model(model::EmbeddedModel::Target), Duration::from_millis(20)), Limits::default());
    let node = Node::target(target);
    let pair = pair(None, &node).await;
    let serving = Serving::start(&pair, Config { max_concurrent: 1, ..CONFIG }).await;
    let mut health = HealthClient::new(channel(&serving));
    let check = HealthCheckRequest { service: "outrider.v1.GenerationService".to_owned() };
    let status = within(LONG, health.check(check)).await.expect("an answer").into_inner().status;
    assert_eq!(status, ServingStatus::Serving as i32);
    let mut running = call(&serving, asked(0.8, 1, 60, 0)).await.expect("a stream");
    assert!(running.message().await.expect("a piece").is_some());
    let busy = call(&serving, asked(0.8, 1, 4, 0)).await.map(drop).expect_err("a refusal");
    assert_eq!(busy.code(), Code::ResourceExhausted, "{busy}");
    assert!(busy.metadata().contains_key("grpc-retry-pushback-ms"));
    let url = serving.grpc_url.clone();
    let rest = async {
        let mut pieces = 0;
        while running.message().await.expect("a stream that goes on").is_some() {
            pieces += 1;
        }
        pieces
    };
    let ((), pieces) = tokio::join!(serving.stop(), within(LONG, rest));
    assert!(pieces > 20, "{pieces}");
    let gone = Endpoint::from_shared(url).expect("a URL").connect().await;
    assert!(gone.is_err(), "nobody listens any more");
}
