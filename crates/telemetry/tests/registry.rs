//! The registry, the constants and the page say the same: `registry/*.yaml`, `src/names.rs`, `docs/telemetry.md`.

use std::{collections::BTreeMap, env, fmt::Write, fs, path::Path};

use serde::Deserialize;
use telemetry::names::metric::{self, Metric};

const NAMES: &str = include_str!("../src/names.rs");
const ATTRIBUTES: &str = include_str!("../registry/attributes.yaml");
const SPANS: &str = include_str!("../registry/spans.yaml");
const METRICS: &str = include_str!("../registry/metrics.yaml");

/// Where the page's list begins and ends.
const MARKS: [&str; 2] = ["<!-- registry: begin -->\n", "<!-- registry: end -->\n"];

/// Namespaces whose attributes OpenTelemetry defines.
const OPENTELEMETRY: [&str; 3] = ["gen_ai.", "rpc.", "error."];

/// Constants by their modules: values, and what their comments say.
type Constants = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug, Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    brief: String,
    #[serde(default)]
    attributes: Vec<Attribute>,
    metric_name: Option<String>,
    instrument: Option<String>,
    unit: Option<String>,
    span_kind: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Attribute {
    id: Option<String>,
    #[serde(rename = "ref")]
    reference: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    brief: Option<String>,
}

impl Group {
    fn references(&self) -> Vec<&str> {
        self.attributes.iter().filter_map(|attribute| attribute.reference.as_deref()).collect()
    }

    /// The name of a span, which its id ends with.
    fn span(&self) -> &str {
        self.id.strip_prefix("span.outrider.").expect("the id of a span")
    }
}

fn groups() -> Vec<Group> {
    let read = |text| serde_saphyr::from_str::<File>(text).expect("YAML of the registry's form").groups;
    [ATTRIBUTES, SPANS, METRICS].into_iter().flat_map(read).collect()
}

fn of_kind<'a>(groups: &'a [Group], kind: &'a str) -> impl Iterator<Item = &'a Group> {
    groups.iter().filter(move |group| group.kind == kind)
}

/// Attributes that the registry defines, by id.
fn defined(groups: &[Group]) -> BTreeMap<String, &Attribute> {
    let all = of_kind(groups, "attribute_group").flat_map(|group| &group.attributes);
    all.map(|attribute| (attribute.id.clone().expect("an id"), attribute)).collect()
}

/// What `names.rs` holds.
fn constants() -> Constants {
    let (mut constants, mut module, mut comment) = (Constants::new(), String::new(), String::new());
    for line in NAMES.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("/// ") {
            comment = if comment.is_empty() { text.to_owned() } else { format!("{comment} {text}") };
        } else if let Some(name) = line.strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(" {")) {
            name.clone_into(&mut module);
            comment.clear();
        } else if let Some((_, value)) = line.split_once(": &str = \"") {
            let value = value.strip_suffix("\";").expect("a constant on one line").to_owned();
            constants.entry(module.clone()).or_default().insert(value, std::mem::take(&mut comment));
        }
    }
    constants
}

#[test]
fn the_attributes_are_the_constants() {
    let (groups, constants) = (groups(), constants());
    let defined = defined(&groups);
    for module in ["spec", "roofline"] {
        for (name, comment) in &constants[module] {
            let attribute = defined.get(name).unwrap_or_else(|| panic!("{name} is not in the registry"));
            assert_eq!(attribute.brief.as_ref(), Some(comment), "{name}");
        }
    }
    let known = |name: &str| constants.values().any(|module| module.contains_key(name));
    let own = defined.keys().filter(|name| name.starts_with("outrider."));
    own.for_each(|name| assert!(known(name), "{name} is in the registry and is no constant"));
}

#[test]
fn the_spans_and_events_are_the_constants() {
    let (groups, constants) = (groups(), constants());
    let named = |kind, name: fn(&Group) -> String| -> BTreeMap<String, String> {
        of_kind(&groups, kind).map(|group| (name(group), group.brief.clone())).collect()
    };
    assert_eq!(named("span", |group| group.span().to_owned()), constants["span"]);
    assert_eq!(named("event", |group| group.name.clone().expect("a name")), constants["event"]);
}

#[test]
fn the_metrics_are_the_constants() {
    let groups = groups();
    let told: Vec<_> = of_kind(&groups, "metric").collect();
    let names: Vec<_> = told.iter().filter_map(|group| group.metric_name.as_deref()).collect();
    assert_eq!(names, metric::all().map(|metric| metric.name).collect::<Vec<_>>());
    for (group, metric) in told.iter().zip(metric::all()) {
        let Metric { name, instrument, unit, attributes, brief } = metric;
        assert_eq!(group.instrument.as_deref(), Some(instrument.as_str()), "{name}");
        assert_eq!((group.unit.as_deref(), group.brief.as_str()), (Some(*unit), *brief), "{name}");
        assert_eq!(group.references(), *attributes, "{name}");
    }
}

#[test]
fn every_attribute_is_defined_and_used() {
    let (groups, constants) = (groups(), constants());
    let defined = defined(&groups);
    let used: Vec<&str> = groups.iter().flat_map(Group::references).collect();
    for name in &used {
        let elsewhere = OPENTELEMETRY.iter().any(|namespace| name.starts_with(namespace));
        assert!(defined.contains_key(*name) != elsewhere, "{name} is not defined, or twice");
    }
    for name in defined.keys().chain(constants["convention"].keys()) {
        assert!(used.contains(&name.as_str()), "{name} is on no span, event or metric");
    }
}

/// The list that the page holds.
fn list(groups: &[Group]) -> String {
    let mut page = String::from("\n### Spans and events\n\n| name | kind | what | attributes |\n|---|---|---|---|\n");
    let attributes = |group: &Group| match &group.references()[..] {
        [] => "none".to_owned(),
        some => some.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
    };
    for group in groups.iter().filter(|group| ["span", "event"].contains(&group.kind.as_str())) {
        let kind = group.span_kind.as_deref().map_or("event".to_owned(), |kind| format!("span, {kind}"));
        let name = group.name.as_deref().unwrap_or_else(|| group.span());
        writeln!(page, "| `{name}` | {kind} | {} | {} |", group.brief, attributes(group)).expect("a string");
    }
    page += "\n### Attributes\n\n| name | type | what |\n|---|---|---|\n";
    for attribute in of_kind(groups, "attribute_group").flat_map(|group| &group.attributes) {
        let told = |text: &Option<String>| text.clone().expect("a text");
        let [id, kind, brief] = [&attribute.id, &attribute.kind, &attribute.brief].map(told);
        writeln!(page, "| `{id}` | {kind} | {brief} |").expect("a string");
    }
    page += "\n### Metrics\n\n| name | on `/metrics` | kind, unit | what | attributes |\n|---|---|---|---|---|\n";
    for (group, metric) in of_kind(groups, "metric").zip(metric::all()) {
        let (name, exposed, kind, unit) = (metric.name, metric.exposed(), metric.instrument.as_str(), metric.unit);
        let told = attributes(group);
        writeln!(page, "| `{name}` | `{exposed}` | {kind}, {unit} | {} | {told} |", group.brief).expect("a string");
    }
    page + "\n"
}

/// With `UPDATE_PAGE=1` it writes the list instead.
#[test]
fn the_page_lists_the_registry() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/telemetry.md");
    let page = fs::read_to_string(&path).expect("the page");
    let [begin, end] = MARKS.map(|mark| page.find(mark).unwrap_or_else(|| panic!("{mark} is not in the page")));
    let begin = begin + MARKS[0].len();
    let list = list(&groups());
    if env::var_os("UPDATE_PAGE").is_some() {
        fs::write(&path, format!("{}{list}{}", &page[..begin], &page[end..])).expect("the page can be written");
        return;
    }
    assert!(page[begin..end] == list, "the page does not list the registry: run this test with UPDATE_PAGE=1");
}
