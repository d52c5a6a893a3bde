//! What is drafted ahead outlives its cycle: a link ties the cycle that uses it to the span in which it grew.

use std::collections::HashMap;

use coordinator::AnticipationOutcome;
use outrider_tests::{
    cluster::{self, PATIENT, Side, sampled},
    otlp::Stored,
};
use telemetry::names::{service, span, spec};

use crate::registry::{Exporting, draft, target};

#[tokio::test]
async fn a_foreseen_verdict_is_tied_to_the_branches_that_foresaw_it() {
    let exporting = Exporting::start().await;
    let (draft, target) = (exporting.node(Side::Draft, draft()), exporting.node(Side::Target, target()));
    let pair = cluster::pair(Some(&draft), &target).await;
    let mut request = cluster::request("ROMEO:", sampled(0.8, 3), 120, 4);
    request.branches = 8;
    let run = exporting.run(&pair, request, PATIENT, |_| ()).await;
    let spans = exporting.spans().await;

    let by_id: HashMap<&[u8], &Stored> = spans.iter().map(|stored| (&stored.span.span_id[..], stored)).collect();
    let cycle_of = |stored: &Stored| {
        let parent = by_id.get(&stored.span.parent_span_id[..]).expect("a parent");
        assert_eq!(parent.span.name, span::CYCLE, "{stored}");
        parent.int(spec::CYCLE)
    };
    let named = |name: &'static str| spans.iter().filter(move |stored| stored.span.name == name);
    let grown: Vec<&Stored> = named(span::ANTICIPATE).collect();
    assert!(!grown.is_empty(), "nothing was drafted ahead");
    for stored in &grown {
        assert_eq!(stored.service, service::DRAFT);
        assert!(cycle_of(stored) >= 1 && stored.int(spec::BATCH_ROWS) > 0, "{stored}");
        let parent = by_id[&stored.span.parent_span_id[..]];
        assert!(
            stored.span.start_time_unix_nano >= parent.span.start_time_unix_nano,
            "{stored} begins before {parent}"
        );
    }
    // The stream may end before the draft has read what the last cycle tells it.
    let last = run.cycles.last().map_or(0, |cycle| cycle.number as i64);
    let mut tied = 0;
    for stored in named(span::PROPOSE).filter(|stored| cycle_of(stored) < last) {
        for link in &stored.span.links {
            let branches = by_id.get(&link.span_id[..]).expect("what it is tied to");
            assert_eq!(branches.span.name, span::ANTICIPATE);
            assert_eq!(link.trace_id, stored.span.trace_id);
            assert!(cycle_of(branches) < cycle_of(stored), "{branches} of {stored}");
            tied += 1;
        }
    }
    let read = run.cycles.iter().filter(|cycle| (cycle.number as i64) < last);
    let outcomes = read.filter_map(|cycle| cycle.anticipation);
    let foreseen = outcomes.filter(|seen| seen.outcome != AnticipationOutcome::Miss).count();
    assert!(foreseen > 0 && tied == foreseen, "{tied} are tied of {foreseen}");
}
