//! What tracing costs a cycle where nothing is exported: `cargo bench -p telemetry --bench off`.

use std::time::Instant;

use divan::{Bencher, black_box};
use opentelemetry::trace::SpanKind;
use telemetry::{
    Tracer,
    names::{event, span, spec},
};

/// Attributes of a cycle, those of its parts included.
const ATTRIBUTES: i64 = 32;

fn main() {
    divan::main();
}

/// All that the coordinator and both services ask of their tracers in one cycle of γ 4: spans of the cycle, of both messages, of
/// their queues and five forwards, contexts for both messages, events and attributes.
#[divan::bench]
fn a_cycle(bencher: Bencher<'_, '_>) {
    let tracer = black_box(Tracer::off());
    let request = tracer.request(span::GENERATE, SpanKind::Client, None);
    let begun = Instant::now();
    bencher.bench_local(|| {
        let mut cycle = black_box(&request).child(span::CYCLE);
        for name in [span::PROPOSE, span::VERIFY] {
            let served = tracer.child_of_remote(name, black_box(cycle.propagate()).as_ref(), begun);
            // The services record nothing more where this says no.
            black_box(served.is_recording());
            served.trace_id();
        }
        cycle.event(event::COMMIT, [(spec::TOKENS, 1_i64.into())]);
        if cycle.is_recording() {
            (0..ATTRIBUTES).for_each(|value| cycle.set(spec::GAMMA, value));
        }
        cycle.event(event::EMIT, [(spec::TOKENS, 1_i64.into())]);
        cycle
    });
}
