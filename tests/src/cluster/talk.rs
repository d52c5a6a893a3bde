//! Sessions without a coordinator: any message, in any order.

use proto::v1::{
    DraftDistribution, Open, Opened, Proposal, Propose, Rejected, RejectionReason, Sampling, Verdict, Verify,
    draft_service_client::DraftServiceClient, draft_session_request, draft_session_response,
    target_service_client::TargetServiceClient, target_session_request, target_session_response,
};
use proto::v1::{DraftSessionRequest, DraftSessionResponse, TargetSessionRequest, TargetSessionResponse};
use speculative::TokenId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use super::{LONG, Node, within};

/// Both directions of a session's stream.
#[derive(Debug)]
pub struct Talk<Q, A> {
    /// Messages to the service; dropping it ends the requests.
    pub requests: mpsc::Sender<Q>,
    answers: Streaming<A>,
}

/// A session with a draft.
pub type DraftTalk = Talk<DraftSessionRequest, DraftSessionResponse>;

/// A session with a target.
pub type TargetTalk = Talk<TargetSessionRequest, TargetSessionResponse>;

impl<Q, A> Talk<Q, A> {
    /// Sends a message.
    pub async fn send(&self, request: Q) {
        // A stream that has ended takes no more; the answer then says so.
        let _ = self.requests.send(request).await;
    }

    /// The next answer; `None` at the stream's end.
    ///
    /// # Errors
    /// The status that the stream ended with.
    pub async fn next(&mut self) -> Result<Option<A>, Status> {
        within(LONG, self.answers.message()).await
    }

    /// The status that ends the stream, which has no further answer.
    pub async fn status(&mut self) -> Status {
        match self.next().await {
            Err(status) => status,
            Ok(Some(_)) => panic!("an answer, not the end"),
            Ok(None) => panic!("an end without a status"),
        }
    }
}

/// The kind of an answer that stands for a refusal.
pub trait Refusable: Sized {
    /// The refusal in it.
    fn rejected(self) -> Option<Rejected>;
}

impl Refusable for DraftSessionResponse {
    fn rejected(self) -> Option<Rejected> {
        match self.message {
            Some(draft_session_response::Message::Rejected(rejected)) => Some(rejected),
            _ => None,
        }
    }
}

impl Refusable for TargetSessionResponse {
    fn rejected(self) -> Option<Rejected> {
        match self.message {
            Some(target_session_response::Message::Rejected(rejected)) => Some(rejected),
            _ => None,
        }
    }
}

impl<Q, A: Refusable> Talk<Q, A> {
    /// The next answer, which is to be a refusal with this reason, cycle and length and all of `words` in its detail.
    pub async fn refused(&mut self, reason: RejectionReason, cycle: u64, base_len: usize, words: &[&str]) {
        let answer = self.next().await.expect("a session that goes on").expect("an answer");
        let rejected = answer.rejected().expect("a refusal");
        let detail = &rejected.detail;
        assert_eq!(rejected.reason(), reason, "{detail}");
        assert_eq!((rejected.cycle, rejected.base_len as usize), (cycle, base_len), "{detail}");
        for word in words {
            assert!(detail.contains(word), "{word} in {detail:?}");
        }
    }
}

impl DraftTalk {
    /// A stream with no message in it yet; comes back once the service has sent headers.
    pub async fn connect(channel: &Channel) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let mut client = DraftServiceClient::new(channel.clone());
        let call = client.draft_session(ReceiverStream::new(outgoing));
        let answers = within(LONG, call).await.expect("headers").into_inner();
        Self { requests, answers }
    }

    /// A stream whose first message is `open`.
    pub async fn open(channel: &Channel, open: Open) -> Self {
        let talk = Self::connect(channel).await;
        let message = Some(draft_session_request::Message::Open(open));
        talk.send(DraftSessionRequest { message }).await;
        talk
    }

    /// The next answer, which is to be `Opened`.
    pub async fn opened(&mut self) -> Opened {
        match self.next().await.expect("a session that opens").and_then(|answer| answer.message) {
            Some(draft_session_response::Message::Opened(opened)) => opened,
            other => panic!("opened, not {other:?}"),
        }
    }

    /// Asks for a proposal.
    pub async fn propose(&self, cycle: u64, base_len: usize, tokens: &[TokenId], gamma: usize) {
        let propose = Propose {
            cycle,
            base_len: base_len as u32,
            tokens: tokens.to_vec(),
            gamma: gamma as u32,
            ..Propose::default()
        };
        let message = Some(draft_session_request::Message::Propose(propose));
        self.send(DraftSessionRequest { message }).await;
    }

    /// The next answer, which is to be a proposal.
    pub async fn proposal(&mut self) -> Proposal {
        match self.next().await.expect("a session that goes on").and_then(|answer| answer.message) {
            Some(draft_session_response::Message::Proposal(proposal)) => proposal,
            other => panic!("a proposal, not {other:?}"),
        }
    }
}

impl TargetTalk {
    /// A stream with no message in it yet; comes back once the service has sent headers.
    pub async fn connect(channel: &Channel) -> Self {
        let (requests, outgoing) = mpsc::channel(16);
        let mut client = TargetServiceClient::new(channel.clone());
        let call = client.target_session(ReceiverStream::new(outgoing));
        let answers = within(LONG, call).await.expect("headers").into_inner();
        Self { requests, answers }
    }

    /// A stream whose first message is `open`.
    pub async fn open(channel: &Channel, open: Open) -> Self {
        let talk = Self::connect(channel).await;
        let message = Some(target_session_request::Message::Open(open));
        talk.send(TargetSessionRequest { message }).await;
        talk
    }

    /// The next answer, which is to be `Opened`.
    pub async fn opened(&mut self) -> Opened {
        match self.next().await.expect("a session that opens").and_then(|answer| answer.message) {
            Some(target_session_response::Message::Opened(opened)) => opened,
            other => panic!("opened, not {other:?}"),
        }
    }

    /// Asks for a verdict.
    pub async fn verify(&self, cycle: u64, base_len: usize, proposed: &[TokenId]) {
        self.verify_drafted(cycle, base_len, proposed, Vec::new()).await;
    }

    /// Asks for a verdict on tokens that are told to be samples.
    pub async fn verify_drafted(
        &self,
        cycle: u64,
        base_len: usize,
        proposed: &[TokenId],
        distributions: Vec<DraftDistribution>,
    ) {
        let (base_len, proposed) = (base_len as u32, proposed.to_vec());
        let verify = Verify { cycle, base_len, proposed, distributions, ..Verify::default() };
        let message = Some(target_session_request::Message::Verify(verify));
        self.send(TargetSessionRequest { message }).await;
    }

    /// The next answer, which is to be a verdict.
    pub async fn verdict(&mut self) -> Verdict {
        match self.next().await.expect("a session that goes on").and_then(|answer| answer.message) {
            Some(target_session_response::Message::Verdict(verdict)) => verdict,
            other => panic!("a verdict, not {other:?}"),
        }
    }
}

/// A connection to `node`, made when it is first used.
pub fn channel(node: &Node) -> Channel {
    Endpoint::from_shared(node.url()).expect("a URL").connect_lazy()
}

/// What opens a session for `tokens`, all of them prompt.
pub fn open(tokens: &[TokenId], sampling: speculative::Sampling, max_tokens: usize) -> Open {
    Open {
        tokens: tokens.to_vec(),
        prompt_len: tokens.len() as u32,
        sampling: Some(Sampling {
            temperature: sampling.temperature,
            top_k: sampling.top_k,
            top_p: Some(sampling.top_p),
            min_p: sampling.min_p,
            seed: sampling.seed,
            ..Sampling::default()
        }),
        max_tokens: max_tokens as u32,
        ..Open::default()
    }
}
