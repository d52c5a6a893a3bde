//! Who draft and target are, and whether they fit together.

use std::time::Duration;

use proto::v1::{DescribeRequest, DescribeResponse, Role, model_service_client::ModelServiceClient};
use speculative::roofline::Roofs;
use telemetry::server::KEEPALIVE;
use tokio::time;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use crate::{Error, text};

/// How long `Describe` may take, measuring the roofs included.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a service may take to answer, from the coordinator's side.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Beyond it a cycle goes on without a proposal.
    pub draft: Duration,
    /// Beyond it the target is gone.
    pub target: Duration,
}

/// One model service: its connection and what it says of itself.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its address as given.
    pub url: String,
    /// Draft or target, for messages.
    pub side: &'static str,
    /// Connects when needed and reconnects when lost.
    pub channel: Channel,
    /// Its answer to `Describe`.
    pub description: DescribeResponse,
}

impl Service {
    /// Connects to the service at `url` and asks who it is; with `measure_roofs` it measures them first if it is idle.
    ///
    /// # Errors
    /// An address that cannot be used or a service that does not answer.
    pub async fn connect(side: &'static str, url: &str, measure_roofs: bool) -> Result<Self, Error> {
        let channel = channel(side, url)?;
        let description = describe(&channel, measure_roofs).await.map_err(|status| {
            let (url, status) = (url.to_owned(), Box::new(status));
            Error::Unreachable { side, url, status }
        })?;
        Ok(Self { url: url.to_owned(), side, channel, description })
    }

    /// Has the service measure its roofs, which it does when no session is open. `None` where it cannot say.
    pub async fn measure_roofs(&self) -> Option<Roofs> {
        let roofs = describe(&self.channel, true).await.ok()?.roofs?;
        Some(Roofs {
            flops_per_s: roofs.flops_per_s,
            bytes_per_s: roofs.bytes_per_s,
            memory_bytes_per_s: roofs.memory_bytes_per_s,
        })
    }

    fn supported(&self, role: Role) -> Result<(), Error> {
        let DescribeResponse { protocol_version, tokenizer_fingerprint, .. } = &self.description;
        let unsupported = |what, value: String, allowed| {
            Err(Error::Unsupported { side: self.side, url: self.url.clone(), what, value, allowed })
        };
        if *protocol_version != proto::PROTOCOL_VERSION {
            return unsupported("protocol version", protocol_version.to_string(), "1");
        }
        if self.description.role() != role {
            return unsupported("role", self.description.role().as_str_name().to_owned(), role.as_str_name());
        }
        if tokenizer_fingerprint != text::ASCII_FINGERPRINT {
            return unsupported("tokenizer", tokenizer_fingerprint.clone(), text::ASCII_FINGERPRINT);
        }
        if self.description.tokenizer_size != text::ASCII_SIZE {
            return unsupported("tokenizer size", self.description.tokenizer_size.to_string(), "128");
        }
        let prompt = self.description.limits.unwrap_or_default().max_prompt_tokens;
        if prompt >= self.description.context_length {
            return unsupported("max_prompt_tokens", prompt.to_string(), "less than its context_length");
        }
        Ok(())
    }
}

/// A target, and the draft that rides ahead of it unless decoding is plain AR.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Absent for AR.
    pub draft: Option<Service>,
    /// The model whose choices are the output.
    pub target: Service,
}

impl Pair {
    /// Connects to both, and checks that they fit together and that this coordinator knows them.
    ///
    /// # Errors
    /// A service that does not answer, or a pair that does not fit, with both sides named.
    pub async fn connect(draft: Option<&str>, target: &str) -> Result<Self, Error> {
        let draft = async {
            match draft {
                Some(url) => Service::connect("draft", url, false).await.map(Some),
                None => Ok(None),
            }
        };
        let (draft, target) = tokio::join!(draft, Service::connect("target", target, false));
        let (draft, target) = (draft?, target?);
        if let Some(draft) = &draft {
            fits(draft, &target)?;
            draft.supported(Role::Draft)?;
        }
        target.supported(Role::Target)?;
        Ok(Self { draft, target })
    }

    /// The same target without its draft.
    pub fn without_draft(&self) -> Self {
        Self { draft: None, target: self.target.clone() }
    }
}

/// Whether a draft that has come back may propose to `target` again.
pub(crate) async fn fits_again(draft: &Service, target: &DescribeResponse) -> Result<(), Status> {
    let description = describe(&draft.channel, false).await?;
    let same = description.tokenizer_fingerprint == target.tokenizer_fingerprint
        && description.protocol_version == target.protocol_version;
    match same {
        true => Ok(()),
        false => Err(Status::failed_precondition("the draft came back with another tokenizer or protocol")),
    }
}

fn fits(draft: &Service, target: &Service) -> Result<(), Error> {
    let mismatch = |what, of: fn(&DescribeResponse) -> String| {
        let (draft_value, target_value) = (of(&draft.description), of(&target.description));
        match draft_value == target_value {
            true => Ok(()),
            false => Err(Error::Mismatch {
                what,
                draft: draft_value,
                draft_url: draft.url.clone(),
                target: target_value,
                target_url: target.url.clone(),
            }),
        }
    };
    mismatch("protocol version", |description| description.protocol_version.to_string())?;
    mismatch("tokenizer", |description| description.tokenizer_fingerprint.clone())?;
    mismatch("tokenizer size", |description| description.tokenizer_size.to_string())
}

/// A channel that connects when it is first used and again whenever the connection is lost.
pub(crate) fn channel(side: &'static str, url: &str) -> Result<Channel, Error> {
    let bad = |problem: String| Error::Address { side, url: url.to_owned(), problem };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| bad(error.to_string()))?;
    if endpoint.uri().scheme_str() != Some("http") || endpoint.uri().authority().is_none() {
        return Err(bad("it is not an http URL".to_owned()));
    }
    if endpoint.uri().port_u16().is_none_or(|port| port == 0) {
        return Err(bad("it has no port from 1 to 65535".to_owned()));
    }
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .connect_lazy())
}

async fn describe(channel: &Channel, measure_roofs: bool) -> Result<DescribeResponse, Status> {
    let mut client = ModelServiceClient::new(channel.clone());
    let call = client.describe(DescribeRequest { measure_roofs });
    match time::timeout(DESCRIBE_TIMEOUT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", DESCRIBE_TIMEOUT.as_secs()))),
    }
}
