//! The places where one side's model is served: which of them gets a session, and which may take over another's.
//!
//! A session goes to the replica with the fewest, as `Describe` says and as this coordinator has placed since, and stays
//! there. A host's name that resolves to several addresses stands for as many replicas; it is resolved anew every few
//! seconds.

use std::{
    collections::HashSet,
    fmt,
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use proto::v1::{DescribeResponse, Role};
use telemetry::{Distance, tls::ClientTls};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{self, timeout_at},
};
use tonic::{Status, transport::Channel};

use crate::{Error, pairing};
use address::{Address, Place};

mod address;

/// How old what a replica says of its load may be, and how long one that failed is passed over while there are others.
const LOAD_AGE: Duration = Duration::from_secs(1);
const FAILURE_AGE: Duration = Duration::from_secs(5);

/// How long a replica may take to say what it is before a session is placed.
const DESCRIBE_LIMIT: Duration = Duration::from_secs(2);

/// How long the others may take once one has answered.
const STRAGGLERS_LIMIT: Duration = Duration::from_millis(100);

/// How long the addresses of a name hold.
const RESOLVED_AGE: Duration = Duration::from_secs(5);

/// How services are reached, and which may stand in for each other.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// For services at https addresses.
    pub tls: Option<ClientTls>,
    /// Whether a target whose arithmetic is another may go on with a session where none with the same is left. The output
    /// may differ then from what one target would have given, and the run says so.
    pub inexact_failover: bool,
    /// How much farther than it is the draft is made.
    pub draft_distance: Distance,
    /// The same of the target.
    pub target_distance: Distance,
}

impl Access {
    fn distance(&self, side: &str) -> Distance {
        match side {
            "draft" => self.draft_distance,
            "target" => self.target_distance,
            _ => Distance::default(),
        }
    }
}

/// All replicas of one side. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Replicas(Arc<Inner>);

struct Inner {
    side: &'static str,
    addresses: Vec<Address>,
    distance: Distance,
    /// Whether a target with another arithmetic may take over where none with the same is left.
    inexact_failover: bool,
    /// What the others must equal to take over a session.
    identity: OnceLock<DescribeResponse>,
    replicas: Mutex<Vec<Arc<Replica>>>,
    resolved: tokio::sync::Mutex<Option<Instant>>,
}

/// Who is at one side's addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// One at least that may have sessions.
    Fitting,
    /// Services of something else only: another model has taken the place.
    Others,
    /// None that answers.
    Nobody,
}

/// One service.
pub(crate) struct Replica {
    url: String,
    channel: Channel,
    /// Sessions of this coordinator.
    own: AtomicUsize,
    /// What it said last, and when; a failure counts as well.
    said: tokio::sync::Mutex<Option<(Instant, Result<Said, Status>)>>,
    /// Whether it has gone wrong since it said so.
    suspect: AtomicBool,
    unfit: AtomicBool,
}

#[derive(Clone)]
struct Said {
    description: DescribeResponse,
    /// Whether its arithmetic is the first's.
    exact: bool,
    /// This coordinator's sessions on it at that time.
    own: usize,
}

/// A session's place on a replica; it counts there until it is dropped.
pub(crate) struct Placed {
    replica: Arc<Replica>,
    incarnation_id: Option<String>,
    exact: bool,
}

/// A connection to the one service at `url`.
pub(crate) async fn channel(side: &'static str, url: &str, access: &Access) -> Result<Channel, Error> {
    let places = Address::new(side, url, access)?.places().await;
    places.first().map(Place::channel).ok_or_else(|| {
        let status = Box::new(Status::unavailable("its name resolves to no address"));
        Error::Unreachable { side, url: url.to_owned(), status }
    })
}

impl Replicas {
    /// The replicas at `urls`, separated by commas.
    pub(crate) fn new(side: &'static str, urls: &str, access: &Access) -> Result<Self, Error> {
        let address = |url: &str| Address::new(side, url.trim(), access);
        let addresses = urls.split(',').map(address).collect::<Result<_, _>>()?;
        let inexact_failover = access.inexact_failover;
        let (replicas, resolved) = (Mutex::default(), tokio::sync::Mutex::default());
        let (distance, identity) = (access.distance(side), OnceLock::new());
        Ok(Self(Arc::new(Inner { side, addresses, distance, inexact_failover, identity, replicas, resolved })))
    }

    /// How much farther away than they are they were made.
    pub(crate) fn distance(&self) -> Distance {
        self.0.distance
    }

    /// The first that answers, in the order of the addresses. The others must equal it from now on.
    pub(crate) async fn first(&self, measure_roofs: bool) -> Result<(String, Channel, DescribeResponse), Error> {
        self.resolve().await;
        let mut asked = JoinSet::new();
        for (at, replica) in self.list().into_iter().enumerate() {
            asked.spawn(async move { (at, pairing::describe(&replica.channel, measure_roofs).await, replica) });
        }
        let mut answers: Vec<_> = Vec::new();
        while let Some(answer) = asked.join_next().await {
            answers.extend(answer.ok());
        }
        answers.sort_by_key(|(at, ..)| *at);
        let mut failed = None;
        for (_, answer, replica) in answers {
            match answer {
                Ok(description) => {
                    let description = self.0.identity.get_or_init(|| description).clone();
                    let said = Said { description: description.clone(), exact: true, own: 0 };
                    *replica.said.lock().await = Some((Instant::now(), Ok(said)));
                    return Ok((replica.url.clone(), replica.channel.clone(), description));
                }
                Err(status) => {
                    tracing::debug!(url = replica.url, message = status.message(), "a replica does not answer");
                    failed.get_or_insert((replica.url.clone(), status));
                }
            }
        }
        let (url, status) = failed.unwrap_or_else(|| {
            (self.0.addresses[0].url.clone(), Status::unavailable("its name resolves to no address"))
        });
        Err(Error::Unreachable { side: self.0.side, url, status: Box::new(status) })
    }

    /// Who is at the addresses now, as far as they say so within `limit`.
    pub(crate) async fn presence(&self, limit: Duration) -> Presence {
        self.resolve().await;
        let mut asked = JoinSet::new();
        for replica in self.list() {
            asked.spawn(async move {
                let described = time::timeout(limit, pairing::describe(&replica.channel, false)).await;
                Some((described.ok()?.ok()?, replica))
            });
        }
        let mut presence = Presence::Nobody;
        while let Some(answer) = asked.join_next().await {
            let Ok(Some((description, replica))) = answer else { continue };
            match self.fits(&replica, &description) {
                Ok(_) => return Presence::Fitting,
                Err(_) => presence = Presence::Others,
            }
        }
        presence
    }

    /// The same addresses, for whoever is there now.
    pub(crate) fn anew(&self) -> Self {
        let Inner { side, ref addresses, distance, inexact_failover, .. } = *self.0;
        let (identity, replicas, resolved) = (OnceLock::new(), Mutex::default(), tokio::sync::Mutex::default());
        let addresses = addresses.clone();
        Self(Arc::new(Inner { side, addresses, distance, inexact_failover, identity, replicas, resolved }))
    }

    /// A place for a session on the least loaded replica that is there and fits, but for those at `avoided`.
    ///
    /// # Errors
    /// None is left: why the last one is none.
    pub(crate) async fn place(&self, avoided: &[String]) -> Result<Placed, Status> {
        self.resolve().await;
        let replicas = self.list();
        if let [only] = &replicas[..]
            && !avoided.contains(&only.url)
            && !only.suspect.load(Relaxed)
        {
            // Nothing to choose; should it be another by now, the session's opening tells.
            let (incarnation_id, exact) = only.known().await;
            return Ok(only.clone().placed(incarnation_id, exact));
        }
        let candidates: Vec<_> = replicas.into_iter().filter(|replica| !avoided.contains(&replica.url)).collect();
        match self.least_loaded(&candidates, FAILURE_AGE).await {
            Ok(placed) => Ok(placed),
            // Those that were passed over may be back.
            Err(_) => self.least_loaded(&candidates, Duration::ZERO).await,
        }
    }

    async fn least_loaded(&self, candidates: &[Arc<Replica>], failure_age: Duration) -> Result<Placed, Status> {
        let (answer, mut said) = mpsc::channel(candidates.len().max(1));
        for (at, replica) in candidates.iter().cloned().enumerate() {
            let (replicas, answer) = (self.clone(), answer.clone());
            // It goes on after the choice is made, so that a silent one is known as such the next time.
            tokio::spawn(async move { drop(answer.send((at, replicas.said(&replica, failure_age).await)).await) });
        }
        drop(answer);
        let mut best: Option<((bool, usize), usize, Said)> = None;
        let mut failed = Status::unavailable(format!("no {} is left", self.0.side));
        let mut seen = HashSet::new();
        let (mut answers, mut deadline) = (Vec::new(), None);
        while let Ok(Some(answer)) =
            timeout_at(deadline.unwrap_or_else(|| time::Instant::now() + 2 * DESCRIBE_LIMIT), said.recv()).await
        {
            if answer.1.is_ok() {
                deadline.get_or_insert_with(|| time::Instant::now() + STRAGGLERS_LIMIT);
            }
            answers.push(answer);
        }
        answers.sort_by_key(|(at, _)| *at);
        for (at, said) in answers {
            match said {
                // Two addresses of one service count once.
                Ok(said) if seen.insert(said.description.incarnation_id.clone()) => {
                    // Another arithmetic is taken only where nothing else is left.
                    let rank = (!said.exact, candidates[at].load(&said));
                    if best.as_ref().is_none_or(|(least, ..)| rank < *least) {
                        best = Some((rank, at, said));
                    }
                }
                Ok(_) => {}
                Err(status) => failed = status,
            }
        }
        let (_, at, said) = best.ok_or(failed)?;
        Ok(candidates[at].clone().placed(Some(said.description.incarnation_id), said.exact))
    }

    /// What a replica says of itself, where it fits; as it said it last, if that is not too old.
    async fn said(&self, replica: &Arc<Replica>, failure_age: Duration) -> Result<Said, Status> {
        let asked = Instant::now();
        let mut last = replica.said.lock().await;
        if let Some((at, said)) = &*last {
            if *at >= asked {
                // Somebody else has asked meanwhile.
                return said.clone();
            }
            let (age, suspect) = (at.elapsed(), replica.suspect.load(Relaxed));
            match said {
                Ok(said) if age < LOAD_AGE && !suspect => return Ok(said.clone()),
                Err(status) if age < failure_age => return Err(status.clone()),
                _ => {}
            }
        }
        let own = replica.own.load(Relaxed);
        let answer = time::timeout(DESCRIBE_LIMIT, pairing::describe(&replica.channel, false)).await;
        let said = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("it does not say what it is"))) {
            Ok(description) => self.fits(replica, &description).map(|exact| Said { description, exact, own }),
            Err(status) => Err(status),
        };
        replica.suspect.store(false, Relaxed);
        *last = Some((Instant::now(), said.clone()));
        said
    }

    /// Whether a replica may have sessions: its tokenizer and protocol, and a target's model and arithmetic, are those of
    /// the first. False where its arithmetic is another and that is allowed.
    fn fits(&self, replica: &Replica, description: &DescribeResponse) -> Result<bool, Status> {
        let Some(identity) = self.0.identity.get() else { return Ok(true) };
        type Of = fn(&DescribeResponse) -> String;
        let all: [(&str, Of); 3] = [
            ("role", |description| description.role().as_str_name().to_owned()),
            ("protocol version", |description| description.protocol_version.to_string()),
            ("tokenizer", |description| description.tokenizer_fingerprint.clone()),
        ];
        let targets: [(&str, Of); 2] = [
            ("model", |description| description.model_fingerprint.clone()),
            ("arithmetic", |description| description.arithmetic_fingerprint.clone()),
        ];
        let exact =
            identity.role() != Role::Target || description.arithmetic_fingerprint == identity.arithmetic_fingerprint;
        let targets = match identity.role() {
            Role::Target if self.0.inexact_failover => &targets[..1],
            Role::Target => &targets[..],
            _ => &[],
        };
        for (what, of) in all.iter().chain(targets) {
            let (value, expected) = (of(description), of(identity));
            if value != expected {
                let problem = format!("its {what} is {value}, the first {}'s is {expected}", self.0.side);
                if !replica.unfit.swap(true, Relaxed) {
                    tracing::warn!(url = replica.url, problem, "a replica does not fit and gets no session");
                }
                return Err(Status::failed_precondition(problem));
            }
        }
        replica.unfit.store(false, Relaxed);
        Ok(exact)
    }

    /// Checks the service that has opened a session: where it was started anew since it was described, it is described
    /// again. Gives whether its arithmetic is the first's.
    pub(crate) async fn confirm(&self, placed: &Placed, incarnation_id: &str) -> Result<bool, Status> {
        if placed.incarnation_id.as_deref() == Some(incarnation_id) {
            return Ok(placed.exact);
        }
        placed.failed();
        let said = self.said(&placed.replica, Duration::ZERO).await?;
        // One that does not say which process it is can only be believed.
        match incarnation_id.is_empty() || said.description.incarnation_id == incarnation_id {
            true => Ok(said.exact),
            // Another process has answered: started since, or behind the same address.
            false => {
                Err(Status::unavailable("the service that opened the session is not the one that says what it is"))
            }
        }
    }

    fn list(&self) -> Vec<Arc<Replica>> {
        self.0.replicas.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sees to it that the list is what the names stand for. What is known serves while a name is resolved anew.
    async fn resolve(&self) {
        if self.list().is_empty() {
            return self.refresh().await;
        }
        let is_old = |resolved: &Option<Instant>| resolved.is_none_or(|at| at.elapsed() >= RESOLVED_AGE);
        if self.0.addresses.iter().any(Address::is_name) && self.0.resolved.try_lock().is_ok_and(|at| is_old(&at)) {
            let replicas = self.clone();
            tokio::spawn(async move { replicas.refresh().await });
        }
    }

    /// Brings the list in line with what the names stand for now.
    async fn refresh(&self) {
        let mut resolved = self.0.resolved.lock().await;
        if resolved.is_some_and(|at| at.elapsed() < RESOLVED_AGE) {
            return;
        }
        let known = self.list();
        let mut now: Vec<Arc<Replica>> = Vec::new();
        for address in &self.0.addresses {
            for place in address.places().await {
                let known = known.iter().chain(&now).find(|replica| replica.url == place.url).cloned();
                now.push(known.unwrap_or_else(|| Arc::new(Replica::at(place))));
            }
        }
        if !now.is_empty() {
            // A name that resolves to nothing for a moment leaves what is known.
            *self.0.replicas.lock().unwrap_or_else(PoisonError::into_inner) = now;
            *resolved = Some(Instant::now());
        }
    }
}

impl fmt::Debug for Replicas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let urls: Vec<_> = self.0.addresses.iter().map(|address| &address.url).collect();
        f.debug_struct("Replicas").field("side", &self.0.side).field("urls", &urls).finish_non_exhaustive()
    }
}

impl Replica {
    fn at(place: Place) -> Self {
        Self {
            channel: place.channel(),
            url: place.url,
            own: AtomicUsize::new(0),
            said: tokio::sync::Mutex::default(),
            suspect: AtomicBool::new(false),
            unfit: AtomicBool::new(false),
        }
    }

    /// Sessions on it, as far as that is known.
    fn load(&self, said: &Said) -> usize {
        let reported = said.description.load.unwrap_or_default();
        let others = (reported.open_sessions + reported.waiting_sessions) as usize;
        others.saturating_sub(said.own) + self.own.load(Relaxed)
    }

    /// What it said last: its incarnation, and whether its arithmetic is the first's.
    async fn known(&self) -> (Option<String>, bool) {
        let said = self.said.lock().await;
        let said = said.as_ref().and_then(|(_, said)| said.as_ref().ok());
        (said.map(|said| said.description.incarnation_id.clone()), said.is_none_or(|said| said.exact))
    }

    fn placed(self: Arc<Self>, incarnation_id: Option<String>, exact: bool) -> Placed {
        self.own.fetch_add(1, Relaxed);
        Placed { replica: self, incarnation_id, exact }
    }
}

impl Placed {
    /// The connection to the replica.
    pub(crate) fn channel(&self) -> Channel {
        self.replica.channel.clone()
    }

    /// The replica's address.
    pub(crate) fn url(&self) -> &str {
        &self.replica.url
    }

    /// Has the replica described again before it gets another session.
    pub(crate) fn failed(&self) {
        self.replica.suspect.store(true, Relaxed);
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        self.replica.own.fetch_sub(1, Relaxed);
    }
}

/// 64 bits that nobody foresees.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}
