//! What predictions come to: metrics, intervals, and what stands out. Of a split of any
//! size only counts are in memory; examples and predictions are read a part after another.

use anyhow::Result;
use host_engine::data::dataset::DatasetError;
use host_engine::data::kept::Kept;
use host_ir::task::{Example, Layout, Prediction, PredictionType, PredictionValue};
use host_plugin::Task;

use crate::cell::{Confidence, Metrics};
use crate::confusion::Confusions;
use crate::runs::confidence::Resamples;
use crate::session::resample::{GroupSums, intervals};

/// Examples for which the task's plugin is called at a time, at most.
const CHUNK: usize = 4096;
/// Bytes of them after which there are enough.
const CHUNK_BYTES: usize = 16 << 20;

/// Hands on items, each with its bytes, in parts for which the task's plugin is called.
pub fn in_parts<T>(
    items: impl Iterator<Item = Result<(T, usize)>>,
    mut take: impl FnMut(Vec<T>) -> Result<()>,
) -> Result<()> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    for item in items {
        let (item, own) = item?;
        part.push(item);
        bytes += own;
        if part.len() == CHUNK || bytes >= CHUNK_BYTES {
            take(std::mem::take(&mut part))?;
            bytes = 0;
        }
    }
    if part.is_empty() { Ok(()) } else { take(part) }
}

/// Whether a prediction is the same for every example.
#[derive(Debug, Default)]
struct Constant {
    first: Option<Prediction>,
    examples: usize,
    /// The predictions that were as the first is, so far.
    same: Vec<bool>,
}

impl Constant {
    fn add(&mut self, prediction: &Prediction) {
        self.examples += 1;
        let Some(first) = &self.first else {
            self.same = vec![true; prediction.len()];
            self.first = Some(prediction.clone());
            return;
        };
        for (same, (first, other)) in self.same.iter_mut().zip(first.iter().zip(prediction)) {
            *same &= first == other;
        }
    }

    /// The label or the text that is predicted for every example, where there are several
    /// and one is.
    fn name(&self, layout: &Layout) -> Option<String> {
        let first = self.first.as_ref().filter(|_| self.examples > 1)?;
        let columns = layout.predictions.iter().zip(first).zip(&self.same);
        let mut constant = columns.filter(|(_, same)| **same).map(|(column, _)| column);
        constant.find_map(|(prediction, value)| match (&prediction.kind, value.as_ref()?) {
            (PredictionType::Label(field), PredictionValue::Label(label)) => {
                layout.labels(field)?.get(*label as usize).cloned()
            }
            (_, PredictionValue::Text(text)) => Some(text.clone()),
            _ => None,
        })
    }
}

/// What the predictions of a split come to.
#[derive(Debug)]
pub struct Scores {
    sums: GroupSums,
    constant: Constant,
    confusions: Confusions,
}

impl Scores {
    /// Of examples and of the prediction for each.
    ///
    /// # Errors
    /// The task's `score` fails; reading from a temporary file, and writing to one.
    pub fn of(
        task: &Task,
        examples: &Kept<Example>,
        predictions: impl Iterator<Item = Result<Prediction, DatasetError>>,
    ) -> Result<Scores> {
        let mut scores = Scores {
            sums: GroupSums::default(),
            constant: Constant::default(),
            confusions: Confusions::new(&task.layout),
        };
        let pairs = examples.iter().zip(predictions).map(|(example, prediction)| {
            let example = example?;
            let bytes = example.bytes();
            Ok(((example, prediction?), bytes))
        });
        in_parts(pairs, |part| {
            for (example, predicted) in &part {
                scores.constant.add(predicted);
                scores.confusions.add(example, predicted);
            }
            let (examples, predictions) = part.into_iter().unzip();
            let scored = task.score(examples, predictions)?;
            Ok(scored.into_iter().try_for_each(|group| scores.sums.add(group))?)
        })?;
        Ok(scores)
    }

    /// The metrics of the split, in the order of the task.
    ///
    /// # Errors
    /// The task's `measure` fails.
    pub fn metrics(&self, task: &Task) -> Result<Metrics> {
        let measured = task.measure(vec![self.sums.total()?])?.pop().unwrap_or_default();
        let ordered = task.layout.metrics.iter();
        let metrics = ordered.filter_map(|metric| Some((metric.name.clone(), *measured.get(&metric.name)?)));
        Ok(Metrics(metrics.collect()))
    }

    /// How sure the scores of a split are, and what was measured on each draw.
    ///
    /// # Errors
    /// The task's `measure` fails.
    pub fn confidence(&self, task: &Task, split: &str) -> Result<(Confidence, Resamples)> {
        let resamples = self.sums.resample(task, split)?;
        let confidence = Confidence {
            split: split.into(),
            groups: resamples.groups,
            intervals: intervals(task, &resamples),
            constant: self.constant.name(&task.layout),
            confusions: self.confusions.counted(),
        };
        Ok((confidence, resamples))
    }
}

#[cfg(test)]
mod tests {
    use host_ir::task::{Field, FieldType, PredictionColumn};

    use super::*;

    #[test]
    fn parts_end_at_a_number_of_items_or_of_bytes() {
        let lengths = |sizes: &[usize]| {
            let mut lengths = Vec::new();
            let items = sizes.iter().map(|&bytes| Ok((bytes, bytes)));
            let take = |part: Vec<usize>| {
                lengths.push(part.len());
                Ok(())
            };
            in_parts(items, take).unwrap();
            lengths
        };
        assert_eq!(lengths(&[1; 2 * CHUNK + 3]), [CHUNK, CHUNK, 3]);
        assert_eq!(lengths(&[CHUNK_BYTES, 1, CHUNK_BYTES - 1, 5]), [1, 2, 1]);
        assert!(lengths(&[]).is_empty());
        let failing = [Ok((1, 1)), Err(anyhow::anyhow!("no more"))].into_iter();
        assert!(in_parts(failing, |_| Ok(())).is_err());
    }

    fn constant(predictions: &[(u32, f64, &str)]) -> Option<String> {
        let label = FieldType::Label(["no", "yes"].map(String::from).to_vec());
        let column = |name: &str, kind| PredictionColumn { name: name.into(), kind };
        let layout = Layout {
            fields: vec![Field { name: "answer".into(), kind: label, gold: true }],
            predictions: vec![
                column("answer", PredictionType::Label("answer".into())),
                column("sureness", PredictionType::Real),
                column("reason", PredictionType::Text),
            ],
            ..Layout::default()
        };
        let mut constant = Constant::default();
        for (label, real, text) in predictions {
            constant.add(&vec![
                Some(PredictionValue::Label(*label)),
                Some(PredictionValue::Real(*real)),
                Some(PredictionValue::Text(text.to_string())),
            ]);
        }
        constant.name(&layout)
    }

    #[test]
    fn one_label_or_text_for_several_examples_is_constant() {
        assert_eq!(constant(&[(1, 0.5, "a"), (1, 0.5, "b"), (1, 0.5, "a")]).as_deref(), Some("yes"));
        assert_eq!(constant(&[(1, 0.5, "a"), (0, 0.5, "a")]).as_deref(), Some("a"));
        // A number that is the same says nothing of what was learned.
        assert_eq!(constant(&[(1, 0.5, "a"), (0, 0.5, "b"), (1, 0.5, "a")]), None);
        assert_eq!(constant(&[(1, 0.5, "a")]), None);
        assert_eq!(constant(&[]), None);
    }
}
