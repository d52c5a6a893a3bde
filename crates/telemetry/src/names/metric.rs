//! Metrics: OpenTelemetry's GenAI names where they exist, vLLM's meaning for speculation, `outrider.*` for the rest.

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instrument {
    /// Only grows.
    Counter,
    /// Is what it is now.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Instrument {
    /// As the registry spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric that is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// OpenTelemetry's name.
    pub name: &'static str,
    /// What it is.
    pub instrument: Instrument,
    /// The unit in UCUM: `s`, `By`, or what is counted in braces.
    pub unit: &'static str,
    /// Keys of its attributes; each has a bounded number of values.
    pub attributes: &'static [&'static str],
    /// One sentence.
    pub brief: &'static str,
}

impl Metric {
    /// The name on `/metrics`, as OpenTelemetry's Prometheus exporters spell it: with the unit, and with `_total` where it
    /// is a counter.
    pub fn exposed(&self) -> String {
        let (name, unit) = self.registered();
        let total = if self.instrument == Instrument::Counter { "_total" } else { "" };
        name + unit + total
    }

    /// The name without what the exposition appends, and the unit that it appends.
    pub(crate) fn registered(&self) -> (String, &'static str) {
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        let name = self.name.replace('.', "_");
        (name.strip_suffix(unit).map(str::to_owned).unwrap_or(name), unit)
    }
}

macro_rules! metrics {
    ($(#[$what:meta])* $list:ident: $($id:ident = $name:literal, $instrument:ident, $unit:literal, [$($attribute:literal),*], $brief:literal;)*) => {
        $(
            #[doc = $brief]
            pub const $id: Metric = Metric {
                name: $name,
                instrument: Instrument::$instrument,
                unit: $unit,
                attributes: &[$($attribute),*],
                brief: $brief,
            };
        )*
        $(#[$what])*
        pub const $list: &[&Metric] = &[$(&$id),*];
    };
}

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Metric> {
    [COORDINATORS, MODEL_SERVICES, EVERY_SERVICES].into_iter().flatten().copied()
}

metrics! {
    /// Those of the coordinator.
    COORDINATORS:
    TIME_TO_FIRST_TOKEN = "gen_ai.server.time_to_first_token", Histogram, "s",
        ["gen_ai.operation.name", "gen_ai.request.model"], "From a request to the first token of a choice";
    TIME_PER_OUTPUT_TOKEN = "gen_ai.server.time_per_output_token", Histogram, "s",
        ["gen_ai.operation.name", "gen_ai.request.model"], "Between two tokens of a choice, the first one left out";
    REQUEST_DURATION = "gen_ai.server.request.duration", Histogram, "s",
        ["gen_ai.operation.name", "gen_ai.request.model", "error.type"], "From a request to the end of its answer";
    PROMPT_TOKENS = "outrider.prompt_tokens", Counter, "{token}", [], "Tokens of prompts, once for each choice";
    CACHED_TOKENS = "outrider.cached_tokens", Counter, "{token}", [], "Of these, those that the target had in its cache";
    GENERATED_TOKENS = "outrider.generated_tokens", Counter, "{token}", [], "Tokens of answers";
    NUM_DRAFTS = "outrider.spec_decode.num_drafts", Counter, "{cycle}", [], "Cycles that proposed something";
    NUM_DRAFT_TOKENS = "outrider.spec_decode.num_draft_tokens", Counter, "{token}", [], "Tokens that were proposed";
    NUM_ACCEPTED_TOKENS = "outrider.spec_decode.num_accepted_tokens", Counter, "{token}", [],
        "Proposed tokens that were accepted";
    NUM_ACCEPTED_TOKENS_PER_POS = "outrider.spec_decode.num_accepted_tokens_per_pos", Counter, "{token}", ["position"],
        "Cycles whose proposal at this position, from 0, was accepted";
    CYCLES = "outrider.cycles", Counter, "{cycle}", ["gamma"], "Cycles, by the number of tokens that were proposed";
    CYCLE_DURATION = "outrider.cycle.duration", Histogram, "s", [], "A cycle's wall";
    CYCLE_TIME = "outrider.cycle.time", Counter, "s", ["part"], "Time in the parts of cycles, which add up to their wall";
    DRAFT_ABSENT_CYCLES = "outrider.draft_absent_cycles", Counter, "{cycle}", [],
        "Cycles that wanted a proposal and got none";
    ANTICIPATION = "outrider.anticipation", Counter, "{verdict}", ["outcome"],
        "Verdicts that the draft could prepare for: hit, late_hit or miss";
    ANTICIPATION_WASTED_ROWS = "outrider.anticipation.wasted_rows", Counter, "{row}", [],
        "Rows that drafts forwarded for branches that were not verified";
    ANTICIPATION_SAVED = "outrider.anticipation.saved", Counter, "s", [],
        "What branches saved of waiting for proposals, as proposals have taken so far";
    FAILOVERS = "outrider.failovers", Counter, "{failover}", ["outcome"],
        "Targets that were lost under a choice: another continued it, or it failed";
    BREAK_EVEN_RTT = "outrider.break_even_rtt", Gauge, "s", [],
        "The draft's RTT beyond which plain decoding would be faster, from what was measured since the start";
    CHOICES_RUNNING = "outrider.choices_running", Gauge, "{choice}", [], "Choices that are generated now";
    HTTP_RESPONSES = "outrider.http_responses", Counter, "{response}", ["route", "status"],
        "Answers over HTTP, by their status";
}

metrics! {
    /// Those of the draft and of the target.
    MODEL_SERVICES:
    SESSIONS = "outrider.sessions", Gauge, "{session}", ["state"], "Sessions that are open, and those that wait for room";
    SESSIONS_OPENED = "outrider.sessions.opened", Counter, "{session}", [], "Sessions that were opened";
    SESSIONS_REFUSED = "outrider.sessions.refused", Counter, "{session}", ["reason"], "Sessions that were not opened";
    KV_RESERVED = "outrider.kv.reserved", Gauge, "By", [], "Memory set aside for the caches of open sessions";
    KV_SHARED = "outrider.kv.shared", Gauge, "By", [], "Memory of what prompts share";
    KV_LIMIT = "outrider.kv.limit", Gauge, "By", [], "Memory that the caches of sessions may take";
    FORWARDS = "outrider.forwards", Counter, "{forward}", [], "Forward passes, each once for all sessions in it";
    FORWARD_TIME = "outrider.forward.time", Counter, "s", [], "Time in forward passes";
    FORWARD_ROWS = "outrider.forward.rows", Counter, "{row}", [], "Rows of forward passes, over all sessions";
    FORWARD_FLOPS = "outrider.forward.flops", Counter, "{operation}", [], "Counted floating-point operations of forward passes";
    FORWARD_BYTES = "outrider.forward.bytes", Counter, "By", [], "Counted bytes that forward passes read and write";
    SELECT_TIME = "outrider.select.time", Counter, "s", [], "Time in choosing tokens";
    MESSAGE_DURATION = "outrider.message.duration", Histogram, "s", ["message"],
        "From a message to its answer, as the service sees it";
    MESSAGE_QUEUE = "outrider.message.queue", Histogram, "s", ["message"], "Of that, waiting for the model";
    PREFIX_CACHE_TOKENS = "outrider.prefix_cache.tokens", Counter, "{token}", ["result"],
        "Tokens of prompts that were found in the cache, and that were not";
    ROOF_FLOPS = "outrider.roof.flops_per_second", Gauge, "{operation}/s", [], "Roof: matmul in the model's dtype";
    ROOF_BYTES = "outrider.roof.bytes_per_second", Gauge, "By/s", [],
        "Roof: reading at the working set of the model's weights";
    ROOF_MEMORY_BYTES = "outrider.roof.memory_bytes_per_second", Gauge, "By/s", [], "Roof: reading from memory";
}

metrics! {
    /// Those of all three.
    EVERY_SERVICES:
    SPANS_ENDED = "outrider.spans.ended", Counter, "{span}", [], "Spans that ended and were to be exported";
    SPANS_EXPORTED = "outrider.spans.exported", Counter, "{span}", [], "Spans that the receiver acknowledged";
    SPAN_EXPORTS_FAILED = "outrider.span_exports.failed", Counter, "{export}", [], "Exports of spans that failed";
}
