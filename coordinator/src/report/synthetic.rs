//! What in a run was made for study, so that nobody takes its text or its acceptance for a model's.

use serde::Serialize;

use crate::{Pair, Service};

/// What of a pair is synthetic.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Synthetic {
    /// The draft's weights are made, not trained.
    pub draft: bool,
    /// The target's weights are.
    pub target: bool,
    /// The chance with which the target accepts each proposed token by lot; `null` where it judges by its own choices.
    pub acceptance: Option<f64>,
}

impl Synthetic {
    /// `None` where nothing is.
    pub fn of(pair: &Pair) -> Option<Self> {
        let made = |service: &Service| service.description.synthetic;
        let (draft, target) = (pair.draft.as_ref().is_some_and(made), made(&pair.target));
        // Without a draft there is nothing to accept.
        let acceptance = pair.draft.as_ref().and(pair.target.description.synthetic_acceptance);
        (draft || target || acceptance.is_some()).then_some(Self { draft, target, acceptance })
    }

    /// Whether the output depends on the draft, so that AR's need not be the same.
    pub fn is_lossy(&self) -> bool {
        self.acceptance.is_some()
    }

    /// For people, a sentence for each that is.
    pub fn sentences(&self) -> Vec<String> {
        let models = match (self.draft, self.target) {
            (false, false) => None,
            (true, false) => Some("synthetic draft: its"),
            (false, true) => Some("synthetic target: its"),
            (true, true) => Some("synthetic draft and target: their"),
        };
        let models = models.map(|whose| format!("{whose} weights are made, what is said and accepted means nothing"));
        let acceptance = self.acceptance.map(|rate| {
            format!("synthetic acceptance {rate}: proposals are accepted by lot, the output depends on the draft")
        });
        models.into_iter().chain(acceptance).collect()
    }
}
