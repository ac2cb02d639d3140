//! Evaluating a split: outputs of the model, predictions, scores, metrics.

use anyhow::{Result, anyhow, bail};
use host_engine::batch::Batch;
use host_engine::data::sampler::evaluation_batches;
use host_engine::engine::Engine;
use host_engine::generate::generate;
use host_ir::task::{Layout, Outputs, Prediction, PredictionType, PredictionValue};

use crate::cell::{CellSpec, Metrics, Progress, SplitMetrics};
use crate::session::prepare::Prepared;
use crate::session::resample::GroupSums;

/// Examples for which the task's plugin is called at a time.
pub const CHUNK: usize = 4096;

/// What an evaluation came to.
pub struct Evaluated {
    pub metrics: SplitMetrics,
    pub predictions: Vec<Prediction>,
    pub sums: GroupSums,
}

/// The label or the text that is predicted for every example, where there are several
/// and one is.
pub fn constant(layout: &Layout, predictions: &[Prediction]) -> Option<String> {
    let first = predictions.first().filter(|_| predictions.len() > 1)?;
    let mut columns = layout.predictions.iter().zip(first).enumerate();
    columns.find_map(|(column, (prediction, first))| {
        let name = match (&prediction.kind, first.as_ref()?) {
            (PredictionType::Label(field), PredictionValue::Label(label)) => {
                layout.labels(field)?.get(*label as usize).cloned()?
            }
            (_, PredictionValue::Text(text)) => text.clone(),
            _ => return None,
        };
        predictions.iter().all(|other| other[column] == *first).then_some(name)
    })
}

impl Prepared {
    /// Evaluates a split with the engine's parameters.
    pub fn evaluate(
        &self,
        engine: &mut Engine,
        spec: &CellSpec,
        name: &str,
        progress: &mut dyn Progress,
    ) -> Result<Evaluated> {
        let split = self
            .splits
            .iter()
            .find(|split| split.name == name)
            .ok_or_else(|| anyhow!("there is no split {name}"))?;
        let total = split.examples.len();
        let noise = self.noise(0)?.map(|noise| host_engine::data::dataset::Noise { shift: 0, ..noise });
        let virtual_tokens = self.plans.method.virtual_tokens() as u32;
        let mut outputs: Vec<Outputs> = vec![Outputs::new(); total];
        let generation = self.plans.task.generation.as_ref();
        let mut texts = vec![String::new(); if generation.is_some() { total } else { 0 }];
        let (mut batch, mut done) = (Batch::default(), 0);
        let alone = self.plans.task.reads_examples_alone();
        let size = if alone { 1 } else { spec.training.per_device_eval_batch_size as usize };
        for examples in evaluation_batches(&split.dataset, size, virtual_tokens as usize)? {
            // Without dropout, nothing depends on the places.
            let placed: Vec<(usize, u32)> = examples.iter().map(|&example| (example, 0)).collect();
            split.dataset.pack(&placed, virtual_tokens, noise.as_ref(), &mut batch)?;
            let evaluation = engine.evaluate(&batch)?;
            for (&example, output) in examples.iter().zip(evaluation.outputs) {
                if output.iter().flatten().any(|value| value.is_nan()) {
                    bail!(
                        "{name}, example {}: the model's output is NaN: training has diverged, or the checkpoint is damaged; lower learning_rate or max_grad_norm",
                        example + 1
                    );
                }
                outputs[example] = output;
            }
            if let Some(plan) = generation {
                let said = generate(engine, &batch, &plan.settings)?;
                for (&example, tokens) in examples.iter().zip(said) {
                    texts[example] = self.tokenizer.decode(&tokens)?;
                }
            }
            done += examples.len();
            progress.evaluated(name, done as u64, total as u64)?;
        }
        let names: Vec<String> = self.plans.task.outputs.iter().map(|(name, _)| name.clone()).collect();
        let (mut predictions, mut sums) = (Vec::with_capacity(total), GroupSums::default());
        let (mut outputs, mut texts) = (outputs.into_iter(), texts.into_iter());
        for examples in split.examples.chunks(CHUNK) {
            let outputs: Vec<Outputs> = outputs.by_ref().take(examples.len()).collect();
            let generated = generation.map(|plan| {
                (plan.name.clone(), texts.by_ref().take(examples.len()).collect::<Vec<String>>())
            });
            let predicted = self.task.predict(names.clone(), examples.to_vec(), outputs, generated)?;
            let scored = self.task.score(examples.to_vec(), predicted.clone())?;
            scored.into_iter().for_each(|group| sums.add(group));
            predictions.extend(predicted);
        }
        let measured = self.task.measure(vec![sums.total()])?.pop().unwrap_or_default();
        let ordered = self.task.layout.metrics.iter();
        let metrics =
            ordered.filter_map(|metric| Some((metric.name.clone(), *measured.get(&metric.name)?))).collect();
        Ok(Evaluated {
            metrics: SplitMetrics { split: name.into(), metrics: Metrics(metrics) },
            predictions,
            sums,
        })
    }
}
