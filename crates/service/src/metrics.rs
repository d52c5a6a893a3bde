//! What a model service counts: of its sessions here, of its model when it is asked.

use std::{
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use model::{OpenError, Worker};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, exemplar::HistogramWithExemplars, family::Family},
};
use telemetry::{
    Tracer,
    metrics::{self, Histograms, Reading, observe},
    names::metric,
};

/// Boundaries of the times of messages, in seconds: from a small draft's step to a long prompt.
const SECONDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Why a session is not opened.
const REASONS: [&str; 5] = ["invalid", "sessions", "memory", "peer", "failed"];

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Message {
    message: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Reason {
    reason: &'static str,
}

/// All that is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    all: Arc<metrics::Metrics>,
    opened: Counter<u64, AtomicU64>,
    refused: Family<Reason, Counter<u64, AtomicU64>>,
    duration: Histograms<Message>,
    queue: Histograms<Message>,
}

impl Metrics {
    /// Of a service whose model will be in `worker`.
    pub(crate) fn new(worker: Arc<OnceLock<Worker>>, tracer: Tracer) -> Self {
        let mut all = metrics::Metrics::default();
        let (opened, refused) = (Counter::default(), Family::<Reason, Counter<u64, AtomicU64>>::default());
        // Counted from 0 on, so that the first one is seen to be one more.
        for reason in REASONS {
            drop(refused.get_or_create(&Reason { reason }));
        }
        let seconds = || Histograms::new_with_constructor(|| HistogramWithExemplars::new(SECONDS.into_iter()));
        let (duration, queue) = (seconds(), seconds());
        all.register(&metric::SESSIONS_OPENED, opened.clone());
        all.register(&metric::SESSIONS_REFUSED, refused.clone());
        all.register(&metric::MESSAGE_DURATION, duration.clone());
        all.register(&metric::MESSAGE_QUEUE, queue.clone());
        all.register_reading(OF_MODEL, move |reading| match worker.get() {
            Some(worker) => read(worker, reading),
            None => Ok(()),
        });
        all.register_spans(move || Some(tracer.clone()));
        Self { all: Arc::new(all), opened, refused, duration, queue }
    }

    /// All of them, to be told.
    pub(crate) fn all(&self) -> Arc<metrics::Metrics> {
        self.all.clone()
    }

    /// A session has opened.
    pub(crate) fn opened(&self) {
        self.opened.inc();
    }

    /// A session has not.
    pub(crate) fn refused(&self, error: &OpenError) {
        self.refused_for(match error {
            OpenError::Field { .. } | OpenError::Sampling(_) => "invalid",
            OpenError::Sessions { .. } => "sessions",
            OpenError::Memory { .. } => "memory",
            OpenError::Failed(_) => "failed",
        });
    }

    /// A session has not, for a reason of its own.
    pub(crate) fn refused_for(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// A message was answered after so long, of which it waited for the model for so long.
    pub(crate) fn answered(&self, message: &'static str, took: Duration, queue: Duration, trace_id: Option<&str>) {
        let message = Message { message };
        observe(&self.duration.get_or_create(&message), took.as_secs_f64(), trace_id);
        observe(&self.queue.get_or_create(&message), queue.as_secs_f64(), trace_id);
    }
}

/// What the model's thread counts.
const OF_MODEL: &[&metric::Metric] = &[
    &metric::SESSIONS,
    &metric::KV_RESERVED,
    &metric::KV_SHARED,
    &metric::KV_LIMIT,
    &metric::FORWARDS,
    &metric::FORWARD_TIME,
    &metric::FORWARD_ROWS,
    &metric::FORWARD_FLOPS,
    &metric::FORWARD_BYTES,
    &metric::SELECT_TIME,
    &metric::PREFIX_CACHE_TOKENS,
    &metric::ROOF_FLOPS,
    &metric::ROOF_BYTES,
    &metric::ROOF_MEMORY_BYTES,
];

fn read(worker: &Worker, reading: &mut Reading<'_>) -> std::fmt::Result {
    let usage = worker.usage();
    let (open, waiting) = (worker.open_sessions() as f64, worker.waiting_sessions() as f64);
    reading.tell(&metric::SESSIONS, &[(&[("state", "open")], open), (&[("state", "waiting")], waiting)])?;
    let (cached, uncached) = (usage.cached_tokens as f64, usage.uncached_tokens as f64);
    reading.tell(&metric::PREFIX_CACHE_TOKENS, &[(&[("result", "hit")], cached), (&[("result", "miss")], uncached)])?;
    for (metric, value) in [
        (&metric::KV_RESERVED, usage.kv_reserved_bytes as f64),
        (&metric::KV_SHARED, usage.kv_shared_bytes as f64),
        (&metric::KV_LIMIT, usage.kv_limit_bytes as f64),
        (&metric::FORWARDS, usage.forwards as f64),
        (&metric::FORWARD_TIME, usage.forward.as_secs_f64()),
        (&metric::FORWARD_ROWS, usage.rows as f64),
        (&metric::FORWARD_FLOPS, usage.work.flops as f64),
        (&metric::FORWARD_BYTES, usage.work.bytes as f64),
        (&metric::SELECT_TIME, usage.select.as_secs_f64()),
    ] {
        reading.tell(metric, &[(&[], value)])?;
    }
    let Some(roofs) = worker.known_roofs() else { return Ok(()) };
    for (metric, value) in [
        (&metric::ROOF_FLOPS, roofs.flops_per_s),
        (&metric::ROOF_BYTES, roofs.bytes_per_s),
        (&metric::ROOF_MEMORY_BYTES, roofs.memory_bytes_per_s),
    ] {
        reading.tell(metric, &[(&[], value)])?;
    }
    Ok(())
}
