//! A draft service that breaks the protocol.

use std::net::SocketAddr;

use proto::v1::{
    DescribeRequest, DescribeResponse, DraftDistribution, DraftSessionRequest, DraftSessionResponse, Open, Opened,
    Proposal, Propose, Rejected, RejectionReason, TokenizerRequest, TokenizerResponse,
    draft_service_server::{DraftService, DraftServiceServer},
    draft_session_request, draft_session_response,
    model_service_server::{ModelService, ModelServiceServer},
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

/// One message of a session, or the status that ends it.
pub type Answer = Result<DraftSessionResponse, Status>;

/// What a liar sends in return for `Open` and for each `Propose`.
#[derive(Clone, Copy, Debug)]
pub struct Lie {
    /// What kind of liar it is.
    pub name: &'static str,
    /// Whether there is a proposal in it that the coordinator may use.
    pub usable: bool,
    open: fn(&Open) -> Vec<Answer>,
    propose: fn(&Propose) -> Vec<Answer>,
}

/// A liar at work; it ends with the test's runtime, or when this is dropped.
#[derive(Debug)]
pub struct Liar {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Liar {
    /// Starts a draft that calls itself `described` and answers with `lie`.
    pub async fn start(described: DescribeResponse, lie: Lie) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let service = Service { described, lie };
        let server = Server::builder()
            .add_service(DraftServiceServer::new(service.clone()))
            .add_service(ModelServiceServer::new(service))
            .serve_with_incoming(TcpIncoming::from(listener));
        let serving = tokio::spawn(async { server.await.expect("a server that does not fail") });
        Self { address, serving }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[derive(Clone, Debug)]
struct Service {
    described: DescribeResponse,
    lie: Lie,
}

#[tonic::async_trait]
impl ModelService for Service {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        Ok(Response::new(self.described.clone()))
    }

    type TokenizerStream = ReceiverStream<Result<TokenizerResponse, Status>>;

    async fn tokenizer(&self, _: Request<TokenizerRequest>) -> Result<Response<Self::TokenizerStream>, Status> {
        Err(Status::unimplemented("a draft is not asked for its tokenizer"))
    }
}

#[tonic::async_trait]
impl DraftService for Service {
    type DraftSessionStream = ReceiverStream<Answer>;

    async fn draft_session(
        &self,
        request: Request<Streaming<DraftSessionRequest>>,
    ) -> Result<Response<Self::DraftSessionStream>, Status> {
        let (outbox, answers) = mpsc::channel(16);
        tokio::spawn(converse(self.lie, request.into_inner(), outbox));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

async fn converse(lie: Lie, mut requests: Streaming<DraftSessionRequest>, outbox: mpsc::Sender<Answer>) {
    while let Ok(Some(request)) = requests.message().await {
        let answers = match request.message {
            Some(draft_session_request::Message::Open(open)) => (lie.open)(&open),
            Some(draft_session_request::Message::Propose(propose)) => (lie.propose)(&propose),
            None => Vec::new(),
        };
        for answer in answers {
            let fatal = answer.is_err();
            if outbox.send(answer).await.is_err() || fatal {
                return;
            }
        }
    }
}

/// Every kind of liar.
pub const LIES: [Lie; 16] = [
    useless("one token more than asked for", |asked| vec![proposal(asked, |lie| lie.tokens.push(32))]),
    useless("a thousand tokens", |asked| vec![proposal(asked, |lie| lie.tokens = vec![32; 1000])]),
    useless("an id just outside the vocabulary", |asked| vec![proposal(asked, |lie| lie.tokens[0] = 128)]),
    useless("the largest id", |asked| vec![proposal(asked, |lie| lie.tokens.fill(u32::MAX))]),
    useless("no token", |asked| vec![proposal(asked, |lie| lie.tokens.clear())]),
    useless("a base_len that is one too large", |asked| vec![proposal(asked, |lie| lie.base_len += 1)]),
    useless("a base_len of zero", |asked| vec![proposal(asked, |lie| lie.base_len = 0)]),
    usable("an answer to the cycle before, then one to this", |asked| {
        vec![proposal(asked, |lie| lie.cycle -= 1), proposal(asked, |_| ())]
    }),
    usable("an answer to a cycle to come, then one to this", |asked| {
        vec![proposal(asked, |lie| lie.cycle += 1), proposal(asked, |_| ())]
    }),
    usable("every answer three times", |asked| {
        vec![
            proposal(asked, |_| ()),
            proposal(asked, |lie| lie.tokens.fill(33)),
            proposal(asked, |lie| lie.tokens.fill(34)),
        ]
    }),
    usable("a second opened, then an empty message, then the answer", |asked| {
        vec![opened(asked.base_len), Ok(DraftSessionResponse { message: None }), proposal(asked, |_| ())]
    }),
    useless("a refusal each time", |asked| vec![rejected(asked, asked.base_len - asked.tokens.len() as u32)]),
    useless("a refusal that has lost the thread", |asked| vec![rejected(asked, 1)]),
    useless("an error in the middle", |_| vec![Err(Status::internal("a draft of tin"))]),
    Lie {
        name: "an error at open",
        usable: false,
        open: |_| vec![Err(Status::resource_exhausted("no room"))],
        propose: |_| Vec::new(),
    },
    Lie {
        name: "a proposal in answer to open",
        usable: false,
        open: |open| {
            let base_len = open.tokens.len() as u32;
            vec![respond(draft_session_response::Message::Proposal(Proposal {
                cycle: 1,
                base_len,
                tokens: vec![32],
                ..Proposal::default()
            }))]
        },
        propose: |_| Vec::new(),
    },
];

/// Every kind of liar about what its proposals were sampled from, and an honest one of spaces.
pub const SAMPLED_LIES: [Lie; 9] = [
    usable("all of it is the space", |asked| vec![drafted(asked, |_| ())]),
    useless("no distributions", |asked| vec![proposal(asked, |_| ())]),
    useless("one distribution too few", |asked| vec![drafted(asked, |lie| drop(lie.distributions.pop()))]),
    useless("a distribution of nothing", |asked| {
        vec![drafted(asked, |lie| lie.distributions[0] = DraftDistribution::default())]
    }),
    useless("a thousand tokens in one", |asked| {
        vec![drafted(asked, |lie| lie.distributions[0] = of((0..1000).map(|token| (token, 1e-3))))]
    }),
    useless("an id outside the vocabulary", |asked| {
        vec![drafted(asked, |lie| lie.distributions[0] = of([(32, 0.5), (128, 0.5)]))]
    }),
    useless("half of it", |asked| vec![drafted(asked, |lie| lie.distributions[0] = of([(32, 0.5)]))]),
    useless("a token that came from nowhere", |asked| {
        vec![drafted(asked, |lie| lie.distributions[0] = of([(33, 1.0)]))]
    }),
    useless("the same token twice", |asked| {
        vec![drafted(asked, |lie| lie.distributions[0] = of([(32, 0.5), (32, 0.5)]))]
    }),
];

/// A draft that opens and then never answers.
pub const SILENT: Lie = useless("silence", |_| Vec::new());

/// A draft that never answers, not even `Open`.
pub const HANGS_AT_OPEN: Lie =
    Lie { name: "silence at open", usable: false, open: |_| Vec::new(), propose: |_| Vec::new() };

const fn usable(name: &'static str, propose: fn(&Propose) -> Vec<Answer>) -> Lie {
    Lie { usable: true, ..useless(name, propose) }
}

const fn useless(name: &'static str, propose: fn(&Propose) -> Vec<Answer>) -> Lie {
    Lie { name, usable: false, open: |open| vec![opened(open.tokens.len() as u32)], propose }
}

/// A proposal of spaces, which the protocol allows, after `change`.
fn proposal(asked: &Propose, change: impl FnOnce(&mut Proposal)) -> Answer {
    let mut proposal = Proposal {
        cycle: asked.cycle,
        base_len: asked.base_len,
        tokens: vec![32; asked.gamma as usize],
        confidences: vec![1.0; asked.gamma as usize],
        ..Proposal::default()
    };
    change(&mut proposal);
    respond(draft_session_response::Message::Proposal(proposal))
}

/// The same with what it says that it was sampled from: nothing but spaces.
fn drafted(asked: &Propose, change: impl FnOnce(&mut Proposal)) -> Answer {
    proposal(asked, |lie| {
        lie.distributions = vec![of([(32, 1.0)]); lie.tokens.len()];
        change(lie);
    })
}

/// A distribution, or what is called one.
pub fn of(tokens: impl IntoIterator<Item = (u32, f32)>) -> DraftDistribution {
    let (tokens, probabilities) = tokens.into_iter().unzip();
    DraftDistribution { tokens, probabilities }
}

fn opened(base_len: u32) -> Answer {
    respond(draft_session_response::Message::Opened(Opened { base_len, ..Opened::default() }))
}

fn rejected(asked: &Propose, base_len: u32) -> Answer {
    respond(draft_session_response::Message::Rejected(Rejected {
        cycle: asked.cycle,
        reason: RejectionReason::Gamma.into(),
        base_len,
        detail: "not today".to_owned(),
    }))
}

fn respond(message: draft_session_response::Message) -> Answer {
    Ok(DraftSessionResponse { message: Some(message) })
}
