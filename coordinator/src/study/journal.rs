//! What has been measured, one line of JSON each, so that a study can be broken off and gone on with.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use speculative::roofline::Roofs;

use super::{
    measured::Measured,
    plan::{Placement, Setting},
};
use crate::report::{Machine, Model, Models, median};

/// The journal's name in the study's directory.
const NAME: &str = "rounds.jsonl";

/// A line: the first, a pair before its first round, or a round.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Entry {
    Study(Begin),
    Pair(Box<PairFacts>),
    Round(Round),
}

/// What a study began with.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Begin {
    /// Outrider's version.
    pub version: String,
    /// The plan, as it was written.
    pub plan: String,
    /// Where the coordinator ran.
    pub machine: Machine,
}

/// What is known of a pair.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct PairFacts {
    /// Its name in the plan.
    pub name: String,
    /// The models, and what they compute on.
    pub models: Models,
    /// The draft that is co-located, where it is another service.
    pub colocated_draft: Option<Model>,
    /// One step of plain decoding through the services, in seconds: the unit of distances in steps.
    pub step_s: f64,
    /// What a cycle takes after both devices have rested, the shortest rest first, which is none; empty where the plan has no
    /// distance.
    pub rests: Vec<Rest>,
    /// Whether the target accepts by lot, so that the output depends on the draft.
    pub accepts_by_lot: bool,
    /// What the draft's device can do.
    pub draft_roofs: Option<DeviceRoofs>,
    /// The same of the target's.
    pub target_roofs: Option<DeviceRoofs>,
}

/// A cycle with the draft near, after a rest: a device that waits for long finds less of what it needs in its caches.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Rest {
    /// Between the cycle before and this one, as long as it was, in seconds.
    pub rest_s: f64,
    /// From asking for the proposal to having it, in seconds: with no rest the median, and so many times that after one as
    /// cycles took beside others with none.
    pub draft_s: f64,
    /// The same of the verdict.
    pub target_s: f64,
}

impl Rest {
    /// Of rounds, in each of which all rests were measured on one prompt, the shortest first. They are held to the shortest one of
    /// their round, because a machine's speed drifts by more than a rest costs.
    pub(super) fn over(rounds: &[Vec<Self>]) -> Vec<Self> {
        let shortest: Vec<Self> = rounds.iter().filter_map(|round| round.first().copied()).collect();
        let usual = |rests: &[Self], part: fn(&Self) -> f64| median(&rests.iter().map(part).collect::<Vec<_>>());
        let longer = |rests: &[Self], part: fn(&Self) -> f64| {
            let ratios: Vec<f64> =
                rests.iter().zip(&shortest).map(|(rest, shortest)| part(rest) / part(shortest)).collect();
            Some(usual(&shortest, part)? * median(&ratios)?)
        };
        let over = |at: usize| {
            let rests: Vec<Self> = rounds.iter().map(|round| round[at]).collect();
            Some(Self {
                rest_s: usual(&rests, |rest| rest.rest_s)?,
                draft_s: longer(&rests, |rest| rest.draft_s)?,
                target_s: longer(&rests, |rest| rest.target_s)?,
            })
        };
        (0..rounds.first().map_or(0, Vec::len)).filter_map(over).collect()
    }
}

/// A device's roofs.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct DeviceRoofs {
    /// Floating-point operations a second.
    pub flops_per_s: f64,
    /// Bytes a second, at the working set of the model's weights.
    pub bytes_per_s: f64,
}

impl From<Roofs> for DeviceRoofs {
    fn from(roofs: Roofs) -> Self {
        let Roofs { flops_per_s, bytes_per_s, .. } = roofs;
        Self { flops_per_s, bytes_per_s }
    }
}

/// AR and each policy, once, in one setting.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Round {
    /// The pair's name.
    pub pair: String,
    /// Where the draft was.
    pub placement: Placement,
    /// 0 is greedy.
    pub temperature: f64,
    /// The distance, as the plan has it.
    pub rtt: String,
    /// The same in seconds.
    pub rtt_s: f64,
    /// Sessions at once.
    pub sessions: usize,
    /// Which one, from 1.
    pub repetition: usize,
    /// AR first.
    pub runs: Vec<Measured>,
}

impl Round {
    /// Whether it is of `setting`, of the pair of this name.
    pub fn is_of(&self, setting: &Setting, pair: &str) -> bool {
        self.pair == pair
            && self.placement == setting.placement
            && self.temperature == setting.temperature
            && self.rtt == setting.rtt.to_string()
            && self.sessions == setting.sessions
    }
}

/// All that was measured.
#[derive(Clone, Debug)]
pub struct Records {
    /// What it began with.
    pub begin: Begin,
    /// All pairs that were begun.
    pub pairs: Vec<PairFacts>,
    /// All rounds.
    pub rounds: Vec<Round>,
}

/// The study's directory, in which nothing is lost that was measured.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    records: Records,
}

/// A study that cannot be begun or gone on with.
#[derive(Debug, thiserror::Error)]
pub enum UnusableJournal {
    /// The file system does not let it.
    #[error("the study in {} cannot be kept: {error}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        #[source]
        error: io::Error,
    },
    /// Something else stands there.
    #[error("{} line {line} is no entry of a study: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        #[source]
        error: serde_json::Error,
    },
    /// Figures of two machines do not go together.
    #[error("{} was begun with {machine}, allowed: those, or another directory", path.display())]
    OtherMachine {
        /// The file.
        path: PathBuf,
        /// That machine.
        machine: String,
    },
    /// The study there is another.
    #[error("{} holds a study of another plan, allowed: that plan, or another directory", path.display())]
    OtherPlan {
        /// The file.
        path: PathBuf,
    },
}

impl Journal {
    /// The journal of `plan` in `directory`, begun or gone on with.
    ///
    /// # Errors
    /// A directory that cannot be used, or holds another study.
    pub fn open(directory: &Path, plan: &str) -> Result<Self, UnusableJournal> {
        let path = directory.join(NAME);
        let io = |error| UnusableJournal::Io { path: path.clone(), error };
        fs::create_dir_all(directory).map_err(io)?;
        let mut file = OpenOptions::new().create(true).append(true).read(true).open(&path).map_err(io)?;
        file.try_lock().map_err(|error| io(error.into()))?;
        let this = Begin::now(plan);
        let (records, whole_bytes) = read(&path)?;
        // Where nothing was measured nothing is lost.
        let begun = records.filter(|records| !records.pairs.is_empty() || !records.rounds.is_empty());
        let (records, whole_bytes) = match begun {
            Some(records) => (records, whole_bytes),
            None => {
                let line = line(&Entry::Study(this.clone())).map_err(io)?;
                file.set_len(0).map_err(io)?;
                file.write_all(&line).map_err(io)?;
                (Records { begin: this.clone(), pairs: Vec::new(), rounds: Vec::new() }, line.len())
            }
        };
        if records.begin.plan != plan {
            return Err(UnusableJournal::OtherPlan { path });
        }
        if (&records.begin.machine, &records.begin.version) != (&this.machine, &this.version) {
            let Begin { version, machine: Machine { processor, logical_processors, .. }, .. } = records.begin;
            let machine = format!("{processor} with {logical_processors} logical processors and Outrider {version}");
            return Err(UnusableJournal::OtherMachine { path, machine });
        }
        // A line without its end was being written when the study was broken off.
        file.set_len(whole_bytes as u64).map_err(io)?;
        file.seek(io::SeekFrom::End(0)).map_err(io)?;
        Ok(Self { file, path, records })
    }

    /// What is there, for good.
    pub fn into_records(self) -> Records {
        self.records
    }

    /// What is there.
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Keeps a pair.
    ///
    /// # Errors
    /// A file that cannot be written any more.
    pub fn keep_pair(&mut self, facts: PairFacts) -> Result<(), UnusableJournal> {
        self.write(&Entry::Pair(Box::new(facts.clone())))?;
        self.records.pairs.push(facts);
        Ok(())
    }

    /// Keeps a round.
    ///
    /// # Errors
    /// A file that cannot be written any more.
    pub fn keep_round(&mut self, round: Round) -> Result<(), UnusableJournal> {
        self.write(&Entry::Round(round.clone()))?;
        self.records.rounds.push(round);
        Ok(())
    }

    /// A line at once: whatever stands in the file is whole up to the last one.
    fn write(&mut self, entry: &Entry) -> Result<(), UnusableJournal> {
        let written = line(entry).and_then(|line| self.file.write_all(&line));
        written.map_err(|error| UnusableJournal::Io { path: self.path.clone(), error })
    }
}

impl Begin {
    /// A study of `plan` that begins here and now.
    pub fn now(plan: &str) -> Self {
        Self { version: env!("CARGO_PKG_VERSION").to_owned(), plan: plan.to_owned(), machine: Machine::this() }
    }
}

impl Records {
    /// Those of the study of `plan` in `directory`.
    ///
    /// # Errors
    /// No study there, another one, or one that cannot be read.
    pub fn of_plan(directory: &Path, plan: &str) -> Result<Self, UnusableJournal> {
        let records = Self::read(directory)?;
        match records.begin.plan == plan {
            true => Ok(records),
            false => Err(UnusableJournal::OtherPlan { path: directory.join(NAME) }),
        }
    }

    /// Those of the study in `directory`.
    ///
    /// # Errors
    /// No study there, or one that cannot be read.
    pub fn read(directory: &Path) -> Result<Self, UnusableJournal> {
        let path = directory.join(NAME);
        let nothing = || io::Error::other("nothing stands in it");
        read(&path)?.0.ok_or_else(|| UnusableJournal::Io { path, error: nothing() })
    }
}

fn line(entry: &Entry) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    Ok(line)
}

/// What stands in a journal, and up to which byte its lines are whole.
fn read(path: &Path) -> Result<(Option<Records>, usize), UnusableJournal> {
    let text = fs::read(path).map_err(|error| UnusableJournal::Io { path: path.to_owned(), error })?;
    let whole_bytes = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut records: Option<Records> = None;
    let lines = text[..whole_bytes].split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    for (at, line) in lines.enumerate() {
        let unreadable = |error| UnusableJournal::Unreadable { path: path.to_owned(), line: at + 1, error };
        match (serde_json::from_slice(line).map_err(unreadable)?, &mut records) {
            (Entry::Study(begin), None) => records = Some(Records { begin, pairs: Vec::new(), rounds: Vec::new() }),
            (Entry::Pair(facts), Some(records)) => records.pairs.push(*facts),
            (Entry::Round(round), Some(records)) => records.rounds.push(round),
            _ => return Err(UnusableJournal::OtherPlan { path: path.to_owned() }),
        }
    }
    Ok((records, whole_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine becomes half as fast from prompt to prompt: what a rest costs shows all the same.
    #[test]
    fn a_rest_is_held_to_none_on_the_same_prompt() {
        let round = |slow: f64| -> Vec<Rest> {
            let rest = |rest_s: f64, draft_s: f64, target_s: f64| Rest {
                rest_s,
                draft_s: slow * draft_s,
                target_s: slow * target_s,
            };
            vec![rest(0.25, 1.0, 4.0), rest(2.0, 1.25, 4.0), rest(4.0, 1.5, 5.0)]
        };
        let seen: Vec<[f64; 3]> = Rest::over(&[round(1.0), round(2.0), round(4.0)])
            .iter()
            .map(|of| [of.rest_s, of.draft_s, of.target_s])
            .collect();
        assert_eq!(seen, [[0.25, 2.0, 8.0], [2.0, 2.5, 8.0], [4.0, 3.0, 10.0]]);
        assert!(Rest::over(&[]).is_empty());
    }
}
