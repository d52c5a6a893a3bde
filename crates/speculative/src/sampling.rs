//! The sampling parameters, and the choice that they pin.

mod chooser;
mod history;
mod noise;
#[cfg(test)]
mod tests;

pub(crate) use chooser::{Candidate, Row, argmax, in_order, weight};
pub use chooser::{Chooser, Ranked};
pub use history::History;
pub use noise::gumbel;

/// How a token is chosen from a row of logits. What is off: `top_k` 0, `top_p` 1, `min_p` 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits, 0 to 100. At 0 the choice is the argmax, and of the other fields only the penalties count.
    pub temperature: f64,
    /// Keeps exactly this many of the likeliest tokens; 0 keeps all.
    pub top_k: u32,
    /// Of what `top_k` kept, keeps the shortest prefix that holds this share of the probability, above 0 and up to 1.
    pub top_p: f64,
    /// Drops tokens less likely than this share of the likeliest, 0 to 1.
    pub min_p: f64,
    /// Together with a position and a token, determines the noise.
    pub seed: u64,
    /// What is taken from the logits of tokens that the sequence holds already; it counts at temperature 0 as well.
    pub penalties: Penalties,
}

/// Penalties on the logits of tokens that a sequence holds, as [`History`] applies them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalties {
    /// Taken once from each token that was chosen, -2 to 2; 0 is off.
    pub presence: f64,
    /// Taken from a token for each time that it was chosen, -2 to 2; 0 is off.
    pub frequency: f64,
    /// Divides what is above 0, and multiplies what is below, of tokens that are in the prompt or were chosen; above 0 to
    /// 10, 1 is off.
    pub repetition: f64,
}

impl Penalties {
    /// No penalties.
    pub const NONE: Penalties = Penalties { presence: 0.0, frequency: 0.0, repetition: 1.0 };

    /// Whether none changes anything.
    pub fn are_off(&self) -> bool {
        *self == Self::NONE
    }
}

impl Sampling {
    /// The argmax at every position.
    pub fn greedy() -> Self {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0, penalties: Penalties::NONE }
    }

    /// Whether every field is in its range. NaN is in none.
    pub fn validate(&self) -> Result<(), InvalidSampling> {
        let Sampling { temperature, top_k: _, top_p, min_p, seed: _, penalties } = *self;
        let Penalties { presence, frequency, repetition } = penalties;
        check("presence_penalty", presence, (-2.0..=2.0).contains(&presence), "-2 to 2")?;
        check("frequency_penalty", frequency, (-2.0..=2.0).contains(&frequency), "-2 to 2")?;
        check("repetition_penalty", repetition, repetition > 0.0 && repetition <= 10.0, "above 0, up to 10")?;
        check("temperature", temperature, (0.0..=100.0).contains(&temperature), "0 to 100")?;
        check("top_p", top_p, top_p > 0.0 && top_p <= 1.0, "above 0, up to 1")?;
        check("min_p", min_p, (0.0..=1.0).contains(&min_p), "0 to 1")
    }
}

fn check(field: &'static str, value: f64, valid: bool, allowed: &'static str) -> Result<(), InvalidSampling> {
    if valid { Ok(()) } else { Err(InvalidSampling { field, value: value.to_string(), allowed }) }
}

/// A sampling parameter out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, allowed: {allowed}")]
pub struct InvalidSampling {
    /// The field's name in [`Sampling`]; that of a penalty ends with `_penalty`.
    pub field: &'static str,
    /// The value that it had.
    pub value: String,
    /// The values that it may have.
    pub allowed: &'static str,
}
