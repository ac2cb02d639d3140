//! The bootstrap (Efron and Tibshirani 1993, chapter 6): the groups of a split
//! are drawn again and again with replacement, and the task measures each draw
//! as it measures the split.
//!
//! The draws are a function of the number of groups alone, so that two methods
//! are drawn alike and can be compared draw by draw.

use std::collections::BTreeMap;

use anyhow::Result;
use host_ir::random::Stream;
use host_ir::task::Sums;
use host_plugin::Task;

use crate::cell::{Confidence, Interval};
use crate::runs::confidence::{Resamples, interval};

/// Draws of a split.
const DRAWS: usize = 1000;
/// Groups that are drawn at the most, over all draws.
const MOST_GROUPS: usize = 50_000_000;
/// Draws below which an interval says little.
const FEWEST_DRAWS: usize = 100;
/// Samples for which the task's plugin is called at a time.
const CHUNK: usize = 250;

/// The sums of each group of a split, of which most statistics are absent.
#[derive(Clone, Debug, Default)]
pub struct GroupSums {
    columns: BTreeMap<(String, u64), u32>,
    /// The first entry of each group, and the number of entries.
    starts: Vec<usize>,
    entries: Vec<(u32, f64)>,
}

impl GroupSums {
    /// Adds a group.
    pub fn add(&mut self, sums: Sums) {
        if self.starts.is_empty() {
            self.starts.push(0);
        }
        for (key, value) in sums {
            let next = self.columns.len() as u32;
            self.entries.push((*self.columns.entry(key).or_insert(next), value));
        }
        self.starts.push(self.entries.len());
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// The sums of the groups, each as often as it is drawn.
    fn sample(&self, times: &[u32]) -> Sums {
        let mut totals = vec![0.0; self.columns.len()];
        for (range, &times) in self.starts.windows(2).zip(times).filter(|(_, times)| **times > 0) {
            for &(column, value) in &self.entries[range[0]..range[1]] {
                totals[column as usize] += value * f64::from(times);
            }
        }
        self.columns.iter().map(|(key, &column)| (key.clone(), totals[column as usize])).collect()
    }

    /// The sums of the whole split.
    pub fn total(&self) -> Sums {
        self.sample(&vec![1; self.len()])
    }

    /// The metrics of every draw.
    ///
    /// # Errors
    /// The task's `measure` fails.
    pub fn resample(&self, task: &Task, split: &str) -> Result<Resamples> {
        let groups = self.len();
        let draws = (MOST_GROUPS / groups.max(1)).clamp(FEWEST_DRAWS, DRAWS);
        let names = task.layout.metrics.iter().map(|metric| (metric.name.clone(), Vec::new()));
        let mut metrics: BTreeMap<String, Vec<Option<f64>>> = names.collect();
        for first in (0..draws).step_by(CHUNK) {
            let sample = |draw: usize| self.sample(&drawn(groups, draw));
            let samples = (first..draws.min(first + CHUNK)).map(sample).collect();
            for measured in task.measure(samples)? {
                for (name, values) in &mut metrics {
                    values.push(measured.get(name).copied().filter(|value| value.is_finite()));
                }
            }
        }
        Ok(Resamples { split: split.into(), groups: groups as u64, draws: draws as u64, metrics })
    }
}

/// How often each group stands in a draw.
fn drawn(groups: usize, draw: usize) -> Vec<u32> {
    let mut stream = Stream::new(draw as u64, "bootstrap");
    let mut times = vec![0; groups];
    for _ in 0..groups {
        times[stream.below(groups as u64) as usize] += 1;
    }
    times
}

/// The intervals of a split's metrics, in the order of the task.
pub fn confidence(task: &Task, resamples: &Resamples, constant: Option<String>) -> Confidence {
    let metrics = task.layout.metrics.iter();
    let intervals = metrics.filter_map(|metric| {
        let (low, high) = interval(resamples.metrics.get(&metric.name)?)?;
        Some(Interval { metric: metric.name.clone(), low, high })
    });
    Confidence {
        split: resamples.split.clone(),
        groups: resamples.groups,
        intervals: intervals.collect(),
        constant,
        confusions: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_the_same_for_everybody_and_of_full_size() {
        assert_eq!(drawn(50, 3), drawn(50, 3));
        assert_ne!(drawn(50, 3), drawn(50, 4));
        assert_eq!(drawn(50, 3).iter().sum::<u32>(), 50);
        assert!(drawn(0, 1).is_empty());
    }

    #[test]
    fn samples_are_sums_of_what_is_drawn() {
        let mut sums = GroupSums::default();
        let key = |name: &str, key| (name.to_string(), key);
        sums.add(Sums::from([(key("a", 0), 1.0), (key("b", 7), 2.0)]));
        sums.add(Sums::new());
        sums.add(Sums::from([(key("a", 0), 10.0)]));
        assert_eq!(sums.len(), 3);
        assert_eq!(sums.total(), Sums::from([(key("a", 0), 11.0), (key("b", 7), 2.0)]));
        assert_eq!(sums.sample(&[0, 1, 2]), Sums::from([(key("a", 0), 20.0), (key("b", 7), 0.0)]));
        assert_eq!(GroupSums::default().len(), 0);
    }
}
