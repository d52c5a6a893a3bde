mod choice;
mod history;
mod noise;

use super::{Chooser, Penalties, Sampling};

const PLAIN: Sampling =
    Sampling { temperature: 0.8, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 42, penalties: Penalties::NONE };

/// Made by `vectors/make.py`, which shares nothing with this crate but the design.
const VECTORS: &str = include_str!("../../vectors/choices.txt");

/// The fields of the vectors of one kind.
fn vectors(kind: &str) -> impl Iterator<Item = Vec<&'static str>> {
    let lines = VECTORS.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    lines.filter(move |fields| fields[0] == kind).map(|fields| fields[1..].to_vec())
}

fn choose(logits: &[f32], sampling: &Sampling, position: u64) -> u32 {
    Chooser::new().choose(logits, logits.len(), sampling, position)
}

#[test]
fn valid_parameters_pass() {
    for temperature in [0.0, 1e-9, 0.8, 100.0] {
        for top_p in [1e-9, 0.5, 1.0] {
            for min_p in [0.0, 0.05, 1.0] {
                let penalties = Penalties { presence: -2.0, frequency: 2.0, repetition: 10.0 };
                let sampling = Sampling { temperature, top_k: u32::MAX, top_p, min_p, seed: u64::MAX, penalties };
                assert_eq!(sampling.validate(), Ok(()), "{sampling:?}");
            }
        }
    }
    assert_eq!(Sampling::greedy().validate(), Ok(()));
}

#[test]
fn parameters_out_of_range_are_named() {
    let refused = |sampling: Sampling| sampling.validate().unwrap_err();
    for value in [-1.0, -1e-9, 100.1, f64::NAN, f64::INFINITY] {
        assert_eq!(refused(Sampling { temperature: value, ..PLAIN }).field, "temperature");
    }
    for value in [0.0, -0.5, 1.000_001, f64::NAN, f64::NEG_INFINITY] {
        assert_eq!(refused(Sampling { top_p: value, ..PLAIN }).field, "top_p");
    }
    for value in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
        assert_eq!(refused(Sampling { min_p: value, ..PLAIN }).field, "min_p");
    }
    let off = Penalties::NONE;
    for value in [-2.1, 2.1, f64::NAN] {
        let (presence, frequency) = (Penalties { presence: value, ..off }, Penalties { frequency: value, ..off });
        assert_eq!(refused(Sampling { penalties: presence, ..PLAIN }).field, "presence_penalty");
        assert_eq!(refused(Sampling { penalties: frequency, ..PLAIN }).field, "frequency_penalty");
    }
    for repetition in [0.0, -1.0, 10.1, f64::NAN] {
        let penalties = Penalties { repetition, ..off };
        assert_eq!(refused(Sampling { penalties, ..PLAIN }).field, "repetition_penalty");
    }
    let error = refused(Sampling { temperature: -1.0, ..PLAIN });
    assert_eq!(error.to_string(), "temperature is -1, allowed: 0 to 100");
}
