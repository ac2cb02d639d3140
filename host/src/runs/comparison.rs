//! Finished cells side by side: a row for each method, over its seeds.

use serde::Serialize;

use super::confidence::{self, Confident};
use super::identity::{settings_identity, short};
use super::record::Finished;
use super::{copies, trivial, words};
use crate::cell::SplitMetrics;

/// Metrics that come first, in the order of the table in the literature.
const FIRST: [&str; 7] = [
    "accuracy",
    "precision_macro",
    "f1_macro",
    "recall_macro",
    "precision_weighted",
    "f1_weighted",
    "recall_weighted",
];

/// Mean and sample standard deviation over seeds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Statistic {
    pub mean: f64,
    /// None of a single seed.
    pub deviation: Option<f64>,
}

impl Statistic {
    /// None of no values.
    pub fn of(values: &[f64]) -> Option<Statistic> {
        let number = values.len() as f64;
        let mean = values.iter().sum::<f64>() / number;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = (values.len() > 1).then(|| (squares / (number - 1.0)).sqrt());
        (!values.is_empty()).then_some(Statistic { mean, deviation })
    }

    /// `mean ± deviation`, each as `words` has it.
    pub fn words(&self, words: impl Fn(f64) -> String) -> String {
        match self.deviation {
            Some(deviation) => format!("{} ± {}", words(self.mean), words(deviation)),
            None => words(self.mean),
        }
    }
}

/// A method over its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub method: String,
    pub seeds: Vec<u64>,
    pub training_seconds: Option<Statistic>,
    pub peak_memory_bytes: Option<Statistic>,
    pub trained_parameters: u64,
    pub total_parameters: u64,
    /// In the order of [`Comparison::metrics`].
    pub metrics: Vec<Option<Statistic>>,
    /// Places of its cells in [`Comparison::cells`].
    #[serde(skip)]
    pub cells: Vec<usize>,
}

/// A column of scores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Metric {
    pub name: String,
    /// Where it is known.
    pub higher_is_better: Option<bool>,
}

/// The comparison of some cells on one split.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// None where no cell was evaluated.
    pub split: Option<String>,
    pub metrics: Vec<Metric>,
    pub rows: Vec<Row>,
    /// Sentences about what makes the rows hard to compare, and what is trivial to reach.
    pub notes: Vec<String>,
    pub cells: Vec<Finished>,
    /// Sentences about cells that have no result.
    pub failed: Vec<String>,
    /// Where the cells have kept their draws.
    pub confident: Option<Confident>,
}

impl Metric {
    /// The name as the head of a column, in one or two words.
    pub fn title(&self) -> String {
        words::metric(&self.name)
    }
}

impl Comparison {
    /// Compares cells, in the order of their methods' first cells. `split` is
    /// the last one with scores where none is given: the held-out one if there is
    /// one and its answers are known.
    pub fn new(cells: Vec<Finished>, split: Option<&str>) -> Comparison {
        let split = split.map(String::from).or_else(|| {
            let scored = |split: &&SplitMetrics| !split.metrics.0.is_empty();
            let splits = |cell: &'_ Finished| cell.record.result.metrics.iter().rfind(scored).cloned();
            cells.iter().find_map(splits).map(|evaluated| evaluated.split)
        });
        let (cells, repeated) = copies::without(cells);
        let metrics = metrics(&cells, split.as_deref());
        let mut groups: Vec<(String, String, Vec<usize>)> = Vec::new();
        for (place, cell) in cells.iter().enumerate() {
            let settings = settings_identity(&cell.record.spec, &cell.record.digests);
            let label = &cell.record.spec.label;
            match groups.iter_mut().find(|(known, of, _)| known == label && *of == settings) {
                Some((_, _, places)) => places.push(place),
                None => groups.push((label.clone(), settings, vec![place])),
            }
        }
        let twice = |label: &str| groups.iter().filter(|(known, _, _)| known == label).count() > 1;
        let make_row = |(label, _, places): &(String, String, Vec<usize>)| {
            let method = match twice(label) {
                // By the digits in the name of the row's first folder.
                true => format!("{label} ({})", short(&cells[places[0]].record.identity)),
                false => label.clone(),
            };
            row(method, places, &cells, split.as_deref(), &metrics)
        };
        let rows: Vec<Row> = groups.iter().map(make_row).collect();
        let mut notes = notes(&cells);
        notes.extend(repeated);
        notes.extend(constant(&rows, &cells, split.as_deref()));
        notes.extend(trivial::lines(&cells, split.as_deref()));
        let failed = Vec::new();
        let mut comparison = Comparison { split, metrics, rows, notes, cells, failed, confident: None };
        let (confident, note) = confidence::of(&comparison);
        comparison.notes.extend(note);
        comparison.confident = confident;
        comparison
    }

    /// The same with sentences about cells that have no result.
    pub fn with_failed(self, failed: Vec<String>) -> Comparison {
        Comparison { failed, ..self }
    }

    /// The place of the best row of a column, the first of equal ones, where its direction
    /// is known and there is more than one row.
    pub fn best(&self, column: usize) -> Option<usize> {
        (0..self.rows.len()).find(|&row| self.is_best(row, column))
    }

    /// Whether no row of a column is better, where [`best`](Comparison::best) says one.
    pub fn is_best(&self, row: usize, column: usize) -> bool {
        let Some(higher) = self.metrics[column].higher_is_better else { return false };
        let sign = if higher { 1.0 } else { -1.0 };
        let value = |row: &Row| row.metrics[column].map(|statistic| sign * statistic.mean);
        let all = self.rows.iter().filter_map(value);
        let best = all.max_by(f64::total_cmp);
        self.rows.len() > 1 && best.is_some() && value(&self.rows[row]) == best
    }

    /// The place of the metric that chooses checkpoints, or of the first.
    pub fn leading_metric(&self) -> Option<usize> {
        let chosen = self.cells.iter().find_map(|cell| cell.record.result.best_metric.as_ref());
        let place = chosen.and_then(|best| self.metrics.iter().position(|metric| metric.name == best.name));
        place.or((!self.metrics.is_empty()).then_some(0))
    }

    /// What the scores are scores of.
    pub fn caption(&self) -> String {
        let Some(split) = &self.split else { return "no split was evaluated".into() };
        let mut caption = format!("scores on {split}");
        if let Some(best) = self.cells.iter().find_map(|cell| cell.record.result.best_metric.as_ref()) {
            let name = words::metric(&best.name);
            caption.push_str(&format!("; checkpoints chosen by {name} on {}", best.split));
        }
        let seeds = || self.rows.iter().map(|row| row.seeds.len());
        let most = seeds().max().unwrap_or(0);
        if most > 1 {
            let up_to = if seeds().all(|count| count == most) { "" } else { "up to " };
            caption.push_str(&format!("; mean ± standard deviation over {up_to}{most} seeds"));
        }
        caption
    }
}

/// The metrics that any cell reports for the split, in the table's order.
fn metrics(cells: &[Finished], split: Option<&str>) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = Vec::new();
    for cell in cells {
        let result = &cell.record.result;
        let evaluated = result.metrics.iter().filter(|evaluated| Some(evaluated.split.as_str()) == split);
        for (name, _) in evaluated.flat_map(|evaluated| &evaluated.metrics.0) {
            if metrics.iter().any(|metric| metric.name == *name) {
                continue;
            }
            let chosen = result.best_metric.as_ref().filter(|best| best.name == *name);
            let higher = chosen.map(|best| best.higher_is_better);
            let higher_is_better = higher.or(FIRST.contains(&name.as_str()).then_some(true));
            metrics.push(Metric { name: name.clone(), higher_is_better });
        }
    }
    // The sort is stable: what is not in the list keeps the task's order.
    metrics.sort_by_key(|metric| place(&metric.name));
    metrics
}

/// The place of a metric in the table's order; all others stand behind.
pub fn place(metric: &str) -> usize {
    FIRST.iter().position(|name| *name == metric).unwrap_or(FIRST.len())
}

fn row(method: String, places: &[usize], cells: &[Finished], split: Option<&str>, metrics: &[Metric]) -> Row {
    let records = || places.iter().map(|&place| &cells[place].record);
    let over = |value: &dyn Fn(usize) -> Option<f64>| {
        Statistic::of(&places.iter().filter_map(|&place| value(place)).collect::<Vec<f64>>())
    };
    let score = |place: usize, name: &str| {
        let splits = &cells[place].record.result.metrics;
        splits.iter().find(|evaluated| Some(evaluated.split.as_str()) == split)?.metrics.get(name)
    };
    let counts = records().next().map(|record| record.result.counts).unwrap_or_default();
    Row {
        method,
        seeds: records().map(|record| record.spec.seed).collect(),
        training_seconds: over(&|place| Some(cells[place].record.result.training_seconds)),
        peak_memory_bytes: over(&|place| Some(cells[place].record.peak_memory_bytes as f64)),
        trained_parameters: counts.trained as u64,
        total_parameters: counts.total as u64,
        metrics: metrics.iter().map(|metric| over(&|place| score(place, &metric.name))).collect(),
        cells: places.to_vec(),
    }
}

/// Rows whose cells predict one label or say one text for everything.
fn constant(rows: &[Row], cells: &[Finished], split: Option<&str>) -> Vec<String> {
    let label = |place: usize| {
        let mut known = cells[place].record.result.confidence.iter();
        known.find(|known| Some(known.split.as_str()) == split)?.constant.clone()
    };
    let sentence = |row: &Row| {
        let constant: Vec<String> = row.cells.iter().filter_map(|&place| label(place)).collect();
        let seeds = match (constant.len(), row.cells.len()) {
            (0, _) => return None,
            (some, all) if some == all => String::new(),
            (some, all) => format!(" with {some} of {all} seeds"),
        };
        Some(format!(
            "{} predicts \"{}\" for every example{seeds}: it has learned nothing, whatever its scores are",
            row.method, constant[0]
        ))
    };
    rows.iter().filter_map(sentence).collect()
}

/// Times of different machines or thread counts do not compare.
fn notes(cells: &[Finished]) -> Vec<String> {
    let distinct = |value: &dyn Fn(&Finished) -> String| {
        let mut values: Vec<String> = cells.iter().map(value).collect();
        values.sort();
        values.dedup();
        values
    };
    let mut notes = Vec::new();
    let hosts = distinct(&|cell| cell.record.machine.host.clone());
    if hosts.len() > 1 {
        notes.push(format!(
            "the cells ran on different machines ({}): their times do not compare",
            hosts.join(", ")
        ));
    }
    let threads = distinct(&|cell| words::plural(cell.record.spec.threads as u64, "thread"));
    if threads.len() > 1 {
        notes.push(format!(
            "the cells ran with different numbers of threads ({}): their times do not compare",
            threads.join(", ")
        ));
    }
    if distinct(&|cell| cell.record.digests.data.clone()).len() > 1 {
        notes.push("the cells have seen different data: their scores do not compare".into());
    }
    notes
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::runs::record::tests::finished;

    pub fn comparison() -> Comparison {
        let cells = vec![finished("alpha", 1, 0.5), finished("beta", 1, 0.75), finished("alpha", 2, 0.25)];
        Comparison::new(cells, None)
    }

    #[test]
    fn seeds_are_one_row() {
        let comparison = comparison();
        assert_eq!(comparison.split.as_deref(), Some("test"));
        let methods: Vec<&str> = comparison.rows.iter().map(|row| row.method.as_str()).collect();
        assert_eq!(methods, ["alpha", "beta"]);
        let alpha = &comparison.rows[0];
        assert_eq!(alpha.seeds, [1, 2]);
        let accuracy = alpha.metrics[0].unwrap();
        assert_eq!(accuracy.mean, 0.375);
        assert!((accuracy.deviation.unwrap() - 0.25 / 2f64.sqrt()).abs() < 1e-15);
        assert_eq!(comparison.rows[1].metrics[0].unwrap(), Statistic { mean: 0.75, deviation: None });
    }

    /// A test split whose answers nobody has gives predictions and no scores.
    #[test]
    fn a_split_without_scores_is_not_compared() {
        let mut cell = finished("alpha", 1, 0.5);
        cell.record.result.metrics.last_mut().unwrap().metrics.0.clear();
        let comparison = Comparison::new(vec![cell], None);
        assert_eq!(comparison.split.as_deref(), Some("dev"));
        assert_eq!(comparison.rows[0].metrics[0].unwrap().mean, 0.25);
    }

    #[test]
    fn columns_are_what_is_reported_in_the_tables_order() {
        let comparison = comparison();
        let names: Vec<String> = comparison.metrics.iter().map(Metric::title).collect();
        assert_eq!(names, ["accuracy", "F1 macro", "loss"]);
        assert_eq!(comparison.best(0), Some(1));
        assert_eq!(comparison.best(2), None, "nobody says whether a loss should be low");
        assert_eq!(comparison.leading_metric(), Some(0));
        assert_eq!(
            comparison.caption(),
            "scores on test; checkpoints chosen by accuracy on dev; mean ± standard deviation over up to 2 seeds"
        );
    }

    #[test]
    fn all_rows_that_share_the_best_score_are_best_and_the_first_is_the_reference() {
        let cells = ["alpha", "beta", "gamma", "delta"].into_iter().zip([0.5, 0.75, 0.75, 0.25]);
        let cells = cells.map(|(label, accuracy)| finished(label, 1, accuracy)).collect();
        let comparison = Comparison::new(cells, None);
        let best: Vec<bool> = (0..4).map(|row| comparison.is_best(row, 0)).collect();
        assert_eq!(best, [false, true, true, false]);
        assert_eq!(comparison.best(0), Some(1));
    }

    #[test]
    fn another_split_has_its_own_scores() {
        let comparison = Comparison::new(vec![finished("alpha", 1, 0.5)], Some("dev"));
        assert_eq!(comparison.rows[0].metrics[0].unwrap().mean, 0.25);
        let comparison = Comparison::new(vec![finished("alpha", 1, 0.5)], Some("absent"));
        assert!(comparison.metrics.is_empty());
    }

    #[test]
    fn constant_predictors_are_pointed_out() {
        let mut cells = vec![finished("alpha", 1, 0.5), finished("alpha", 2, 0.5), finished("beta", 1, 0.5)];
        let constant = |split: &str| crate::cell::Confidence {
            split: split.into(),
            constant: Some("good".into()),
            ..Default::default()
        };
        cells[1].record.result.confidence = vec![constant("test")];
        cells[2].record.result.confidence = vec![constant("dev")];
        let comparison = Comparison::new(cells, None);
        assert_eq!(
            comparison.notes[0],
            "alpha predicts \"good\" for every example with 1 of 2 seeds: it has learned nothing, whatever its scores are"
        );
    }

    /// A mean over cells that differ in more than their seed would mean nothing.
    #[test]
    fn other_settings_are_another_row() {
        let mut other = finished("alpha", 2, 0.5);
        other.record.spec.training.learning_rate = 1.0;
        other.record.spec.threads = 7;
        let comparison = Comparison::new(vec![finished("alpha", 1, 0.5), other], None);
        assert_eq!(comparison.rows.len(), 2);
        assert_ne!(comparison.rows[0].method, comparison.rows[1].method);
        let folder = |place: usize| short(&comparison.cells[place].record.identity).to_string();
        assert_eq!(comparison.rows[0].method, format!("alpha ({})", folder(0)));
        assert_eq!(comparison.rows[1].method, format!("alpha ({})", folder(1)));
        assert_eq!(comparison.notes.len(), 1);
        assert!(comparison.notes[0].contains("2 threads, 7 threads"));
    }
}
