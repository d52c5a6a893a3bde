//! A service from its first connection to its stop, and under load that means it harm.

use std::{
    future,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use coordinator::{Access, Error, Pair};
use model::{EmbeddedModel, Limits};
use outrider_tests::cluster::{
    Embedded, LONG, Node, Setup, Side, alone, assert_same, decoders, model, request, run, sampled, spawn,
    talk::{DraftTalk, TargetTalk, channel, open},
    tokens, within, worker,
};
use proto::v1::{DescribeRequest, RejectionReason, Role, TokenizerRequest, model_service_client::ModelServiceClient};
use tokio::{net::TcpStream, sync::oneshot};
use tokio_stream::StreamExt;
use tonic::{Code, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::{v1, v1alpha};

const SERVICES: [(Side, &str); 2] =
    [(Side::Draft, "outrider.v1.DraftService"), (Side::Target, "outrider.v1.TargetService")];

fn prompt() -> Vec<u32> {
    tokens("ROMEO:")
}

fn embedded(side: Side) -> model::Worker {
    worker(match side {
        Side::Draft => EmbeddedModel::Draft,
        Side::Target => EmbeddedModel::Target,
    })
}

async fn health(channel: &Channel, service: &str) -> tonic::Streaming<tonic_health::pb::HealthCheckResponse> {
    let service = service.to_owned();
    let watch = HealthClient::new(channel.clone()).watch(HealthCheckRequest { service }).await;
    watch.expect("health is served").into_inner()
}

async fn next(statuses: &mut tonic::Streaming<tonic_health::pb::HealthCheckResponse>) -> ServingStatus {
    let status = within(LONG, statuses.next()).await.expect("a status");
    status.expect("a status").status()
}

/// Until the model is there health says NOT_SERVING and every call UNAVAILABLE; then all of it works.
#[tokio::test]
async fn a_service_answers_before_its_model_is_loaded() {
    for (side, name) in SERVICES {
        let (loaded, load) = oneshot::channel();
        let node = Node::start(side, Setup::default(), async { Ok(load.await.expect("a model")) });
        let channel = channel(&node);
        let mut watched = Vec::new();
        for service in ["", name, "outrider.v1.ModelService"] {
            let mut statuses = health(&channel, service).await;
            assert_eq!(next(&mut statuses).await, ServingStatus::NotServing, "{service}");
            watched.push(statuses);
        }
        let mut client = ModelServiceClient::new(channel.clone());
        let describe = client.describe(DescribeRequest::default()).await.unwrap_err();
        let open = open(&prompt(), sampled(0.8, 1), 8);
        let opened = match side {
            Side::Draft => DraftTalk::open(&channel, open).await.status().await,
            Side::Target => TargetTalk::open(&channel, open).await.status().await,
        };
        let tokenizer = client.tokenizer(TokenizerRequest {}).await.unwrap_err();
        for status in [describe, tokenizer, opened] {
            assert_eq!(status.code(), Code::Unavailable);
            assert!(status.message().contains("loading"), "{status}");
        }
        match Pair::connect(Some(&node.url()), &node.url(), &Access::default()).await {
            Err(Error::Unreachable { status, .. }) => assert_eq!(status.code(), Code::Unavailable),
            other => panic!("unreachable, not {other:?}"),
        }

        loaded.send(embedded(side)).unwrap();
        for statuses in &mut watched {
            assert_eq!(next(statuses).await, ServingStatus::Serving);
        }
        let described = client.describe(DescribeRequest::default()).await.unwrap().into_inner();
        let role = match side {
            Side::Draft => Role::Draft,
            Side::Target => Role::Target,
        };
        assert_eq!((described.role(), described.protocol_version), (role, 1));
        assert_eq!((described.context_length, described.tokenizer_size), (2048, 128));
        let limits = described.limits.expect("limits");
        assert_eq!((limits.max_prompt_tokens, limits.max_gamma, limits.max_sessions), (2047, 32, 32));
    }
}

/// A model that cannot be loaded ends the service with the reason.
#[tokio::test]
async fn a_model_that_cannot_be_loaded_ends_the_service() {
    let missing = model::Source::File("/nowhere/at/all.safetensors".into());
    let compute = std::sync::Arc::new(model::Compute::new(std::num::NonZeroUsize::MIN));
    let load = service::load("model", (missing, model::Device::Cpu), compute, Limits::default(), None);
    let node = Node::start(Side::Target, Setup::default(), load);
    let error = within(LONG, node.ended()).await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all.json"), "{error}");
}

/// Both versions of reflection list the services of both binaries.
#[tokio::test]
async fn reflection_lists_the_services() {
    for (side, name) in SERVICES {
        let node = Node::start(side, Setup::default(), future::ready(Ok(embedded(side))));
        let channel = channel(&node);

        let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
        let request = v1::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let answers = client.server_reflection_info(tokio_stream::once(request)).await;
        let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
        let names = match answer.message_response {
            Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) => list.service,
            other => panic!("services, not {other:?}"),
        };
        let names: Vec<String> = names.into_iter().map(|service| service.name).collect();

        let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
        let request = v1alpha::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let answers = client.server_reflection_info(tokio_stream::once(request)).await;
        let answer = answers.unwrap().into_inner().message().await.unwrap().unwrap();
        let older = match answer.message_response {
            Some(v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list)) => list.service,
            other => panic!("services, not {other:?}"),
        };
        let older: Vec<String> = older.into_iter().map(|service| service.name).collect();
        for names in [&names, &older] {
            for expected in [name, "outrider.v1.ModelService", "grpc.health.v1.Health"] {
                assert!(names.iter().any(|name| name == expected), "{expected} in {names:?}");
            }
            let others = SERVICES.into_iter().filter(|(_, other)| *other != name);
            assert!(others.into_iter().all(|(_, other)| !names.iter().any(|name| name == other)), "{names:?}");
        }
    }
}

/// Within the grace an open session goes on, while nobody new gets in; the service ends as soon as its sessions have.
#[tokio::test]
async fn an_open_session_may_end_within_the_grace() {
    let setup = Setup::with_grace(LONG);
    let slow = decoders::sleepy(model(EmbeddedModel::Target), Duration::from_millis(100));
    let node = Node::start(Side::Target, setup, future::ready(Ok(spawn(slow, Limits::default()))));
    let address = node.address();
    let mut session = TargetTalk::open(&channel(&node), open(&prompt(), sampled(0.8, 2), 8)).await;
    session.opened().await;
    let begun = Instant::now();
    let stopping = tokio::spawn(node.stop());
    refused(address).await;
    for cycle in 1..=3 {
        session.verify(cycle, prompt().len() + cycle as usize, &[]).await;
        assert_eq!(session.verdict().await.cycle, cycle);
    }
    assert!(!stopping.is_finished());
    drop(session);
    within(LONG, stopping).await.unwrap().expect("a clean stop");
    assert!(begun.elapsed() < LONG / 2, "no need to wait for the grace");
}

/// Beyond it the stream ends with UNAVAILABLE.
#[tokio::test]
async fn a_session_that_outlives_the_grace_is_told() {
    let grace = Duration::from_millis(100);
    let setup = Setup::with_grace(grace);
    let node = Node::start(Side::Target, setup, future::ready(Ok(embedded(Side::Target))));
    let mut session = TargetTalk::open(&channel(&node), open(&prompt(), sampled(0.8, 3), 8)).await;
    session.opened().await;
    let stopping = tokio::spawn(node.stop());
    let status = session.status().await;
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the service is stopping"));
    within(LONG, stopping).await.unwrap().expect("a clean stop");
}

async fn refused(address: std::net::SocketAddr) {
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begun.elapsed() < LONG, "new connections are still accepted");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Bad sessions by the hundred, of every kind, beside a good one.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_bad_sessions_does_not_touch_a_good_one() {
    let embedded = Embedded::start().await;
    let asked = request("ROMEO:", sampled(0.8, 4), 400, 4);
    let expected = run(&embedded.pair, &alone(&asked)).await;
    let (over, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    let flood = async {
        let (to_target, to_draft) = (channel(&embedded.target), channel(&embedded.draft));
        let good = open(&prompt(), sampled(0.8, 5), 8);
        while !over.load(Ordering::Relaxed) {
            let mut bad = good.clone();
            bad.tokens[0] = u32::MAX;
            TargetTalk::open(&to_target, bad.clone()).await.status().await;
            DraftTalk::open(&to_draft, bad).await.status().await;
            let mut session = TargetTalk::open(&to_target, good.clone()).await;
            let base_len = session.opened().await.base_len as usize;
            for cycle in 1..20 {
                session.verify(cycle, base_len, &[u32::MAX; 40]).await;
                session.verify(cycle, 0, &[]).await;
                session.refused(RejectionReason::Token, cycle, base_len, &[]).await;
            }
            let session = DraftTalk::open(&to_draft, good.clone()).await;
            session.propose(1, prompt().len(), &[], 32).await;
            rounds.fetch_add(1, Ordering::Relaxed);
            drop(session); // in the middle of its prefill or of its proposal
        }
    };
    let good = async {
        let run = run(&embedded.pair, &asked).await;
        over.store(true, Ordering::Relaxed);
        run
    };
    let (run, ()) = within(LONG, async { tokio::join!(good, flood) }).await;
    assert!(rounds.load(Ordering::Relaxed) > 3, "a flood");
    assert_same(&run, &expected, "beside a flood");
}
