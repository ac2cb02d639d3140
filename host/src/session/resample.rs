//! The bootstrap (Efron and Tibshirani 1993, chapter 6): the groups of a split
//! are drawn again and again with replacement, and the task measures each draw
//! as it measures the split.
//!
//! The draws are a function of the number of groups alone, so that two methods
//! are drawn alike and can be compared draw by draw.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use anyhow::Result;
use host_engine::data::dataset::DatasetError;
use host_engine::data::store::Store;
use host_ir::random::Stream;
use host_ir::task::Sums;
use host_plugin::Task;

use crate::cell::Interval;
use crate::runs::confidence::{Resamples, interval};

/// Draws of a split.
const DRAWS: usize = 1000;
/// Groups that are drawn at the most, over all draws.
const MOST_GROUPS: usize = 50_000_000;
/// Draws below which an interval says little.
const FEWEST_DRAWS: usize = 100;
/// Samples for which the task's plugin is called at a time.
const CHUNK: usize = 250;

/// Bytes that are read at a time.
const READ: usize = 1 << 16;
/// Bytes of an entry of a row.
const ENTRY: usize = 12;

/// The sums of each group of a split, of which most statistics are absent. They lie in a
/// temporary file where they are many.
#[derive(Debug, Default)]
pub struct GroupSums {
    columns: BTreeMap<(String, u64), u32>,
    /// Of each group the number of its entries in four bytes; of each entry its column in
    /// four and its value in eight.
    rows: Store,
    groups: usize,
}

impl GroupSums {
    /// Adds a group. One without a sum, which has nothing to score against, is not drawn.
    ///
    /// # Errors
    /// A full disk.
    pub fn add(&mut self, sums: Sums) -> Result<(), DatasetError> {
        if sums.is_empty() {
            return Ok(());
        }
        let mut row = (sums.len() as u32).to_le_bytes().to_vec();
        for (key, value) in sums {
            let next = self.columns.len() as u32;
            row.extend(self.columns.entry(key).or_insert(next).to_le_bytes());
            row.extend(value.to_le_bytes());
        }
        self.groups += 1;
        Ok(self.rows.append(&row)?)
    }

    /// Number of groups that are scored.
    pub fn len(&self) -> usize {
        self.groups
    }

    /// The sums of the groups, each as often as it is drawn.
    fn sample(&self, times: &[u32]) -> Result<Sums, DatasetError> {
        let mut totals = vec![0.0; self.columns.len()];
        let mut rows = BufReader::with_capacity(READ, self.rows.reader());
        let (mut count, mut row) = ([0; 4], Vec::new());
        for &times in times {
            rows.read_exact(&mut count)?;
            row.resize(u32::from_le_bytes(count) as usize * ENTRY, 0);
            rows.read_exact(&mut row)?;
            for &[a, b, c, d, ref value @ ..] in row.as_chunks::<ENTRY>().0.iter().filter(|_| times > 0) {
                let column = u32::from_le_bytes([a, b, c, d]) as usize;
                totals[column] += f64::from_le_bytes(*value) * f64::from(times);
            }
        }
        Ok(self.columns.iter().map(|(key, &column)| (key.clone(), totals[column as usize])).collect())
    }

    /// The sums of the whole split.
    ///
    /// # Errors
    /// Reading from the temporary file.
    pub fn total(&self) -> Result<Sums, DatasetError> {
        self.sample(&vec![1; self.len()])
    }

    /// The metrics of every draw.
    ///
    /// # Errors
    /// The task's `measure` fails; reading from the temporary file.
    pub fn resample(&self, task: &Task, split: &str) -> Result<Resamples> {
        let groups = self.len();
        let draws = (MOST_GROUPS / groups.max(1)).clamp(FEWEST_DRAWS, DRAWS);
        let names = task.layout.metrics.iter().map(|metric| (metric.name.clone(), Vec::new()));
        let mut metrics: BTreeMap<String, Vec<Option<f64>>> = names.collect();
        for first in (0..draws).step_by(CHUNK) {
            let sample = |draw: usize| self.sample(&drawn(groups, draw));
            let samples = (first..draws.min(first + CHUNK)).map(sample).collect::<Result<_, _>>()?;
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
pub fn intervals(task: &Task, resamples: &Resamples) -> Vec<Interval> {
    let metrics = task.layout.metrics.iter();
    let intervals = metrics.filter_map(|metric| {
        let (low, high) = interval(resamples.drawn(&metric.name)?)?;
        Some(Interval { metric: metric.name.clone(), low, high })
    });
    intervals.collect()
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
        sums.add(Sums::from([(key("a", 0), 1.0), (key("b", 7), 2.0)])).unwrap();
        sums.add(Sums::new()).unwrap();
        sums.add(Sums::from([(key("a", 0), 10.0)])).unwrap();
        assert_eq!(sums.len(), 2, "the group without a sum is none");
        assert_eq!(sums.total(), Ok(Sums::from([(key("a", 0), 11.0), (key("b", 7), 2.0)])));
        assert_eq!(sums.sample(&[0, 2]), Ok(Sums::from([(key("a", 0), 20.0), (key("b", 7), 0.0)])));
        assert_eq!((GroupSums::default().len(), GroupSums::default().total()), (0, Ok(Sums::new())));
    }

    /// What lies in a file adds up to the same bits as what was in memory.
    #[test]
    fn many_groups_are_summed_in_their_order() {
        let (mut sums, mut wanted) = (GroupSums::default(), [0.0; 3]);
        for group in 0..150_000_u64 {
            let columns =
                (0..group % 4).map(|column| (("a".to_string(), column), 1.0 / (group + column + 1) as f64));
            let row: Sums = columns.collect();
            row.iter().for_each(|((_, column), value)| wanted[*column as usize] += value);
            sums.add(row).unwrap();
        }
        assert!(sums.rows.bytes() > 2 << 20);
        let total: Vec<u64> = sums.total().unwrap().values().map(|value| value.to_bits()).collect();
        assert_eq!(total, wanted.map(f64::to_bits));
    }
}
