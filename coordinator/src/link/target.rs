//! The session with the target. Its loss ends the request.

use std::time::{Duration, Instant};

use proto::v1::{
    self, TargetSessionRequest, TargetSessionResponse, Verdict, Verify, target_service_client::TargetServiceClient,
    target_session_request, target_session_response,
};
use speculative::TokenId;
use telemetry::Span;
use tokio::time;
use tonic::Status;

use super::{Duplex, leg, trace_context};
use crate::{Error, Leg, Service};

/// One session with the target.
pub(crate) struct TargetLink {
    duplex: Duplex<TargetSessionRequest, TargetSessionResponse>,
    deadline: Duration,
    tokenizer_size: u32,
}

impl TargetLink {
    /// Opens the session; gives the first token.
    pub(crate) async fn open(service: &Service, open: v1::Open, deadline: Duration) -> Result<(Self, TokenId), Error> {
        let committed = open.tokens.len();
        let lost = |status| Error::Target { committed, status: Box::new(status) };
        let mut client = TargetServiceClient::new(service.channel.clone());
        let opening = async {
            let message = Some(target_session_request::Message::Open(open));
            let call = async |requests| client.target_session(requests).await;
            let mut duplex = Duplex::open(TargetSessionRequest { message }, call).await.map_err(lost)?;
            let answer = duplex.next().await.map_err(lost)?;
            Ok::<_, Error>((duplex, answer))
        };
        let Ok(opened) = time::timeout(deadline, opening).await else {
            return Err(Error::TargetDeadline { committed, deadline_s: deadline.as_secs_f64() });
        };
        let (duplex, answer) = opened?;
        let tokenizer_size = service.description.tokenizer_size;
        match answer.message {
            Some(target_session_response::Message::Opened(v1::Opened { first_token: Some(token), .. }))
                if token < tokenizer_size =>
            {
                Ok((Self { duplex, deadline, tokenizer_size }, token))
            }
            _ => Err(Error::Protocol { committed, what: "open was not answered by a first token".to_owned() }),
        }
    }

    /// Has the target verify `proposed` after `base_len` committed tokens.
    pub(crate) async fn verify(
        &mut self,
        cycle: u64,
        base_len: usize,
        proposed: &[TokenId],
        span: &Span,
    ) -> Result<(speculative::Verdict, Leg), Error> {
        let lost = |status| Error::Target { committed: base_len, status: Box::new(status) };
        let sent = Instant::now();
        let trace = trace_context(span);
        let verify = Verify { cycle, base_len: base_len as u32, proposed: proposed.to_vec(), trace };
        let message = Some(target_session_request::Message::Verify(verify));
        self.duplex.send(TargetSessionRequest { message }).map_err(lost)?;
        let Ok(verdict) = time::timeout(self.deadline, self.answer(cycle)).await else {
            return Err(Error::TargetDeadline { committed: base_len, deadline_s: self.deadline.as_secs_f64() });
        };
        let verdict = match verdict.map_err(lost)? {
            Ok(verdict) => verdict,
            Err(detail) => return Err(Error::Refused { committed: base_len, detail }),
        };
        let leg = leg(sent, verdict.cost.as_ref().unwrap_or(&v1::Cost::default()));
        match self.check(base_len, proposed, verdict) {
            Ok(verdict) => Ok((verdict, leg)),
            Err(what) => Err(Error::Protocol { committed: base_len, what }),
        }
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
    fn check(&self, base_len: usize, proposed: &[TokenId], verdict: Verdict) -> Result<speculative::Verdict, String> {
        let (accepted, tokens) = (verdict.accepted as usize, verdict.tokens);
        let consistent = accepted <= proposed.len()
            && tokens.len() == accepted + 1
            && tokens[..accepted] == proposed[..accepted]
            && verdict.base_len as usize == base_len + tokens.len()
            && tokens.iter().all(|&token| token < self.tokenizer_size);
        match consistent {
            true => Ok(speculative::Verdict { accepted, tokens }),
            false => Err(format!(
                "its verdict accepts {accepted} of {} and commits {} tokens to {} (from {base_len})",
                proposed.len(),
                tokens.len(),
                verdict.base_len
            )),
        }
    }
}
