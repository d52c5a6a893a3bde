//! Forwards that sessions share are one and the same in all of their traces.

use std::{collections::HashMap, future};

use coordinator::{Run, generate};
use model::{EmbeddedModel, Limits};
use outrider_tests::{
    cluster::{self, Node, PATIENT, Setup, Side, sampled},
    otlp::{Receiver, Stored},
};
use telemetry::{Tracer, names::service};

/// Two requests at once: some passes of the target have rows of both. In the second trace the span of such a pass is tied by a link
/// to its span in the first; both say the same of it, and their shares make one.
#[tokio::test]
async fn a_shared_forward_is_tied_to_the_other_trace() {
    let receiver = Receiver::start().await.expect("a receiver");
    let tracer = |name| Tracer::exporting(name, &receiver.endpoint()).expect("a tracer");
    let worker = cluster::spawn(cluster::model(EmbeddedModel::Target), Limits::default());
    let setup = Setup { tracer: tracer(service::TARGET), ..Setup::default() };
    let node = Node::start(Side::Target, setup.clone(), future::ready(Ok(worker)));
    let pair = cluster::pair(None, &node).await;
    let coordinator = tracer(service::COORDINATOR);
    let run = async |prompt| -> Run {
        let request = cluster::request(prompt, sampled(0.8, 1), 120, 0);
        generate(&pair, request, PATIENT, &coordinator, |_| (), future::pending()).await.expect("a run")
    };
    let runs = tokio::join!(run("ROMEO:"), run("JULIET:"));
    let shut = [coordinator.clone(), setup.tracer.clone()];
    tokio::task::spawn_blocking(move || shut.iter().for_each(Tracer::shutdown)).await.expect("no panic");

    let spans = receiver.spans();
    let by_id: HashMap<&[u8], &Stored> = spans.iter().map(|stored| (&stored.span.span_id[..], stored)).collect();
    let tied: Vec<&Stored> = spans.iter().filter(|stored| !stored.span.links.is_empty()).collect();
    assert!(!tied.is_empty(), "no pass was shared in {} and {} cycles", runs.0.cycles.len(), runs.1.cycles.len());
    for forward in tied {
        let [link] = &forward.span.links[..] else { panic!("{forward}: {:?}", forward.span.links) };
        let other =
            by_id.get(&link.span_id[..]).unwrap_or_else(|| panic!("{forward} is tied to a span that is not there"));
        assert_ne!(forward.span.trace_id, other.span.trace_id, "{forward}");
        for key in ["outrider.spec.forward_id", "outrider.spec.batch_rows", "outrider.roofline.flops"] {
            assert_eq!(forward.int(key), other.int(key), "{key}");
        }
        let shares = forward.double("outrider.spec.share") + other.double("outrider.spec.share");
        assert!((shares - 1.0).abs() < 1e-9, "{shares}");
    }
}
