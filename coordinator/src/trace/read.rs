//! Spans as files and stores have them.

use std::collections::HashMap;

use serde_json::Value;

#[cfg(test)]
mod tests;

/// A span, whatever it was read from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    /// The trace's id.
    pub trace_id: String,
    /// Its own.
    pub id: String,
    /// Its parent's; empty for a root.
    pub parent: String,
    /// Its name.
    pub name: String,
    /// `service.name`.
    pub service: String,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// By key.
    pub attributes: HashMap<String, Value>,
    /// In order.
    pub events: Vec<Event>,
}

/// What happened within a span.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its name.
    pub name: String,
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// By key.
    pub attributes: HashMap<String, Value>,
}

/// Why there are no spans.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// It is no JSON.
    #[error("line {line} is no JSON: {error}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// What the parser says.
        error: serde_json::Error,
    },
    /// It is JSON of another kind.
    #[error(
        "line {line} holds no spans, allowed: OTLP's JSON (resourceSpans, batches), Jaeger's (data) or Otelite's (spans)"
    )]
    Kind {
        /// The line, from 1.
        line: usize,
    },
}

impl Span {
    /// An attribute that is a number, in whatever form.
    pub fn number(&self, key: &str) -> Option<f64> {
        number(self.attributes.get(key)?)
    }

    /// An attribute that is text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.attributes.get(key)?.as_str()
    }
}

/// The spans in `text`: one JSON document, or one in each line.
///
/// # Errors
/// The first line that is none.
pub fn spans(text: &str) -> Result<Vec<Span>, Unreadable> {
    if let Ok(document) = serde_json::from_str(text) {
        return of_document(&document).ok_or(Unreadable::Kind { line: 1 });
    }
    let mut spans = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let document = serde_json::from_str(line).map_err(|error| Unreadable::Json { line: at + 1, error })?;
        spans.extend(of_document(&document).ok_or(Unreadable::Kind { line: at + 1 })?);
    }
    Ok(spans)
}

fn of_document(document: &Value) -> Option<Vec<Span>> {
    let list = |key: &str| document.get(key).and_then(Value::as_array);
    if let Some(resources) = list("resourceSpans").or_else(|| list("batches")) {
        return Some(resources.iter().flat_map(of_resource).collect());
    }
    if let Some(traces) = list("data") {
        return Some(traces.iter().flat_map(of_jaeger).collect());
    }
    if let Some(spans) = list("spans") {
        return Some(spans.iter().map(of_otelite).collect());
    }
    of_document(document.get("trace")?)
}

/// OTLP's JSON: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>.
fn of_resource(resource: &Value) -> Vec<Span> {
    let of_resource = attributes(&resource["resource"]["attributes"]);
    let service = of_resource.get("service.name").and_then(Value::as_str).unwrap_or_default();
    let scopes = resource["scopeSpans"].as_array().or_else(|| resource["instrumentationLibrarySpans"].as_array());
    let spans = scopes.into_iter().flatten().filter_map(|scope| scope["spans"].as_array()).flatten();
    let of_span = |span: &Value| Span {
        trace_id: text(&span["traceId"]),
        id: text(&span["spanId"]),
        parent: text(&span["parentSpanId"]),
        name: text(&span["name"]),
        service: service.to_owned(),
        start_ns: whole(&span["startTimeUnixNano"]),
        end_ns: whole(&span["endTimeUnixNano"]),
        attributes: attributes(&span["attributes"]),
        events: span["events"].as_array().into_iter().flatten().map(of_event).collect(),
    };
    spans.map(of_span).collect()
}

fn of_event(event: &Value) -> Event {
    Event {
        name: text(&event["name"]),
        at_ns: whole(&event["timeUnixNano"]),
        attributes: attributes(&event["attributes"]),
    }
}

fn attributes(list: &Value) -> HashMap<String, Value> {
    let pairs = list.as_array().into_iter().flatten();
    pairs.filter_map(|pair| Some((pair["key"].as_str()?.to_owned(), plain(&pair["value"])))).collect()
}

/// OTLP's AnyValue as plain JSON.
fn plain(value: &Value) -> Value {
    let Some((kind, inner)) = value.as_object().and_then(|object| object.iter().next()) else { return Value::Null };
    match kind.as_str() {
        "intValue" => number(inner).map_or(Value::Null, |number| (number as i64).into()),
        "arrayValue" => inner["values"].as_array().into_iter().flatten().map(plain).collect(),
        _ => inner.clone(),
    }
}

/// What Jaeger's query API answers.
fn of_jaeger(trace: &Value) -> Vec<Span> {
    let tags = |list: &Value| -> HashMap<String, Value> {
        let pairs = list.as_array().into_iter().flatten();
        pairs.filter_map(|pair| Some((pair["key"].as_str()?.to_owned(), pair["value"].clone()))).collect()
    };
    let of_log = |log: &Value| {
        let mut attributes = tags(&log["fields"]);
        let name = attributes.remove("event").or_else(|| attributes.remove("name")).unwrap_or_default();
        Event { name: text(&name), at_ns: whole(&log["timestamp"]) * 1000, attributes }
    };
    let of_span = |span: &Value| {
        let parent = span["references"].as_array().into_iter().flatten().find(|to| to["refType"] == "CHILD_OF");
        let start_ns = whole(&span["startTime"]) * 1000;
        Span {
            trace_id: text(&span["traceID"]),
            id: text(&span["spanID"]),
            parent: parent.map(|parent| text(&parent["spanID"])).unwrap_or_default(),
            name: text(&span["operationName"]),
            service: text(&trace["processes"][text(&span["processID"])]["serviceName"]),
            start_ns,
            end_ns: start_ns + whole(&span["duration"]) * 1000,
            attributes: tags(&span["tags"]),
            events: span["logs"].as_array().into_iter().flatten().map(of_log).collect(),
        }
    };
    trace["spans"].as_array().into_iter().flatten().map(of_span).collect()
}

/// What Otelite's query API answers: flat, with every attribute as text.
fn of_otelite(span: &Value) -> Span {
    let attributes = |of: &Value| -> HashMap<String, Value> {
        of["attributes"].as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let of_event = |event: &Value| Event {
        name: text(&event["name"]),
        at_ns: whole(&event["timestamp"]),
        attributes: attributes(event),
    };
    Span {
        trace_id: text(&span["trace_id"]),
        id: text(&span["span_id"]),
        parent: text(&span["parent_span_id"]),
        name: text(&span["name"]),
        service: text(&span["resource"]["attributes"]["service.name"]),
        start_ns: whole(&span["start_time"]),
        end_ns: whole(&span["end_time"]),
        attributes: attributes(span),
        events: span["events"].as_array().into_iter().flatten().map(of_event).collect(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A number, or one that is written as text because it has 64 bits.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

fn whole(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}
