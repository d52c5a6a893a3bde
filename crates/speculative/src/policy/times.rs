//! What is known of times from those that were seen.

/// The share of the newest cycle in what times are.
const NEWEST_TIME: f64 = 1.0 / 16.0;

/// A time counts as no more than so many times what was expected: a machine stalls now and then.
pub(super) const LONGEST_SURPRISE: f64 = 4.0;

/// For how many of its size the parabola through all counts at each size.
const PARABOLA_COUNTS: f64 = 2.0;

/// The share of the newest in what a size is off the parabola, in shares that are forgotten: how sizes compare changes as slowly
/// as they are forgotten, and what all take now is told apart from it.
const NEWEST_BESIDE: f64 = 4.0;

/// A mean that follows what it is of.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Average {
    value: Option<f64>,
    count: f64,
}

/// What something takes by its size, a verdict by its rows or a wait by γ: a parabola through all, and what each size is off it.
#[derive(Clone, Debug)]
pub(super) struct Curve {
    /// What of the past stays with each new one.
    memory: f64,
    /// Σ sizeᵏ for k from 0 on, and Σ sizeᵏ × seconds.
    sizes: [f64; 5],
    seconds: [f64; 3],
    /// By size, from 1: what those took, and how many of them count.
    beside: Vec<Beside>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Beside {
    mean_s: f64,
    count: f64,
}

/// What a [`Curve`] says of sizes, those that were not seen as well.
///
/// The parabola is that of least squares which neither falls nor flattens: a pass takes what reading the weights takes up to
/// some rows, and what computing takes from there, so a line through the small ones would promise too much of the large ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fitted<'a> {
    curve: &'a Curve,
    mean_size: f64,
    mean_s: f64,
    /// Of size less its mean.
    slope: f64,
    /// Of its square, less the part that the line has.
    curvature: f64,
    variance: f64,
    skew: f64,
    /// Where it would begin to rise.
    least: f64,
}

impl Average {
    /// Takes in the newest, which counts for so many.
    pub(super) fn learn(&mut self, newest: f64, weight: f64) {
        self.count += weight;
        let share = weight * NEWEST_TIME.max(1.0 / self.count);
        self.value = Some(self.value.map_or(newest, |value| value + share * (newest - value)));
    }

    pub(super) fn learn_time(&mut self, newest_s: f64) {
        let most = self.value.filter(|value| *value > 0.0).map_or(newest_s, |value| LONGEST_SURPRISE * value);
        self.learn(newest_s.min(most), 1.0);
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
        Self { memory, sizes: [0.0; 5], seconds: [0.0; 3], beside: Vec::new() }
    }

    /// All that was seen took `factor` times as long.
    pub(super) fn scale(&mut self, factor: f64) {
        self.seconds.iter_mut().for_each(|seconds| *seconds *= factor);
        self.beside.iter_mut().for_each(|beside| beside.mean_s *= factor);
    }

    /// What was seen counts for less, as after so many; something stays, so that there is a guess.
    pub(super) fn fade(&mut self, weight: f64) {
        if self.sizes[0] < 1.0 {
            return;
        }
        let stays = self.memory.powf(weight);
        let counts = self.beside.iter_mut().map(|beside| &mut beside.count);
        self.sizes.iter_mut().chain(&mut self.seconds).chain(counts).for_each(|value| *value *= stays);
    }

    /// Takes in what one of this size took, which counts for so many.
    pub(super) fn learn(&mut self, size: usize, seconds: f64, weight: f64) {
        let x = size as f64;
        if size > self.beside.len() {
            self.beside.resize(size, Beside::default());
        }
        self.fade(weight);
        self.sizes.iter_mut().zip(0..).for_each(|(sum, power)| *sum += weight * x.powi(power));
        self.seconds.iter_mut().zip(0..).for_each(|(sum, power)| *sum += weight * x.powi(power) * seconds);
        let beside = &mut self.beside[size - 1];
        beside.count += weight;
        let share = weight * (NEWEST_BESIDE * (1.0 - self.memory)).max(1.0 / beside.count);
        beside.mean_s += (seconds - beside.mean_s) * share;
    }

    /// How much what was seen of a size counts there beside the parabola, 0 to 1.
    pub(super) fn trust(&self, size: usize) -> f64 {
        let count = self.beside.get(size.max(1) - 1).map_or(0.0, |beside| beside.count);
        count / (count + PARABOLA_COUNTS)
    }

    /// What was seen as a whole; `None` before there is anything.
    pub(super) fn fitted(&self) -> Option<Fitted<'_>> {
        let weight = self.sizes[0];
        if weight == 0.0 {
            return None;
        }
        // Means of powers of the size, and from them those of the size less its mean.
        let [mean, second, third, fourth] = [1, 2, 3, 4].map(|power| self.sizes[power] / weight);
        let [mean_s, with_s, second_with_s] = self.seconds.map(|sum| sum / weight);
        let variance = second - mean * mean;
        let cube = third - 3.0 * mean * second + 2.0 * mean.powi(3);
        let fourth_power = fourth - 4.0 * mean * third + 6.0 * mean * mean * second - 3.0 * mean.powi(4);
        let covariance = with_s - mean * mean_s;
        let (slope, skew) = if variance > 1e-9 { (covariance / variance, cube / variance) } else { (0.0, 0.0) };
        // The square without what a line has of it, u² - skew u - variance, stands at right angles to all lines.
        let bent = fourth_power - skew * cube - variance * variance;
        let bent_with_s =
            second_with_s - 2.0 * mean * with_s + mean * mean * mean_s - skew * covariance - variance * mean_s;
        let is_told = variance > 1e-9 && bent > 1e-9 * fourth && slope >= 0.0;
        let curvature = if is_told { (bent_with_s / bent).max(0.0) } else { 0.0 };
        let (slope, least) = match curvature > 0.0 {
            true => (slope, (skew - slope / curvature) / 2.0),
            false => (slope.max(0.0), f64::NEG_INFINITY),
        };
        Some(Fitted { curve: self, mean_size: mean, mean_s, slope, curvature, variance, skew, least })
    }
}

impl Fitted<'_> {
    /// What a size takes, in seconds; between two sizes, in proportion.
    pub(super) fn seconds(&self, size: f64) -> f64 {
        let off = |size: usize| {
            let Beside { mean_s, .. } = self.curve.beside.get(size.max(1) - 1).copied().unwrap_or_default();
            (mean_s - self.parabola(size as f64)) * self.curve.trust(size)
        };
        let (below, between) = (size.floor(), size.fract());
        let off = (1.0 - between) * off(below as usize) + between * off(below as usize + 1);
        (self.parabola(size) + off).max(0.0)
    }

    fn parabola(&self, size: f64) -> f64 {
        let u = (size - self.mean_size).max(self.least);
        self.mean_s + self.slope * u + self.curvature * (u * u - self.skew * u - self.variance)
    }
}
