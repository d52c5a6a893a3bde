//! What is known of times from those that were seen.

/// The share of the newest cycle in what times are.
const NEWEST_TIME: f64 = 1.0 / 16.0;

/// A time counts as no more than so many times what was expected: a machine stalls now and then.
pub(super) const LONGEST_SURPRISE: f64 = 4.0;

/// For how many of its size the line through all counts at each size.
const LINE_COUNTS: f64 = 4.0;

/// The greatest size that is told apart.
const MOST_SIZES: usize = 512;

/// A mean that follows what it is of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Average {
    value: Option<f64>,
    count: u64,
}

/// What something takes by its size, a pass by its rows or a wait by γ: a line through all, and what each size is off it.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// What of the past stays with each new one.
    memory: f64,
    weight: f64,
    size: f64,
    seconds: f64,
    size_size: f64,
    size_seconds: f64,
    /// By size, from 1: what those took, and how many of them count.
    beside: Vec<Beside>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    mean_s: f64,
    count: f64,
}

impl Average {
    pub(super) fn learn(&mut self, newest: f64) {
        self.count += 1;
        let share = NEWEST_TIME.max(1.0 / self.count as f64);
        self.value = Some(self.value.map_or(newest, |value| value + share * (newest - value)));
    }

    pub(super) fn learn_time(&mut self, newest_s: f64) {
        let most = self.value.filter(|value| *value > 0.0).map_or(newest_s, |value| LONGEST_SURPRISE * value);
        self.learn(newest_s.min(most));
    }

    pub(super) fn scale(&mut self, factor: f64) {
        self.value = self.value.map(|value| factor * value);
    }

    pub(super) fn get(&self) -> f64 {
        self.get_or(0.0)
    }

    pub(super) fn get_or(&self, otherwise: f64) -> f64 {
        self.value.unwrap_or(otherwise)
    }
}

impl Curve {
    pub(super) fn new(memory: f64) -> Self {
        Self { memory, weight: 0.0, size: 0.0, seconds: 0.0, size_size: 0.0, size_seconds: 0.0, beside: Vec::new() }
    }

    /// All that was seen took `factor` times as long.
    pub(super) fn scale(&mut self, factor: f64) {
        self.seconds *= factor;
        self.size_seconds *= factor;
        self.beside.iter_mut().for_each(|beside| beside.mean_s *= factor);
    }

    /// What was seen counts for less; something stays, so that there is a guess.
    pub(super) fn fade(&mut self) {
        if self.weight < 1.0 {
            return;
        }
        let sums = [&mut self.weight, &mut self.size, &mut self.seconds, &mut self.size_size, &mut self.size_seconds];
        let counts = self.beside.iter_mut().map(|beside| &mut beside.count);
        sums.into_iter().chain(counts).for_each(|value| *value *= self.memory);
    }

    pub(super) fn learn(&mut self, size: usize, seconds: f64) {
        let size = size.min(MOST_SIZES);
        let x = size as f64;
        if size > self.beside.len() {
            self.beside.resize(size, Beside::default());
        }
        self.fade();
        self.weight += 1.0;
        self.size += x;
        self.seconds += seconds;
        self.size_size += x * x;
        self.size_seconds += x * seconds;
        let beside = &mut self.beside[size - 1];
        beside.count += 1.0;
        beside.mean_s += (seconds - beside.mean_s) * NEWEST_TIME.max(1.0 / beside.count);
    }

    /// What a size takes, in seconds; between two sizes, in proportion.
    pub(super) fn seconds(&self, size: f64) -> f64 {
        if self.weight == 0.0 {
            return 0.0;
        }
        let off = |size: usize| {
            let Beside { mean_s, .. } = self.beside.get(size.max(1) - 1).copied().unwrap_or_default();
            (mean_s - self.line(size as f64)) * self.trust(size)
        };
        let (below, between) = (size.floor(), size.fract());
        let off = (1.0 - between) * off(below as usize) + between * off(below as usize + 1);
        (self.line(size) + off).max(0.0)
    }

    /// How much what was seen of a size counts there beside the line, 0 to 1.
    pub(super) fn trust(&self, size: usize) -> f64 {
        let count = self.beside.get(size.max(1) - 1).map_or(0.0, |beside| beside.count);
        count / (count + LINE_COUNTS)
    }

    /// The least-squares line, which never falls.
    fn line(&self, size: f64) -> f64 {
        let (mean_size, mean_seconds) = (self.size / self.weight, self.seconds / self.weight);
        let variance = self.size_size / self.weight - mean_size * mean_size;
        let covariance = self.size_seconds / self.weight - mean_size * mean_seconds;
        let slope = if variance > 1e-9 { (covariance / variance).max(0.0) } else { 0.0 };
        mean_seconds + slope * (size - mean_size)
    }
}
