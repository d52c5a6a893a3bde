//! `DraftService`: decode → session → encode.

use model::{Answer, AnswerError, Branch, DraftSession, Open, OpenError, Propose, Proposed, Worker};
use proto::v1::{
    self, DraftSessionRequest, DraftSessionResponse, draft_service_server::DraftService, draft_session_request,
    draft_session_response,
};
use service::{Host, Role, session, wire};
use telemetry::names::span;
use tonic::{Request, Response, Status, Streaming};

/// Proposes with the model of `host`.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) host: Host,
}

#[tonic::async_trait]
impl DraftService for Draft {
    type DraftSessionStream = session::Answers<DraftSessionResponse>;

    async fn draft_session(
        &self,
        request: Request<Streaming<DraftSessionRequest>>,
    ) -> Result<Response<Self::DraftSessionStream>, Status> {
        session::start::<Drafting>(&self.host, request)
    }
}

struct Drafting(DraftSession);

impl Role for Drafting {
    type Request = DraftSessionRequest;
    type Response = DraftSessionResponse;
    const METHOD: &'static str = "outrider.v1.DraftService/DraftSession";

    fn as_open(request: DraftSessionRequest) -> Option<v1::Open> {
        match request.message {
            Some(draft_session_request::Message::Open(open)) => Some(open),
            _ => None,
        }
    }

    async fn open(worker: &Worker, open: Open) -> Result<(Self, Answer), OpenError> {
        let (session, answer) = DraftSession::open(worker, open).await?;
        Ok((Self(session), answer))
    }

    fn opened(opened: v1::Opened) -> DraftSessionResponse {
        respond(draft_session_response::Message::Opened(opened))
    }

    fn base_len(&self) -> usize {
        self.0.base_len()
    }

    async fn ahead(&mut self) -> Result<session::Unasked<DraftSessionResponse>, Status> {
        let branch = self.0.ahead().await.map_err(|error| wire::failure_status(&error))?;
        let Branch { id, parent, accepted, final_token, tokens, confidences, cost } = branch;
        let (told, accepted) = (Some(wire::branch_cost(&cost)), accepted as u32);
        let branch = v1::Branch { id, parent, accepted, final_token, tokens, confidences, cost: told };
        let response = respond(draft_session_response::Message::Branch(branch));
        Ok(session::Unasked { response, id, cost, is_followed: self.0.has_branches() })
    }

    async fn answer(
        &mut self,
        request: DraftSessionRequest,
        desk: &mut session::Desk,
    ) -> Result<Option<DraftSessionResponse>, Status> {
        let v1::Propose { cycle, base_len, tokens, gamma, trace, branches, verifying, min_confidence } =
            match request.message {
                Some(draft_session_request::Message::Propose(propose)) => propose,
                Some(draft_session_request::Message::Open(_)) => return Err(session::opened_twice()),
                None => return Ok(None),
            };
        let Some(exchange) = desk.begin(span::PROPOSE, cycle, trace) else {
            return Ok(None);
        };
        let message = Propose {
            base_len: base_len as usize,
            tokens,
            gamma: gamma as usize,
            verifying: verifying.map(|verifying| verifying.tokens),
            branches: branches as usize,
            min_confidence,
        };
        let message = match self.0.propose(message).await {
            Ok(Proposed::Answer(answer, id)) => {
                let Answer { tokens, confidences, drafted, cost, .. } = *answer;
                let cost = Some(exchange.cost(cost));
                let distributions = drafted.into_iter().map(wire::distribution).collect();
                let proposal = v1::Proposal { cycle, base_len, tokens, confidences, cost, id, distributions };
                draft_session_response::Message::Proposal(proposal)
            }
            Ok(Proposed::Adopted(branch)) => {
                exchange.adopt(branch);
                return Ok(None);
            }
            Err(AnswerError::Refused(refusal)) => draft_session_response::Message::Rejected(exchange.refuse(refusal)),
            Err(AnswerError::Failed(error)) => {
                exchange.fail(&error);
                return Err(wire::failure_status(&error));
            }
        };
        Ok(Some(respond(message)))
    }
}

fn respond(message: draft_session_response::Message) -> DraftSessionResponse {
    DraftSessionResponse { message: Some(message) }
}
