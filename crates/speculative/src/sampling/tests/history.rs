use super::PLAIN;
use crate::{Chooser, History, Penalties, Sampling, TokenId};

const ALL: Penalties = Penalties { presence: 0.5, frequency: 0.25, repetition: 2.0 };

fn penalised(penalties: Penalties, tokens: &[TokenId], prompt_len: usize, logits: &[f32]) -> Vec<f32> {
    let mut row = Vec::new();
    assert!(History::new(&penalties, tokens, prompt_len).penalise(logits, &mut row));
    row
}

/// By hand: 0 is in the prompt only, 1 in both, 2 and 3 were chosen, 4 is new.
#[test]
fn each_penalty_sees_what_it_should() {
    let (tokens, logits) = ([0, 1, 1, 1, 2, 3, 3, 3], [4.0, 4.0, -4.0, 1.0, 3.0]);
    let only = |penalties| penalised(penalties, &tokens, 3, &logits);
    assert_eq!(only(Penalties { presence: 0.5, ..Penalties::NONE }), [4.0, 3.5, -4.5, 0.5, 3.0]);
    assert_eq!(only(Penalties { frequency: 0.25, ..Penalties::NONE }), [4.0, 3.75, -4.25, 0.25, 3.0]);
    assert_eq!(only(Penalties { repetition: 2.0, ..Penalties::NONE }), [2.0, 2.0, -8.0, 0.5, 3.0]);
    assert_eq!(only(ALL), [2.0, 1.25, -8.75, -0.75, 3.0]);
    assert_eq!(only(Penalties { presence: -2.0, frequency: -1.0, ..Penalties::NONE }), [4.0, 7.0, -1.0, 6.0, 3.0]);
}

/// What a window counts and takes back leaves no trace.
#[test]
fn what_is_taken_back_was_never_there() {
    let logits = [1.0, 2.0, -3.0, 4.0];
    let mut history = History::new(&ALL, &[0, 1], 1);
    let rows = |history: &History| {
        let mut row = Vec::new();
        history.penalise(&logits, &mut row);
        row
    };
    let before = rows(&history);
    history.extend(&[2, 1, 2]);
    assert_eq!(rows(&history), penalised(ALL, &[0, 1, 2, 1, 2], 1, &logits));
    history.retract(&[2, 1, 2]);
    assert_eq!(rows(&history), before);
}

#[test]
fn penalties_change_the_choice_at_any_temperature() {
    let logits = [5.0, 4.9, -9.0];
    let history = History::new(&Penalties { presence: 1.0, ..Penalties::NONE }, &[2, 0], 1);
    let off = History::new(&Penalties::NONE, &[2, 0], 1);
    for temperature in [0.0, 0.001] {
        let sampling = Sampling { temperature, ..PLAIN };
        let mut chooser = Chooser::new();
        assert_eq!(chooser.choose_after(&off, &logits, 3, &sampling, 7), chooser.choose(&logits, 3, &sampling, 7));
        assert_eq!(chooser.choose_after(&off, &logits, 3, &sampling, 7), 0);
        assert_eq!(chooser.choose_after(&history, &logits, 3, &sampling, 7), 1);
    }
}

#[test]
fn tokens_beyond_the_row_are_no_matter() {
    assert_eq!(penalised(ALL, &[7, 9], 1, &[1.0, 2.0]), [1.0, 2.0]);
}
