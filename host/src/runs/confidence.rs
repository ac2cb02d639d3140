//! How sure scores are: bootstrap intervals, and a paired test between methods.
//!
//! A cell keeps what the task measured on each draw of its split. The draws are
//! the same for all cells with the same data, so two methods are compared draw
//! by draw, and no plugin is needed for it. A method over several seeds is the
//! mean of its cells in each draw.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::comparison::{Comparison, Metric, Row};
use super::record::{Finished, read_json};
use super::words;

/// Mass of the intervals.
const LEVEL: f64 = 0.95;

/// The metrics of a split on every draw; none where a metric is undefined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Resamples {
    pub split: String,
    /// Groups of the split that are scored, which are what is drawn.
    pub groups: u64,
    pub draws: u64,
    pub metrics: BTreeMap<String, Vec<Option<f64>>>,
}

impl Resamples {
    /// The file of a split in a cell's directory.
    pub fn path(directory: &Path, split: &str) -> PathBuf {
        directory.join(format!("resamples-{split}.json"))
    }

    /// A metric on each draw; none where every draw is the one group that there is, which
    /// says nothing of how sure it is.
    pub fn drawn(&self, metric: &str) -> Option<&[Option<f64>]> {
        self.metrics.get(metric).filter(|_| self.groups > 1).map(Vec::as_slice)
    }
}

/// The percentile interval (Efron and Tibshirani 1993, section 13.3); none
/// where the metric is undefined on a draw.
pub fn interval(values: &[Option<f64>]) -> Option<(f64, f64)> {
    let mut sorted = values.iter().copied().collect::<Option<Vec<f64>>>()?;
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    let at = |share: f64| sorted[(share * last as f64).round() as usize];
    Some((at((1.0 - LEVEL) / 2.0), at((1.0 + LEVEL) / 2.0)))
}

/// The two-sided paired bootstrap test (Koehn 2004, "Statistical significance
/// tests for machine translation evaluation"): twice the share of draws in which
/// the difference is not on its usual side; one draw is added to each, so that
/// no finite number of draws gives 0.
fn paired_test(differences: &[f64]) -> f64 {
    let share = |count: usize| (count + 1) as f64 / (differences.len() + 1) as f64;
    let below = differences.iter().filter(|difference| **difference <= 0.0).count();
    let above = differences.iter().filter(|difference| **difference >= 0.0).count();
    (2.0 * share(below.min(above))).min(1.0)
}

/// The comparison of a row with the best one by the leading metric.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The row's score less the best one's.
    pub mean: f64,
    pub low: f64,
    pub high: f64,
    pub p_value: f64,
}

/// What is known of a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sureness {
    pub method: String,
    /// By metric of [`Confident::metrics`]: mean and interval.
    pub scores: Vec<Option<(f64, f64, f64)>>,
    /// None of the best row, and where the draws do not fit.
    pub difference: Option<Difference>,
}

/// Intervals and tests of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Confident {
    pub groups: u64,
    /// Whether a row is a mean over seeds.
    pub several_seeds: bool,
    /// Places of the metrics in the comparison, the leading one first.
    #[serde(skip)]
    pub columns: Vec<usize>,
    pub metrics: Vec<Metric>,
    /// The row against which the others are tested.
    pub best: Option<String>,
    pub rows: Vec<Sureness>,
}

/// A row's metric on each draw, the mean over its cells. None where a cell has
/// no draws, or others.
fn drawn(row: &Row, resamples: &[Option<Resamples>], metric: &str) -> Option<Vec<Option<f64>>> {
    let cells: Vec<&Resamples> =
        row.cells.iter().map(|&place| resamples[place].as_ref()).collect::<Option<_>>()?;
    let first = cells.first()?;
    if cells.iter().any(|cell| (cell.groups, cell.draws) != (first.groups, first.draws)) {
        return None;
    }
    let columns: Vec<&[Option<f64>]> = cells.iter().map(|cell| cell.drawn(metric)).collect::<Option<_>>()?;
    let mean = |draw: usize| {
        let values: Option<Vec<f64>> = columns.iter().map(|column| *column.get(draw)?).collect();
        values.map(|values| values.iter().sum::<f64>() / values.len() as f64)
    };
    Some((0..first.draws as usize).map(mean).collect())
}

/// The draws that a cell has kept of a split, or a sentence where they cannot be read. Cells
/// of older versions have kept none.
fn kept(cell: &Finished, split: &str) -> (Option<Resamples>, Option<String>) {
    let path = Resamples::path(&cell.directory, split);
    let noted = cell.record.result.confidence.iter().any(|known| known.split == split);
    match read_json(&path) {
        Ok(resamples) => (Some(resamples), None),
        Err(_) if !noted && !path.exists() => (None, None),
        Err(error) => (None, Some(format!("{error:#}"))),
    }
}

/// Intervals and tests where the cells have kept their draws, and a sentence where they
/// should have.
pub fn of(comparison: &Comparison) -> (Option<Confident>, Option<String>) {
    let Some(split) = comparison.split.as_deref() else { return (None, None) };
    let read = comparison.cells.iter().map(|cell| kept(cell, split));
    let (resamples, wrong): (Vec<_>, Vec<_>) = read.unzip();
    let wrong: Vec<String> = wrong.into_iter().flatten().collect();
    let note = wrong.first().map(|first| {
        let (some, all) = (wrong.len(), words::plural(comparison.cells.len() as u64, "cell"));
        format!("{some} of {all} without the draws of {split} that intervals and tests need: {first}")
    });
    (confident(comparison, &resamples), note)
}

fn confident(comparison: &Comparison, resamples: &[Option<Resamples>]) -> Option<Confident> {
    let groups = resamples.iter().flatten().map(|cell| cell.groups).next()?;
    let leading = comparison.leading_metric()?;
    let mut columns = vec![leading];
    let f1 = comparison.metrics.iter().position(|metric| metric.name.starts_with("f1"));
    columns.extend(f1.filter(|&column| column != leading));
    let best = comparison.best(leading);
    let of_best =
        best.and_then(|best| drawn(&comparison.rows[best], resamples, &comparison.metrics[leading].name));
    let score = |row: &Row, column: usize| {
        let values = drawn(row, resamples, &comparison.metrics[column].name)?;
        let (low, high) = interval(&values)?;
        Some((row.metrics[column]?.mean, low, high))
    };
    let same_data = |row: &Row| {
        let data = |place: usize| &comparison.cells[place].record.digests.data;
        let first = best.map(|best| data(comparison.rows[best].cells[0]));
        row.cells.iter().all(|&place| Some(data(place)) == first)
    };
    let difference = |place: usize, row: &Row| {
        let best = best.filter(|&best| best != place && same_data(row))?;
        let own = drawn(row, resamples, &comparison.metrics[leading].name)?;
        let of_best = of_best.as_ref().filter(|of_best| of_best.len() == own.len())?;
        let differences: Vec<Option<f64>> =
            own.iter().zip(of_best).map(|(own, best)| Some((*own)? - (*best)?)).collect();
        let (low, high) = interval(&differences)?;
        let mean = row.metrics[leading]?.mean - comparison.rows[best].metrics[leading]?.mean;
        let known: Vec<f64> = differences.into_iter().flatten().collect();
        Some(Difference { mean, low, high, p_value: paired_test(&known) })
    };
    let rows = comparison.rows.iter().enumerate().map(|(place, row)| Sureness {
        method: row.method.clone(),
        scores: columns.iter().map(|&column| score(row, column)).collect(),
        difference: difference(place, row),
    });
    Some(Confident {
        groups,
        several_seeds: comparison.rows.iter().any(|row| row.cells.len() > 1),
        metrics: columns.iter().map(|&column| comparison.metrics[column].clone()).collect(),
        best: best.map(|best| comparison.rows[best].method.clone()),
        rows: rows.collect(),
        columns,
    })
}

impl Confident {
    /// What the table says, in a sentence.
    pub fn caption(&self) -> String {
        let mut caption =
            format!("95% intervals by bootstrap over the {} scored", words::plural(self.groups, "example"));
        if self.several_seeds {
            caption.push_str(", without the variance between seeds");
        }
        if let (Some(best), Some(leading)) = (&self.best, self.metrics.first()) {
            caption.push_str(&format!(
                "; difference in {} to {best}, with the two-sided p of a paired bootstrap test",
                leading.title()
            ));
        }
        caption
    }

    /// Heads and rows of a table.
    pub fn cells(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let absent = || "–".to_string();
        let mut heads = vec!["method".to_string()];
        heads.extend(self.metrics.iter().map(Metric::title));
        if let Some(best) = &self.best {
            heads.extend([format!("difference to {best}"), "p".to_string()]);
        }
        let row = |row: &Sureness| {
            let mut cells = vec![row.method.clone()];
            let score = |(mean, low, high): &(f64, f64, f64)| format!("{mean:.4} [{low:.4}, {high:.4}]");
            cells.extend(row.scores.iter().map(|cell| cell.as_ref().map_or_else(absent, score)));
            if self.best.is_some() {
                let (words, p) = match &row.difference {
                    Some(Difference { mean, low, high, p_value }) => {
                        (format!("{mean:+.4} [{low:+.4}, {high:+.4}]"), format!("{p_value:.3}"))
                    }
                    None => (absent(), absent()),
                };
                cells.extend([words, p]);
            }
            cells
        };
        (heads, self.rows.iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::record::tests::finished;
    use crate::runs::record::write_json;

    fn values(values: &[f64]) -> Vec<Option<f64>> {
        values.iter().copied().map(Some).collect()
    }

    #[test]
    fn intervals_leave_a_fortieth_on_each_side() {
        let all: Vec<Option<f64>> = (0..=1000).rev().map(|value| Some(f64::from(value))).collect();
        assert_eq!(interval(&all), Some((25.0, 975.0)));
        assert_eq!(interval(&values(&[3.0])), Some((3.0, 3.0)));
        assert_eq!(interval(&[]), None);
        assert_eq!(interval(&[Some(1.0), None]), None, "an undefined draw leaves no interval");
    }

    /// Of 999 draws, 24 on the other side are 0.05 by both sides together.
    #[test]
    fn the_test_counts_draws_on_the_other_side() {
        let mut differences = vec![0.5; 999];
        differences[..24].fill(-0.5);
        assert!((paired_test(&differences) - 0.05).abs() < 1e-12);
        differences.iter_mut().for_each(|difference| *difference = -*difference);
        assert!((paired_test(&differences) - 0.05).abs() < 1e-12);
        assert_eq!(paired_test(&[0.0; 10]), 1.0);
        assert!((paired_test(&[1.0; 999]) - 0.002).abs() < 1e-12);
    }

    /// A cell in a folder of its own with its draws.
    fn with_draws(folder: &Path, label: &str, seed: u64, accuracy: f64, draws: &[f64]) -> Finished {
        let mut cell = finished(label, seed, accuracy);
        cell.directory = folder.join(format!("{label}-{seed}"));
        std::fs::create_dir(&cell.directory).unwrap();
        let metrics = BTreeMap::from([("accuracy".to_string(), values(draws))]);
        let resamples = Resamples { split: "test".into(), groups: 40, draws: draws.len() as u64, metrics };
        write_json(&Resamples::path(&cell.directory, "test"), &resamples).unwrap();
        cell
    }

    #[test]
    fn methods_are_tested_against_the_best_over_their_seeds() {
        let folder = tempfile::tempdir().unwrap();
        let cells = vec![
            with_draws(folder.path(), "alpha", 1, 0.5, &[0.4, 0.5, 0.6]),
            with_draws(folder.path(), "alpha", 2, 0.25, &[0.2, 0.3, 0.2]),
            with_draws(folder.path(), "beta", 1, 0.75, &[0.7, 0.3, 0.8]),
            finished("gamma", 1, 0.5),
        ];
        let comparison = Comparison::new(cells, None);
        let confident = comparison.confident.as_ref().unwrap();
        assert_eq!(confident.best.as_deref(), Some("beta"));
        let alpha = &confident.rows[0];
        let (mean, low, high) = alpha.scores[0].unwrap();
        assert_eq!(mean, 0.375);
        assert!((low - 0.3).abs() < 1e-12 && (high - 0.4).abs() < 1e-12);
        let difference = alpha.difference.as_ref().unwrap();
        assert!((difference.mean + 0.375).abs() < 1e-12);
        // One draw of three is on the other side.
        assert_eq!(difference.p_value, 1.0);
        assert!(confident.rows[1].difference.is_none());
        assert_eq!(confident.rows[2].scores, [None, None]);
        let (heads, rows) = confident.cells();
        assert_eq!(heads, ["method", "accuracy", "F1 macro", "difference to beta", "p"]);
        assert_eq!(rows[2][1..], ["–", "–", "–", "–"]);
        assert!(rows[1][1].starts_with("0.7500 [0.3"), "{rows:?}");
        assert!(confident.caption().starts_with(
            "95% intervals by bootstrap over the 40 examples scored, without the variance between seeds; "
        ));
        assert!(comparison.notes.is_empty(), "gamma is as an older version has left it");
    }

    /// Whoever looks for the intervals learns why there are none.
    #[test]
    fn draws_that_are_gone_or_broken_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let cell = |label: &str| {
            let mut cell = with_draws(folder.path(), label, 1, 0.5, &[0.4, 0.5, 0.6]);
            let known = crate::cell::Confidence { split: "test".into(), ..Default::default() };
            cell.record.result.confidence = vec![known];
            cell
        };
        let (alpha, beta) = (cell("alpha"), cell("beta"));
        let of = |cells: [&Finished; 2]| Comparison::new(cells.map(Clone::clone).to_vec(), None);
        assert!(of([&alpha, &beta]).notes.is_empty());
        let path = |cell: &Finished| Resamples::path(&cell.directory, "test");
        std::fs::write(path(&alpha), "{\"split\":").unwrap();
        let comparison = of([&alpha, &beta]);
        let note = format!(
            "1 of 2 cells without the draws of test that intervals and tests need: {} is not what",
            path(&alpha).display()
        );
        assert!(comparison.notes[0].starts_with(&note), "{:?}", comparison.notes);
        assert!(comparison.confident.is_some(), "beta has its draws");
        std::fs::remove_file(path(&alpha)).unwrap();
        std::fs::remove_file(path(&beta)).unwrap();
        let comparison = of([&alpha, &beta]);
        assert!(comparison.notes[0].starts_with("2 of 2 cells"), "{:?}", comparison.notes);
        assert_eq!(comparison.confident, None);
    }

    /// One document drawn again and again is always itself.
    #[test]
    fn a_single_group_has_no_interval() {
        let folder = tempfile::tempdir().unwrap();
        let one = |label: &str, accuracy: f64| {
            let cell = with_draws(folder.path(), label, 1, accuracy, &[accuracy; 3]);
            let path = Resamples::path(&cell.directory, "test");
            let resamples = Resamples { groups: 1, ..read_json(&path).unwrap() };
            write_json(&path, &resamples).unwrap();
            cell
        };
        let comparison = Comparison::new(vec![one("alpha", 0.5), one("beta", 0.75)], None);
        let (_, rows) = comparison.confident.unwrap().cells();
        assert_eq!(rows[0][1..], ["–", "–", "–", "–"]);
    }
}
