//! What the tree of a request has to look like.

use outrider_tests::otlp::{Stored, Trace};
use serde_json::Value;
use telemetry::names::{convention, event, roofline, service, span, spec};

/// OTLP's numbers for the kinds of span.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// Asserts the whole tree of a run that `report` reports on: every span is looked at, and there is no other.
pub(crate) fn assert_whole(trace: &Trace, report: &Value) {
    let root = trace.root();
    let (prefills, cycles) = (trace.named(root, span::PREFILL), trace.named(root, span::CYCLE));
    assert_eq!(trace.children(root).len(), prefills.len() + cycles.len(), "children of the root:\n{trace}");
    assert_root(root, report);

    let mut seen = 1 + assert_prefill(trace, &prefills, report);
    for cycle in &cycles {
        seen += assert_cycle(trace, cycle);
    }
    assert_eq!(seen, trace.spans.len(), "spans that belong nowhere:\n{trace}");
    assert_sequence(&cycles, report);
    assert_sums(&cycles, report);
    assert_forward_ids(trace);
    for parent in &trace.spans {
        let children = trace.children(parent).into_iter();
        for child in children.filter(|child| child.service == parent.service) {
            assert!(parent.contains(child), "{child} is not within {parent}:\n{trace}");
        }
    }
    for stored in &trace.spans {
        let (span, failed) = (&stored.span, stored.span.status.as_ref().is_some_and(|status| status.code != 0));
        assert!(!failed && span.links.is_empty(), "{stored}: {span:?}");
        let events: Vec<&str> = span.events.iter().map(|event| event.name.as_str()).collect();
        match span.name.as_str() {
            span::CYCLE => assert_eq!(events, [event::COMMIT, event::EMIT], "{stored}"),
            span::GENERATE => assert!(events.iter().all(|name| *name == event::EMIT), "{stored}: {events:?}"),
            _ => assert_eq!(events, [""; 0], "{stored}"),
        }
        assert_eq!(span.dropped_attributes_count, 0, "{stored}");
    }
}

#[track_caller]
fn assert_is(stored: &Stored, name: &str, service: &str, kind: i32) {
    assert_eq!((stored.span.name.as_str(), stored.service.as_str(), stored.span.kind), (name, service, kind));
}

#[track_caller]
fn assert_keys(stored: &Stored, keys: &[&str]) {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    assert_eq!(stored.keys(), keys, "attributes of {stored}");
}

fn assert_root(root: &Stored, report: &Value) {
    assert_is(root, span::GENERATE, service::COORDINATOR, CLIENT);
    let keys = [
        convention::OPERATION_NAME,
        convention::PROVIDER_NAME,
        convention::REQUEST_MODEL,
        convention::REQUEST_MAX_TOKENS,
        convention::REQUEST_TEMPERATURE,
        convention::REQUEST_TOP_K,
        convention::REQUEST_TOP_P,
        convention::REQUEST_SEED,
        convention::RESPONSE_FINISH_REASONS,
        convention::USAGE_INPUT_TOKENS,
        convention::USAGE_OUTPUT_TOKENS,
        spec::GAMMA,
        spec::GAMMA_POLICY,
        spec::CYCLES,
        spec::PROPOSED_TOKENS,
        spec::ACCEPTED_TOKENS,
    ];
    let sides = if report["draft_params"].is_null() { &["target"][..] } else { &["draft", "target"] };
    let roof =
        |side| ["flops", "bytes", "memory_bytes"].map(|of| format!("outrider.roofline.{side}.roof_{of}_per_second"));
    let roofs: Vec<String> = sides.iter().flat_map(roof).collect();
    assert_keys(root, &[&keys[..], &roofs.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    assert_eq!(root.int(spec::CYCLES), report["cycles"]);
    assert_eq!(root.text("gen_ai.operation.name"), "text_completion");
    assert_eq!(root.text("gen_ai.provider.name"), "outrider");
    assert_eq!(root.text("gen_ai.request.model"), "embedded:target");
    assert_eq!(root.int("gen_ai.request.max_tokens"), report["tokens_emitted"]);
    assert_eq!(root.int("gen_ai.request.seed"), report["seed"]);
    assert_eq!(root.double("gen_ai.request.top_p"), 1.0);
    assert_eq!(root.int("gen_ai.usage.input_tokens"), report["prefill_ctx"]);
    assert_eq!(root.int("gen_ai.usage.output_tokens"), report["tokens_emitted"]);
    assert_eq!(root.texts("gen_ai.response.finish_reasons"), [report["stop_reason"].as_str().expect("a reason")]);
    assert_eq!(root.text("outrider.spec.gamma_policy"), report["gamma_policy"].as_str().expect("a policy"));
    match report["gamma_policy"] == "fixed" {
        true => assert_eq!(root.int("outrider.spec.gamma"), report["gamma"]),
        false => assert_eq!(root.int("outrider.spec.gamma"), 32),
    }
}

/// One prefill of the coordinator's, with one of each service that took part; gives the number of spans.
fn assert_prefill(trace: &Trace, prefills: &[&Stored], report: &Value) -> usize {
    let [prefill] = prefills else { panic!("not one prefill:\n{trace}") };
    assert_is(prefill, span::PREFILL, service::COORDINATOR, INTERNAL);
    assert_keys(prefill, &[]);
    let mut of_services = trace.named(prefill, span::PREFILL);
    of_services.sort_by_key(|stored| stored.service.clone());
    let services: Vec<&str> = of_services.iter().map(|stored| stored.service.as_str()).collect();
    match report["draft_params"].is_null() {
        true => assert_eq!(services, [service::TARGET]),
        false => assert_eq!(services, [service::DRAFT, service::TARGET]),
    }
    assert_eq!(trace.children(prefill).len(), services.len(), "{trace}");
    let mut seen = 1;
    for stored in of_services {
        assert_service_span(stored, &[convention::USAGE_INPUT_TOKENS]);
        assert_eq!(stored.int(convention::USAGE_INPUT_TOKENS), report["prefill_ctx"]);
        // A request that asks the draft for nothing may end before the draft's prefill has begun its forward.
        let unasked = stored.service == service::DRAFT && report["tokens_emitted"].as_u64() <= Some(2);
        if unasked && trace.children(stored).is_empty() {
            seen += 1;
            continue;
        }
        let (work, spans) = assert_forwards(trace, stored, 1);
        assert_eq!(work.rows, report["prefill_ctx"], "rows of a prefill");
        seen += spans;
    }
    seen
}

/// A service's span of one message.
fn assert_service_span(stored: &Stored, further: &[&str]) {
    assert_eq!(stored.span.kind, SERVER);
    assert_keys(stored, &[&["rpc.system.name", "rpc.method"], further].concat());
    assert_eq!(stored.text("rpc.system.name"), "grpc");
    let method = match stored.service.as_str() {
        service::DRAFT => "outrider.v1.DraftService/DraftSession",
        service::TARGET => "outrider.v1.TargetService/TargetSession",
        other => panic!("{other} serves nothing"),
    };
    assert_eq!(stored.text("rpc.method"), method);
}

/// Counted work of the forwards in a service's span.
#[derive(Default)]
struct Work {
    rows: i64,
    flops: i64,
    bytes: i64,
}

/// One wait in the queue, then `count` forwards, one after the other; gives their work, and the number of spans with the
/// parent.
fn assert_forwards(trace: &Trace, parent: &Stored, count: usize) -> (Work, usize) {
    let (queues, forwards) = (trace.named(parent, span::QUEUE), trace.named(parent, span::FORWARD));
    assert_eq!((queues.len(), forwards.len()), (1, count), "in {parent}:\n{trace}");
    assert_eq!(trace.children(parent).len(), 1 + count, "in {parent}:\n{trace}");
    assert_keys(queues[0], &[]);
    let mut free_from = queues[0].span.end_time_unix_nano;
    let mut work = Work::default();
    for forward in &forwards {
        assert_is(forward, span::FORWARD, &parent.service, INTERNAL);
        let counted = [roofline::FLOPS, roofline::BYTES, roofline::INTENSITY];
        let keys = [spec::FORWARD_ID, spec::ROWS, spec::BATCH_ROWS, spec::SHARE];
        assert_keys(forward, &[&keys[..], &counted, &[roofline::UTILISATION, roofline::BOUND]].concat());
        assert_eq!(forward.double(spec::SHARE), 1.0, "nobody else is here");
        assert_placed(forward, [roofline::UTILISATION, roofline::BOUND]);
        assert!(forward.span.start_time_unix_nano >= free_from, "{forward} overlaps:\n{trace}");
        free_from = forward.span.end_time_unix_nano;
        let (flops, bytes) = (forward.int(roofline::FLOPS), forward.int(roofline::BYTES));
        assert_close(forward.double(roofline::INTENSITY), flops as f64 / bytes as f64, "intensity of a forward");
        assert_eq!(forward.int(spec::BATCH_ROWS), forward.int(spec::ROWS), "nobody else is here");
        work.rows += forward.int(spec::ROWS);
        work.flops += flops;
        work.bytes += bytes;
    }
    (work, 2 + count)
}

/// One cycle: a propose where tokens were proposed, a verify, and the figures; gives the number of spans.
fn assert_cycle(trace: &Trace, cycle: &Stored) -> usize {
    assert_is(cycle, span::CYCLE, service::COORDINATOR, INTERNAL);
    let gamma = cycle.int(spec::GAMMA);
    let (proposes, verifies) = (trace.named(cycle, span::PROPOSE), trace.named(cycle, span::VERIFY));
    let drafted = usize::from(gamma > 0);
    assert_eq!((proposes.len(), verifies.len()), (drafted, 1), "in {cycle}:\n{trace}");
    assert_eq!(trace.children(cycle).len(), drafted + 1, "in {cycle}:\n{trace}");
    assert_cycle_keys(cycle, gamma > 0);

    let mut seen = 1;
    if let [propose] = proposes[..] {
        assert_is(propose, span::PROPOSE, service::DRAFT, SERVER);
        assert_service_span(propose, &[spec::CYCLE]);
        assert_eq!(propose.int(spec::CYCLE), cycle.int(spec::CYCLE));
        let (work, spans) = assert_forwards(trace, propose, gamma as usize);
        let keys = [roofline::DRAFT_FLOPS, roofline::DRAFT_BYTES, roofline::DRAFT_INTENSITY];
        assert_work(cycle, &work, keys);
        assert_leg(cycle, propose, [spec::DRAFT_COMPUTE_NS, spec::DRAFT_QUEUE_NS, spec::DRAFT_NETWORK_NS]);
        assert_parts(cycle, [spec::DRAFT_COMPUTE_NS, spec::DRAFT_FORWARD_NS, spec::DRAFT_SELECT_NS]);
        assert_placed(cycle, [roofline::DRAFT_UTILISATION, roofline::DRAFT_BOUND]);
        assert!(cycle.int(spec::DRAFT_WIRE_BYTES) > gamma, "{cycle}");
        assert_eq!((cycle.int(spec::DRAFT_OTHERS_ROWS), cycle.int(spec::DRAFT_BEHIND_ROWS)), (0, 0), "{cycle}");
        seen += spans;
    }
    let verify = verifies[0];
    assert_is(verify, span::VERIFY, service::TARGET, SERVER);
    assert_service_span(verify, &[spec::CYCLE, spec::ACCEPTED]);
    assert_eq!(verify.int(spec::CYCLE), cycle.int(spec::CYCLE));
    assert_eq!(verify.int(spec::ACCEPTED), cycle.int(spec::ACCEPTED));
    let (work, spans) = assert_forwards(trace, verify, 1);
    assert_eq!(work.rows, gamma + 1, "rows of a window");
    assert_work(cycle, &work, [roofline::TARGET_FLOPS, roofline::TARGET_BYTES, roofline::TARGET_INTENSITY]);
    assert_leg(cycle, verify, [spec::TARGET_COMPUTE_NS, spec::TARGET_QUEUE_NS, spec::TARGET_NETWORK_NS]);
    assert_parts(cycle, [spec::TARGET_COMPUTE_NS, spec::TARGET_FORWARD_NS, spec::TARGET_SELECT_NS]);
    assert_placed(cycle, [roofline::TARGET_UTILISATION, roofline::TARGET_BOUND]);
    assert!(cycle.int(spec::TARGET_WIRE_BYTES) > gamma, "{cycle}");
    assert_eq!((cycle.int(spec::TARGET_OTHERS_ROWS), cycle.int(spec::TARGET_BEHIND_ROWS)), (0, 0), "{cycle}");
    seen + spans
}

fn assert_cycle_keys(cycle: &Stored, drafted: bool) {
    let common = ["cycle", "gamma", "accepted", "base_len", "coordinator_ns", "wall_ns"];
    let mut keys: Vec<String> = common.iter().map(|name| format!("outrider.spec.{name}")).collect();
    for side in ["draft", "target"].iter().skip(usize::from(!drafted)) {
        keys.extend(["compute", "queue", "network"].map(|part| format!("outrider.spec.{side}_{part}_ns")));
        let told = ["forward_ns", "select_ns", "wire_bytes", "others_rows", "behind_rows"];
        keys.extend(told.map(|part| format!("outrider.spec.{side}_{part}")));
        let placed = ["flops", "bytes", "intensity", "utilisation", "bound"];
        keys.extend(placed.map(|name| format!("outrider.roofline.{side}.{name}")));
    }
    assert_keys(cycle, &keys.iter().map(String::as_str).collect::<Vec<_>>());
    let parts: i64 = cycle
        .keys()
        .iter()
        .filter(|key| {
            key.ends_with("_ns") && !["wall_ns", "forward_ns", "select_ns"].iter().any(|of| key.ends_with(of))
        })
        .map(|key| cycle.int(key))
        .sum();
    assert_eq!(parts, cycle.int(spec::WALL_NS), "the parts add up to the wall of {cycle}");
    let wall = cycle.int(spec::WALL_NS) as u128;
    assert!(wall <= cycle.duration().as_nanos(), "the span of {cycle} is as long as the cycle at least");
}

/// A share of what the roofs allow, and what limits it. A roof is a median, so that one forward may be above it.
fn assert_placed(stored: &Stored, [utilisation, bound]: [&str; 2]) {
    let utilisation = stored.double(utilisation);
    assert!(utilisation > 0.0 && utilisation < 3.0, "{stored}: {utilisation}");
    let bounds = ["bandwidth_bound", "compute_bound", "ridge", "dispatch_bound"];
    assert!(bounds.contains(&stored.text(bound)), "{stored}: {}", stored.text(bound));
}

fn assert_work(cycle: &Stored, work: &Work, [flops, bytes, intensity]: [&str; 3]) {
    assert_eq!((cycle.int(flops), cycle.int(bytes)), (work.flops, work.bytes), "the forwards' work is the cycle's");
    assert_close(cycle.double(intensity), work.flops as f64 / work.bytes as f64, "intensity of a cycle");
}

/// Forward passes and choosing tokens are parts of compute; what is left is reading and writing messages.
fn assert_parts(cycle: &Stored, [compute, forward, select]: [&str; 3]) {
    let [compute, forward, select] = [compute, forward, select].map(|key| cycle.int(key));
    assert!(forward > 0 && select > 0 && forward + select < compute, "{cycle}: {forward} + {select} of {compute} ns");
}

/// The service's span is its server time, and a part of the round trip.
fn assert_leg(cycle: &Stored, stored: &Stored, [compute, queue, network]: [&str; 3]) {
    let server = cycle.int(compute) + cycle.int(queue);
    let round_trip = server + cycle.int(network);
    let span = stored.duration().as_nanos() as i64;
    assert!(cycle.int(compute) > 0 && cycle.int(network) > 0, "{cycle}: {server} of {round_trip} ns at the server");
    // The clock of spans and that of durations may be some microseconds apart.
    assert!((server - 50_000..=round_trip + 50_000).contains(&span), "{stored}: {span} ns, not {server}…{round_trip}");
}

/// The cycles are numbered from 1 without a gap, follow each other, and continue the committed tokens.
fn assert_sequence(cycles: &[&Stored], report: &Value) {
    assert_eq!(cycles.len() as u64, report["cycles"]);
    let mut base_len = report["prefill_ctx"].as_i64().expect("a number") + 1;
    let mut end = 0;
    for (at, cycle) in cycles.iter().enumerate() {
        assert_eq!(cycle.int(spec::CYCLE), at as i64 + 1);
        assert!((0..=cycle.int(spec::GAMMA)).contains(&cycle.int(spec::ACCEPTED)));
        base_len += cycle.int(spec::ACCEPTED) + 1;
        assert_eq!(cycle.int(spec::BASE_LEN), base_len);
        assert!(cycle.span.start_time_unix_nano >= end, "cycle {} begins before the last has ended", at + 1);
        end = cycle.span.end_time_unix_nano;
    }
    assert_eq!(base_len - report["prefill_ctx"].as_i64().expect("a number"), report["tokens_emitted"]);
}

/// What the report says is what the cycles' spans add up to.
fn assert_sums(cycles: &[&Stored], report: &Value) {
    let n = cycles.len() as f64;
    let sum = |key: &str| -> f64 {
        let has = cycles.iter().filter(|cycle| cycle.attribute(key).is_some());
        has.map(|cycle| cycle.int(key) as f64).sum()
    };
    if cycles.is_empty() {
        return;
    }
    let drafted = !report["draft_params"].is_null();
    let of_report = |value: &Value| value.as_f64().expect("a number");
    if drafted {
        assert_close(of_report(&report["avg_accepted_per_cycle"]), sum(spec::ACCEPTED) / n, "accepted");
    }
    if sum(spec::GAMMA) > 0.0 {
        assert_close(of_report(&report["acceptance_rate"]), sum(spec::ACCEPTED) / sum(spec::GAMMA), "acceptance rate");
    }
    let rate = (of_report(&report["tokens_emitted"]) - 1.0) / (sum(spec::WALL_NS) / 1e9);
    assert_close(of_report(&report["output_tokens_per_sec"]), rate, "tokens/s");

    let sides: &[&str] = if drafted { &["draft", "target"] } else { &["target"] };
    let parts = sides.iter().flat_map(|side| ["compute", "queue", "network"].map(|part| format!("{side}_{part}")));
    for part in parts.chain(["coordinator".to_owned(), "wall".to_owned()]) {
        let mean = of_report(&report["cycle"]["mean"][format!("{part}_s")]);
        assert_close(mean, sum(&format!("outrider.spec.{part}_ns")) / n / 1e9, &part);
    }
    for side in sides {
        let key = |name: &str| format!("outrider.roofline.{side}.{name}");
        let worked = cycles.iter().filter(|cycle| cycle.attribute(&key("flops")).is_some()).count() as f64;
        if worked > 0.0 {
            let roofline = &report["roofline"][side];
            assert_close(of_report(&roofline["flops_per_cycle"]), sum(&key("flops")) / worked, "flops");
            assert_close(of_report(&roofline["bytes_per_cycle"]), sum(&key("bytes")) / worked, "bytes");
        }
    }
}

/// A forward has a number of its own on its service.
fn assert_forward_ids(trace: &Trace) {
    for service in [service::DRAFT, service::TARGET] {
        let forwards =
            trace.spans.iter().filter(|stored| stored.service == service && stored.span.name == span::FORWARD);
        let ids: Vec<i64> = forwards.map(|forward| forward.int(spec::FORWARD_ID)).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later), "{service}: {ids:?}");
    }
}

#[track_caller]
fn assert_close(value: f64, expected: f64, what: &str) {
    assert!((value - expected).abs() <= 1e-9 * expected.abs(), "{what}: {value}, not {expected}");
}
