//! A draft and a target that keep the trace context of every message they get, and answer with made-up tokens.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
};

use proto::v1::{
    DescribeRequest, DescribeResponse, DraftSessionRequest, DraftSessionResponse, Limits, Opened, Proposal, Role,
    TargetSessionRequest, TargetSessionResponse, TokenizerRequest, TokenizerResponse, TraceContext, Verdict,
    draft_service_server::{DraftService, DraftServiceServer},
    draft_session_request, draft_session_response,
    model_service_server::{ModelService, ModelServiceServer},
    target_service_server::{TargetService, TargetServiceServer},
    target_session_request, target_session_response,
};
use tokenizer::Tokenizer;
use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

/// What was on the wire: the trace context of each message that has a place for one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wire(Arc<Mutex<Vec<Option<TraceContext>>>>);

impl Wire {
    /// The contexts so far.
    pub(crate) fn contexts(&self) -> Vec<Option<TraceContext>> {
        self.0.lock().expect("no holder of the lock panics").clone()
    }

    fn keep(&self, context: Option<TraceContext>) {
        self.0.lock().expect("no holder of the lock panics").push(context);
    }
}

/// The address of a service of `role` that lives in this runtime.
pub(crate) async fn start(role: Role, wire: &Wire) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("a bound address"));
    let raw = Raw { role, wire: wire.clone() };
    let server = Server::builder()
        .add_service(ModelServiceServer::new(raw.clone()))
        .add_service(DraftServiceServer::new(raw.clone()))
        .add_service(TargetServiceServer::new(raw));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    url
}

#[derive(Clone)]
struct Raw {
    role: Role,
    wire: Wire,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ModelService for Raw {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        let limits = Limits { max_prompt_tokens: 2047, max_output_tokens: 2048, max_gamma: 32, ..Limits::default() };
        Ok(Response::new(DescribeResponse {
            protocol_version: proto::PROTOCOL_VERSION,
            role: self.role.into(),
            tokenizer_fingerprint: Tokenizer::ascii().fingerprint().to_owned(),
            tokenizer_size: 128,
            vocab_size: 128,
            context_length: 2048,
            limits: Some(limits),
            ..DescribeResponse::default()
        }))
    }

    type TokenizerStream = Answers<TokenizerResponse>;

    async fn tokenizer(&self, _: Request<TokenizerRequest>) -> Result<Response<Self::TokenizerStream>, Status> {
        Err(Status::unimplemented("the character tokenizer is known"))
    }
}

#[tonic::async_trait]
impl DraftService for Raw {
    type DraftSessionStream = Answers<DraftSessionResponse>;

    async fn draft_session(
        &self,
        request: Request<Streaming<DraftSessionRequest>>,
    ) -> Result<Response<Self::DraftSessionStream>, Status> {
        let wire = self.wire.clone();
        let answer = move |request: Result<DraftSessionRequest, Status>| {
            let message = match request?.message {
                Some(draft_session_request::Message::Open(open)) => {
                    wire.keep(open.trace);
                    let base_len = open.tokens.len() as u32;
                    draft_session_response::Message::Opened(Opened { base_len, ..Opened::default() })
                }
                Some(draft_session_request::Message::Propose(propose)) => {
                    wire.keep(propose.trace);
                    draft_session_response::Message::Proposal(Proposal {
                        cycle: propose.cycle,
                        base_len: propose.base_len,
                        tokens: vec![97; propose.gamma as usize],
                        ..Proposal::default()
                    })
                }
                None => return Err(Status::invalid_argument("no message")),
            };
            Ok(DraftSessionResponse { message: Some(message) })
        };
        Ok(Response::new(Box::pin(request.into_inner().map(answer))))
    }
}

#[tonic::async_trait]
impl TargetService for Raw {
    type TargetSessionStream = Answers<TargetSessionResponse>;

    async fn target_session(
        &self,
        request: Request<Streaming<TargetSessionRequest>>,
    ) -> Result<Response<Self::TargetSessionStream>, Status> {
        let wire = self.wire.clone();
        let answer = move |request: Result<TargetSessionRequest, Status>| {
            let message = match request?.message {
                Some(target_session_request::Message::Open(open)) => {
                    wire.keep(open.trace);
                    let base_len = open.tokens.len() as u32 + 1;
                    let first_token = Some(98);
                    target_session_response::Message::Opened(Opened { first_token, base_len, ..Opened::default() })
                }
                Some(target_session_request::Message::Verify(verify)) => {
                    wire.keep(verify.trace);
                    let tokens = [verify.proposed, vec![98]].concat();
                    target_session_response::Message::Verdict(Verdict {
                        cycle: verify.cycle,
                        base_len: verify.base_len + tokens.len() as u32,
                        accepted: tokens.len() as u32 - 1,
                        tokens,
                        cost: None,
                        logprobs: Vec::new(),
                    })
                }
                None => return Err(Status::invalid_argument("no message")),
            };
            Ok(TargetSessionResponse { message: Some(message) })
        };
        Ok(Response::new(Box::pin(request.into_inner().map(answer))))
    }
}
