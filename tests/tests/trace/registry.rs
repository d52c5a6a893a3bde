//! Nothing of the registry is missing: whatever it lists, something that happens records.

use std::{
    collections::{BTreeMap, BTreeSet},
    future,
    time::Duration,
};

use coordinator::{Access, Deadlines, Pair, Request, Run};
use model::{EmbeddedModel, Limits, Worker};
use outrider_tests::{
    cluster::{
        self, LONG, Node, PATIENT, Setup, Side, decoders, sampled, spawn,
        talk::{self, DraftTalk, TargetTalk},
        within, worker,
    },
    otlp::{Receiver, Stored},
};
use proto::v1::{
    DraftSessionRequest, Propose, TargetSessionRequest, TraceContext, Verify, draft_session_request,
    target_session_request,
};
use serde_json::Value;
use speculative::Penalties;
use telemetry::{Tracer, names::service};

const REGISTRY: &str = include_str!("../../../crates/telemetry/registry/spans.yaml");

/// Names with the keys of their attributes.
type Keys = BTreeMap<String, BTreeSet<String>>;

/// What the registry lists of a kind: spans or events.
fn listed(kind: &str) -> Keys {
    let registry: Value = serde_saphyr::from_str(REGISTRY).expect("YAML");
    let groups = registry["groups"].as_array().expect("groups").iter().filter(|group| group["type"] == kind);
    let of_group = |group: &Value| {
        let id = group["id"].as_str().expect("an id").trim_start_matches("span.outrider.");
        let keys = group["attributes"].as_array().into_iter().flatten();
        let keys = keys.map(|attribute| attribute["ref"].as_str().expect("a reference").to_owned());
        (group["name"].as_str().unwrap_or(id).to_owned(), keys.collect())
    };
    groups.map(of_group).collect()
}

/// Three services that export to one receiver.
pub(crate) struct Exporting {
    receiver: Receiver,
    tracers: BTreeMap<&'static str, Tracer>,
}

impl Exporting {
    pub(crate) async fn start() -> Self {
        let receiver = Receiver::start().await.expect("a receiver");
        let tracer = |name| (name, Tracer::exporting(name, &receiver.endpoint()).expect("a tracer"));
        let tracers = [service::COORDINATOR, service::DRAFT, service::TARGET].map(tracer).into();
        Self { receiver, tracers }
    }

    pub(crate) fn node(&self, side: Side, worker: Worker) -> Node {
        let name = if side == Side::Draft { service::DRAFT } else { service::TARGET };
        let setup = Setup { tracer: self.tracers[name].clone(), ..Setup::default() };
        Node::start(side, setup, future::ready(Ok(worker)))
    }

    /// Runs a request; `seen` gets the number of characters as it grows.
    pub(crate) async fn run(
        &self,
        pair: &Pair,
        request: Request,
        deadlines: Deadlines,
        seen: impl FnMut(usize),
    ) -> Run {
        let run = cluster::watch_traced(pair, &request, deadlines, &self.tracers[service::COORDINATOR], seen);
        within(LONG, run).await.expect("a run that goes on")
    }

    /// All spans.
    pub(crate) async fn spans(self) -> Vec<Stored> {
        let tracers = self.tracers;
        let shut = move || tracers.values().for_each(Tracer::shutdown);
        tokio::task::spawn_blocking(shut).await.expect("no panic");
        self.receiver.spans()
    }

    /// What all spans and events had.
    async fn seen(self) -> [Keys; 2] {
        let [mut spans, mut events] = [Keys::new(), Keys::new()];
        for stored in self.spans().await {
            let keys = stored.keys().into_iter().map(str::to_owned);
            spans.entry(stored.span.name.clone()).or_default().extend(keys);
            for event in stored.span.events {
                let keys = event.attributes.into_iter().map(|attribute| attribute.key);
                events.entry(event.name).or_default().extend(keys);
            }
        }
        [spans, events]
    }
}

pub(crate) fn draft() -> Worker {
    worker(EmbeddedModel::Draft)
}

pub(crate) fn target() -> Worker {
    worker(EmbeddedModel::Target)
}

/// Every sampling parameter, the content, and a draft that goes ahead.
async fn all_that_can_be_asked_for(exporting: &Exporting) {
    let (draft, target) = (exporting.node(Side::Draft, draft()), exporting.node(Side::Target, target()));
    let mut pair = cluster::pair(Some(&draft), &target).await;
    pair.measure_roofs().await;
    let mut request = cluster::request("ROMEO:", sampled(0.8, 1), 40, 4);
    request.sampling.penalties = Penalties { presence: 0.1, frequency: 0.1, repetition: 1.1 };
    request.record_content = true;
    request.branches = 8;
    exporting.run(&pair, request, PATIENT, |_| ()).await;
}

/// A prefill, and another session's messages that come in the middle of it.
async fn a_crowd(exporting: &Exporting) {
    let (draft, target) = (exporting.node(Side::Draft, draft()), exporting.node(Side::Target, target()));
    let pair = cluster::pair(Some(&draft), &target).await;
    let long = "the king's own words to his son, ".repeat(50);
    let short = exporting.run(&pair, cluster::request("ROMEO:", sampled(0.8, 2), 200, 4), PATIENT, |_| ());
    let long = exporting.run(&pair, cluster::request(&long, sampled(0.8, 2), 20, 0), PATIENT, |_| ());
    tokio::join!(short, long);
}

/// A draft that is late, then dead, then back.
async fn a_draft_with_troubles(exporting: &Exporting) {
    let gate = decoders::Gate::default();
    let gated = decoders::gated(cluster::model(EmbeddedModel::Draft), gate.clone());
    let mut first = exporting.node(Side::Draft, spawn(gated, Limits::default()));
    let target = exporting.node(Side::Target, target());
    let pair = cluster::pair(Some(&first), &target).await;
    let request = cluster::request("ROMEO:", sampled(0.8, 3), 1500, 4);
    let deadlines = Deadlines { draft: Duration::from_millis(500), ..PATIENT };
    let (mut killed, mut restarted) = (false, false);
    let troubles = |characters| {
        match characters {
            50..150 => gate.shut(),
            _ => gate.open(),
        }
        if characters > 300 && !std::mem::replace(&mut killed, true) {
            first.kill();
        }
        if characters > 350 && !std::mem::replace(&mut restarted, true) {
            first.restart(draft());
        }
    };
    exporting.run(&pair, request, deadlines, troubles).await;
}

/// A target that dies, and another arithmetic that goes on.
async fn a_target_that_is_lost(exporting: &Exporting) {
    let other = decoders::plain(cluster::model(EmbeddedModel::Target));
    let other = other.described(|model| model.arithmetic = "other".to_owned());
    let mut first = exporting.node(Side::Target, target());
    let second = exporting.node(Side::Target, spawn(other, Limits::default()));
    let access = Access { inexact_failover: true, ..Access::default() };
    let urls = [&first, &second].map(Node::url).join(",");
    let pair = within(LONG, Pair::connect(None, &urls, &access)).await.expect("services that fit together");
    let mut killed = false;
    let kill = |characters| {
        if characters > 50 && !std::mem::replace(&mut killed, true) {
            first.kill();
        }
    };
    let run = exporting.run(&pair, cluster::request("ROMEO:", sampled(0.8, 4), 200, 0), PATIENT, kill).await;
    assert!(!run.exact, "another arithmetic went on");
}

/// Messages that the services refuse.
async fn messages_out_of_order(exporting: &Exporting) {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let trace = || Some(TraceContext { traceparent: parent.to_owned(), tracestate: String::new() });
    let open = || talk::open(&cluster::tokens("ROMEO:"), sampled(0.8, 5), 40);
    let (draft, target) = (exporting.node(Side::Draft, draft()), exporting.node(Side::Target, target()));

    let mut drafting = DraftTalk::open(&talk::channel(&draft), open()).await;
    drafting.opened().await;
    let propose = Propose { cycle: 1, base_len: 99, tokens: vec![65], gamma: 4, trace: trace(), ..Propose::default() };
    let message = Some(draft_session_request::Message::Propose(propose));
    drafting.send(DraftSessionRequest { message }).await;
    assert!(drafting.next().await.is_ok(), "a refusal");

    let mut verifying = TargetTalk::open(&talk::channel(&target), open()).await;
    verifying.opened().await;
    let verify = Verify { cycle: 1, base_len: 99, proposed: vec![65], trace: trace(), ..Verify::default() };
    let message = Some(target_session_request::Message::Verify(verify));
    verifying.send(TargetSessionRequest { message }).await;
    assert!(verifying.next().await.is_ok(), "a refusal");
}

/// Both ways: what is listed is seen, and what is seen is listed.
#[tokio::test]
async fn all_that_is_listed_is_seen() {
    let exporting = Exporting::start().await;
    all_that_can_be_asked_for(&exporting).await;
    a_crowd(&exporting).await;
    a_draft_with_troubles(&exporting).await;
    a_target_that_is_lost(&exporting).await;
    messages_out_of_order(&exporting).await;
    let [spans, events] = exporting.seen().await;
    for (kind, seen) in [("span", spans), ("event", events)] {
        let listed = listed(kind);
        assert_eq!(seen.keys().collect::<Vec<_>>(), listed.keys().collect::<Vec<_>>(), "{kind}s");
        for (name, keys) in listed {
            let (missing, unlisted) = (keys.difference(&seen[&name]), seen[&name].difference(&keys));
            let (missing, unlisted) = (missing.collect::<Vec<_>>(), unlisted.collect::<Vec<_>>());
            assert!(
                missing.is_empty() && unlisted.is_empty(),
                "{kind} {name}: missing {missing:?}, unlisted {unlisted:?}"
            );
        }
    }
}
