//! Evaluating a split: outputs of the model, predictions, scores, metrics.

use anyhow::{Error, Result, anyhow, bail};
use host_engine::batch::Batch;
use host_engine::data::dataset::Noise;
use host_engine::data::kept::Kept;
use host_engine::data::sampler::evaluation_batches;
use host_engine::engine::{Engine, EngineError};
use host_engine::generate::generate;
use host_ir::task::{Outputs, Prediction};
use serde::{Deserialize, Serialize};

use crate::cell::{CellSpec, Interrupted, Progress, SplitMetrics};
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

    fn has_nan(&self) -> bool {
        self.outputs.iter().flatten().any(|&bits| f32::from_bits(bits).is_nan())
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
        let alone = self.plans.task.reads_examples_alone();
        let size = if alone { 1 } else { spec.training.per_device_eval_batch_size as usize };
        let (mut places, mut all, mut batch) = (vec![0; total], Kept::default(), Batch::default());
        let most_rows = spec.device.micro_batch_rows();
        let batches = evaluation_batches(&split.dataset, size, virtual_tokens as usize, most_rows)?;
        for examples in batches.iter() {
            let said = halving(
                examples,
                &mut |examples| self.ask(engine, (split, examples), noise.as_ref(), &mut batch),
                &mut |half| {
                    progress.message(&format!(
                        "{}: memory does not suffice for {} examples at a time; {half} are evaluated",
                        split.name,
                        examples.len()
                    ))
                },
            )?;
            for (&example, said) in examples.iter().zip(said) {
                if said.has_nan() {
                    bail!(
                        "{}, example {}: the model's output is NaN: training has diverged, or the checkpoint is damaged; lower learning_rate or max_grad_norm",
                        split.name,
                        example + 1
                    );
                }
                places[example as usize] = all.len() as u32;
                all.add(&said)?;
            }
            progress.evaluated(&split.name, all.len() as u64, total as u64)?;
            if progress.interrupted() {
                bail!(Interrupted);
            }
        }
        Ok((places, all))
    }

    /// What the model says of examples of a split, packed into a batch.
    fn ask(
        &self,
        engine: &mut Engine,
        (split, examples): (&Split, &[u32]),
        noise: Option<&Noise>,
        batch: &mut Batch,
    ) -> Result<Vec<Said>> {
        let virtual_tokens = self.plans.method.virtual_tokens() as u32;
        // Without dropout, nothing depends on the places.
        let placed: Vec<(usize, u32)> = examples.iter().map(|&example| (example as usize, 0)).collect();
        split.dataset.pack(&placed, virtual_tokens, noise, batch)?;
        let outputs = engine.evaluate(batch)?.outputs;
        let mut texts = vec![String::new(); examples.len()];
        if let Some(plan) = &self.plans.task.generation {
            for (text, tokens) in texts.iter_mut().zip(generate(engine, batch, &plan.settings)?) {
                *text = self.tokenizer.decode(&tokens)?;
            }
        }
        Ok(outputs.into_iter().zip(texts).map(|(outputs, text)| Said::new(outputs, text)).collect())
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

/// What is said of examples; where the device's memory ends, of half of them and of the
/// other half, which is told with the number.
fn halving<T>(
    examples: &[u32],
    ask: &mut dyn FnMut(&[u32]) -> Result<Vec<T>>,
    tell: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Vec<T>> {
    match ask(examples) {
        Err(error) if examples.len() > 1 && ends_memory(&error) => {
            let (first, rest) = examples.split_at(examples.len().div_ceil(2));
            tell(first.len())?;
            let mut said = halving(first, ask, tell)?;
            said.extend(halving(rest, ask, tell)?);
            Ok(said)
        }
        other => other,
    }
}

fn ends_memory(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(EngineError::Backend(error)) if error.is_out_of_memory())
}

#[cfg(test)]
mod tests {
    use host_engine::backend::BackendError;

    use super::*;

    #[test]
    fn where_memory_ends_fewer_examples_are_evaluated_at_a_time() {
        let mut asked = Vec::new();
        let mut ask = |examples: &[u32]| {
            asked.push(examples.len());
            match examples.len() > 2 {
                true => Err(EngineError::Backend(BackendError::DeviceOutOfMemory).into()),
                false => Ok(examples.iter().map(|example| example * 10).collect()),
            }
        };
        let mut told = Vec::new();
        let mut tell = |half: usize| {
            told.push(half);
            Ok(())
        };
        let said = halving(&[7, 1, 2, 5, 3], &mut ask, &mut tell).unwrap();
        assert_eq!(said, [70, 10, 20, 50, 30]);
        assert_eq!((asked, told), (vec![5, 3, 2, 1, 2], vec![3, 2]));
        // One example alone, and what is wrong otherwise, is an error.
        let mut never = |_: &[u32]| -> Result<Vec<u32>> {
            Err(EngineError::Backend(BackendError::DeviceOutOfMemory).into())
        };
        assert!(ends_memory(&halving(&[1, 2], &mut never, &mut |_| Ok(())).unwrap_err()));
        let mut wrong = |_: &[u32]| -> Result<Vec<u32>> { bail!("another error") };
        assert_eq!(
            halving(&[1, 2], &mut wrong, &mut |_| unreachable!()).unwrap_err().to_string(),
            "another error"
        );
    }
}
