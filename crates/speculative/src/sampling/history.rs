//! What a sequence holds so far, as penalties see it.

use std::collections::HashMap;

use super::Penalties;
use crate::TokenId;

/// The tokens of one sequence under its penalties. Without penalties it holds nothing and counting costs nothing.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// `None` where nothing is penalised.
    penalties: Option<Penalties>,
    seen: HashMap<TokenId, Seen>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    in_prompt: bool,
    /// How often it was chosen.
    chosen: u32,
}

impl History {
    /// Of a sequence that holds `tokens`, the first `prompt_len` of which are its prompt.
    pub fn new(penalties: &Penalties, tokens: &[TokenId], prompt_len: usize) -> Self {
        let mut history = Self::default();
        if penalties.are_off() {
            return history;
        }
        history.penalties = Some(*penalties);
        let (prompt, chosen) = tokens.split_at(prompt_len.min(tokens.len()));
        for &token in prompt {
            history.seen.entry(token).or_default().in_prompt = true;
        }
        history.extend(chosen);
        history
    }

    /// Counts chosen tokens.
    pub fn extend(&mut self, tokens: &[TokenId]) {
        if self.penalties.is_some() {
            tokens.iter().for_each(|&token| self.seen.entry(token).or_default().chosen += 1);
        }
    }

    /// Takes back tokens that were counted and then not committed.
    pub fn retract(&mut self, tokens: &[TokenId]) {
        for token in tokens {
            if let Some(seen) = self.seen.get_mut(token) {
                seen.chosen = seen.chosen.saturating_sub(1);
            }
        }
    }

    /// The penalised logits, in `row`; false where nothing is penalised.
    ///
    /// In f64, rounded to f32 at the end, for each token that was seen: with repetition r, if the token is in the prompt
    /// or was chosen, z / r where z > 0 and z · r elsewhere (Keskar et al. 2019, arXiv 1909.05858, section 4.1); from that,
    /// frequency · c, then presence where c > 0, c being how often it was chosen.
    pub(super) fn penalise(&self, logits: &[f32], row: &mut Vec<f32>) -> bool {
        let Some(Penalties { presence, frequency, repetition }) = self.penalties else { return false };
        row.clear();
        row.extend_from_slice(logits);
        for (&token, &Seen { in_prompt, chosen }) in &self.seen {
            let Some(logit) = row.get_mut(token as usize) else { continue };
            let mut z = f64::from(*logit);
            if in_prompt || chosen > 0 {
                z = if z > 0.0 { z / repetition } else { z * repetition };
            }
            if chosen > 0 {
                z = z - frequency * f64::from(chosen) - presence;
            }
            *logit = z as f32;
        }
        true
    }
}
