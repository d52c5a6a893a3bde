//! The floor of the network: bare tonic bidirectional streams that echo the same messages, with no model and no
//! coordination between them. What a cycle's network and coordinator cost is judged against it.

use std::{
    thread,
    time::{Duration, Instant},
};

use proto::v1::{
    DraftSessionRequest, DraftSessionResponse, Proposal, Propose, TargetSessionRequest, TargetSessionResponse, Verdict,
    Verify,
    draft_service_client::DraftServiceClient,
    draft_service_server::{DraftService, DraftServiceServer},
    draft_session_request, draft_session_response,
    target_service_client::TargetServiceClient,
    target_service_server::{TargetService, TargetServiceServer},
    target_session_request, target_session_response,
};
use tokio::{net::TcpListener, runtime, sync::mpsc};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Channel, Endpoint, Server, server::TcpIncoming},
};

use crate::Error;

/// Round trips of one measurement.
const ROUND_TRIPS: usize = 64;

/// An echo server on loopback, in a thread and runtime of its own as the embedded services are. It ends with the process.
pub(crate) struct Echo {
    channel: Channel,
}

impl Echo {
    pub(crate) async fn start() -> Result<Self, Error> {
        let failed = |problem: String| Error::Embedded { side: "echo", problem };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|error| failed(error.to_string()))?;
        let address = listener.local_addr().map_err(|error| failed(error.to_string()))?;
        let listener = listener.into_std().map_err(|error| failed(error.to_string()))?;
        let serve = move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let incoming = TcpIncoming::from(TcpListener::from_std(listener)?).with_nodelay(Some(true));
                let server = Server::builder()
                    .add_service(DraftServiceServer::new(Mirror))
                    .add_service(TargetServiceServer::new(Mirror));
                server.serve_with_incoming(incoming).await.map_err(std::io::Error::other)
            })
        };
        let channel = Endpoint::from_shared(format!("http://{address}")).map_err(|error| failed(error.to_string()))?;
        let channel = channel.tcp_nodelay(true).connect_lazy();
        thread::Builder::new().name("echo".to_owned()).spawn(serve).map_err(|error| failed(error.to_string()))?;
        Ok(Self { channel })
    }

    /// Round trips of a `Propose` for γ tokens, each with the answer that a draft would give.
    pub(crate) async fn propose(&self, gamma: usize) -> Result<Vec<Duration>, Status> {
        let (requests, outgoing) = mpsc::channel(2);
        let mut client = DraftServiceClient::new(self.channel.clone());
        let answers = client.draft_session(ReceiverStream::new(outgoing)).await?.into_inner();
        let request = |cycle| {
            let propose = Propose {
                cycle,
                base_len: 300,
                tokens: vec![101; gamma + 1],
                gamma: gamma as u32,
                ..Propose::default()
            };
            DraftSessionRequest { message: Some(draft_session_request::Message::Propose(propose)) }
        };
        round_trips(&requests, answers, request).await
    }

    /// Round trips of a `Verify` of γ tokens, each with the answer that a target would give.
    pub(crate) async fn verify(&self, gamma: usize) -> Result<Vec<Duration>, Status> {
        let (requests, outgoing) = mpsc::channel(2);
        let mut client = TargetServiceClient::new(self.channel.clone());
        let answers = client.target_session(ReceiverStream::new(outgoing)).await?.into_inner();
        let request = |cycle| {
            let verify = Verify { cycle, base_len: 300, proposed: vec![101; gamma], ..Verify::default() };
            TargetSessionRequest { message: Some(target_session_request::Message::Verify(verify)) }
        };
        round_trips(&requests, answers, request).await
    }
}

/// Times [`ROUND_TRIPS`] requests and their answers, one after the other.
async fn round_trips<Q, A>(
    requests: &mpsc::Sender<Q>,
    mut answers: Streaming<A>,
    request: impl Fn(u64) -> Q,
) -> Result<Vec<Duration>, Status> {
    let mut round_trips = Vec::with_capacity(ROUND_TRIPS);
    for cycle in 0..ROUND_TRIPS as u64 {
        let request = request(cycle);
        let sent = Instant::now();
        requests.try_send(request).map_err(|_| Status::internal("the echo is stuck"))?;
        answers.message().await?;
        round_trips.push(sent.elapsed());
    }
    Ok(round_trips)
}

/// Answers each message at once with as many tokens as the real service would.
struct Mirror;

type Answers<T> = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl DraftService for Mirror {
    type DraftSessionStream = Answers<DraftSessionResponse>;

    async fn draft_session(
        &self,
        request: Request<Streaming<DraftSessionRequest>>,
    ) -> Result<Response<Self::DraftSessionStream>, Status> {
        let answers = request.into_inner().map(|request| {
            let Some(draft_session_request::Message::Propose(propose)) = request?.message else {
                return Err(Status::invalid_argument("the echo knows propose only"));
            };
            let gamma = propose.gamma as usize;
            let message = Some(draft_session_response::Message::Proposal(Proposal {
                cycle: propose.cycle,
                base_len: propose.base_len,
                tokens: vec![101; gamma],
                confidences: vec![0.5; gamma],
                cost: Some(cost()),
                ..Proposal::default()
            }));
            Ok(DraftSessionResponse { message })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl TargetService for Mirror {
    type TargetSessionStream = Answers<TargetSessionResponse>;

    async fn target_session(
        &self,
        request: Request<Streaming<TargetSessionRequest>>,
    ) -> Result<Response<Self::TargetSessionStream>, Status> {
        let answers = request.into_inner().map(|request| {
            let Some(target_session_request::Message::Verify(verify)) = request?.message else {
                return Err(Status::invalid_argument("the echo knows verify only"));
            };
            let mut tokens = verify.proposed;
            tokens.push(101);
            let message = Some(target_session_response::Message::Verdict(Verdict {
                cycle: verify.cycle,
                base_len: verify.base_len + tokens.len() as u32,
                accepted: tokens.len() as u32 - 1,
                tokens,
                cost: Some(cost()),
                logprobs: Vec::new(),
            }));
            Ok(TargetSessionResponse { message })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A cost of the usual size on the wire.
fn cost() -> proto::v1::Cost {
    let ns = 300_000;
    proto::v1::Cost {
        queue_ns: ns,
        forward_ns: ns,
        select_ns: ns,
        server_ns: ns,
        rows: 5,
        batch_rows: 5,
        flops: 100_000_000,
        bytes: 30_000_000,
        cached: 0,
        behind_rows: 0,
    }
}
