//! What has been measured, one line of JSON each, so that a study can be broken off and gone on with.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use speculative::roofline::Roofs;

use super::{
    measured::Measured,
    plan::{Placement, Setting},
};
use crate::report::{Machine, Models};

/// The journal's name in the study's directory.
const NAME: &str = "rounds.jsonl";

/// A line.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// The first.
    Study(Begin),
    /// A pair, before its first round.
    Pair(PairFacts),
    /// A round.
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
    /// One step of plain decoding through the services, in seconds: the unit of distances in steps.
    pub step_s: f64,
    /// Whether the target accepts by lot, so that the output depends on the draft.
    pub accepts_by_lot: bool,
    /// What the draft's device can do.
    pub draft_roofs: Option<DeviceRoofs>,
    /// The same of the target's.
    pub target_roofs: Option<DeviceRoofs>,
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

/// The study's directory, in which nothing is lost that was measured.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    begin: Begin,
    /// What stands in it after that.
    entries: Vec<Entry>,
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
    #[error("{} was begun on another machine, {machine}, allowed: that machine, or another directory", path.display())]
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
        let text = fs::read_to_string(&path).map_err(io)?;
        // A line without its end was being written when the study was broken off.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let mut entries = Vec::new();
        for (at, line) in text[..whole].lines().enumerate() {
            let entry = serde_json::from_str(line);
            entries.push(entry.map_err(|error| UnusableJournal::Unreadable {
                path: path.clone(),
                line: at + 1,
                error,
            })?);
        }
        if whole < text.len() {
            file.set_len(whole as u64).map_err(io)?;
        }
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let this = Begin { version, plan: plan.to_owned(), machine: Machine::this() };
        let begin = match (!entries.is_empty()).then(|| entries.remove(0)) {
            Some(Entry::Study(begin)) if begin.plan != plan => return Err(UnusableJournal::OtherPlan { path }),
            Some(Entry::Study(begin)) if begin.machine != this.machine => {
                let Machine { processor, logical_processors, .. } = begin.machine;
                let machine = format!("{processor} with {logical_processors} logical processors");
                return Err(UnusableJournal::OtherMachine { path, machine });
            }
            Some(Entry::Study(begin)) => begin,
            Some(_) => return Err(UnusableJournal::OtherPlan { path }),
            None => {
                write(&mut file, &Entry::Study(this.clone())).map_err(io)?;
                this
            }
        };
        Ok(Self { file, path, begin, entries })
    }

    /// Keeps an entry.
    ///
    /// # Errors
    /// A file that cannot be written any more.
    pub fn keep(&mut self, entry: Entry) -> Result<(), UnusableJournal> {
        write(&mut self.file, &entry).map_err(|error| UnusableJournal::Io { path: self.path.clone(), error })?;
        self.entries.push(entry);
        Ok(())
    }

    /// What it began with.
    pub fn begin(&self) -> &Begin {
        &self.begin
    }

    /// All pairs that were begun.
    pub fn pairs(&self) -> impl Iterator<Item = &PairFacts> {
        self.entries.iter().filter_map(|entry| if let Entry::Pair(facts) = entry { Some(facts) } else { None })
    }

    /// All rounds.
    pub fn rounds(&self) -> impl Iterator<Item = &Round> {
        self.entries.iter().filter_map(|entry| if let Entry::Round(round) = entry { Some(round) } else { None })
    }
}

/// A line at once: whatever stands in the file is whole up to the last one.
fn write(file: &mut File, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry)?;
    line.push(b'\n');
    file.write_all(&line)?;
    file.flush()
}
