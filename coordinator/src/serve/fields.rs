//! Reads the fields of a JSON object. One that is `null` counts as absent; one of a wrong type is refused by name.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::Refusal;

/// The longest value that a message repeats, in characters.
const SHOWN: usize = 60;

/// The fields of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    /// Where the object is in the body, for messages; empty for the body itself.
    place: &'a str,
}

impl<'a> Fields<'a> {
    /// The fields of `value` at `place`.
    pub(super) fn of(value: &'a Value, place: &'a str) -> Result<Self, Refusal> {
        match value {
            Value::Object(object) => Ok(Self { object, place }),
            other if place.is_empty() => Err(Refusal::Body(format!("it is {}, allowed: a JSON object", kind(other)))),
            other => Err(Refusal::field(place, format!("{place} is {}, allowed: an object", shown(other)))),
        }
    }

    /// The value of a field.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object.get(name).filter(|value| !value.is_null())
    }

    /// The name of a field as messages give it.
    pub(super) fn name(&self, name: &str) -> String {
        if self.place.is_empty() { name.to_owned() } else { format!("{}.{name}", self.place) }
    }

    /// The refusal of a field, whose value is repeated.
    pub(super) fn refuse(&self, name: &str, allowed: &str) -> Refusal {
        let value = self.object.get(name).map_or_else(|| "missing".to_owned(), shown);
        let name = self.name(name);
        let problem = format!("{name} is {value}, allowed: {allowed}");
        Refusal::field(name, problem)
    }

    /// A whole number in `range`.
    pub(super) fn whole(&self, name: &str, range: RangeInclusive<u64>) -> Result<Option<u64>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_u64().filter(|number| range.contains(number));
        let allowed = || format!("a whole number, {} to {}", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.refuse(name, &allowed()))
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Result<Option<f64>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.refuse(name, "a number"))
    }

    /// True or false; false where it is absent.
    pub(super) fn boolean(&self, name: &str) -> Result<bool, Refusal> {
        let Some(value) = self.get(name) else { return Ok(false) };
        value.as_bool().ok_or_else(|| self.refuse(name, "true or false"))
    }

    /// A string.
    pub(super) fn string(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.refuse(name, "a string"))
    }
}

/// A value as a message repeats it: what is long is only named.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= SHOWN { text } else { kind(value).to_owned() }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
