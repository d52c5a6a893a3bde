//! The session with one replica of the target.

use std::time::{Duration, Instant};

use prost::Message as _;
use proto::v1::{
    self, TargetSessionRequest, TargetSessionResponse, TokenLogprobs, Verdict, Verify,
    target_service_client::TargetServiceClient, target_session_request, target_session_response,
};
use speculative::{Logprobs, TokenId};
use telemetry::Span;
use tokio::time;
use tonic::Status;

use super::{Call, Duplex, Proposed, leg, trace_context};
use crate::{Error, Leg, Service, replicas::Placed};

/// One session with the target.
pub(crate) struct TargetLink {
    duplex: Messages,
    vocabulary: Vocabulary,
    placed: Placed,
}

/// What opening a session brings.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    /// The token after those that it opened with.
    pub(crate) first: TokenId,
    /// Of that token, where they are asked for.
    pub(crate) logprobs: Vec<Logprobs>,
    /// How many of those were in the replica's cache already.
    pub(crate) cached: usize,
    /// Whether its arithmetic is that of the first target.
    pub(crate) exact: bool,
}

/// A verdict with all that came with it.
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) verdict: speculative::Verdict,
    /// Of each of its tokens, where they are asked for.
    pub(crate) logprobs: Vec<Logprobs>,
    pub(crate) leg: Leg,
}

/// What a target may say.
#[derive(Clone, Copy, Debug)]
struct Vocabulary {
    tokenizer_size: u32,
    /// Likeliest tokens whose log-probabilities are asked for with each of its own.
    top_logprobs: Option<u32>,
}

type Messages = Duplex<TargetSessionRequest, TargetSessionResponse>;

impl TargetLink {
    /// Opens the session on a replica that is not among those to avoid; gives what that brought. A replica that fails to is
    /// added to them.
    pub(crate) async fn open(
        service: &Service,
        call: Call,
        deadline: Duration,
        avoided: &mut Vec<String>,
    ) -> Result<(Self, Opening), Error> {
        let committed = call.open.tokens.len();
        let placed = service.replicas.place(avoided).await;
        let placed = placed.map_err(|status| Error::Target { committed, status: Box::new(status) })?;
        let (tokenizer_size, top_logprobs) = (service.description.tokenizer_size, call.open.top_logprobs);
        let vocabulary = Vocabulary { tokenizer_size, top_logprobs };
        let opened = match time::timeout(deadline, Self::open_on(service, &placed, call, vocabulary)).await {
            Ok(opened) => opened,
            Err(_) => Err(Error::TargetDeadline { committed, deadline_s: deadline.as_secs_f64() }),
        };
        match opened {
            Ok((duplex, opening)) => Ok((Self { duplex, vocabulary, placed }, opening)),
            Err(error) => {
                placed.failed();
                avoided.push(placed.url().to_owned());
                Err(error)
            }
        }
    }

    async fn open_on(
        service: &Service,
        placed: &Placed,
        Call { open, deadline }: Call,
        vocabulary: Vocabulary,
    ) -> Result<(Messages, Opening), Error> {
        let committed = open.tokens.len();
        let lost = |status| Error::Target { committed, status: Box::new(status) };
        let mut client = TargetServiceClient::new(placed.channel());
        let message = Some(target_session_request::Message::Open(open));
        let call = async |requests| client.target_session(Call::request(deadline, requests)).await;
        let mut duplex = Duplex::open(TargetSessionRequest { message }, call).await.map_err(lost)?;
        match duplex.next().await.map_err(lost)?.message {
            Some(target_session_response::Message::Opened(opened)) => match opened.first_token {
                Some(first) if first < vocabulary.tokenizer_size => {
                    let exact = service.replicas.confirm(placed, &opened.incarnation_id).await.map_err(lost)?;
                    let cached = opened.cost.unwrap_or_default().cached as usize;
                    let logprobs = vocabulary.logprobs(1, opened.first_logprobs.into_iter().collect());
                    let logprobs = logprobs.map_err(|what| Error::Protocol { committed, what })?;
                    Ok((duplex, Opening { first, logprobs, cached, exact }))
                }
                _ => Err(Error::Protocol { committed, what: "open was not answered by a first token".to_owned() }),
            },
            _ => Err(Error::Protocol { committed, what: "open was not answered by opened".to_owned() }),
        }
    }

    /// Has the replica described again before it gets another session; gives its address.
    pub(crate) fn abandon(self) -> String {
        self.placed.failed();
        self.placed.url().to_owned()
    }

    /// Has the target verify what is proposed after `base_len` committed tokens.
    pub(crate) async fn verify(
        &mut self,
        cycle: u64,
        base_len: usize,
        Proposed { tokens: proposed, distributions, .. }: &Proposed,
        deadline: Duration,
        span: &Span,
    ) -> Result<Verified, Error> {
        let lost = |status| Error::Target { committed: base_len, status: Box::new(status) };
        let sent = Instant::now();
        let trace = trace_context(span);
        let (proposed_tokens, distributions) = (proposed.clone(), distributions.clone());
        let verify = Verify { cycle, base_len: base_len as u32, proposed: proposed_tokens, trace, distributions };
        let asked_bytes = verify.encoded_len();
        let message = Some(target_session_request::Message::Verify(verify));
        self.duplex.send(TargetSessionRequest { message }).map_err(lost)?;
        let Ok(verdict) = time::timeout(deadline, self.answer(cycle)).await else {
            return Err(Error::TargetDeadline { committed: base_len, deadline_s: deadline.as_secs_f64() });
        };
        let verdict = match verdict.map_err(lost)? {
            Ok(verdict) => verdict,
            Err(detail) => return Err(Error::Refused { committed: base_len, detail }),
        };
        let wire_bytes = asked_bytes + verdict.encoded_len();
        let leg = leg(sent, verdict.cost.as_ref().unwrap_or(&v1::Cost::default()), wire_bytes);
        self.check(base_len, proposed, verdict, leg).map_err(|what| Error::Protocol { committed: base_len, what })
    }

    /// The answer to `cycle`; earlier ones are stale and dropped.
    async fn answer(&mut self, cycle: u64) -> Result<Result<Verdict, String>, Status> {
        loop {
            match self.duplex.next().await?.message {
                Some(target_session_response::Message::Verdict(verdict)) if verdict.cycle == cycle => {
                    return Ok(Ok(verdict));
                }
                Some(target_session_response::Message::Rejected(rejected)) if rejected.cycle == cycle => {
                    return Ok(Err(rejected.detail));
                }
                _ => {}
            }
        }
    }

    /// A verdict accepts a prefix of the proposal, adds one token, and counts what it committed.
    fn check(&self, base_len: usize, proposed: &[TokenId], verdict: Verdict, leg: Leg) -> Result<Verified, String> {
        let (accepted, tokens) = (verdict.accepted as usize, verdict.tokens);
        let consistent = accepted <= proposed.len()
            && tokens.len() == accepted + 1
            && tokens[..accepted] == proposed[..accepted]
            && verdict.base_len as usize == base_len + tokens.len()
            && tokens.iter().all(|&token| token < self.vocabulary.tokenizer_size);
        match consistent {
            true => {
                let logprobs = self.vocabulary.logprobs(tokens.len(), verdict.logprobs)?;
                Ok(Verified { verdict: speculative::Verdict { accepted, tokens }, logprobs, leg })
            }
            false => Err(format!(
                "its verdict accepts {accepted} of {} and commits {} tokens to {} (from {base_len})",
                proposed.len(),
                tokens.len(),
                verdict.base_len
            )),
        }
    }
}

impl Vocabulary {
    /// The log-probabilities that came with `tokens` tokens: one each where they are asked for.
    fn logprobs(self, tokens: usize, told: Vec<TokenLogprobs>) -> Result<Vec<Logprobs>, String> {
        let Some(top) = self.top_logprobs else { return Ok(Vec::new()) };
        let consistent = |told: &TokenLogprobs| {
            told.top_tokens.len() == told.top_logprobs.len()
                && told.top_tokens.len() <= top as usize
                && told.top_tokens.iter().all(|&token| token < self.tokenizer_size)
        };
        if told.len() != tokens || !told.iter().all(consistent) {
            return Err(format!("it tells {} log-probabilities of {tokens} tokens, or tells them wrongly", told.len()));
        }
        let of_token = |told: TokenLogprobs| Logprobs {
            chosen: told.logprob,
            top: told.top_tokens.into_iter().zip(told.top_logprobs).collect(),
        };
        Ok(told.into_iter().map(of_token).collect())
    }
}
