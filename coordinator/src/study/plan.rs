//! What a study measures, as its TOML file says it.

use std::{collections::HashSet, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer};
use speculative::{Coupling, Sampling, policy::Gamma};

/// Branches that a draft may be asked for.
const MOST_BRANCHES: usize = 64;

/// Sessions at once.
const MOST_SESSIONS: usize = 100_000;

/// A plan that cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum UnusablePlan {
    /// It is no TOML, or has a field that no plan has.
    #[error("{0}")]
    Unreadable(#[from] toml::de::Error),
    /// A value that is not allowed.
    #[error("{field} is {value}, allowed: {allowed}")]
    Field {
        /// Where it stands.
        field: String,
        /// What stands there.
        value: String,
        /// What may.
        allowed: String,
    },
}

/// A sweep: each pair at each temperature, distance and number of sessions, under each policy.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// What it asks, as a heading.
    pub title: String,
    /// Rounds of each setting. A round is a run of AR and one of each policy.
    #[serde(default = "usual::repetitions")]
    pub repetitions: usize,
    /// Tokens of each run.
    #[serde(default = "usual::max_tokens")]
    pub max_tokens: usize,
    /// Session s of round k uses the seed plus k × sessions + s.
    #[serde(default)]
    pub seed: u64,
    /// The rounds take them in turn; without any, those of `outrider bench`.
    #[serde(default)]
    pub prompts: Vec<String>,
    /// Each 0 to 100.
    #[serde(default = "usual::temperatures")]
    pub temperatures: Vec<f64>,
    /// How much farther away than it is the draft is made.
    #[serde(default = "usual::rtts")]
    pub rtts: Vec<Rtt>,
    /// How far a round trip to it may be from that.
    #[serde(default, deserialize_with = "duration")]
    pub jitter: Duration,
    /// How much farther away the target is made.
    #[serde(default, deserialize_with = "duration")]
    pub target_rtt: Duration,
    /// Sessions that run at once.
    #[serde(default = "usual::sessions")]
    pub sessions: Vec<usize>,
    /// Who drafts for whom.
    #[serde(rename = "pair")]
    pub pairs: Vec<PairPlan>,
    /// How.
    #[serde(rename = "policy")]
    pub policies: Vec<Policy>,
}

/// A draft and a target: models for this process, or addresses of services.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PairPlan {
    /// Its name in results.
    pub name: String,
    /// As `--draft-model` or `--draft` takes it.
    pub draft: String,
    /// As `--target-model` or `--target` takes it.
    pub target: String,
    /// The draft that shares the target's device, for addresses; without it nothing is co-located. Models in this process share
    /// its processors anyway.
    pub colocated_draft: Option<String>,
    /// Threads of models in this process.
    pub threads: Option<std::num::NonZeroUsize>,
}

/// How proposals are made, at one γ or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Its name in results.
    pub name: String,
    /// Each 1 to 32, or auto.
    #[serde(deserialize_with = "gammas")]
    pub gamma: Vec<Gamma>,
    /// Branches that the draft may draft ahead; 0 is none.
    #[serde(default)]
    pub anticipate: usize,
    /// What ends a proposal early; 0 never does.
    #[serde(default)]
    pub min_confidence: f32,
    /// How the draws of draft and target depend on each other. By rejection the output is not AR's, and nothing is drafted ahead.
    #[serde(default, deserialize_with = "coupling")]
    pub coupling: Coupling,
}

/// A distance: a duration, or so many steps of the target's plain decoding, as measured before the first run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rtt {
    /// Of so long.
    Fixed(Duration),
    /// Of so many steps.
    Steps(f64),
}

impl Rtt {
    /// Whether it is none at all.
    pub fn is_none(self) -> bool {
        self.duration(Duration::from_secs(1)).is_zero()
    }

    /// How long it is, where a step takes `step`.
    pub fn duration(self, step: Duration) -> Duration {
        match self {
            Self::Fixed(rtt) => rtt,
            Self::Steps(steps) => step.mul_f64(steps),
        }
    }
}

impl fmt::Display for Rtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(rtt) if rtt.is_zero() => f.write_str("0"),
            Self::Fixed(rtt) => write!(f, "{}", humantime::format_duration(*rtt)),
            Self::Steps(1.0) => f.write_str("1 step"),
            Self::Steps(steps) => write!(f, "{steps} steps"),
        }
    }
}

impl FromStr for Rtt {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let steps = text.strip_suffix("steps").or_else(|| text.strip_suffix("step"));
        let parsed = match steps {
            Some(steps) => steps.trim().parse().ok().filter(|steps| (0.0..=1e4).contains(steps)).map(Self::Steps),
            None if text == "0" => Some(Self::Fixed(Duration::ZERO)),
            None => humantime::parse_duration(text).ok().filter(|rtt| *rtt <= LONGEST).map(Self::Fixed),
        };
        parsed.ok_or_else(|| format!("{text:?}, allowed: \"0\", a duration up to 1min as \"2ms\", or \"0.5 steps\""))
    }
}

impl<'de> Deserialize<'de> for Rtt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The farthest.
const LONGEST: Duration = Duration::from_secs(60);

impl Plan {
    /// Whether its runs are as long as those of `other`, on the same prompts and over the same links but for the distance.
    pub fn runs_like(&self, other: &Self) -> bool {
        let of = |plan: &Self| (plan.max_tokens, plan.prompts.clone(), plan.jitter, plan.target_rtt);
        of(self) == of(other)
    }

    /// Reads a plan and checks it.
    ///
    /// # Errors
    /// The first field that cannot be used, with its value and what is allowed.
    pub fn read(text: &str) -> Result<Self, UnusablePlan> {
        let plan: Self = toml::from_str(text)?;
        plan.check()?;
        Ok(plan)
    }

    fn check(&self) -> Result<(), UnusablePlan> {
        within("repetitions", self.repetitions, 1, 10_000)?;
        within("max_tokens", self.max_tokens, 2, 1 << 20)?;
        for (field, len) in [
            ("temperatures", self.temperatures.len()),
            ("rtts", self.rtts.len()),
            ("sessions", self.sessions.len()),
            ("pair", self.pairs.len()),
            ("policy", self.policies.len()),
        ] {
            within(&format!("{field} (how many)"), len, 1, 1000)?;
        }
        for &temperature in &self.temperatures {
            let sampling = Sampling { temperature, ..Sampling::greedy() };
            sampling.validate().map_err(|error| refused("temperatures", &error.value, error.allowed))?;
        }
        for &sessions in &self.sessions {
            within("sessions", sessions, 1, MOST_SESSIONS)?;
        }
        let shortest = self.rtts.iter().filter_map(|rtt| match rtt {
            Rtt::Fixed(rtt) if !rtt.is_zero() => Some(*rtt),
            _ => None,
        });
        if let Some(shortest) = shortest.min().filter(|shortest| self.jitter > *shortest) {
            return Err(refused(
                "jitter",
                &format!("{:?}", self.jitter),
                &format!("up to the shortest of rtts, {shortest:?}"),
            ));
        }
        once("rtts", self.rtts.iter().map(|rtt| if rtt.is_none() { "0".to_owned() } else { rtt.to_string() }))?;
        once("temperatures", self.temperatures.iter().map(f64::to_string))?;
        once("sessions", self.sessions.iter().map(usize::to_string))?;
        named("pair", self.pairs.iter().map(|pair| pair.name.as_str()))?;
        named("policy", self.policies.iter().map(|policy| policy.name.as_str()))?;
        self.pairs.iter().try_for_each(PairPlan::check)?;
        self.policies.iter().try_for_each(Policy::check)
    }

    /// Runs of the whole plan, with a round of each setting that warms it up.
    pub fn runs(&self) -> usize {
        let settings = self.settings();
        settings.iter().map(|setting| (1 + self.variants(setting).len()) * setting.sessions).sum::<usize>()
            * (1 + self.repetitions)
    }

    /// What is measured against AR of its own, in order.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        for pair in 0..self.pairs.len() {
            for &temperature in &self.temperatures {
                for &sessions in &self.sessions {
                    let setting = |placement, rtt| Setting { pair, placement, temperature, rtt, sessions };
                    if self.pairs[pair].is_colocatable() {
                        settings.push(setting(Placement::CoLocated, Rtt::Fixed(Duration::ZERO)));
                    }
                    settings.extend(self.rtts.iter().map(|&rtt| setting(Placement::Distributed, rtt)));
                }
            }
        }
        settings.retain(|setting| !self.variants(setting).is_empty());
        settings
    }

    /// Each policy at each of its γ, in `setting`. Nothing is anticipated where draft and target share a device.
    pub fn variants(&self, setting: &Setting) -> Vec<Variant<'_>> {
        let all =
            self.policies.iter().flat_map(|policy| policy.gamma.iter().map(move |&gamma| Variant { policy, gamma }));
        let apart = setting.placement == Placement::Distributed;
        all.filter(|variant| apart || variant.policy.anticipate == 0).collect()
    }
}

/// Where the draft is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Placement {
    /// On the target's device.
    CoLocated,
    /// Where the plan says, so far away.
    Distributed,
}

/// What runs of one round have in common.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Setting {
    /// Which of the plan's pairs.
    pub pair: usize,
    /// Where the draft is.
    pub placement: Placement,
    /// 0 is greedy.
    pub temperature: f64,
    /// How far away the draft is made.
    pub rtt: Rtt,
    /// Sessions at once.
    pub sessions: usize,
}

/// A policy at one γ.
#[derive(Clone, Copy, Debug)]
pub struct Variant<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The γ.
    pub gamma: Gamma,
}

impl PairPlan {
    /// Whether it is known how draft and target do on one device.
    fn is_colocatable(&self) -> bool {
        !self.is_remote() || self.colocated_draft.is_some()
    }

    /// Whether both are services elsewhere.
    pub fn is_remote(&self) -> bool {
        is_address(&self.target)
    }

    fn check(&self) -> Result<(), UnusablePlan> {
        let field = |name: &str| format!("{name} of pair {:?}", self.name);
        if is_address(&self.draft) != self.is_remote() {
            return Err(refused(&field("draft"), &self.draft, "two addresses or two models"));
        }
        if let Some(draft) = &self.colocated_draft
            && !(self.is_remote() && is_address(draft))
        {
            return Err(refused(&field("colocated_draft"), draft, "the address of a service, for a pair of addresses"));
        }
        match self.threads {
            Some(threads) if self.is_remote() => {
                Err(refused(&field("threads"), &threads.to_string(), "none for services elsewhere"))
            }
            _ => Ok(()),
        }
    }
}

impl Policy {
    fn check(&self) -> Result<(), UnusablePlan> {
        let field = |name: &str| format!("{name} of policy {:?}", self.name);
        within(&field("gamma (how many)"), self.gamma.len(), 1, 32)?;
        once(&field("gamma"), self.gamma.iter().map(Gamma::to_string))?;
        let most = if self.coupling == Coupling::Rejection { 0 } else { MOST_BRANCHES };
        within(&field("anticipate"), self.anticipate, 0, most)?;
        match (0.0..=1.0).contains(&self.min_confidence) {
            true => Ok(()),
            false => Err(refused(&field("min_confidence"), &self.min_confidence.to_string(), "0 to 1")),
        }
    }
}

fn is_address(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

fn once(field: &str, values: impl Iterator<Item = String>) -> Result<(), UnusablePlan> {
    let mut seen = HashSet::new();
    for value in values {
        if seen.contains(&value) {
            return Err(refused(field, &format!("{value}, twice"), "each value once"));
        }
        seen.insert(value);
    }
    Ok(())
}

fn named<'a>(field: &str, names: impl Iterator<Item = &'a str>) -> Result<(), UnusablePlan> {
    let mut seen = HashSet::new();
    for name in names {
        if name.is_empty() || name == AR || !seen.insert(name) {
            let allowed = format!("names that are not empty, not {AR}, and each once");
            return Err(refused(&format!("name of a {field}"), name, &allowed));
        }
    }
    Ok(())
}

/// What plain decoding is called beside the policies.
pub(super) const AR: &str = "AR";

fn within(field: &str, value: usize, least: usize, most: usize) -> Result<(), UnusablePlan> {
    match (least..=most).contains(&value) {
        true => Ok(()),
        false => Err(refused(field, &value.to_string(), &format!("{least} to {most}"))),
    }
}

fn refused(field: &str, value: &str, allowed: &str) -> UnusablePlan {
    UnusablePlan::Field { field: field.to_owned(), value: value.to_owned(), allowed: allowed.to_owned() }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    match Rtt::deserialize(deserializer)? {
        Rtt::Fixed(duration) => Ok(duration),
        steps @ Rtt::Steps(_) => Err(serde::de::Error::custom(format!("{steps}, allowed: a duration, as \"2ms\""))),
    }
}

fn coupling<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Coupling, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// One γ or a list of them.
fn gammas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Gamma>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(usize),
        Word(String),
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMore {
        One(Written),
        More(Vec<Written>),
    }
    let written = match OneOrMore::deserialize(deserializer)? {
        OneOrMore::One(one) => vec![one],
        OneOrMore::More(more) => more,
    };
    let gamma = |written| {
        let text = match written {
            Written::Number(number) => number.to_string(),
            Written::Word(word) => word,
        };
        let gamma = text.parse().ok().filter(|gamma: &Gamma| !gamma.is_ar());
        gamma.ok_or_else(|| serde::de::Error::custom(format!("gamma is {text}, allowed: 1 to 32, or \"auto\"")))
    };
    written.into_iter().map(gamma).collect()
}

/// What a plan has where it says nothing.
mod usual {
    use super::Rtt;

    pub(super) fn repetitions() -> usize {
        7
    }

    pub(super) fn max_tokens() -> usize {
        256
    }

    pub(super) fn temperatures() -> Vec<f64> {
        vec![0.8]
    }

    pub(super) fn rtts() -> Vec<Rtt> {
        vec![Rtt::Fixed(std::time::Duration::ZERO)]
    }

    pub(super) fn sessions() -> Vec<usize> {
        vec![1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"
        title = "Does distance pay?"
        rtts = ["0", "0.5 steps", "2ms"]
        [[pair]]
        name = "embedded"
        draft = "embedded:draft"
        target = "embedded:target"
        [[policy]]
        name = "in turn"
        gamma = [2, 4, "auto"]
        [[policy]]
        name = "ahead"
        gamma = 4
        anticipate = 16
    "#;

    #[test]
    fn a_plan_is_settings_and_variants() {
        let plan = Plan::read(PLAN).expect("a plan");
        let settings = plan.settings();
        assert_eq!(settings.len(), 1 + 3);
        assert_eq!(plan.variants(&settings[0]).len(), 3, "nothing is anticipated on one device");
        assert_eq!(plan.variants(&settings[1]).len(), 4);
        assert_eq!(plan.runs(), (1 + 7) * (4 + 3 * 5));
        assert_eq!(plan.rtts[1].duration(Duration::from_millis(3)), Duration::from_micros(1500));
        assert_eq!(plan.rtts[2].to_string(), "2ms");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, named) in [
            ("gamma = 4", "gamma = 40", "gamma is 40, allowed: 1 to 32"),
            ("anticipate = 16", "anticipate = 65", "anticipate of policy \"ahead\" is 65, allowed: 0 to 64"),
            ("\"2ms\"", "\"2 moons\"", "\"2 moons\", allowed:"),
            ("title", "repetitions = 0\ntitle", "repetitions is 0, allowed: 1 to 10000"),
            ("\"embedded:draft\"", "\"http://127.0.0.1:1\"", "draft of pair \"embedded\""),
            ("name = \"ahead\"", "name = \"in turn\"", "name of a policy is in turn"),
            ("anticipate = 16", "anticipate = 1\ncoupling = \"rejection\"", "\"ahead\" is 1, allowed: 0 to 0"),
            ("anticipate = 16", "coupling = \"loose\"", "gumbel"),
            ("\"2ms\"", "\"0 steps\"", "rtts is 0, twice, allowed: each value once"),
            ("[2, 4, \"auto\"]", "[2, 4, 2]", "gamma of policy \"in turn\" is 2, twice"),
            ("title", "rounds = 3\ntitle", "unknown field `rounds`"),
            ("title", "jitter = \"3ms\"\ntitle", "jitter is 3ms, allowed: up to the shortest of rtts, 2ms"),
        ] {
            let error = Plan::read(&PLAN.replacen(from, to, 1)).expect_err(to).to_string();
            assert!(error.contains(named), "{to}: {error}");
        }
    }
}
