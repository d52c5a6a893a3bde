//! Fields of a configuration, checked one by one.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use crate::LoadError;

/// What sizes may be, so that no product of them overflows.
pub(crate) const VOCAB: RangeInclusive<u64> = crate::description::TOKENIZER_SIZE as u64..=1 << 20;
pub(crate) const WIDTH: RangeInclusive<u64> = 1..=1 << 14;
pub(crate) const HIDDEN: RangeInclusive<u64> = 1..=1 << 17;
pub(crate) const HEADS: RangeInclusive<u64> = 1..=1 << 8;
pub(crate) const LAYERS: RangeInclusive<u64> = 1..=1 << 8;
pub(crate) const CONTEXT: RangeInclusive<u64> = 1..=1 << 24;
pub(crate) const EPSILON: RangeInclusive<f64> = 1e-12..=1e-1;
pub(crate) const THETA: RangeInclusive<f64> = 1.0..=1e12;
pub(crate) const FACTOR: RangeInclusive<f64> = 1e-3..=1e6;

/// An object of a JSON file, or another table of names and values in that form.
pub(crate) struct Fields<'a> {
    file: &'a str,
    /// Where the object stands in the file: "" or a path that ends in a dot.
    within: String,
    fields: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn parse(file: &'a str, json: &[u8]) -> Result<Fields<'a>, LoadError> {
        let fields = serde_json::from_slice(json).map_err(|error| LoadError::Json { file: file.to_owned(), error })?;
        Ok(Fields::new(file, fields))
    }

    pub(crate) fn new(file: &'a str, fields: Map<String, Value>) -> Fields<'a> {
        Fields { file, within: String::new(), fields }
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// The error that a field is not what it may be.
    pub(crate) fn refuse(&self, name: &str, allowed: &str) -> LoadError {
        let value = self.fields.get(name).map_or_else(|| "missing".to_owned(), shortened);
        let (file, field) = (self.file.to_owned(), format!("{}{name}", self.within));
        LoadError::Geometry { file, field, value, allowed: allowed.to_owned() }
    }

    /// A whole number.
    pub(crate) fn whole(&self, name: &str, allowed: RangeInclusive<u64>) -> Result<usize, LoadError> {
        let value = self.get(name).and_then(Value::as_u64).filter(|value| allowed.contains(value));
        let words = || format!("a whole number from {} to {}", allowed.start(), allowed.end());
        value.map(|value| value as usize).ok_or_else(|| self.refuse(name, &words()))
    }

    /// A whole number, or `default` where the field is missing or null.
    pub(crate) fn whole_or(
        &self,
        name: &str,
        allowed: RangeInclusive<u64>,
        default: usize,
    ) -> Result<usize, LoadError> {
        if self.get(name).is_some() { self.whole(name, allowed) } else { Ok(default) }
    }

    /// A number.
    pub(crate) fn number(&self, name: &str, allowed: RangeInclusive<f64>) -> Result<f64, LoadError> {
        let value = self.get(name).and_then(Value::as_f64).filter(|value| allowed.contains(value));
        let words = || format!("a number from {:e} to {:e}", allowed.start(), allowed.end());
        value.ok_or_else(|| self.refuse(name, &words()))
    }

    /// A number, or `default` where the field is missing or null.
    pub(crate) fn number_or(&self, name: &str, allowed: RangeInclusive<f64>, default: f64) -> Result<f64, LoadError> {
        if self.get(name).is_some() { self.number(name, allowed) } else { Ok(default) }
    }

    /// True or false, or `default` where the field is missing or null.
    pub(crate) fn flag_or(&self, name: &str, default: bool) -> Result<bool, LoadError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(self.refuse(name, "true or false")),
        }
    }

    /// Words, or `default` where the field is missing or null.
    pub(crate) fn words_or<'b>(&'b self, name: &str, default: &'b str) -> Result<&'b str, LoadError> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::String(value)) => Ok(value),
            Some(_) => Err(self.refuse(name, "a string")),
        }
    }

    /// Refuses every value of a field but `allowed`, which a missing field or null stands for.
    pub(crate) fn only(&self, name: &str, allowed: &Value) -> Result<(), LoadError> {
        match self.get(name) {
            Some(value) if value != allowed => Err(self.refuse(name, &allowed.to_string())),
            _ => Ok(()),
        }
    }

    /// An object within this one, empty where the field is missing or null.
    pub(crate) fn within(&self, name: &str) -> Result<Fields<'a>, LoadError> {
        let fields = match self.get(name) {
            None => Map::new(),
            Some(Value::Object(fields)) => fields.clone(),
            Some(_) => return Err(self.refuse(name, "an object")),
        };
        Ok(Fields { file: self.file, within: format!("{}{name}.", self.within), fields })
    }

    /// Refuses a size that another does not divide.
    pub(crate) fn divides(&self, name: &str, value: usize, of: &str, whole: usize) -> Result<(), LoadError> {
        if whole.is_multiple_of(value) {
            Ok(())
        } else {
            Err(self.refuse(name, &format!("a divisor of {of}, {whole}")))
        }
    }
}

/// A value as an error shows it.
fn shortened(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
