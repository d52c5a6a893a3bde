//! The session's stream: what has come of a `Propose`.

use std::time::Duration;

use proto::v1::{
    Branch, DraftSessionRequest, DraftSessionResponse, Proposal, draft_service_client::DraftServiceClient,
    draft_session_request, draft_session_response,
};
use speculative::TokenId;
use tokio::time;
use tonic::Status;

use super::ahead::Ahead;
use crate::{
    Service,
    link::{Call, Duplex},
    replicas::Placed,
};

/// A session that takes longer to reopen is given up, to be tried again.
const OPENING_LIMIT: Duration = Duration::from_secs(30);

/// Messages beside branches that may be there between two cycles.
const SPARE_MESSAGES: usize = 8;

type Messages = Duplex<DraftSessionRequest, DraftSessionResponse>;

/// A stream of the session. Where it is lost, another one takes its place.
pub(super) struct Stream {
    pub(super) duplex: Messages,
    /// Committed tokens that the draft knows.
    pub(super) known_len: usize,
    pub(super) placed: Placed,
    /// What it drafted ahead.
    pub(super) ahead: Ahead,
}

/// What settles a `Propose`.
pub(super) enum Come {
    Proposal(Proposal),
    /// Drafted ahead for the verdict that it told of.
    Branch(Branch),
}

/// The unanswered `Propose`.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) cycle: u64,
    pub(super) base_len: usize,
    pub(super) gamma: usize,
    /// Tokens that a branch may have.
    pub(super) most: usize,
    /// The tokens that it told were committed.
    pub(super) tokens: Vec<TokenId>,
}

impl Stream {
    /// Opens a session on one of the draft's replicas.
    pub(super) async fn open(service: Service, call: Call) -> Result<Self, Status> {
        let placed = service.replicas.place(&[]).await?;
        let opened = time::timeout(OPENING_LIMIT, open_on(&service, &placed, call)).await;
        match opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("the draft does not open the session"))) {
            Ok((duplex, known_len)) => Ok(Self { duplex, known_len, placed, ahead: Ahead::default() }),
            Err(status) => {
                placed.failed();
                Err(status)
            }
        }
    }

    /// The branch that was drafted for the verdict that committed `tokens`, if it is here already. Up to `most` are kept.
    pub(super) async fn foreseen(&mut self, tokens: &[TokenId], most: usize) -> Result<Option<Branch>, Status> {
        self.ahead.allow(most);
        // What a draft may send ahead and a little more; one that sends without end does not hold the cycle.
        for _ in 0..most + SPARE_MESSAGES {
            match self.duplex.arrived().await.transpose()? {
                Some(answer) => {
                    if let Some(draft_session_response::Message::Branch(branch)) = answer.message {
                        self.ahead.take(branch);
                    }
                }
                None => break,
            }
        }
        Ok(self.ahead.settle(tokens))
    }

    /// The answer to `asked`; `None` where the draft refused it. Answers to earlier cycles are dropped.
    pub(super) async fn answer(&mut self, asked: &Asked) -> Result<Option<Come>, Status> {
        loop {
            let answer = self.duplex.next().await?;
            if let Some(come) = self.take(answer, asked)? {
                return Ok(come);
            }
        }
    }

    /// A branch is the proposal of a cycle.
    pub(super) fn adopted(&mut self, asked: &Asked, branch: &Branch) {
        self.known_len = asked.base_len;
        self.ahead.adopt(branch);
    }

    /// Whether the late answer to `asked` has come; it is worth nothing any more, but the draft is free again.
    pub(super) async fn late(&mut self, asked: &Asked) -> Result<bool, Status> {
        while let Some(answer) = self.duplex.arrived().await {
            match self.take(answer?, asked)? {
                Some(Some(Come::Branch(branch))) => {
                    self.adopted(asked, &branch);
                    return Ok(true);
                }
                Some(_) => return Ok(true),
                None => {}
            }
        }
        Ok(false)
    }

    /// `Some` where `answer` settles `asked`: with what is proposed, or with none where it was refused.
    fn take(&mut self, answer: DraftSessionResponse, asked: &Asked) -> Result<Option<Option<Come>>, Status> {
        match answer.message {
            Some(draft_session_response::Message::Branch(branch)) => {
                self.ahead.take(branch);
                Ok(self.ahead.settle(&asked.tokens).map(|branch| Some(Come::Branch(branch))))
            }
            Some(draft_session_response::Message::Proposal(proposal)) if proposal.cycle == asked.cycle => {
                self.known_len = asked.base_len;
                self.ahead.plant(&proposal);
                Ok(Some(Some(Come::Proposal(proposal))))
            }
            Some(draft_session_response::Message::Rejected(rejected)) if rejected.cycle == asked.cycle => {
                tracing::warn!(cycle = asked.cycle, detail = rejected.detail, "the draft refused to propose");
                match rejected.base_len as usize == self.known_len {
                    true => Ok(Some(None)),
                    // It has lost the thread: a new stream gives it all committed tokens again.
                    false => Err(Status::aborted("the draft's committed prefix is not the coordinator's")),
                }
            }
            _ => Ok(None),
        }
    }
}

async fn open_on(service: &Service, placed: &Placed, call: Call) -> Result<(Messages, usize), Status> {
    let Call { open, deadline } = call;
    let known_len = open.tokens.len();
    let mut client = DraftServiceClient::new(placed.channel());
    let message = Some(draft_session_request::Message::Open(open));
    let call = async |requests| client.draft_session(Call::request(deadline, requests)).await;
    let mut duplex = Duplex::open(DraftSessionRequest { message }, call).await?;
    match duplex.next().await?.message {
        Some(draft_session_response::Message::Opened(opened)) => {
            service.replicas.confirm(placed, &opened.incarnation_id).await?;
            Ok((duplex, known_len))
        }
        _ => Err(Status::internal("open was not answered by opened")),
    }
}
