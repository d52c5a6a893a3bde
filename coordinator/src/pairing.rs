//! Who draft and target are, and whether they fit together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::v1::{
    self, DescribeRequest, DescribeResponse, Role, TokenizerRequest, model_service_client::ModelServiceClient,
};
use speculative::{
    Coupling,
    policy::{Observed, Outlook},
    roofline::Roofs,
};
use telemetry::Distance;
use tokenizer::Tokenizer;
use tokio::{task, time};
use tonic::{Status, transport::Channel};

pub use crate::replicas::Access;
use crate::{
    Error,
    cycle::Request,
    error,
    replicas::{Presence, Replicas},
};

/// How long `Describe` may take, measuring the roofs included.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long handing out the tokenizer may take.
const TOKENIZER_TIMEOUT: Duration = Duration::from_secs(60);

/// The largest tokenizer document.
const MOST_TOKENIZER_BYTES: usize = 64 << 20;

/// How long a service may take to answer, from the coordinator's side.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Beyond it a cycle goes on without a proposal.
    pub draft: Duration,
    /// Whether it is shortened to what a proposal is worth, the time that its accepted tokens save; off where the cost of
    /// drafting is what is measured.
    pub draft_adapts: bool,
    /// Beyond it the target is gone.
    pub target: Duration,
}

/// One side's model service: what it says of itself, and the places where it is served.
#[derive(Clone, Debug)]
pub struct Service {
    /// Its address; of several replicas, that of the first that answered.
    pub url: String,
    /// Draft or target, for messages.
    pub side: &'static str,
    /// Connects when needed and reconnects when lost.
    pub channel: Channel,
    /// Its answer to `Describe`.
    pub description: DescribeResponse,
    /// How much farther away than it is it was made.
    pub distance: Distance,
    /// All places where it is served.
    pub(crate) replicas: Replicas,
}

impl Service {
    /// Connects to the service at `urls`, one or several with commas between them, and asks who it is; with
    /// `measure_roofs` it measures them first if it is idle.
    ///
    /// # Errors
    /// An address that cannot be used, or no service that answers.
    pub async fn connect(side: &'static str, urls: &str, access: &Access, measure_roofs: bool) -> Result<Self, Error> {
        Self::first(side, Replicas::new(side, urls, access)?, measure_roofs).await
    }

    async fn first(side: &'static str, replicas: Replicas, measure_roofs: bool) -> Result<Self, Error> {
        let (url, channel, description) = replicas.first(measure_roofs).await?;
        Ok(Self { url, side, channel, description, distance: replicas.distance(), replicas })
    }

    /// Has the service measure its roofs, which it does when no session is open. `None` where it cannot say.
    pub async fn measure_roofs(&self) -> Option<Roofs> {
        roofs(&describe(&self.channel, true).await.ok()?)
    }

    /// Asks it again who it is and what it does, over the connection that there is; with `measure_roofs` it measures them first
    /// if it is idle.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn describe_again(&mut self, measure_roofs: bool) -> Result<(), Error> {
        let described = describe(&self.channel, measure_roofs).await;
        let failed = |status| Error::Unreachable { side: self.side, url: self.url.clone(), status: Box::new(status) };
        self.description = described.map_err(failed)?;
        Ok(())
    }

    /// The roofs that it had measured when it was asked who it is.
    pub fn roofs(&self) -> Option<Roofs> {
        roofs(&self.description)
    }

    /// Who answers at its addresses now, within `limit`.
    pub(crate) async fn presence(&self, limit: Duration) -> Presence {
        self.replicas.presence(limit).await
    }

    fn supported(&self, role: Role) -> Result<(), Error> {
        let DescribeResponse { protocol_version, .. } = &self.description;
        let unsupported = |what, value: String, allowed| {
            Err(Error::Unsupported { side: self.side, url: self.url.clone(), what, value, allowed })
        };
        if *protocol_version != proto::PROTOCOL_VERSION {
            return unsupported("protocol version", protocol_version.to_string(), "1");
        }
        if self.description.role() != role {
            return unsupported("role", self.description.role().as_str_name().to_owned(), role.as_str_name());
        }
        let prompt = self.description.limits.unwrap_or_default().max_prompt_tokens;
        if prompt >= self.description.context_length {
            return unsupported("max_prompt_tokens", prompt.to_string(), "less than its context_length");
        }
        Ok(())
    }

    /// Whether it may be asked for rejection coupling.
    pub(crate) fn couples_by_rejection(&self) -> Result<(), Error> {
        match self.description.couplings().any(|coupling| coupling == v1::Coupling::Rejection) {
            true => Ok(()),
            false => Err(Error::Unsupported {
                side: self.side,
                url: self.url.clone(),
                what: "couplings",
                value: "gumbel".to_owned(),
                allowed: "those with rejection",
            }),
        }
    }

    /// The tokenizer that the service describes. The character tokenizer is known; any other is handed out by the service.
    async fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let unusable = |problem: String| Error::Tokenizer { side: self.side, url: self.url.clone(), problem };
        let DescribeResponse { tokenizer_fingerprint, tokenizer_size, .. } = &self.description;
        let ascii = Tokenizer::ascii();
        let tokenizer = match tokenizer_fingerprint == ascii.fingerprint() {
            true => ascii,
            false => {
                let document = time::timeout(TOKENIZER_TIMEOUT, self.tokenizer_document()).await;
                let document = document
                    .map_err(|_| unusable(format!("it is not there within {} s", TOKENIZER_TIMEOUT.as_secs())))?;
                let document = document.map_err(|status| unusable(error::describe(&status)))?;
                let read = task::spawn_blocking(move || Tokenizer::from_bytes(&document)).await;
                let read = read.map_err(|failed| unusable(failed.to_string()))?;
                read.map_err(|error| unusable(error.to_string()))?
            }
        };
        let is = (tokenizer.fingerprint(), tokenizer.size());
        match is == (tokenizer_fingerprint, *tokenizer_size as usize) {
            true => Ok(tokenizer),
            false => Err(unusable(format!(
                "it has {} ids and the fingerprint {}, described: {tokenizer_size} and {tokenizer_fingerprint}",
                is.1, is.0
            ))),
        }
    }

    async fn tokenizer_document(&self) -> Result<Vec<u8>, Status> {
        let mut client = ModelServiceClient::new(self.channel.clone());
        let mut parts = client.tokenizer(TokenizerRequest {}).await?.into_inner();
        let mut document = Vec::new();
        while let Some(part) = parts.message().await? {
            if document.len() + part.part.len() > MOST_TOKENIZER_BYTES {
                return Err(Status::out_of_range("its document is longer than 64 MiB"));
            }
            document.extend(part.part);
        }
        Ok(document)
    }
}

/// A target, and the draft that rides ahead of it unless decoding is plain AR.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Absent for AR.
    pub draft: Option<Service>,
    /// The model whose choices are the output.
    pub target: Service,
    /// The target's tokenizer.
    pub tokenizer: Tokenizer,
    /// What the cycles of all requests have shown so far.
    outlooks: Arc<Mutex<Outlooks>>,
}

impl Pair {
    /// Connects to both, checks that they fit together and that this coordinator knows them, and gets the tokenizer.
    ///
    /// # Errors
    /// A service that does not answer, or a pair that does not fit, with both sides named.
    pub async fn connect(draft: Option<&str>, target: &str, access: &Access) -> Result<Self, Error> {
        let draft = async {
            match draft {
                Some(url) => Service::connect("draft", url, access, false).await.map(Some),
                None => Ok(None),
            }
        };
        let (draft, target) = tokio::join!(draft, Service::connect("target", target, access, false));
        Self::of(draft?, target?).await
    }

    /// The pair that is at the same addresses now. Sessions of the old one never go on with it.
    ///
    /// # Errors
    /// As [`Pair::connect`].
    pub(crate) async fn anew(&self) -> Result<Self, Error> {
        let draft = async {
            match &self.draft {
                Some(draft) => Service::first(draft.side, draft.replicas.anew(), false).await.map(Some),
                None => Ok(None),
            }
        };
        let target = Service::first(self.target.side, self.target.replicas.anew(), false);
        let (draft, target) = tokio::join!(draft, target);
        Self::of(draft?, target?).await
    }

    async fn of(draft: Option<Service>, target: Service) -> Result<Self, Error> {
        if let Some(draft) = &draft {
            fits(draft, &target)?;
            draft.supported(Role::Draft)?;
        }
        target.supported(Role::Target)?;
        let tokenizer = target.tokenizer().await?;
        Ok(Self { draft, target, tokenizer, outlooks: Arc::default() })
    }

    /// Has both services measure their roofs, one after the other. One that does not answer stays as it was described.
    pub async fn measure_roofs(&mut self) {
        for service in self.draft.iter_mut().chain([&mut self.target]) {
            let _ = service.describe_again(true).await;
        }
    }

    /// The same target without its draft.
    pub fn without_draft(&self) -> Self {
        Self { draft: None, ..self.clone() }
    }

    /// The most tokens that a cycle may propose, by the services' limits.
    pub fn most_gamma(&self) -> usize {
        let most = |service: &Service| service.description.limits.unwrap_or_default().max_gamma as usize;
        self.draft.as_ref().map_or(0, most).min(most(&self.target))
    }

    /// A request chooses γ for as long as it holds what this gives.
    pub(crate) fn join(&self, request: &Request) -> Arc<()> {
        self.of_alike(request, |together| together.joined.clone())
    }

    /// γ for the next cycle of a request, where it is chosen, and how many sessions choose it together.
    pub(crate) fn gamma(&self, request: &Request, most: usize) -> (usize, usize) {
        self.of_alike(request, |together| {
            let sessions = together.sessions();
            (together.outlook.gamma(sessions, most), sessions)
        })
    }

    /// What a proposal of γ tokens usually takes, in seconds.
    pub(crate) fn draft_s(&self, request: &Request, gamma: usize) -> f64 {
        self.of_alike(request, |together| together.outlook.draft_s(gamma))
    }

    /// Takes a cycle into account for those to come, of all requests.
    pub(crate) fn learn(&self, request: &Request, cycle: &Observed) {
        self.of_alike(request, |together| together.outlook.learn(cycle));
    }

    /// Who is drafted for ahead waits less, and what is accepted depends on the coupling and on what ends a proposal.
    fn of_alike<T>(&self, request: &Request, f: impl FnOnce(&mut Together) -> T) -> T {
        let mut outlooks = self.outlooks.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = (request.branches > 0, request.coupling, request.min_confidence.to_bits());
        f(outlooks.entry(kind).or_default())
    }
}

/// By whether branches are drafted ahead, by coupling, and by the confidence below which proposals end, which are a service's or a
/// study's own: there are few.
type Outlooks = HashMap<(bool, Coupling, u32), Together>;

/// Requests that choose γ together.
#[derive(Debug, Default)]
struct Together {
    outlook: Outlook,
    /// Each of them holds it too.
    joined: Arc<()>,
}

impl Together {
    fn sessions(&self) -> usize {
        Arc::strong_count(&self.joined) - 1
    }
}

/// The roofs of both sides, where they are known.
#[derive(Clone, Copy, Debug, Default)]
pub struct PairRoofs {
    /// The draft's.
    pub draft: Option<Roofs>,
    /// The target's.
    pub target: Option<Roofs>,
}

impl PairRoofs {
    /// Has both services measure, one after the other: they may share a device. Sessions must be closed.
    pub async fn measure(pair: &Pair) -> Self {
        let draft = match &pair.draft {
            Some(draft) => draft.measure_roofs().await,
            None => None,
        };
        Self { draft, target: pair.target.measure_roofs().await }
    }

    /// What both had measured when they were asked who they are.
    pub fn described(pair: &Pair) -> Self {
        Self { draft: pair.draft.as_ref().and_then(Service::roofs), target: pair.target.roofs() }
    }
}

fn roofs(description: &DescribeResponse) -> Option<Roofs> {
    let v1::Roofs { flops_per_s, bytes_per_s, memory_bytes_per_s } = description.roofs?;
    Some(Roofs { flops_per_s, bytes_per_s, memory_bytes_per_s })
}

fn fits(draft: &Service, target: &Service) -> Result<(), Error> {
    let (one, other) = (&draft.description, &target.description);
    let equal = |what, equal, of: fn(&DescribeResponse) -> String| match equal {
        true => Ok(()),
        false => Err(Error::Mismatch {
            what,
            draft: of(one),
            draft_url: draft.url.clone(),
            target: of(other),
            target_url: target.url.clone(),
        }),
    };
    let version = |description: &DescribeResponse| description.protocol_version.to_string();
    equal("protocol version", one.protocol_version == other.protocol_version, version)?;
    if one.tokenizer_fingerprint.is_empty() {
        // It continues ids, whatever they stand for.
        return Ok(());
    }
    equal("tokenizer", one.tokenizer_fingerprint == other.tokenizer_fingerprint, tokenizer)?;
    let size = |description: &DescribeResponse| description.tokenizer_size.to_string();
    equal("tokenizer size", one.tokenizer_size == other.tokenizer_size, size)
}

/// A tokenizer for people: its name, which may be missing, and its fingerprint.
pub(crate) fn tokenizer(description: &DescribeResponse) -> String {
    format!("{} {}", description.tokenizer_name, description.tokenizer_fingerprint).trim_start().to_owned()
}

/// What the service behind `channel` says of itself.
pub(crate) async fn describe(channel: &Channel, measure_roofs: bool) -> Result<DescribeResponse, Status> {
    let mut client = ModelServiceClient::new(channel.clone());
    let call = client.describe(DescribeRequest { measure_roofs });
    match time::timeout(DESCRIBE_TIMEOUT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {} s", DESCRIBE_TIMEOUT.as_secs()))),
    }
}
