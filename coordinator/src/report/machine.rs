//! The machine of this process.

use std::{env, fs, thread};

use serde::{Deserialize, Serialize};

/// What figures depend on beside the models.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// Its name, as Linux gives it.
    pub processor: String,
    /// Those that this process may use.
    pub logical_processors: usize,
    /// The instruction set.
    pub architecture: String,
    /// The operating system.
    pub system: String,
}

impl Machine {
    /// This one.
    pub fn this() -> Self {
        Self {
            processor: processor(),
            logical_processors: thread::available_parallelism().map_or(1, usize::from),
            architecture: env::consts::ARCH.to_owned(),
            system: env::consts::OS.to_owned(),
        }
    }
}

fn processor() -> String {
    let information = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "unnamed processor".to_owned(), |(_, name)| name.trim().to_owned())
}
