//! Distance that was not there.

use serde::{Deserialize, Serialize};
use telemetry::Distance;

use crate::Pair;

/// How much farther away than they are the services of a run were made.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct Emulated {
    /// `null` where it was where it is, or was not asked.
    pub draft: Option<EmulatedLink>,
    /// The same of the target.
    pub target: Option<EmulatedLink>,
}

/// What was added to one side's link.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
pub struct EmulatedLink {
    /// To each round trip.
    pub rtt_s: f64,
    /// How far a round trip may be from that.
    pub jitter_s: f64,
    /// What each direction carries; `null` for what there is.
    pub bits_per_s: Option<f64>,
}

impl Emulated {
    /// `None` where nothing was.
    pub(crate) fn of(pair: &Pair, drafted: bool) -> Option<Self> {
        let draft = pair.draft.as_ref().filter(|_| drafted).and_then(|draft| EmulatedLink::of(draft.distance));
        let target = EmulatedLink::of(pair.target.distance);
        (draft.is_some() || target.is_some()).then_some(Self { draft, target })
    }

    /// For people.
    pub fn sentence(&self) -> String {
        let link = |side: &str, link: &Option<EmulatedLink>| {
            let EmulatedLink { rtt_s, jitter_s, bits_per_s } = (*link)?;
            let jitter = if jitter_s > 0.0 { format!(" ± {} ms", 1e3 * jitter_s) } else { String::new() };
            let rate = bits_per_s.map(|bits| format!(", {} Mbit/s", bits / 1e6)).unwrap_or_default();
            Some(format!("{side} {} ms RTT{jitter}{rate}", 1e3 * rtt_s))
        };
        let links: Vec<String> = [("draft", &self.draft), ("target", &self.target)]
            .into_iter()
            .filter_map(|(side, of)| link(side, of))
            .collect();
        format!("emulated distance: {}", links.join("; "))
    }
}

impl EmulatedLink {
    fn of(distance: Distance) -> Option<Self> {
        let Distance { rtt, jitter, bits_per_s } = distance;
        (!distance.is_none()).then_some(Self { rtt_s: rtt.as_secs_f64(), jitter_s: jitter.as_secs_f64(), bits_per_s })
    }
}
