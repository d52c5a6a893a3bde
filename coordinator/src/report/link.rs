//! The link to a side as a roof: a round trip costs what the way costs, however few bytes it carries.

use serde::Serialize;

/// What the way to one side costs a cycle, over the cycles of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Link {
    /// Roof: the shortest round trip of a message and its answer that was seen, less the server's time.
    pub roof_rtt_s: f64,
    /// Their mean: what a cycle pays.
    pub rtt_s: f64,
    /// Bytes of a cycle's messages as protobuf, both ways, mean.
    pub bytes_per_cycle: f64,
    /// The roof over the mean: what is missing to 1 is waiting and not distance.
    pub utilisation: f64,
}

impl Link {
    /// Over round trips, each with its time in seconds and its bytes; `None` without one.
    pub(crate) fn over(trips: impl Iterator<Item = (f64, u64)>) -> Option<Self> {
        let (mut shortest, mut seconds, mut bytes, mut count) = (f64::INFINITY, 0.0, 0, 0.0);
        for (trip_s, trip_bytes) in trips {
            shortest = trip_s.min(shortest);
            seconds += trip_s;
            bytes += trip_bytes;
            count += 1.0;
        }
        (count > 0.0).then(|| Self {
            roof_rtt_s: shortest,
            rtt_s: seconds / count,
            bytes_per_cycle: bytes as f64 / count,
            utilisation: if seconds > 0.0 { shortest * count / seconds } else { 1.0 },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_trip_is_the_roof_of_all() {
        let link = Link::over([(0.004, 100), (0.002, 140), (0.006, 120)].into_iter()).expect("trips");
        assert_eq!((link.roof_rtt_s, link.bytes_per_cycle), (0.002, 120.0));
        assert!((link.rtt_s - 0.004).abs() < 1e-12 && (link.utilisation - 0.5).abs() < 1e-12, "{link:?}");
        assert_eq!(Link::over([].into_iter()), None);
    }
}
