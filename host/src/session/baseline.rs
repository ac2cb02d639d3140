//! The trivial baseline: the label that is most frequent in training, predicted
//! for everything, and scored as any prediction is.

use anyhow::Result;
use host_ir::task::{PredictionType, PredictionValue, SplitUse};

use crate::cell::{Baseline, SplitMetrics};
use crate::session::prepare::Prepared;
use crate::session::scores::Scores;

impl Prepared {
    /// The metrics of the most frequent label on all evaluated splits; none where
    /// the task predicts no gold label.
    ///
    /// # Errors
    /// The task's plugin fails.
    pub fn majority(&self) -> Result<Option<Baseline>> {
        let (layout, train) = (&self.task.layout, &self.train_split()?.dataset);
        let gold = |name: &str| layout.field(name).is_some_and(|place| layout.fields[place].gold);
        let predicted = layout.predictions.iter().map(|column| match &column.kind {
            PredictionType::Label(field) if gold(field) => {
                train.most_frequent(field).map(|label| (field.clone(), label))
            }
            _ => None,
        });
        let predicted: Vec<Option<(String, u32)>> = predicted.collect();
        let Some((field, label)) = predicted.iter().flatten().next() else { return Ok(None) };
        let name = layout.labels(field).and_then(|names| names.get(*label as usize)).cloned();
        let constant: Vec<Option<PredictionValue>> = predicted
            .iter()
            .map(|column| column.as_ref().map(|(_, label)| PredictionValue::Label(*label)))
            .collect();
        let mut metrics = Vec::new();
        for split in self.splits.iter().filter(|split| split.usage != SplitUse::Train) {
            let scores =
                Scores::of(&self.task, &split.examples, std::iter::repeat_with(|| Ok(constant.clone())))?;
            metrics.push(SplitMetrics { split: split.name.clone(), metrics: scores.metrics(&self.task)? });
        }
        Ok(Some(Baseline { label: name.unwrap_or_default(), metrics }))
    }
}
