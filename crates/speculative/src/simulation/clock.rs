//! The virtual clock.

use std::{cmp::Ordering, collections::BinaryHeap};

/// Events in the order of their times; of equal times those of a lower turn first, and of those the ones that were
/// scheduled first.
#[derive(Debug)]
pub(super) struct Clock<E> {
    now_s: f64,
    scheduled: BinaryHeap<Scheduled<E>>,
    number: u64,
}

/// Which of the events at one instant come first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Turn {
    /// What happens.
    Happens,
    /// What is decided once all that happens at the instant is known: what a pass takes in.
    Decided,
}

#[derive(Debug)]
struct Scheduled<E> {
    at_s: f64,
    turn: Turn,
    number: u64,
    event: E,
}

impl<E> Clock<E> {
    pub(super) fn new() -> Self {
        Self { now_s: 0.0, scheduled: BinaryHeap::new(), number: 0 }
    }

    /// The time of the last event, in seconds since the begin.
    pub(super) fn now_s(&self) -> f64 {
        self.now_s
    }

    /// Events that were scheduled so far.
    pub(super) fn events(&self) -> u64 {
        self.number
    }

    /// Has `event` come at `at_s`, which is not past.
    pub(super) fn schedule(&mut self, at_s: f64, turn: Turn, event: E) {
        debug_assert!(at_s >= self.now_s, "{at_s} is before {}", self.now_s);
        self.number += 1;
        self.scheduled.push(Scheduled { at_s, turn, number: self.number, event });
    }

    /// Goes to the next event.
    pub(super) fn next(&mut self) -> Option<E> {
        let next = self.scheduled.pop()?;
        self.now_s = next.at_s;
        Some(next.event)
    }
}

/// The greatest is next.
impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_time = other.at_s.total_cmp(&self.at_s);
        by_time.then(other.turn.cmp(&self.turn)).then(other.number.cmp(&self.number))
    }
}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<E> Eq for Scheduled<E> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_by_time_then_turn_then_order() {
        let mut clock = Clock::new();
        for (at_s, turn, event) in
            [(2.0, Turn::Happens, 'd'), (1.0, Turn::Decided, 'c'), (1.0, Turn::Happens, 'a'), (1.0, Turn::Happens, 'b')]
        {
            clock.schedule(at_s, turn, event);
        }
        let order: Vec<_> = std::iter::from_fn(|| clock.next().map(|event| (event, clock.now_s()))).collect();
        assert_eq!(order, [('a', 1.0), ('b', 1.0), ('c', 1.0), ('d', 2.0)]);
        assert_eq!(clock.events(), 4);
    }
}
