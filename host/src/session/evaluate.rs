//! Evaluating a split: outputs of the model, predictions, scores, metrics.

use anyhow::{Result, anyhow, bail};
use host_engine::batch::Batch;
use host_engine::data::dataset::Noise;
use host_engine::data::kept::Kept;
use host_engine::data::sampler::evaluation_batches;
use host_engine::engine::Engine;
use host_engine::generate::generate;
use host_ir::task::{Outputs, Prediction};
use serde::{Deserialize, Serialize};

use crate::cell::{CellSpec, Progress, SplitMetrics};
use crate::session::data::Split;
use crate::session::prepare::Prepared;
use crate::session::scores::{Scores, in_parts};

/// What an evaluation came to.
pub struct Evaluated {
    pub metrics: SplitMetrics,
    pub predictions: Kept<Prediction>,
    pub scores: Scores,
}

/// What the model says of an example.
#[derive(Serialize, Deserialize)]
struct Said {
    /// The bits of its outputs.
    outputs: Vec<Vec<u32>>,
    /// What was generated; nothing where the task generates nothing.
    text: String,
}

impl Said {
    fn new(outputs: Outputs, text: String) -> Said {
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect();
        Said { outputs: outputs.into_iter().map(bits).collect(), text }
    }

    fn outputs(&self) -> Outputs {
        let values = |bits: &Vec<u32>| bits.iter().copied().map(f32::from_bits).collect();
        self.outputs.iter().map(values).collect()
    }

    fn bytes(&self) -> usize {
        self.text.len() + self.outputs.iter().map(|values| size_of_val(values.as_slice())).sum::<usize>()
    }
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
        let predictions = self.predict(split, &self.run(engine, spec, split, progress)?)?;
        let scores = Scores::of(&self.task, &split.examples, predictions.iter())?;
        let metrics = SplitMetrics { split: name.into(), metrics: scores.metrics(&self.task)? };
        Ok(Evaluated { metrics, predictions, scores })
    }

    /// What the model says of the examples of a split: the place of each, and, in the order
    /// in which they are evaluated, what it is.
    fn run(
        &self,
        engine: &mut Engine,
        spec: &CellSpec,
        split: &Split,
        progress: &mut dyn Progress,
    ) -> Result<(Vec<u32>, Kept<Said>)> {
        let total = split.dataset.len();
        let noise = self.noise(0)?.map(|noise| Noise { shift: 0, ..noise });
        let virtual_tokens = self.plans.method.virtual_tokens() as u32;
        let generation = self.plans.task.generation.as_ref();
        let alone = self.plans.task.reads_examples_alone();
        let size = if alone { 1 } else { spec.training.per_device_eval_batch_size as usize };
        let (mut places, mut all) = (vec![0; total], Kept::default());
        let mut batch = Batch::default();
        for examples in evaluation_batches(&split.dataset, size, virtual_tokens as usize)?.iter() {
            // Without dropout, nothing depends on the places.
            let placed: Vec<(usize, u32)> = examples.iter().map(|&example| (example as usize, 0)).collect();
            split.dataset.pack(&placed, virtual_tokens, noise.as_ref(), &mut batch)?;
            let outputs = engine.evaluate(&batch)?.outputs;
            let mut texts = vec![String::new(); examples.len()];
            if let Some(plan) = generation {
                for (text, tokens) in texts.iter_mut().zip(generate(engine, &batch, &plan.settings)?) {
                    *text = self.tokenizer.decode(&tokens)?;
                }
            }
            for ((&example, outputs), text) in examples.iter().zip(outputs).zip(texts) {
                if outputs.iter().flatten().any(|value| value.is_nan()) {
                    bail!(
                        "{}, example {}: the model's output is NaN: training has diverged, or the checkpoint is damaged; lower learning_rate or max_grad_norm",
                        split.name,
                        example + 1
                    );
                }
                places[example as usize] = all.len() as u32;
                all.add(&Said::new(outputs, text))?;
            }
            progress.evaluated(&split.name, all.len() as u64, total as u64)?;
        }
        Ok((places, all))
    }

    /// What the task makes of what the model says.
    fn predict(&self, split: &Split, (places, all): &(Vec<u32>, Kept<Said>)) -> Result<Kept<Prediction>> {
        let plan = &self.plans.task;
        let names: Vec<String> = plan.outputs.iter().map(|(name, _)| name.clone()).collect();
        let mut predictions = Kept::default();
        let read = split.examples.iter().zip(places).map(|(example, &place)| {
            let (example, said) = (example?, all.get(place as usize)?);
            let bytes = example.bytes() + said.bytes();
            Ok(((example, said), bytes))
        });
        in_parts(read, |part| {
            let (examples, said): (Vec<_>, Vec<Said>) = part.into_iter().unzip();
            let outputs = said.iter().map(Said::outputs).collect();
            let texts = || said.into_iter().map(|said| said.text).collect();
            let generated = plan.generation.as_ref().map(|plan| (plan.name.clone(), texts()));
            let predicted = self.task.predict(names.clone(), examples, outputs, generated)?;
            Ok(predicted.iter().try_for_each(|prediction| predictions.add(prediction))?)
        })?;
        Ok(predictions)
    }
}
