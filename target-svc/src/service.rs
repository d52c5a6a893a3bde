//! `TargetService`: decode → session → encode.

use std::future;

use model::{Answer, AnswerError, Open, OpenError, TargetSession, Verify, Worker};
use proto::v1::{
    self, TargetSessionRequest, TargetSessionResponse, target_service_server::TargetService, target_session_request,
    target_session_response,
};
use service::{Host, Role, session, wire};
use telemetry::names::{span, spec};
use tonic::{Request, Response, Status, Streaming};

/// Verifies with the model of `host`.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) host: Host,
}

#[tonic::async_trait]
impl TargetService for Target {
    type TargetSessionStream = session::Answers<TargetSessionResponse>;

    async fn target_session(
        &self,
        request: Request<Streaming<TargetSessionRequest>>,
    ) -> Result<Response<Self::TargetSessionStream>, Status> {
        session::start::<Verifying>(&self.host, request)
    }
}

struct Verifying(TargetSession);

impl Role for Verifying {
    type Request = TargetSessionRequest;
    type Response = TargetSessionResponse;
    const METHOD: &'static str = "outrider.v1.TargetService/TargetSession";

    fn as_open(request: TargetSessionRequest) -> Option<v1::Open> {
        match request.message {
            Some(target_session_request::Message::Open(open)) => Some(open),
            _ => None,
        }
    }

    async fn open(worker: &Worker, open: Open) -> Result<(Self, Answer), OpenError> {
        let (session, answer) = TargetSession::open(worker, open).await?;
        Ok((Self(session), answer))
    }

    fn opened(opened: v1::Opened) -> TargetSessionResponse {
        respond(target_session_response::Message::Opened(opened))
    }

    fn base_len(&self) -> usize {
        self.0.base_len()
    }

    async fn ahead(&mut self) -> Result<session::Unasked<TargetSessionResponse>, Status> {
        future::pending().await
    }

    async fn answer(
        &mut self,
        request: TargetSessionRequest,
        desk: &mut session::Desk,
    ) -> Result<Option<TargetSessionResponse>, Status> {
        let v1::Verify { cycle, base_len, proposed, trace, distributions } = match request.message {
            Some(target_session_request::Message::Verify(verify)) => verify,
            Some(target_session_request::Message::Open(_)) => return Err(session::opened_twice()),
            None => return Ok(None),
        };
        let Some(exchange) = desk.begin(span::VERIFY, cycle, trace) else {
            return Ok(None);
        };
        let drafted = distributions.into_iter().map(wire::drafted).collect();
        let message = Verify { base_len: base_len as usize, proposed, drafted };
        let message = match self.0.verify(message).await {
            Ok(Answer { tokens, logprobs, cost, .. }) => {
                let (base_len, accepted) = (self.base_len() as u32, tokens.len() as u32 - 1);
                exchange.tell(spec::ACCEPTED, i64::from(accepted));
                let cost = Some(exchange.cost(cost));
                let logprobs = logprobs.into_iter().map(wire::logprobs).collect();
                let verdict = v1::Verdict { cycle, base_len, accepted, tokens, cost, logprobs };
                target_session_response::Message::Verdict(verdict)
            }
            Err(AnswerError::Refused(refusal)) => target_session_response::Message::Rejected(exchange.refuse(refusal)),
            Err(AnswerError::Failed(error)) => {
                exchange.fail(&error);
                return Err(wire::failure_status(&error));
            }
        };
        Ok(Some(respond(message)))
    }
}

fn respond(message: target_session_response::Message) -> TargetSessionResponse {
    TargetSessionResponse { message: Some(message) }
}
