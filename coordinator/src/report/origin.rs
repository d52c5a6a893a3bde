//! What a run began with: enough to repeat it, and to know on what.

use serde::{Deserialize, Serialize};
use speculative::Penalties;

use crate::{Pair, Service};

/// How tokens were chosen, but for the seed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Sampling {
    /// 0 is the likeliest token always.
    pub temperature: f64,
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f64,
    /// 0 is off.
    pub min_p: f64,
    /// 0 is off.
    pub presence_penalty: f64,
    /// 0 is off.
    pub frequency_penalty: f64,
    /// 1 is off.
    pub repetition_penalty: f64,
}

impl Sampling {
    /// With the seed that belongs to it.
    pub fn seeded(self, seed: u64) -> speculative::Sampling {
        let Self { temperature, top_k, top_p, min_p, .. } = self;
        let penalties = Penalties {
            presence: self.presence_penalty,
            frequency: self.frequency_penalty,
            repetition: self.repetition_penalty,
        };
        speculative::Sampling { temperature, top_k, top_p, min_p, seed, penalties }
    }
}

impl From<speculative::Sampling> for Sampling {
    fn from(sampling: speculative::Sampling) -> Self {
        let speculative::Sampling { temperature, top_k, top_p, min_p, penalties, .. } = sampling;
        let Penalties { presence, frequency, repetition } = penalties;
        Self {
            temperature,
            top_k,
            top_p,
            min_p,
            presence_penalty: presence,
            frequency_penalty: frequency,
            repetition_penalty: repetition,
        }
    }
}

/// The models of a run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Models {
    /// `null` for AR.
    pub draft: Option<Model>,
    /// The first target's; others stand in for it only where they are the same.
    pub target: Model,
}

/// A model, and what it computed on.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub fingerprint: String,
    /// What its logits are, to the bit.
    pub arithmetic_fingerprint: String,
    /// The type of the weights.
    pub dtype: String,
    /// Where it computes.
    pub device: String,
}

impl Models {
    pub(crate) fn of(pair: &Pair, drafted: bool) -> Self {
        Self { draft: pair.draft.as_ref().filter(|_| drafted).map(Model::of), target: Model::of(&pair.target) }
    }
}

impl Model {
    /// What a service says that it serves.
    pub fn of(service: &Service) -> Self {
        let described = service.description.clone();
        Self {
            name: described.model,
            fingerprint: described.model_fingerprint,
            arithmetic_fingerprint: described.arithmetic_fingerprint,
            dtype: described.dtype,
            device: described.device,
        }
    }
}
