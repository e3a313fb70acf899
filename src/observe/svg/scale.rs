//! The axis of time.

use crate::observe::record::Records;
use crate::observe::report::time_text;

pub(super) const WIDTH: f64 = 1200.0;
pub(super) const LEFT: f64 = 76.0;
const RIGHT: f64 = 20.0;
const TICKS_MAX: u64 = 12;

/// The whole part of a number of pixels, letters or shades.
#[expect(clippy::cast_possible_truncation, reason = "a picture is some thousand pixels wide")]
pub(super) fn whole(number: f64) -> u32 {
    number.max(0.0) as u32
}

/// Where moments lie.
pub(super) struct Scale {
    from: u64,
    to: u64,
}

impl Scale {
    pub(super) fn new(records: &Records) -> Self {
        Self { from: records.from, to: records.to.max(records.from + 1) }
    }

    /// The width of the plot.
    #[expect(clippy::unused_self, reason = "a scale has a width")]
    pub(super) fn plot(&self) -> f64 {
        WIDTH - LEFT - RIGHT
    }

    pub(super) fn x(&self, at: u64) -> f64 {
        let at = at.clamp(self.from, self.to);
        LEFT + self.plot() * (at - self.from) as f64 / (self.to - self.from) as f64
    }

    /// How wide a time is.
    pub(super) fn width(&self, ns: u64) -> f64 {
        self.plot() * ns as f64 / (self.to - self.from) as f64
    }

    /// Round moments, and what they are called.
    pub(super) fn ticks(&self) -> Vec<(f64, String)> {
        let length = self.to - self.from;
        let powers = std::iter::successors(Some(1u64), |power| power.checked_mul(10));
        let steps = powers.flat_map(|power| [1, 2, 5].map(|digit| power.saturating_mul(digit)));
        let step = steps.into_iter().find(|step| length / step <= TICKS_MAX).unwrap_or(length);
        let moments = (0..=length / step).map(|number| number * step);
        moments.map(|at| (self.x(self.from + at), if at == 0 { "0".to_owned() } else { time_text(at) })).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        for length in [1, 7, 999, 12_345, 1_000_000, 987_654_321, 3_600_000_000_000] {
            let scale = Scale { from: 5, to: 5 + length };
            let ticks = scale.ticks();
            assert!(!ticks.is_empty() && ticks.len() as u64 <= TICKS_MAX + 1, "{ticks:?}");
            assert!(ticks.iter().all(|(x, _)| (LEFT..=WIDTH).contains(x)), "{ticks:?}");
        }
        let scale = Scale { from: 0, to: 100_000_000 };
        assert_eq!(scale.ticks()[1].1, "10.0 ms");
    }
}
