//! The services of a pair, near and far.

use std::collections::HashMap;

use speculative::policy::Gamma;
use telemetry::Distance;

#[cfg(feature = "embedded")]
use super::plan::UnusablePlan;
use super::{
    StudyError,
    plan::{PairPlan, Placement, Plan, Setting, Variant},
};
#[cfg(feature = "embedded")]
use crate::embedded::{Embedded, Models};
use crate::{Access, Pair, report::Model};

/// A pair of the plan, started where it lives in this process, and the connections to it.
pub(super) struct Stage<'a> {
    plan: &'a Plan,
    access: &'a Access,
    addresses: Addresses,
    /// From each distance; a policy that learns has connections of its own, so that it learns of them alone.
    connections: HashMap<(usize, String), Pair>,
    #[cfg(feature = "embedded")]
    embedded: Option<Embedded>,
}

struct Addresses {
    draft: String,
    colocated_draft: String,
    target: String,
}

impl<'a> Stage<'a> {
    pub(super) async fn open(plan: &'a Plan, pair: &'a PairPlan, access: &'a Access) -> Result<Self, StudyError> {
        let connections = HashMap::new();
        if pair.is_remote() {
            let PairPlan { draft, target, colocated_draft, .. } = pair.clone();
            let colocated_draft = colocated_draft.unwrap_or_else(|| draft.clone());
            let addresses = Addresses { draft, colocated_draft, target };
            #[cfg(feature = "embedded")]
            return Ok(Self { plan, access, addresses, connections, embedded: None });
            #[cfg(not(feature = "embedded"))]
            return Ok(Self { plan, access, addresses, connections });
        }
        #[cfg(not(feature = "embedded"))]
        return Err(StudyError::NoModels { pair: pair.name.clone() });
        #[cfg(feature = "embedded")]
        {
            let embedded = Embedded::start(models(pair)?, pair.threads, None).await?;
            let draft = embedded.draft_url().unwrap_or_default().to_owned();
            let target = embedded.target_url().to_owned();
            let addresses = Addresses { colocated_draft: draft.clone(), draft, target };
            Ok(Self { plan, access, addresses, connections, embedded: Some(embedded) })
        }
    }

    /// The pair as it is, with no distance.
    pub(super) async fn near(&self) -> Result<Pair, StudyError> {
        Ok(Pair::connect(Some(&self.addresses.draft), &self.addresses.target, self.access).await?)
    }

    /// The co-located draft, where it is another service than the draft.
    pub(super) async fn colocated_draft(&self) -> Result<Option<Model>, StudyError> {
        let Addresses { draft, colocated_draft, target } = &self.addresses;
        if draft == colocated_draft {
            return Ok(None);
        }
        let pair = Pair::connect(Some(colocated_draft), target, self.access).await?;
        Ok(pair.draft.as_ref().map(Model::of))
    }

    /// The pair of `setting`, the `at`-th of the plan, for `variant` or for AR, where a step takes `step`.
    pub(super) async fn pair(
        &mut self,
        (at, setting): (usize, &Setting),
        variant: Option<&Variant<'_>>,
        step: std::time::Duration,
    ) -> Result<Pair, StudyError> {
        let learns = variant.filter(|variant| variant.gamma == Gamma::Auto);
        let key = (at, learns.map_or_else(String::new, |variant| variant.policy.name.clone()));
        if let Some(pair) = self.connections.get(&key) {
            return Ok(pair.clone());
        }
        let rtt = setting.rtt.duration(step);
        let jitter = self.plan.jitter.min(rtt);
        let access = Access {
            draft_distance: Distance { rtt, jitter, bits_per_s: None },
            target_distance: Distance { rtt: self.plan.target_rtt, ..Distance::default() },
            ..self.access.clone()
        };
        let draft = match setting.placement {
            Placement::CoLocated => &self.addresses.colocated_draft,
            Placement::Distributed => &self.addresses.draft,
        };
        let pair = Pair::connect(Some(draft), &self.addresses.target, &access).await?;
        self.connections.insert(key, pair.clone());
        Ok(pair)
    }

    pub(super) async fn close(self) {
        drop(self.connections);
        #[cfg(feature = "embedded")]
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// The models that a pair of the plan names.
#[cfg(feature = "embedded")]
pub(super) fn models(pair: &PairPlan) -> Result<Models, UnusablePlan> {
    let source = |field: &str, text: &str| {
        service::source(text).map_err(|allowed| UnusablePlan::Field {
            field: format!("{field} of pair {:?}", pair.name),
            value: text.to_owned(),
            allowed,
        })
    };
    let (draft, target) = (Some(source("draft", &pair.draft)?), source("target", &pair.target)?);
    Ok(Models { draft, target, ..Models::default() })
}
