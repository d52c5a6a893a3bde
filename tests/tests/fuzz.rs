//! Hostile peers: nothing that they send, or do not send, touches anybody else's session.
//!
//! Everything is drawn from one seed, so that what fails fails again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use coordinator::{Access, Pair};
use model::{EmbeddedModel, Limits, Worker};
use outrider_tests::cluster::{
    LONG, Node, alone, assert_same, eventually, model, request, run, sampled, spawn,
    talk::{TargetTalk, channel, open},
    tokens, within,
};
use prost::{
    Message,
    bytes::{Buf, BufMut},
};
use proto::v1::{
    DraftSessionRequest, Open, Propose, TargetSessionRequest, Verify, draft_session_request,
    target_service_client::TargetServiceClient, target_session_request,
};
use speculative::philox::philox4x32_10;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
    time,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// What is called, and one name that nobody serves.
const METHODS: [&str; 5] = [
    "/outrider.v1.TargetService/TargetSession",
    "/outrider.v1.DraftService/DraftSession",
    "/outrider.v1.ModelService/Describe",
    "/outrider.v1.ModelService/Tokenizer",
    "/outrider.v1.TargetService/Nothing",
];

/// Numbers that depend on the seed alone.
struct Dice {
    seed: u32,
    throws: u32,
}

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.throws += 1;
        let [low, high, ..] = philox4x32_10([self.throws, 0, 0, 0], [self.seed, 0x0f02]);
        ((u64::from(high) << 32 | u64::from(low)) % most as u64) as usize
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.below(256) as u8).collect()
    }
}

/// A message that is right, wrong in a field, cut, overwritten, or no message at all.
fn message(dice: &mut Dice) -> Vec<u8> {
    let number = [0, 1, 6, 7, 8, 4096, u32::MAX - 1, u32::MAX];
    let ids: Vec<u32> =
        (0..dice.one_of(&[0, 1, 6, 40, 3000])).map(|_| dice.one_of(&[79, 82, 127, 128, u32::MAX])).collect();
    let cycle = dice.one_of(&[0, 1, 2, 3, u64::MAX]);
    let sampling = open(&[79], sampled(dice.one_of(&[0.0, 0.8, -1.0, f64::NAN, f64::INFINITY]), 1), 1).sampling;
    let opening = Open {
        tokens: if dice.below(2) == 0 { tokens("ROMEO:") } else { ids.clone() },
        prompt_len: dice.one_of(&number),
        sampling: sampling.filter(|_| dice.below(8) > 0),
        max_tokens: dice.one_of(&number),
        trace: None,
        top_logprobs: Some(dice.one_of(&number)).filter(|_| dice.below(2) == 0),
        branches: dice.one_of(&number),
        coupling: dice.one_of(&[0, 1, 2, 3, -1]),
    };
    let right = open(&tokens("ROMEO:"), sampled(0.8, 1), 40);
    let opening = if dice.below(2) == 0 { right } else { opening };
    let (base_len, gamma) = (dice.one_of(&number), dice.one_of(&number));
    let mut message = match dice.below(5) {
        0 => TargetSessionRequest { message: Some(target_session_request::Message::Open(opening)) }.encode_to_vec(),
        1 => {
            let verify = Verify { cycle, base_len, proposed: ids, ..Verify::default() };
            TargetSessionRequest { message: Some(target_session_request::Message::Verify(verify)) }.encode_to_vec()
        }
        2 => DraftSessionRequest { message: Some(draft_session_request::Message::Open(opening)) }.encode_to_vec(),
        3 => {
            let propose = Propose { cycle, base_len, tokens: ids, gamma, ..Propose::default() };
            DraftSessionRequest { message: Some(draft_session_request::Message::Propose(propose)) }.encode_to_vec()
        }
        _ => dice.bytes(200),
    };
    match dice.below(4) {
        0 => message.truncate(dice.below(message.len() + 1)),
        1 if !message.is_empty() => {
            for _ in 0..=dice.below(4) {
                let at = dice.below(message.len());
                message[at] = dice.below(256) as u8;
            }
        }
        _ => {}
    }
    message
}

/// Messages as bytes, so that they may be anything.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = usize;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = buffer.remaining();
        buffer.advance(length);
        Ok(Some(length))
    }
}

/// One stream of messages to a method; gives how it ended. What comes back is read for a while.
async fn stream(channel: &Channel, method: &'static str, messages: Vec<Vec<u8>>) -> Result<(), Status> {
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let (outbox, outgoing) = mpsc::channel(1);
    tokio::spawn(async move {
        for message in messages {
            if outbox.send(message).await.is_err() {
                return;
            }
        }
    });
    let path = PathAndQuery::from_static(method);
    let call = grpc.streaming(Request::new(ReceiverStream::new(outgoing)), path, Raw);
    let mut answers = within(LONG, call).await?.into_inner();
    while within(LONG, answers.message()).await?.is_some() {}
    Ok(())
}

fn own(embedded: EmbeddedModel) -> Worker {
    spawn(model(embedded), Limits { max_sessions: 64, ..Limits::default() })
}

/// Generates again and again beside the attack; every answer is what it was without.
async fn beside(pair: &Pair, attack: impl Future<Output = ()>) {
    let asked = [(0.8, 81, 4), (0.0, 82, 8), (0.8, 83, 0)]
        .map(|(temperature, seed, gamma)| request("ROMEO:", sampled(temperature, seed), 200, gamma));
    let mut expected = Vec::new();
    for asked in &asked {
        expected.push(run(pair, &alone(asked)).await);
    }
    let (over, whole) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let victims = asked.iter().zip(&expected).map(|(asked, expected)| {
        let (over, whole) = (over.clone(), whole.clone());
        async move {
            while !over.load(Relaxed) || whole.load(Relaxed) < 3 {
                assert_same(&run(pair, asked).await, expected, "beside an attack");
                whole.fetch_add(1, Relaxed);
            }
        }
    });
    let [one, two, three] = victims.collect::<Vec<_>>().try_into().ok().expect("three");
    let attack = async {
        attack.await;
        over.store(true, Relaxed);
    };
    tokio::join!(one, two, three, attack);
}

struct Attacked {
    workers: [Worker; 2],
    nodes: [Node; 2],
    pair: Pair,
}

impl Attacked {
    async fn start() -> Self {
        let workers = [own(EmbeddedModel::Draft), own(EmbeddedModel::Target)];
        let nodes = [Node::draft(workers[0].clone()), Node::target(workers[1].clone())];
        let pair = Pair::connect(Some(&nodes[0].url()), &nodes[1].url(), &Access::default()).await.expect("a pair");
        Self { workers, nodes, pair }
    }

    /// Nothing is left of the attack.
    async fn calm(&self) {
        for worker in &self.workers {
            eventually("all sessions are freed", || worker.open_sessions() == 0 && worker.waiting_sessions() == 0)
                .await;
        }
    }
}

/// Random, mutated and misordered messages on every method of both services.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_touches_another_session() {
    let attacked = Attacked::start().await;
    let attack = async {
        let mut codes = std::collections::BTreeMap::<String, usize>::new();
        for round in 0..60 {
            let mut streams = JoinSet::new();
            for one in 0..10 {
                let mut dice = Dice { seed: round * 10 + one, throws: 0 };
                let channel = channel(&attacked.nodes[dice.below(2)]);
                let method = dice.one_of(&METHODS);
                let messages = (0..=dice.below(6)).map(|_| message(&mut dice)).collect();
                streams.spawn(async move { stream(&channel, method, messages).await });
            }
            for ended in streams.join_all().await {
                let code = ended.map_or_else(|status| format!("{:?}", status.code()), |()| "Ok".to_owned());
                *codes.entry(code).or_default() += 1;
            }
        }
        // Neither a panic nor a crash: those would be Unknown, Internal and Unavailable beyond what tonic says of bytes that
        // are no message.
        assert!(!codes.contains_key("Unavailable"), "{codes:?}");
        assert!(codes.contains_key("InvalidArgument") && codes.contains_key("Ok"), "{codes:?}");
    };
    beside(&attacked.pair, attack).await;
    attacked.calm().await;
}

/// Messages over the limit, and within it as large as can be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn giant_fields_are_refused() {
    let attacked = Attacked::start().await;
    let attack = async {
        for (tokens, code) in [(900_000, Code::InvalidArgument), (5_000_000, Code::OutOfRange)] {
            let open = open(&vec![127; tokens], sampled(0.8, 1), 8);
            let [to_draft, to_target] = attacked.nodes.each_ref().map(channel);
            let for_target =
                TargetSessionRequest { message: Some(target_session_request::Message::Open(open.clone())) };
            let for_draft = DraftSessionRequest { message: Some(draft_session_request::Message::Open(open)) };
            let refused = stream(&to_target, METHODS[0], vec![for_target.encode_to_vec()]).await;
            assert_eq!(refused.map_err(|status| status.code()), Err(code), "{tokens}");
            let refused = stream(&to_draft, METHODS[1], vec![for_draft.encode_to_vec()]).await;
            assert_eq!(refused.map_err(|status| status.code()), Err(code), "{tokens}");
        }
    };
    beside(&attacked.pair, attack).await;
    attacked.calm().await;
}

/// Thousands of streams that never open a session, connections that never say a whole word, and bytes that are no HTTP.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_streams_and_slow_connections_cost_nothing() {
    let attacked = Attacked::start().await;
    let address = attacked.nodes[1].address();
    let attack = async {
        let channels: Vec<_> = (0..4).map(|_| channel(&attacked.nodes[1])).collect();
        let mut idle = JoinSet::new();
        for at in 0..2000 {
            let channel = channels[at % channels.len()].clone();
            idle.spawn(async move {
                let mut talk = TargetTalk::connect(&channel).await;
                talk.next().await.map(drop).map_err(|status| status.code())
            });
        }
        let mut slow = JoinSet::new();
        for at in 0..100_u32 {
            slow.spawn(async move {
                let mut dice = Dice { seed: at, throws: 0 };
                let mut connection = TcpStream::connect(address).await.expect("it listens");
                let begin: &[u8] = if at % 2 == 0 { b"PRI * HTTP/2.0\r\n" } else { &dice.bytes(100) };
                let _ = connection.write_all(begin).await;
                let mut answer = Vec::new();
                let _ = time::timeout(Duration::from_secs(15), connection.read_to_end(&mut answer)).await;
            });
        }
        for ended in idle.join_all().await {
            assert_eq!(ended, Err(Code::DeadlineExceeded));
        }
        slow.join_all().await;
    };
    beside(&attacked.pair, attack).await;
    attacked.calm().await;
}

/// One peer gets its share of the sessions and no more.
#[tokio::test]
async fn a_peer_has_no_more_sessions_than_its_share() {
    let worker = spawn(model(EmbeddedModel::Target), Limits { max_sessions_per_peer: 3, ..Limits::default() });
    let node = Node::target(worker);
    let opening = || open(&tokens("ROMEO:"), sampled(0.8, 1), 8);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut talk = TargetTalk::open(&channel(&node), opening()).await;
        talk.opened().await;
        open.push(talk);
    }
    let refused = async || {
        let (_requests, outgoing) = mpsc::channel(1);
        let mut client = TargetServiceClient::new(channel(&node));
        client.target_session(ReceiverStream::new(outgoing)).await.err()
    };
    let status = within(LONG, refused()).await.expect("a refusal");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(status.message().contains("max_sessions_per_peer reached, allowed: 3"), "{status}");
    drop(open.pop());
    within(LONG, async {
        while refused().await.is_some() {
            time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// A session whose asker waits no longer ends by itself.
#[tokio::test]
async fn a_session_ends_at_its_askers_deadline() {
    let worker = own(EmbeddedModel::Target);
    let node = Node::target(worker.clone());
    let (requests, outgoing) = mpsc::channel(1);
    let message = Some(target_session_request::Message::Open(open(&tokens("ROMEO:"), sampled(0.8, 1), 8)));
    requests.send(TargetSessionRequest { message }).await.expect("an outbox");
    // Set by hand, so that no timer of this client ends the call.
    let mut request = Request::new(ReceiverStream::new(outgoing));
    request.metadata_mut().insert("grpc-timeout", "500m".parse().expect("ASCII"));
    let mut answers =
        TargetServiceClient::new(channel(&node)).target_session(request).await.expect("headers").into_inner();
    assert!(within(LONG, answers.message()).await.expect("opened").is_some());
    assert_eq!(worker.open_sessions(), 1);
    let status = within(LONG, answers.message()).await.expect_err("the deadline");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    eventually("the session is freed", || worker.open_sessions() == 0).await;
}

/// One that says nothing any more as well.
#[tokio::test]
async fn a_silent_session_is_ended() {
    let idle_timeout = Duration::from_millis(300);
    let worker = spawn(model(EmbeddedModel::Target), Limits { idle_timeout, ..Limits::default() });
    let node = Node::target(worker.clone());
    let prompt = tokens("ROMEO:");
    let mut talk = TargetTalk::open(&channel(&node), open(&prompt, sampled(0.8, 1), 8)).await;
    talk.opened().await;
    talk.verify(1, prompt.len() + 1, &[]).await;
    talk.verdict().await;
    let status = talk.status().await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("no message within idle_timeout, allowed: 0.3 s"), "{status}");
    eventually("the session is freed", || worker.open_sessions() == 0).await;
}
