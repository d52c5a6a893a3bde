//! Where a forward pass stands on its device.
//!
//! Williams, Waterman, Patterson, "Roofline: an insightful visual performance model", CACM 52(4), 2009.

use std::ops::{Add, AddAssign};

#[cfg(test)]
mod tests;

/// Below this share of what the roofs allow, neither roof explains the time.
const DISPATCH_UTILISATION: f64 = 0.25;

/// What a forward has to do, counted from the model's shape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Floating-point operations; a multiply-add is two.
    pub flops: u64,
    /// Bytes moved between memory and the device's cores.
    pub bytes: u64,
}

impl Work {
    /// Arithmetic intensity, FLOP/B: 0 for no work, infinite for work that moves no byte.
    pub fn intensity(&self) -> f64 {
        if self.flops == 0 { 0.0 } else { self.flops as f64 / self.bytes as f64 }
    }
}

impl Add for Work {
    type Output = Work;

    fn add(self, other: Work) -> Work {
        Work { flops: self.flops + other.flops, bytes: self.bytes + other.bytes }
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        *self = *self + other;
    }
}

/// What a device can do at best.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Roofs {
    /// Matmul in the model's own dtype, FLOP/s.
    pub flops_per_s: f64,
    /// Reading at the working set of the model's own weights, B/s.
    pub bytes_per_s: f64,
    /// Reading from memory, whatever the caches hold, B/s.
    pub memory_bytes_per_s: f64,
}

impl Roofs {
    /// The intensity at which the two roofs meet, FLOP/B: below it bandwidth limits, above it compute.
    pub fn ridge(&self) -> f64 {
        self.flops_per_s / self.bytes_per_s
    }
}

/// What limits a forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Intensity below half the ridge.
    Bandwidth,
    /// Intensity above twice the ridge.
    Compute,
    /// Between the two.
    Ridge,
    /// Utilisation below a quarter: the time goes elsewhere (launches, threads, small matrices).
    Dispatch,
}

impl Bound {
    /// The name in reports and spans.
    pub fn as_str(self) -> &'static str {
        match self {
            Bound::Bandwidth => "bandwidth_bound",
            Bound::Compute => "compute_bound",
            Bound::Ridge => "ridge",
            Bound::Dispatch => "dispatch_bound",
        }
    }
}

/// One forward's place under the roofs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// FLOP/B; infinite for work that moves no byte.
    pub intensity: f64,
    /// FLOP/s.
    pub achieved_flops_per_s: f64,
    /// B/s.
    pub achieved_bytes_per_s: f64,
    /// Achieved / attainable, attainable = min(peak FLOP/s, intensity × bandwidth). 1 is on the roof.
    pub utilisation: f64,
    /// What limits it.
    pub bound: Bound,
}

impl Placement {
    /// Places `work` that took `seconds`. Where nothing was timed (0 s) the rates are 0.
    pub fn of(work: Work, seconds: f64, roofs: &Roofs) -> Placement {
        let per_second = |amount: u64| if seconds > 0.0 { amount as f64 / seconds } else { 0.0 };
        let achieved_flops_per_s = per_second(work.flops);
        let achieved_bytes_per_s = per_second(work.bytes);
        let intensity = work.intensity();
        // The same as achieved / min(peak, intensity × bandwidth), and defined where flops or bytes are 0.
        let utilisation = (achieved_flops_per_s / roofs.flops_per_s).max(achieved_bytes_per_s / roofs.bytes_per_s);
        let bound = bound(intensity, utilisation, roofs.ridge());
        Placement { intensity, achieved_flops_per_s, achieved_bytes_per_s, utilisation, bound }
    }
}

fn bound(intensity: f64, utilisation: f64, ridge: f64) -> Bound {
    if utilisation < DISPATCH_UTILISATION {
        Bound::Dispatch
    } else if intensity < ridge / 2.0 {
        Bound::Bandwidth
    } else if intensity > ridge * 2.0 {
        Bound::Compute
    } else {
        Bound::Ridge
    }
}
