//! Distance that is not there, for study.

use std::{str::FromStr, time::Duration};

use clap::Args;
use telemetry::Distance;

use super::duration;
use crate::Access;

/// The thinnest and the widest link, in bits/s.
const BANDWIDTHS: (f64, f64) = (1e3, 1e12);

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Network laboratory")]
pub(in crate::cli) struct EmulationArgs {
    /// Make the draft or the target farther away than it is, for example draft=2ms: each round trip takes so much longer,
    /// half of it in each direction. May be given for both, as the next two
    #[arg(long, value_name = "SIDE=DURATION", allow_hyphen_values = true, value_parser = of_side(duration))]
    emulate_rtt: Vec<OfSide<Duration>>,

    /// Have each round trip vary by up to so much from that, for example draft=500us; no more than the round trip itself
    #[arg(long, value_name = "SIDE=DURATION", allow_hyphen_values = true, value_parser = of_side(duration))]
    emulate_jitter: Vec<OfSide<Duration>>,

    /// Let each direction carry so many bits a second, for example target=10mbit: kbit, mbit or gbit
    #[arg(long, value_name = "SIDE=RATE", allow_hyphen_values = true, value_parser = of_side(bits_per_s))]
    emulate_bandwidth: Vec<OfSide<f64>>,
}

/// A value for one side's link.
#[derive(Clone, Copy, Debug)]
struct OfSide<T> {
    side: Side,
    value: T,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Draft,
    Target,
}

impl FromStr for Side {
    type Err = ();

    fn from_str(side: &str) -> Result<Self, ()> {
        match side {
            "draft" => Ok(Self::Draft),
            "target" => Ok(Self::Target),
            _ => Err(()),
        }
    }
}

impl EmulationArgs {
    /// `access` from as far away as the flags say.
    ///
    /// # Errors
    /// A jitter that is longer than its round trip.
    pub(in crate::cli) fn distant(&self, access: Access) -> Result<Access, String> {
        let (draft_distance, target_distance) = (self.distance(Side::Draft)?, self.distance(Side::Target)?);
        Ok(Access { draft_distance, target_distance, ..access })
    }

    /// What was said last of a side.
    fn distance(&self, side: Side) -> Result<Distance, String> {
        let rtt = of(side, &self.emulate_rtt).unwrap_or_default();
        let jitter = of(side, &self.emulate_jitter).unwrap_or_default();
        if jitter > rtt {
            let side = format!("{side:?}").to_lowercase();
            return Err(format!(
                "--emulate-jitter {side}={jitter:?} is longer than --emulate-rtt {side}={rtt:?}, allowed: up to that"
            ));
        }
        Ok(Distance { rtt, jitter, bits_per_s: of(side, &self.emulate_bandwidth) })
    }
}

fn of<T: Copy>(side: Side, values: &[OfSide<T>]) -> Option<T> {
    values.iter().rev().find(|of| of.side == side).map(|of| of.value)
}

fn of_side<T>(value: fn(&str) -> Result<T, String>) -> impl Fn(&str) -> Result<OfSide<T>, String> + Clone {
    move |text| {
        let parted = text.split_once('=').and_then(|(side, value)| Some((side.parse().ok()?, value)));
        let (side, text) = parted.ok_or("allowed: draft=… or target=…")?;
        Ok(OfSide { side, value: value(text)? })
    }
}

fn bits_per_s(text: &str) -> Result<f64, String> {
    let units = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9)];
    let parsed = units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor));
    parsed
        .filter(|bits| (BANDWIDTHS.0..=BANDWIDTHS.1).contains(bits))
        .ok_or_else(|| "allowed: 1kbit to 1000gbit, for example 10mbit".to_owned())
}
